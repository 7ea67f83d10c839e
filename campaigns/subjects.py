"""A network so small that its checkpoints can be cut off at every word, with all that a step can leave behind."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from campaigns.powercut import STEPS, Subject
from odl.api import Compiled, compile_model
from odl.checkpoint import sized
from odl.codegen import model_id
from odl.compare import Device
from odl.project import write_project
from odl.recipe import Recipe
from odl.targets import machine_for, simulator_for
from odl.toolchain import compile_project, find_toolchain
from odl.types import Array
from odl.wire import Flash, Job

# A gradient's sum over two samples, velocities, Kahan's compensations, a loss scale that moves, a memory of latents.
RECIPE = Recipe(
    lr=0.05, momentum=0.9, master="kahan", batch=3, loss_scaling="dynamic", scale_interval=2, replay_layer="relu",
    replay_slots=3, lr_schedule="cosine", lr_period=9,
)  # fmt: skip


def network() -> onnx.ModelProto:
    """Three inputs, four hidden, two classes."""
    draw = np.random.default_rng(1).normal
    weights = {"w1": draw(0, 0.5, (4, 3)), "b1": draw(0, 0.5, 4), "w2": draw(0, 0.5, (2, 4)), "b2": draw(0, 0.5, 2)}
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], "fc1", transB=1),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], "fc2", transB=1),
    ]
    graph = helper.make_graph(
        nodes, "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 2))],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def data(n: int = STEPS) -> tuple[Array, Array]:
    """(n, 1, 3) binary16 and (n, 1) labels."""
    random = np.random.default_rng(2)
    return random.normal(size=(n, 1, 3)).astype(np.float16), random.integers(0, 2, (n, 1)).astype(np.int32)


def untouched(_project: Path) -> None:
    """The default change."""


@contextmanager
def tiny(target: str, on: str = "", change: Callable[[Path], None] = untouched) -> Iterator[tuple[Compiled, Subject]]:
    """The network compiled for `target` and built for simulator `on`; the job has the smallest of flashes. `change` may
    change the project before it is compiled."""
    with tempfile.TemporaryDirectory(prefix="odl-") as scratch:
        path = Path(scratch, "tiny.onnx")
        path.write_bytes(network().SerializeToString())
        compiled = compile_model(path, RECIPE, target)
        machine = machine_for(compiled.target, on)
        project = Path(scratch, "project")
        write_project(project, "tiny", compiled.program, compiled.training, machine)
        change(project)
        elf = compile_project(project, machine, find_toolchain(machine)).elf
        samples, labels = data()
        job = Job(model_id(compiled.program), samples, labels, weights=True)
        yield (
            compiled,
            on_flash(
                Subject(Device(simulator_for(machine), elf, program=compiled.program), job), compiled, Flash(0, 256, 4)
            ),
        )


def on_flash(subject: Subject, compiled: Compiled, flash: Flash) -> Subject:
    """The same with another flash, just as large as two checkpoints need."""
    flash = sized(flash, sum(compiled.program.held_bytes.values()))
    return replace(subject, job=replace(subject.job, flash=flash))
