"""The library's face: what the command line does, as functions.

>>> compiled = compile_model("model.onnx", Recipe(lr=0.01), "qemu-zhinx")
>>> verdict = verify(compiled, "data.npz", steps=10)
>>> run = train(compiled, "data.npz", steps=100)
>>> export(compiled, run.weights, "tuned.onnx")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from odl import memory, memory_check
from odl.budget import Placed, Saving, fit
from odl.checkpoint import Checkpoints, prepare_image
from odl.codegen import model_id
from odl.compare import MOST_LANES, Device, Progress, Reference, Verdict
from odl.compare import verify as compare
from odl.data import Data, Source, load_data
from odl.errors import FitError, TargetError, UsageError
from odl.exporting import export_model
from odl.frontend import load_model
from odl.graph import Graph
from odl.log import Log
from odl.lower import lower
from odl.outcomes import Accepted as Accepted  # this is where others look for them
from odl.outcomes import Compiled as Compiled
from odl.outcomes import Run as Run
from odl.packages import find_package, write_package
from odl.passes.adapters import merged
from odl.passes.for_cluster import prepare
from odl.passes.rematerialize import gather, rematerialize
from odl.passes.split_gradients import split_gradients
from odl.passes.split_reductions import split_reductions
from odl.project import MARKER, note_origins, read_origins, without_a_run, write_project
from odl.recipe import Recipe
from odl.rehearsal import rehearse
from odl.remedies import remedies
from odl.replay import RECALL, REMEMBER
from odl.residency import layout
from odl.schedule import schedule
from odl.scores import Scores, approximated, classified
from odl.stages import stage
from odl.staging import scratch, staged, write_whole
from odl.targets import DEFAULT, Target, find_target, machine_for, simulator_for
from odl.targets.base import ignore
from odl.tiling import UNTUNED
from odl.toolchain import BuildResult, Toolchain, compile_project, find_toolchain
from odl.training import Training, build_training
from odl.tuning import Tuning
from odl.types import Array
from odl.wire import FLASH_FILE, NO_FLASH, Job, Loss, Output, Record

NUMPY = "numpy"  # on no target: the executor


def silent(step: int, loss: float) -> None:
    """The default progress listener."""


def still(done: int, of: int) -> None:
    """The default listener of an evaluation."""


def accept(path: str | Path, recipe: Recipe | None = None, fix_batch: bool = False) -> Accepted:
    """Import and differentiate a model: what any target needs, and as far as the model and its recipe alone decide.

    Raises ModelError and UsageError.
    """
    recipe = recipe or Recipe()
    stage(f"reading {Path(path).name}")
    model = load_model(Path(path), keeps_norms=recipe.parameters == "norms", fix_batch=fix_batch)
    stage("finding gradients")
    training = build_training(model.graph, recipe)
    memory.require_free_names(training.graphs.values())
    return Accepted(model, recipe, training)


def compile_model(
    path: str | Path,
    recipe: Recipe | None = None,
    target: str | Target = DEFAULT.name,
    tuning: Tuning = UNTUNED,
    ram_bytes: int = 0,
    must_fit: bool = True,
    fix_batch: bool = False,
) -> Compiled:
    """Import, differentiate, order, place and lower a model: all that is known before anything runs.

    `path` is an ONNX file with a batch of 1, `recipe` how it is trained (default: `Recipe()`). `target` is one by name,
    or one that was made of it (`Target.resized`); folders remember the name alone. `tuning` is what `odl tune` chose.
    `ram_bytes`, or the target's RAM where that is 0, is a budget: where arena and stack do not fit, values are computed
    again (`odl/budget.py`). What does not fit even so is refused, unless `must_fit` is false: then the result is the
    program of fewest bytes. `fix_batch`: a batch that the file leaves open is 1; folders remember it.

    Raises ModelError with all that odl does not take of the model, UsageError where the recipe or the target names what
    is not there, and FitError, `does-not-fit` among them.
    """
    machine = find_target(target) if isinstance(target, str) else target
    machine = machine.resized(ram_bytes=ram_bytes)
    accepted = accept(path, recipe, fix_batch)
    placed, saving = _fitted(accepted.training, machine, tuning)
    stage("lowering to kernel calls")
    compiled = Compiled(
        accepted.model, accepted.recipe, accepted.training, machine, placed.graphs, placed.plan,
        lower(placed.graphs, placed.plan, placed.layouts), tuning, ram_bytes, saving,
    )  # fmt: skip
    if must_fit:
        require_fit(compiled)
    if compiled.missing_bytes > 0:
        return compiled  # to be looked at alone, and perhaps too large for what follows
    stage("checking the plan")
    if machine.l1_bytes:
        rehearse(compiled.program)
    else:
        memory_check.require_checkable(placed.graphs)
        problems = memory_check.check(placed.graphs, placed.plan)
        assert not problems, "\n".join(problems)
    return compiled


def _fitted(training: Training, machine: Target, tuning: Tuning) -> tuple[Placed, Saving | None]:
    """The graphs in an order, with a place for every value. Where cores work in a local memory, calls are tiles."""
    capacity, budget = machine.l1_bytes, machine.ram_bytes - machine.stack_bytes
    stage("ordering nodes")

    def place(graphs: Sequence[Graph]) -> Placed:
        stage("placing values")
        return Placed(tuple(graphs), memory.plan(graphs))

    def place_tiled(graphs: Sequence[Graph]) -> Placed:
        stage("placing values and tiles")
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
            f"{missing:,} are missing", remedies(compiled),
        )  # fmt: skip


def open_folder(folder: str | Path) -> Compiled:
    """Compile again what a folder was made from, one that `build` or `save_run` wrote: model, recipe, target, budget.

    The weights are the model's own: those of a run come from `load_weights`. Raises UsageError `not-a-project`, and
    what `compile_model` raises.
    """
    origins, _ = read_origins(Path(folder))
    made_for = origins.recipe, origins.target, origins.tuning, origins.ram_bytes
    return compile_model(origins.model, *made_for, fix_batch=origins.fix_batch)


def build(compiled: Compiled, folder: str | Path) -> BuildResult:
    """Write the C project into `folder`, whole or not at all, and compile its runner. An older project gives way.

    The sections of the result are in bytes. Raises FitError, ToolError where there is no compiler for the target, and
    UsageError: `holds-a-run` where that would remove trained weights, and what staging raises.
    """
    path = without_a_run(folder)
    require_fit(compiled)
    toolchain = find_toolchain(compiled.target)
    with staged(path, MARKER) as inside:
        result = _built(compiled, inside, toolchain)
        note(inside, compiled)
        runner = result.elf.relative_to(inside.resolve())
    return replace(result, elf=path / runner)


def package(compiled: Compiled, folder: str | Path, name: str) -> None:
    """Write the model into `folder`, whole or not at all, as a module of another build, and compile nothing.

    `name` is `cmake`, `zephyr`, `platformio` or `arduino`. Raises FitError, and UsageError: `unknown-package`,
    `package-target` for a target of several cores, and what `build` raises of the folder.
    """
    path, kind = without_a_run(folder), find_package(name, compiled.target)
    require_fit(compiled)
    with staged(path, MARKER) as inside:
        write_package(inside, kind, compiled.program, compiled.training, compiled.title, compiled.target)
        note(inside, compiled, package=name)


def measure(compiled: Compiled) -> BuildResult:
    """The sizes of the runner that `build` would leave, built and thrown away. Raises FitError and ToolError."""
    require_fit(compiled)
    with scratch() as place:
        return _built(compiled, place / "project", find_toolchain(compiled.target))


def _built(compiled: Compiled, folder: Path, toolchain: Toolchain) -> BuildResult:
    """The project and its runner, which may use as much RAM as the target has."""
    write_project(folder, compiled.title, compiled.program, compiled.training, compiled.target)
    ram = {"ODL_RAM_BYTES": compiled.target.ram_bytes}
    return compile_project(folder, compiled.target, toolchain, defines=ram)


def note(folder: Path, compiled: Compiled, **more: Any) -> None:
    """Note in `folder` what it was made from, and `more`."""
    made_for = compiled.recipe, compiled.target.name, compiled.tuning, compiled.ram_bytes
    note_origins(folder, compiled.model, *made_for, **more)


def verify(
    compiled: Compiled,
    data: Source,
    steps: int,
    on: str = "",
    progress: Progress = silent,
    timeout_s: float = 120.0,
) -> Verdict:
    """Compare every tensor of `steps` training steps on the target with the NumPy executor, in bits.

    `data` is an .npz file, or a mapping of arrays, with `x` (N, ...) of the model's input shape, in ONNX's order of
    axes and any real type, and `y`: (N,) integer labels, or (N, ...) of the output's shape for mean squared error. A
    step is one sample of it, in an order drawn from the recipe's seed. `on` is a simulator, such as "host" (default:
    the target's own); `progress` is told (step, loss) of each step that agreed; `timeout_s` is the longest silence of
    the target in seconds.

    Bits that differ are no error: the verdict tells the first. Raises ModelError where the data cannot be used,
    ToolError where a compiler or a simulator is missing, TargetError where the target fails.
    """
    samples = load_data(data, compiled.training).steps(steps, compiled.recipe.seed)
    with ExitStack() as stack:
        device = _device(compiled, on, stack, trace=True, timeout_s=timeout_s)
        return compare(compiled.program, compiled.training, samples, device, progress)


def train(
    compiled: Compiled,
    data: Source,
    steps: int,
    on: str = "",
    progress: Progress = silent,
    timeout_s: float = 120.0,
    weights: Mapping[str, Array] | None = None,
    first: int = 0,
    checkpoints: Checkpoints | None = None,
) -> Run:
    """Train on the target for `steps` samples of `data`, as for `verify`; `progress` is told (step, loss).

    `on` is a simulator (default: the target's own), or "numpy": the executor, a mini-batch at once, with the same bits;
    it counts nothing. `timeout_s` is the longest silence of the target in seconds. With the `weights` of another run it
    goes on where that one ended, with the bits of one run over all samples; where that was on the same data, it has
    seen the `first` samples of the walk through them.

    With `checkpoints` it saves what it has learned as it goes, and goes on from what it finds there: a run that was cut
    off, by whatever, ends with the bits of one that was not.

    A run that diverged is no error here (`Run.updates`). Raises ModelError where the data cannot be used and as
    `prepare_image` says, UsageError `unknown-simulator` and `no-flash`, ToolError and TargetError.
    """
    loaded = load_data(data, compiled.training)
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
    data: Data | Source,
    weights: Mapping[str, Array] | None = None,
    on: str = NUMPY,
    timeout_s: float = 120.0,
    progress: Callable[[int, int], None] = still,
) -> Array:
    """The outputs (N, elements of one) binary16 for all N samples of `data`, with the model's weights or `weights`.

    `data` is as for `verify`, or was loaded. `weights` are those of a run, by name. `on` is "numpy", or
    a simulator as for `train`, with its `timeout_s`. `progress` is told (samples done, of how many). Images come out
    channels last. Raises ModelError where the data cannot be used, ToolError and TargetError.
    """
    data = data if isinstance(data, Data) else load_data(data, compiled.training)
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
    data: Source,
    weights: Mapping[str, Array] | None = None,
    on: str = NUMPY,
    timeout_s: float = 120.0,
    progress: Callable[[int, int], None] = still,
) -> Scores:
    """How well the model does, or a run with its `weights`, on all samples of `data`, as for `verify`.

    With cross entropy: `samples`, `correct`, `accuracy` (0 to 1), `class_accuracy`, `confusion` and `undecided`, as
    `odl.scores.classified` says. With mean squared error: `samples` and `mean_squared_error`. `on`, `timeout_s` and
    `progress` are as for `infer`, and so is what it raises.
    """
    loaded = load_data(data, compiled.training)
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
    """Write the original model with its trained weights, whole or not at all.

    `weights` are those of a run or of a checkpoint, by name, in storage order; what training did not change keeps its
    binary32 bits, and adapters become part of the weights that they adapt. Raises UsageError `file-unwritable`.
    """
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
    folder = stack.enter_context(scratch()) / "project"
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
        workdir = stack.enter_context(scratch())
        (workdir / FLASH_FILE).symlink_to(image.resolve())
        return device.run(job, listen, workdir)


def _initial(compiled: Compiled, weights: Mapping[str, Array] | None) -> list[bytes]:
    """`weights` as a job has them; nothing for the program's own start."""
    if not weights:
        return []
    return [np.ascontiguousarray(weights[held.tensor.name]).tobytes() for held in compiled.program.held]
