"""DS-CNN knows six spoken digits and learns four more, one after the other, with latent replay and without."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from benchmarks import gvsoc
from benchmarks.accuracy.jobs import CONTINUAL, CYCLES, INSTRUCTIONS, Job, Jobs, Result
from benchmarks.accuracy.task import Case, Changes, Task
from benchmarks.accuracy.variants import arena
from benchmarks.models import ROOT
from benchmarks.report import markdown
from odl import Compiled, Recipe, compile_model, train
from odl.codegen import model_id
from odl.compare import Device
from odl.data import Data, load_data
from odl.graph import Role
from odl.project import write_project
from odl.render import table
from odl.scores import classified
from odl.targets import simulator_for
from odl.targets.host import HOST
from odl.targets.pulp import find_gvsoc
from odl.toolchain import compile_project, find_toolchain
from odl.wire import Job as DeviceJob

SCHEMA = 1
RESULTS = ROOT / "benchmarks/continual.json"
N_KNOWN, N_CLASSES = 6, 10
AGAIN, LEARNED, JUDGED = 2, 8, 10  # recordings of each speaker: of a known digit, of a new one, of any to be judged by
_EPOCHS, _LR = 8, 3e-3


def write(_case: str, needed: Mapping[str, Path], folder: Path) -> None:
    """The network of twelve words, trained on six digits; its samples of the known digits, then of each new one."""
    from examples.fit import fit  # PyTorch takes seconds to load

    with np.load(needed["spoken_digits_mfcc.npz"]) as arrays:
        x, y, index = arrays["x"], arrays["y"].astype(np.int64), arrays["index"]
    known = (index >= JUDGED) & (y < N_KNOWN)
    network = fit(onnx.load(needed["dscnn_kws.onnx"]), (x[known].astype(np.float32), y[known]), epochs=_EPOCHS, lr=_LR)
    onnx.save(network.trained(), folder / "model.onnx")
    rows = [np.flatnonzero(known & (index < JUDGED + AGAIN))]
    rows += [
        np.flatnonzero((y == label) & (index >= JUDGED) & (index < JUDGED + LEARNED))
        for label in range(N_KNOWN, N_CLASSES)
    ]
    learned = np.concatenate(rows)
    np.savez(folder / "train.npz", x=x[learned], y=y[learned])
    judged = index < JUDGED
    np.savez(folder / "test.npz", x=x[judged], y=y[judged])


def run(case: Case, changes: Changes, _steps: int, _n_test: int | None) -> dict[str, Any]:
    """One session after the other, by the C of the host, whose bits are those of every target: after each the accuracy
    on the classes seen so far, and the loss of each sample."""
    compiled = compile_model(case.model, Recipe(**changes), HOST)
    learned, judged = (load_data(path, compiled.training) for path in (case.train, case.test))
    session_of = np.maximum(learned.targets.ravel(), N_KNOWN - 1)
    accuracies, losses, kept = list[float](), list[float](), tuple[bytes, ...]()
    with TemporaryDirectory(prefix="odl-") as scratch:
        device, number = _built(compiled, Path(scratch)), model_id(compiled.program)
        for label in range(N_KNOWN - 1, N_CLASSES):
            rows = np.flatnonzero(session_of == label)
            session = Data(learned.samples[rows], learned.targets[rows]).steps(len(rows), compiled.recipe.seed)
            log = device.run(DeviceJob(number, session.samples, session.targets, weights=True, initial=kept))
            losses, kept = [*losses, *log.losses.tolist()], log.weights
            seen = np.flatnonzero(judged.targets.ravel() <= label)
            outputs = device.run(DeviceJob(number, judged.samples[seen], initial=kept)).outputs
            accuracies.append(classified(outputs, judged.targets[seen].ravel())["accuracy"])
    return {"accuracies": accuracies, "losses": losses}


def _built(compiled: Compiled, scratch: Path) -> Device:
    folder = scratch / "project"
    write_project(folder, compiled.title, compiled.program, compiled.training, compiled.target)
    elf = compile_project(folder, compiled.target, find_toolchain(compiled.target)).elf
    return Device(simulator_for(compiled.target), elf)


TASK = Task(
    key="continual",
    title="DS-CNN, one new digit after the other",
    about=(
        "Trained in binary32 on the digits 0 to 5 of six speakers, which are heard again, 72 recordings; then 6, 7, 8 "
        "and 9 come one after the other, 48 recordings each, and each recording once. After each, the accuracy on "
        "others of all digits so far, 60 of each; any of twelve outputs may be the answer. Trained are the last two "
        "blocks and the layer behind them; without replay, by the same recipe, on new samples alone."
    ),
    needs=("models/dscnn_kws.onnx", "data/spoken_digits_mfcc.npz"),
    cases=("all",),
    write=write,
    recipe={"lr": 0.01, "momentum": 0.9, "master": "kahan", "batch": 10},
    steps=264,
    quick_steps=264,
)


@dataclass(frozen=True)
class Variant:
    """`changes` to the task's recipe."""

    key: str
    title: str
    changes: Changes

    @property
    def recipe(self) -> Changes:
        return {**TASK.recipe, **self.changes}


def _replay(key: str, kept_as: str, slots: int, policy: str) -> Variant:
    """Old latents from behind the second of four blocks: nine for each new one."""
    words = {"replay_type": kept_as, "replay_slots": slots, "replay_policy": policy}
    return Variant(key, f"{slots} slots, {kept_as}, {policy}", {"replay_layer": "relu5", "replay_ratio": 9, **words})


WITHOUT = Variant("without", "without replay", {"trainable": ("conv5", "conv6", "conv7", "conv8", "fc11")})
CHOSEN = _replay("int8", "int8", 96, "balanced")
VARIANTS = (
    WITHOUT,
    _replay("fp16", "fp16", 48, "balanced"),
    _replay("int8-48", "int8", 48, "balanced"),
    CHOSEN,
    _replay("reservoir", "int8", 96, "reservoir"),
)


# --- what a sample costs ----------------------------------------------------------------------------------------------


def instructions(case: Case, changes: Changes, _steps: int, _n_test: int | None) -> dict[str, Any]:
    """Instructions of a new sample on qemu-zhinx, with the old ones before it and its share of an update."""
    compiled = compile_model(case.model, Recipe(**changes))
    first, n = _measured_samples(compiled)
    counts = train(compiled, case.train, first + n).counts[first:]
    return {"instructions": round(int(counts.sum(dtype=np.int64)) / n), "losses": []}


def cycles(case: Case, changes: Changes, _steps: int, _n_test: int | None) -> dict[str, Any]:
    """The same in cycles of the eight cores of pulp-open, by GVSoC."""
    compiled = compile_model(case.model, Recipe(**changes), gvsoc.PULP_OPEN.name)
    first, n = _measured_samples(compiled)
    log, _ = gvsoc.run(compiled, case.train, steps=first + n)
    return {"cycles": round(int(log.counts[first:].sum(dtype=np.int64)) / n), "losses": []}


def _measured_samples(compiled: Compiled) -> tuple[int, int]:
    """(the first that is measured, how many) so that there is one update: before the first sample nothing is old."""
    recipe = compiled.recipe
    if not recipe.replay_layer:
        return 0, recipe.batch
    assert recipe.replay_ratio + 1 == recipe.batch
    return 1, 1


def _costs(case: Case, variant: Variant) -> dict[str, int]:
    compiled = compile_model(case.model, Recipe(**variant.recipe))
    residents = compiled.program.residents
    return {
        "arena_bytes": arena(compiled),
        "replay_bytes": sum(each.tensor.type.n_bytes for each in residents if each.tensor.role is Role.REPLAY),
        "macs": compiled.training.macs,
    }


# --- all of it --------------------------------------------------------------------------------------------------------


def read() -> Result | None:
    """What was measured last."""
    found: Result | None = json.loads(RESULTS.read_text()) if RESULTS.exists() else None
    return found


def measured(seeds: Sequence[int], jobs: Jobs, tell: Callable[[str], None]) -> Result:
    """The whole of benchmarks/continual.json."""
    case = TASK.prepare(TASK.cases[0])
    learned = {
        (v.key, seed): Job(CONTINUAL, case, {**v.recipe, "seed": seed}, TASK.steps) for v in VARIANTS for seed in seeds
    }
    counted = {v.key: Job(INSTRUCTIONS, case, v.recipe, 0) for v in VARIANTS}
    timed = {v.key: Job(CYCLES, case, v.recipe, 0) for v in (WITHOUT, CHOSEN)} if find_gvsoc() else {}
    jobs.run([*learned.values(), *counted.values(), *timed.values()], tell)
    variants = []
    for each in VARIANTS:
        runs = [jobs.result(learned[each.key, seed])["accuracies"] for seed in seeds]
        costs = {**_costs(case, each), "instructions": jobs.result(counted[each.key])["instructions"]}
        if each.key in timed:
            costs["cycles"] = jobs.result(timed[each.key])["cycles"]
        means = [sum(column) / len(column) for column in zip(*runs, strict=True)]
        said = {"variant": each.key, "title": each.title, "recipe": dict(each.recipe)}
        variants.append({**said, "accuracy": means, "seeds": runs, **costs})
    return {
        "schema_version": SCHEMA,
        "seeds": list(seeds),
        "title": TASK.title,
        "about": TASK.about,
        "sessions": ["0 to 5", *(f"and {label}" for label in range(N_KNOWN, N_CLASSES))],
        "variants": variants,
    }


def section(results: Result) -> str:
    """What the page says of it."""
    return (
        f"## {results['title']}\n\n{results['about']} Means over the seeds {', '.join(map(str, results['seeds']))}.\n\n"
        f"{markdown(*_accuracies(results))}\n{markdown(*_table_of_costs(results))}\n"
    )


def text(results: Result) -> str:
    """The tables of a terminal."""
    (one, first), (two, second) = _accuracies(results), _table_of_costs(results)
    return f"{results['title']}\n{table(one, first)}\n\n{table(two, second)}"


_COSTS = {"arena_bytes": "RAM, bytes", "replay_bytes": "of it replay", "macs": "MACs of a new sample",
          "instructions": "instructions, one core", "cycles": "cycles, eight cores"}  # fmt: skip


def _accuracies(results: Result) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    rows = [(v["title"], *(f"{share:.1%}".replace("%", " %") for share in v["accuracy"])) for v in results["variants"]]
    return ("", *results["sessions"]), rows


def _table_of_costs(results: Result) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    rows = [(v["title"], *(f"{v[key]:,}" if key in v else "" for key in _COSTS)) for v in results["variants"]]
    return ("", *_COSTS.values()), rows
