"""The library's face: what the command line does, as functions.

>>> compiled = compile_model("model.onnx", Recipe(lr=0.01), "qemu-zhinx")
>>> verdict = verify(compiled, "data.npz", steps=10)
>>> run = train(compiled, "data.npz", steps=100)
>>> export(compiled, run.weights, "tuned.onnx")
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from odl import memory, memory_check
from odl.budget import Placed, Saving, fit
from odl.checkpoint import Checkpoints, prepare_image
from odl.codegen import model_id
from odl.compare import MOST_LANES, Device, Progress, Reference, Verdict
from odl.compare import verify as compare
from odl.data import Data, load_data
from odl.errors import FitError, TargetError, UsageError
from odl.export import export_model
from odl.frontend import Model, load_model
from odl.graph import Graph, Role
from odl.log import Log
from odl.lower import lower
from odl.memory import Plan
from odl.ops.finish_step import DIVERGED, SKIPPED, TRIED
from odl.passes.adapters import merged
from odl.passes.for_cluster import prepare
from odl.passes.rematerialize import gather, rematerialize
from odl.passes.split_gradients import split_gradients
from odl.passes.split_reductions import split_reductions
from odl.program import ARENA, Program
from odl.project import MARKER, WEIGHTS, note_origins, read_origins, write_project
from odl.recipe import Recipe
from odl.rehearsal import rehearse
from odl.replay import RECALL, REMEMBER
from odl.residency import layout
from odl.schedule import schedule
from odl.scores import Scores, approximated, classified
from odl.staging import staged, write_whole
from odl.targets import DEFAULT, Target, find_target, machine_for, simulator_for
from odl.targets.base import ignore
from odl.tiling import UNTUNED
from odl.toolchain import BuildResult, compile_project, find_toolchain
from odl.training import Training, build_training
from odl.tuning import Tuning
from odl.types import Array
from odl.wire import FLASH_FILE, NO_FLASH, Job, Loss, Output, Record

MOST_LOOKS = 1 << 38  # half a minute of them
NUMPY = "numpy"  # on no target: the executor


def silent(step: int, loss: float) -> None:
    """The default progress listener."""


def still(done: int, of: int) -> None:
    """The default listener of an evaluation."""


@dataclass(frozen=True)
class Compiled:
    """A model on its way down: every stage of it, for one recipe and one target.

    `ram_bytes` is the budget where one was given, else 0; `saving` what it takes to keep to it, None if nothing.
    """

    model: Model
    recipe: Recipe
    target: Target
    training: Training
    graphs: tuple[Graph, ...]
    plan: Plan
    program: Program
    tuning: Tuning = UNTUNED
    ram_bytes: int = 0
    saving: Saving | None = None

    @property
    def missing_bytes(self) -> int:
        """What arena and stack need beyond the target's RAM; 0 or less where they fit."""
        return self.plan.n_bytes[ARENA] + self.target.stack_bytes - self.target.ram_bytes

    @property
    def title(self) -> str:
        """What comments call the model."""
        return self.model.proto.graph.name or self.model.path.stem


@dataclass(frozen=True)
class Updates:
    """How many updates were tried, and in how many something was skipped since it was not finite; whether training has
    diverged, and the loss scale at the end; for each weight how many elements, in all updates, were to move and stayed,
    modulo 2^32."""

    tried: int
    skipped: int
    diverged: bool
    loss_scale: float
    lost: Mapping[str, int]


@dataclass(frozen=True)
class Run:
    """A training run `on` a simulator: losses by step, the weights at its end by name (binary16), what was counted.

    `counters` are the names of what it counts, empty where that is nothing. `counts` is (profiled steps, kernel calls,
    counters), `whole` (steps,) what the first counter said of each step. Looking at the counters takes cycles of its
    own: `whole` is then of a program that does not look, and the profile that of the first steps, up to a batch, of
    another that does; with latent replay one more, since the first step has no old samples. A run that went on from a
    checkpoint had its `first` steps done, and tells nothing of them; `saves` are what the device said of checkpoints.
    """

    compiled: Compiled
    on: str
    loss: tuple[float, ...]
    weights: Mapping[str, Array]
    counts: Array
    counters: tuple[str, ...]
    whole: Array
    stack_bytes: int
    first: int = 0
    saves: tuple[int, ...] = ()

    @property
    def counter(self) -> str:
        """The unit of costs."""
        return self.counters[0] if self.counters else ""

    @property
    def updates(self) -> Updates:
        """How its updates went."""
        control = self.compiled.training.control
        progress = self.weights[control.progress]
        scale = self.weights[control.loss_scale] if control.loss_scale else [self.compiled.recipe.loss_scale]
        lost = {name: int(self.weights[count][0]) & 0xFFFFFFFF for name, count in control.lost.items()}
        return Updates(int(progress[TRIED]), int(progress[SKIPPED]), bool(progress[DIVERGED]), float(scale[0]), lost)


def compile_model(
    path: str | Path,
    recipe: Recipe | None = None,
    target: str | Target = DEFAULT.name,
    tuning: Tuning = UNTUNED,
    ram_bytes: int = 0,
    must_fit: bool = True,
    fix_batch: bool = False,
) -> Compiled:
    """Import, differentiate, order, place and lower a model. Raises ModelError, UsageError or FitError.

    `target` is one by name, or one that was made of it (`Target.resized`); folders remember the name alone.
    `ram_bytes`, or the target's RAM where that is 0, is a budget: where arena and stack do not fit, values are computed
    again (`odl/budget.py`). What does not fit even so is refused, unless `must_fit` is false: then the result is the
    program of fewest bytes. `fix_batch`: a batch that the file leaves open is 1; folders remember it.
    """
    recipe, machine = recipe or Recipe(), find_target(target) if isinstance(target, str) else target
    machine = machine.resized(ram_bytes=ram_bytes)
    model = load_model(Path(path), keeps_norms=recipe.parameters == "norms", fix_batch=fix_batch)
    training = build_training(model.graph, recipe)
    placed, saving = _fitted(training, machine, tuning)
    compiled = Compiled(
        model, recipe, machine, training, placed.graphs, placed.plan, lower(placed.graphs, placed.plan, placed.layouts),
        tuning, ram_bytes, saving,
    )  # fmt: skip
    if must_fit:
        require_fit(compiled)
    if compiled.missing_bytes > 0:
        return compiled  # to be looked at alone, and perhaps too large for what follows
    if machine.l1_bytes:
        rehearse(compiled.program)
    else:
        _require_checkable(placed.graphs)
        problems = memory_check.check(placed.graphs, placed.plan)
        assert not problems, "\n".join(problems)
    return compiled


def _require_checkable(graphs: Sequence[Graph]) -> None:
    """Raises FitError `too-large-to-check`: the replay of a plan looks at each byte that a node reads or writes."""
    looks = sum(
        graph.types[value].n_bytes
        for graph in graphs
        for node in graph.nodes
        for value in (*node.inputs, *node.outputs)
    )
    if looks > MOST_LOOKS:
        why = f"its nodes read and write {looks:,} bytes in a step, and no more than {MOST_LOOKS:,} are checked"
        raise FitError("too-large-to-check", "model", why, "train fewer layers, or fewer of their channels")


def _fitted(training: Training, machine: Target, tuning: Tuning) -> tuple[Placed, Saving | None]:
    """The graphs in an order, with a place for every value. Where cores work in a local memory, calls are tiles."""
    capacity, budget = machine.l1_bytes, machine.ram_bytes - machine.stack_bytes

    def place(graphs: Sequence[Graph]) -> Placed:
        return Placed(tuple(graphs), memory.plan(graphs))

    def place_tiled(graphs: Sequence[Graph]) -> Placed:
        near = [graph for graph in graphs if graph.name not in _IN_THE_ARENA]
        layouts = {graph.name: layout(graph, capacity, tuning) for graph in near}
        return Placed(
            tuple(graphs), memory.plan(graphs, {name: each.tiled() for name, each in layouts.items()}), layouts
        )

    if capacity:
        tiled = [
            graph if name in _IN_THE_ARENA else _for_tiles(graph, capacity, tuning)
            for name, graph in training.graphs.items()
        ]
        return fit(tiled, budget, place_tiled, fused=True)
    return fit([schedule(split_gradients(graph)) for graph in training.graphs.values()], budget, place)


# What a replay memory gives and takes is where a number says that is known on the device alone: no transfer is planned.
_IN_THE_ARENA = (RECALL, REMEMBER)


def _for_tiles(graph: Graph, capacity: int, tuning: Tuning) -> Graph:
    """A scheduled graph of operators that have fast kernels and pieces that fit `capacity` bytes."""
    graph = prepare(graph, lambda node: tuning.of(node).kernel)
    graph = split_gradients(graph, lambda node: capacity // tuning.of(node).pieces)
    return gather(schedule(rematerialize(split_reductions(graph, capacity))))


def require_fit(compiled: Compiled) -> None:
    """Raises FitError `does-not-fit` unless arena and stack fit the target's RAM; it says the least that would do."""
    missing, available = compiled.missing_bytes, compiled.target.ram_bytes
    if missing > 0:
        again = ", even with what can be computed again" if compiled.saving else ""
        raise FitError(
            "does-not-fit", compiled.target.name,
            f"arena and stack need at least {available + missing:,} bytes of RAM of {available:,}{again}: "
            f"{missing:,} are missing",
            f"{_less(compiled)}, or choose a target with more memory",
        )  # fmt: skip


_WAYS_TO_LESS = {
    Role.REPLAY: "keep fewer old samples (--replay-slots) or smaller ones (--replay-type int8)",
    Role.GRADIENT: "add gradients up in binary16 (--gradients fp16), or not at all (--batch 1, --updates immediate)",
    Role.MASTER: "keep no copies of weights (--master stochastic)",
    Role.STATE: "keep states in binary16 (--state fp16), or none (--optimizer sgd --momentum 0)",
}


def _less(compiled: Compiled) -> str:
    """What would spare the most of what outlives a step."""
    held = compiled.program.held_bytes
    largest = max(held, key=held.__getitem__, default=Role.WEIGHT)
    is_most = 2 * held.get(largest, 0) > compiled.missing_bytes
    fewer = "train fewer layers (--trainable, --last)"
    return _WAYS_TO_LESS[largest] if is_most and largest in _WAYS_TO_LESS else fewer


def open_folder(folder: str | Path) -> Compiled:
    """Compile again what a project or run folder was made from."""
    origins, _ = read_origins(Path(folder))
    made_for = origins.recipe, origins.target, origins.tuning, origins.ram_bytes
    return compile_model(origins.model, *made_for, fix_batch=origins.fix_batch)


def build(compiled: Compiled, folder: str | Path) -> BuildResult:
    """Write the C project and compile its runner. Raises FitError, ToolError, and UsageError: `holds-a-run` where that
    would remove trained weights, and what staging raises."""
    path = Path(folder)
    if (path / WEIGHTS).exists():
        raise UsageError("holds-a-run", str(path), "what a run trained lies there", "choose another folder")
    require_fit(compiled)
    toolchain = find_toolchain(compiled.target)
    with staged(path, MARKER) as inside:
        write_project(inside, compiled.title, compiled.program, compiled.training, compiled.target)
        note(inside, compiled)
        ram = {"ODL_RAM_BYTES": compiled.target.ram_bytes}
        result = compile_project(inside, compiled.target, toolchain, defines=ram)
        runner = result.elf.relative_to(inside.resolve())
    return replace(result, elf=path / runner)


def measure(compiled: Compiled) -> BuildResult:
    """The sizes of the runner that `build` would leave, built and thrown away. Raises FitError and ToolError."""
    require_fit(compiled)
    with tempfile.TemporaryDirectory(prefix="odl-") as scratch:
        folder = Path(scratch, "project")
        write_project(folder, compiled.title, compiled.program, compiled.training, compiled.target)
        ram = {"ODL_RAM_BYTES": compiled.target.ram_bytes}
        return compile_project(folder, compiled.target, find_toolchain(compiled.target), defines=ram)


def note(folder: Path, compiled: Compiled, **more: Any) -> None:
    """Note in `folder` what it was made from, and `more`."""
    made_for = compiled.recipe, compiled.target.name, compiled.tuning, compiled.ram_bytes
    note_origins(folder, compiled.model, *made_for, **more)


def verify(
    compiled: Compiled,
    data: str | Path,
    steps: int,
    on: str = "",
    progress: Progress = silent,
    timeout_s: float = 120.0,
) -> Verdict:
    """Compare every tensor of `steps` training steps on the target with the NumPy executor, in bits."""
    samples = load_data(Path(data), compiled.training).steps(steps, compiled.recipe.seed)
    with ExitStack() as stack:
        device = _device(compiled, on, stack, trace=True, timeout_s=timeout_s)
        return compare(compiled.program, compiled.training, samples, device, progress)


def train(
    compiled: Compiled,
    data: str | Path,
    steps: int,
    on: str = "",
    progress: Progress = silent,
    timeout_s: float = 120.0,
    weights: Mapping[str, Array] | None = None,
    first: int = 0,
    checkpoints: Checkpoints | None = None,
) -> Run:
    """Train on the target for `steps` samples, streaming the loss to `progress`.

    `on` is a simulator, or "numpy": the executor, a mini-batch at once, with the same bits; it counts nothing. With
    the `weights` of another run it goes on where that one ended, with the bits of one run over all samples; where that
    was on the same data, it has seen the `first` samples of the walk through them.

    With `checkpoints` it saves what it has learned as it goes, and goes on from what it finds there: a run that was cut
    off, by whatever, ends with the bits of one that was not. Raises ModelError as `prepare_image` says, and UsageError
    `no-flash`.
    """
    loaded = load_data(Path(data), compiled.training)
    samples = loaded.steps(steps, compiled.recipe.seed, first)
    if on == NUMPY:
        if checkpoints:
            raise UsageError("no-flash", NUMPY, "has no flash to keep checkpoints in", "leave out --on numpy")
        return _train_in_numpy(compiled, samples, progress, weights or {})
    machine = machine_for(compiled.target, on)

    def listen(record: Record) -> None:
        if isinstance(record, Loss):
            progress(record.step, float(record.value))

    initial = _initial(compiled, weights)
    job = Job(model_id(compiled.program), samples.samples, samples.targets, weights=True, initial=initial)
    if checkpoints:
        source = loaded.source(compiled.recipe.seed, first, initial)
        n_bytes = sum(compiled.program.held_bytes.values())
        job = replace(job, flash=prepare_image(checkpoints, source, job.model_id, n_bytes, steps))
    image = checkpoints.image if checkpoints else None
    if machine.counter == "cycles":
        log = _run(compiled, on, job, timeout_s, listen, image)
        n_profiled = min(steps, compiled.recipe.batch + (compiled.training.replay is not None))
        few = samples.first(n_profiled)
        head = replace(job, samples=few.samples, targets=few.targets, profile=True, flash=NO_FLASH)
        profiled = _run(compiled, on, head, timeout_s)
    else:
        log = profiled = _run(compiled, on, replace(job, profile=bool(machine.counter)), timeout_s, listen, image)
    losses = tuple(float(loss) for loss in log.losses)
    counted = profiled.profile, profiled.counters, log.counts
    trained = compiled.program.held_arrays(log.weights)
    saves = tuple(save.status for save in log.saves)
    return Run(compiled, machine.simulator, losses, trained, *counted, log.stack_bytes, log.first, saves)


def _train_in_numpy(compiled: Compiled, samples: Data, progress: Progress, weights: Mapping[str, Array]) -> Run:
    lanes = min(MOST_LANES, compiled.recipe.batch)
    reference = Reference(compiled.program, compiled.training, lanes)
    reference.load(weights)
    losses: list[float] = []
    for start in range(0, len(samples), lanes):
        part = Data(samples.samples[start : start + lanes], samples.targets[start : start + lanes])
        for loss in reference.steps(part):
            progress(len(losses), float(loss))
            losses.append(float(loss))
    trained = {held.tensor.name: reference.executor.persistent(held.tensor.name) for held in compiled.program.held}
    nothing = np.zeros(0, np.uint32)
    return Run(compiled, NUMPY, tuple(losses), trained, nothing, (), nothing, 0)


def infer(
    compiled: Compiled,
    data: Data,
    weights: Mapping[str, Array] | None = None,
    on: str = NUMPY,
    timeout_s: float = 120.0,
    progress: Callable[[int, int], None] = still,
) -> Array:
    """The outputs (N, elements of one) binary16 for all of `data`, with the model's weights or `weights`.

    `on` is "numpy", or a simulator as for `train`. `progress` is told (samples done, of how many).
    """
    if on == NUMPY:
        reference, outputs = Reference(compiled.program, compiled.training, MOST_LANES), list[Array]()
        reference.load(weights or {})
        for start in range(0, len(data), MOST_LANES):
            found = reference.infer(data.samples[start : start + MOST_LANES])
            outputs.append(found.reshape(len(found), -1))
            progress(start + len(found), len(data))
        return np.concatenate(outputs)

    def listen(record: Record) -> None:
        if isinstance(record, Output):
            progress(record.step + 1, len(data))

    with ExitStack() as stack:
        device = _device(
            compiled, "" if on == compiled.target.simulator else on, stack, trace=False, timeout_s=timeout_s
        )
        job = Job(model_id(compiled.program), data.samples, initial=_initial(compiled, weights))
        return device.run(job, listen).outputs


def evaluate(
    compiled: Compiled,
    data: str | Path,
    weights: Mapping[str, Array] | None = None,
    on: str = NUMPY,
    timeout_s: float = 120.0,
    progress: Callable[[int, int], None] = still,
) -> Scores:
    """How well the model does on a whole data file: `scores.classified` (cross entropy) or `approximated` (mse)."""
    loaded = load_data(Path(data), compiled.training)
    outputs = infer(compiled, loaded, weights, on, timeout_s, progress)
    if compiled.recipe.loss == "cross_entropy":
        return classified(outputs, loaded.targets.ravel())
    return approximated(outputs, loaded.targets)


def require_convergence(run: Run) -> None:
    """Raises TargetError `diverged` where no loss scale down to the floor made the gradients finite."""
    if run.updates.diverged:
        raise TargetError(
            "diverged", run.on, f"gradients are not finite at loss scale {run.updates.loss_scale:g}, near the floor",
            "lower --lr or --scale-floor; no weight was touched by such a gradient",
        )  # fmt: skip


def export(compiled: Compiled, weights: Mapping[str, Array], path: str | Path) -> None:
    """Write the original model with its trained weights, whole or not at all; adapters become part of the weights that
    they adapt. Raises UsageError `file-unwritable`."""
    trained = {name: value for name, value in weights.items() if name in compiled.training.trainable}
    if compiled.training.adapters:
        held = compiled.model.graph.persistent
        trained = {
            a.weight: merged(held[a.weight].initial, trained[a.down], trained[a.up])
            for a in compiled.training.adapters
        }  # fmt: skip
    write_whole(Path(path), export_model(compiled.model, trained).SerializeToString())


def _device(compiled: Compiled, on: str, stack: ExitStack, *, trace: bool, timeout_s: float) -> Device:
    """A compiled program in a temporary project folder that lives as long as `stack`."""
    machine = machine_for(compiled.target, on)
    toolchain = find_toolchain(machine)
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="odl-")))
    folder = scratch / "project"
    write_project(folder, compiled.title, compiled.program, compiled.training, machine)
    result = compile_project(folder, machine, toolchain, trace=trace)
    return Device(simulator_for(machine), result.elf, timeout_s, compiled.program)


def _run(
    compiled: Compiled, on: str, job: Job, timeout_s: float, listen: Callable[[Record], None] = ignore,
    image: Path | None = None,
) -> Log:  # fmt: skip
    """One run of a job, with its flash in the file `image`."""
    with ExitStack() as stack:
        device = _device(compiled, on, stack, trace=job.profile, timeout_s=timeout_s)
        if not image:
            return device.run(job, listen)
        workdir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="odl-")))
        (workdir / FLASH_FILE).symlink_to(image.resolve())
        return device.run(job, listen, workdir)


def _initial(compiled: Compiled, weights: Mapping[str, Array] | None) -> list[bytes]:
    """`weights` as a job has them; nothing for the program's own start."""
    if not weights:
        return []
    return [np.ascontiguousarray(weights[held.tensor.name]).tobytes() for held in compiled.program.held]
