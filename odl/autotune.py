"""Chooses kernels and tiles by measuring them: `odl tune`.

A candidate is one setting of the knobs for the whole model. A training step of it is run and profiled once; then every
layer and phase takes the candidate under which it was cheapest, and the choices are run together: neighbours share the
local memory, so they may be worse than any one candidate. The fastest whole step is kept. No knob decides anything
about bits, so neither does this.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from odl import api, json_text, subprocesses
from odl.errors import FitError, UsageError
from odl.graph import Graph, Phase
from odl.ops._importer import onnx_shape
from odl.passes.for_cluster import DIRECT, REARRANGED, forms
from odl.project import sha256
from odl.recipe import Recipe
from odl.stages import stage
from odl.staging import scratch, write_whole
from odl.targets import Target, find_target
from odl.training import STEP
from odl.tuning import SCHEMA, Knobs, Tuning, read_tuning
from odl.version import VERSION

CANDIDATES: Mapping[str, tuple[Knobs, int]] = {
    "cost model": (Knobs(), Tuning.gap),
    "part=0.9": (Knobs(part=0.9), Tuning.gap),
    "part=0.8": (Knobs(part=0.8), Tuning.gap),
    "part=0.6": (Knobs(part=0.6), Tuning.gap),
    "rows": (Knobs(part=0.95, axis=1), Tuning.gap),
    "channels": (Knobs(part=0.95, axis=3), Tuning.gap),
    "pieces=2": (Knobs(pieces=2), Tuning.gap),
    "pieces=5": (Knobs(pieces=5), Tuning.gap),
    "gap=1": (Knobs(), 1),
    "gap=8": (Knobs(), 8),
    "gap=20": (Knobs(), 20),
    DIRECT: (Knobs(kernel=DIRECT), Tuning.gap),
    REARRANGED: (Knobs(kernel=REARRANGED), Tuning.gap),
}
_SMALL = 50_000  # MACs: of more, the loops of a direct kernel cost more than what a rearranged one does before
_LEAST_GAIN = 0.005  # of a layer's cycles; less is noise of its neighbours

Listener = Callable[[int, int, str, int], None]  # which measurement, of how many, its name, cycles or -1


@dataclass(frozen=True)
class Measured:
    """Cycles of a step: whole, without looking, and by "layer/phase", with the profile's hook. -1: did not fit."""

    whole: int
    parts: Mapping[str, int]


@dataclass(frozen=True)
class Tuned:
    """`before` and `after` are cycles of a whole step, by the cost model alone and with `tuning`."""

    tuning: Tuning
    before: int
    after: int
    candidates: Mapping[str, int]


def cache_path(model: Path) -> Path:
    """Where `odl tune` keeps what it measured, and `odl build` looks for it."""
    return model.with_name(f"{model.stem}.tune.json")


def shape_of(recipe: Recipe) -> dict[str, str]:
    """What of a recipe decides which kernels are called with which sizes, and which of their loops run.

    A rate is a number that a loop multiplies by, whatever it is. But kernels leave out a decay of 0 and a scale of 1.
    """
    scale = recipe.loss_scale * recipe.batch
    told = {
        "loss": recipe.loss, "optimizer": recipe.optimizer, "batch": recipe.batch,
        "trainable": ", ".join(recipe.trainable), "last": recipe.last, "parameters": recipe.parameters,
        "channels": ", ".join(recipe.channels), "lora_rank": recipe.lora_rank,
        "accumulate": recipe.accumulate, "gradients": recipe.gradients,
        "momentum": "some" if recipe.momentum else "none", "weight_decay": "some" if recipe.weight_decay else "none",
        "gradient_scale": "none" if scale == 1 else "some",
    }  # fmt: skip
    return {word: str(value) for word, value in told.items()}


def measured_for(model: Path, recipe: Recipe, target: str) -> dict[str, str]:
    """What cycles depend on: the same model, compiled by the same odl for the same target and a recipe like this."""
    return {"model_sha256": sha256(model), "target": target, "odl": VERSION, **shape_of(recipe)}


def tuning_for(model: Path, recipe: Recipe, target: str, tell: Callable[[str], None] = lambda _: None) -> Tuning:
    """What was measured for just this; nothing where there is no such file, or it is of something else.

    `tell` gets a line about a file that there is: that it is used, or why not.
    """
    if not find_target(target).l1_bytes or not model.is_file() or not cache_path(model).is_file():
        return Tuning()
    found, wanted = read_tuning(cache_path(model)), measured_for(model, recipe, target)
    other = [word for word in wanted if found.measured_for.get(word) != wanted[word]]
    if other:
        tell(f"{cache_path(model)} is not used, {_difference(other[0], found.measured_for, wanted)}")
        return Tuning()
    if not found.is_empty:
        tell(f"{cache_path(model)}: kernels and tiles as they were measured")
    return found


def _difference(word: str, found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    if word not in found:
        return f"it does not say for which {word} it was measured; measure anew by odl tune"
    if word == "model_sha256":
        return "the model has changed since it was measured"
    return f"it was measured for {word} {found[word]}, this is {wanted[word]}"


def tune(
    model: Path, recipe: Recipe, target: str, *, out: Path | None = None, jobs: int = 0,
    timeout_s: float = 900.0, progress: Listener = lambda *_: None, fix_batch: bool = False,
) -> Tuned:  # fmt: skip
    """Measure the candidates, `jobs` simulators at once (0: one a core), and write the best choices to `out`.

    What is measured is kept in `out` (default: `cache_path`) as it comes, so that an interrupted call goes on where it
    was. Raises UsageError `not-tunable` for a folder and for a target without local memory or cycles, and what
    compiling and running raise.
    """
    machine = find_target(target)
    if model.is_dir():
        why = "a folder keeps the kernels and tiles that it was built with"
        raise UsageError("not-tunable", str(model), why, "tune the ONNX file that it was made from, then build again")
    if not machine.l1_bytes or machine.counter != "cycles":
        raise UsageError("not-tunable", target, "it has no tiles to choose, or no cycles to count", "use -t pulp-open")
    bench = _Bench(model, recipe, machine, out or cache_path(model), timeout_s, fix_batch)
    missing = [name for name in bench.candidates if name not in bench.known]
    stop = threading.Event()
    pool = ThreadPoolExecutor(jobs or os.cpu_count(), initializer=subprocesses.heed, initargs=(stop,))
    told = f"measuring {len(missing)} candidates on {machine.simulator}"
    stage(told)
    try:
        under_way = {pool.submit(bench.measure, name): name for name in missing}
        for done in as_completed(under_way):
            bench.keep(under_way[done], done.result())
            progress(len(bench.known), bench.n_runs, under_way[done], done.result().whole)
            stage(f"{told}: {len(bench.known)} of {bench.n_runs} done")
    finally:
        stop.set()  # after a signal or a refusal simulators are under way, for minutes
        pool.shutdown(cancel_futures=True)
    return bench.conclude(progress)


class _Bench:
    """The measurements of one model, recipe and target, and the file that keeps them."""

    def __init__(
        self, model: Path, recipe: Recipe, target: Target, path: Path, timeout_s: float, fix_batch: bool
    ) -> None:
        self.model, self.recipe, self.target, self.path, self.timeout_s = model, recipe, target, path, timeout_s
        # First: it says what is wrong with the file.
        compiled = api.compile_model(model, recipe, target.name, fix_batch=fix_batch)
        self.fix_batch = fix_batch
        self.about = measured_for(model, recipe, target.name)
        self.candidates = _candidates(compiled, self.about)
        self.known: dict[str, Measured] = dict(self._read())
        self.n_runs = len(self.candidates) + 1  # the last with the choices of all layers together

    def _read(self) -> Iterator[tuple[str, Measured]]:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # else everything is measured anew
            note = json_text.loads(self.path.read_text())
            if note["schema_version"] == SCHEMA and note["for"] == self.about:
                for name, (whole, parts) in note["measured"].items():
                    if name in self.candidates:
                        yield name, Measured(int(whole), {str(key): int(value) for key, value in parts.items()})

    def _write(self, tuning: Tuning) -> None:
        note = json.loads(tuning.text())
        note["measured"] = {name: (each.whole, each.parts) for name, each in sorted(self.known.items())}
        write_whole(self.path, f"{json.dumps(note, indent=1)}\n".encode())

    def measure(self, name: str) -> Measured:
        try:
            return self._run(self.candidates[name])
        except FitError:
            return Measured(-1, {})

    def keep(self, name: str, found: Measured) -> None:
        self.known[name] = found
        self._write(Tuning({}, self.about))

    def conclude(self, progress: Listener) -> Tuned:
        """Run the cheapest choices together; keep them, or the best candidate, if the step is faster than without."""
        base = self.known["cost model"]
        fitting = self._fitting()
        name = min(fitting, key=lambda each: (fitting[each], each != "cost model"))
        best, after = self.candidates[name], fitting[name]
        mixed = Tuning(dict(self._cheapest(base)), self.about)
        if mixed.choices:
            with suppress(FitError):
                cycles = self._run(mixed).whole
                progress(self.n_runs, self.n_runs, "choices", cycles)
                best, after = (mixed, cycles) if cycles < after else (best, after)
        self._write(best)
        return Tuned(best, base.whole, after, {name: each.whole for name, each in self.known.items()})

    def _cheapest(self, base: Measured) -> Iterator[tuple[str, Knobs]]:
        """For all that takes turns, the knobs of the candidate under which it takes the fewest cycles."""
        for keys in _together(base.parts):
            found = {
                name: sum(self.known[name].parts.get(key, base.parts[key]) for key in keys)
                for name in self._fitting() if self.candidates[name].choices.keys() & keys
            }  # fmt: skip
            best = min(found, key=found.__getitem__, default="")
            if best and found[best] < sum(base.parts[key] for key in keys) * (1 - _LEAST_GAIN):
                choices = self.candidates[best].choices
                yield from ((key, choices[key]) for key in keys if key in choices)

    def _fitting(self) -> dict[str, int]:
        """Cycles of a whole step under each candidate that fits."""
        return {name: self.known[name].whole for name in self.candidates if self.known[name].whole > 0}

    def _run(self, tuning: Tuning) -> Measured:
        """One training step on a sample that is made up: cycles depend on shapes alone."""
        compiled = api.compile_model(self.model, self.recipe, self.target.name, tuning, fix_batch=self.fix_batch)
        graph, training = compiled.training.step, compiled.training
        sample, target = graph.inputs[training.sample], graph.inputs[training.target]
        generator = np.random.default_rng(0)
        with scratch() as folder:
            data = folder / "data.npz"
            x = generator.standard_normal(onnx_shape(sample.shape)).astype(np.float32)
            y = np.zeros(1, np.int32) if target.dtype.value == "i32" else np.zeros(onnx_shape(target.shape), np.float32)
            np.savez(data, x=x, y=y)
            run = api.train(compiled, data, self.recipe.batch, timeout_s=self.timeout_s)
        parts: dict[str, int] = {}
        for number, entry, call in compiled.program.calls():
            if entry == STEP:
                key = f"{call.layer}/{call.phase.value}"
                parts[key] = parts.get(key, 0) + int(run.counts[0, number, 0])
        return Measured(int(run.whole[-1]), parts)


def _candidates(compiled: api.Compiled, about: Mapping[str, str]) -> dict[str, Tuning]:
    """The settings by name, for every layer and phase that they mean something to; those that mean something to any."""
    calls = (call for _, entry, call in compiled.program.calls() if entry == STEP)
    keys = dict.fromkeys(f"{call.layer}/{call.phase.value}" for call in calls)
    kernels = _kernels(compiled.training.step)
    found = {}
    for name, (knobs, gap) in CANDIDATES.items():
        chosen = [key for key in keys if not knobs.kernel or knobs.kernel in kernels.get(key, ())]
        found[name] = Tuning(dict.fromkeys(chosen, knobs) if knobs != Knobs() else {}, about, gap)
    return {name: each for name, each in found.items() if name == "cost model" or not each.is_empty}


def _together(keys: Iterable[str]) -> Iterable[list[str]]:
    """Each key alone, but together those of a weight's gradient and of its update.

    The pieces of a gradient are those of its update, and the weights that one waits for come in under the other.
    """
    found: dict[str, list[str]] = {}
    for key in keys:
        of_weight = key.removesuffix(f"/{Phase.UPDATE.value}").removesuffix(f"/{Phase.WEIGHT_GRADIENT.value}")
        found.setdefault(of_weight, []).append(key)
    return found.values()


def _kernels(step: Graph) -> dict[str, set[str]]:
    """By "layer/phase", the forms of its gradient beside the usual one that may be faster."""
    found: dict[str, set[str]] = {}
    for node in step.nodes:
        others = {form for form in forms(step, node)[1:] if form != DIRECT or step.node_macs(node) <= _SMALL}
        found.setdefault(f"{node.layer}/{node.phase.value}", set()).update(others)
    return found
