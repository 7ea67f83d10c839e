"""One training graph in five ways: the Graph in NumPy, the Program in NumPy, its C on the host under ASan and UBSan, in
QEMU, and with the SIMD kernels of the cluster in QEMU. All must agree in every bit of every tensor."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from campaigns.random_clusters import clusters
from odl.api import Compiled, compile_model, silent
from odl.compare import Device, Reference, verify
from odl.data import Data, load_data
from odl.errors import FitError, ModelError
from odl.interpreter import interpret
from odl.ops.replay import FILLED
from odl.project import write_project
from odl.recipe import Recipe
from odl.replay import ENCODE, RECALL, REMEMBER
from odl.targets import machine_for, simulator_for
from odl.toolchain import compile_project, find_toolchain
from odl.training import APPLY, STEP, Training
from odl.types import Array

STEPS = 3
FLAT, CLUSTER = "qemu-zhinx", "pulp-open"
EQUAL = "equal"
WAYS = ("graph", "host", "qemu", "cluster graph", "cluster simd")


@dataclass(frozen=True)
class Case:
    """A network, how it is trained, and on how many cores."""

    model: onnx.ModelProto
    recipe: Recipe
    cores: int = 8

    def written(self, folder: Path) -> tuple[Path, Path]:
        """The model, and data of STEPS samples, as files."""
        (source,), (result,) = self.model.graph.input, self.model.graph.output
        shape, out = ([dim.dim_value for dim in v.type.tensor_type.shape.dim[1:]] for v in (source, result))
        rng = np.random.default_rng(2)
        x, wanted = rng.standard_normal((STEPS, *shape)), rng.standard_normal((STEPS, *out))
        y = rng.integers(0, out[-1], STEPS) if self.recipe.loss == "cross_entropy" else wanted
        np.savez(folder / "data.npz", x=x, y=y)
        onnx.save(self.model, folder / "model.onnx")
        return folder / "model.onnx", folder / "data.npz"


def compare(case: Case) -> dict[str, str]:
    """What became of each of WAYS: EQUAL, or the code of a refusal. Raises AssertionError where bits differ."""
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="odl-") as scratch:
        model, data = case.written(Path(scratch))
        try:
            flat = compile_model(model, case.recipe, FLAT)
            samples = load_data(data, flat.training).steps(STEPS, case.recipe.seed)
            graph_agrees(flat, samples)
            code_agrees(flat, "host", samples, sanitize=True)
            code_agrees(flat, "qemu", samples)
            found |= dict.fromkeys(WAYS[:3], EQUAL)
            cut = _on_a_cluster(case, model)
            graph_agrees(cut, samples)
            code_agrees(cut, "qemu", samples)
            found |= dict.fromkeys(WAYS[3:], EQUAL)
        except (FitError, ModelError) as refusal:
            found |= {way: refusal.code for way in WAYS if way not in found}
    return found


def _on_a_cluster(case: Case, model: Path) -> Compiled:
    """For the cluster of least L1 on which it fits, so that it is cut into tiles."""
    *less, whole = clusters(case.cores)
    for machine in less:
        try:
            return compile_model(model, case.recipe, machine)
        except FitError:
            continue
    return compile_model(model, case.recipe, whole)


def code_agrees(compiled: Compiled, on: str, samples: Data, *, sanitize: bool = False) -> None:
    """The generated C against the Program in NumPy."""
    machine = machine_for(compiled.target, on)
    with tempfile.TemporaryDirectory(prefix="odl-") as scratch:
        project = Path(scratch, "project")
        write_project(project, compiled.title, compiled.program, compiled.training, machine)
        tools = find_toolchain(machine, sanitize=sanitize)
        elf = compile_project(project, machine, tools, trace=True, sanitize=sanitize, jobs=1).elf
        device = Device(simulator_for(machine), elf, program=compiled.program)
        verdict = verify(compiled.program, compiled.training, samples, device, silent)
    assert verdict.equal, f"{on}: {verdict.first_difference}"
    assert verdict.steps == len(samples)


def graph_agrees(compiled: Compiled, samples: Data) -> list[float]:
    """The losses. The Program in its memories against the Graphs as they were differentiated, before any pass, without
    memory."""
    reference = Reference(compiled.program, compiled.training)
    persistent = reference.executor.persistent
    names = {name for graph in compiled.training.graphs.values() for name in graph.carries}
    graphs = _Graphs(compiled.training, {name: persistent(name) for name in names})
    losses = []
    for sample, target in samples:
        loss, expected = reference.step(sample, target, None), graphs.step(sample, target)
        assert np.array_equal(loss, expected, equal_nan=True), f"graph: loss {loss}, not {expected}"
        for name, value in graphs.held.items():
            assert np.array_equal(persistent(name), value, equal_nan=True), f"graph: '{name}' differs"
        losses.append(float(loss))
    return losses


@dataclass
class _Graphs:
    """Training by the Graphs alone, as `Reference` does it by the Program. `held` is what persists."""

    training: Training
    held: dict[str, Array]
    seen: int = 0

    def step(self, sample: Array, target: Array) -> Array:
        """The loss."""
        training, replay = self.training, self.training.replay
        if not replay:
            return self._learn({training.sample: sample, training.target: target})
        for _ in range(training.recipe.replay_ratio):
            if self.held[replay.count][FILLED]:
                self._run(RECALL, {})
                self._learn({training.target: self.held[replay.label]})
        self._run(ENCODE, {training.sample: sample})
        loss = self._learn({training.target: target})
        self._run(REMEMBER, {training.target: target})
        return loss

    def _learn(self, feeds: Mapping[str, Array]) -> Array:
        loss = self._run(STEP, feeds)[self.training.step.outputs[0]][0]
        self.seen += 1
        if APPLY in self.training.graphs and self.seen % self.training.recipe.batch == 0:
            self._run(APPLY, {})
        return loss

    def _run(self, name: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
        graph = self.training.graphs[name]
        known = {each: self.held[each] for each in graph.persistent if each in self.held}
        values = interpret(graph, feeds, known)
        self.held |= {each: values[value] for each, value in graph.carries.items()}
        return values
