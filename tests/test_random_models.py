"""Random networks under random recipes: graph, program and C agree in every bit."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from random_models import networks

from odl import Recipe, compile_model, verify
from odl.compare import Reference
from odl.data import load_data
from odl.interpreter import interpret

CHOSEN = ({}, {"last": 1}, {"parameters": "biases"}, {"channels": ("*=0.5",)}, {"lora_rank": 1})
RECIPES = st.builds(
    lambda chosen, **words: Recipe(**words, **chosen),
    chosen=st.sampled_from(CHOSEN),
    lr=st.sampled_from([0.01, 0.5]),
    momentum=st.sampled_from([0.0, 0.9]),
    weight_decay=st.sampled_from([0.0, 1e-3]),
    batch=st.integers(1, 3),
    accumulate=st.sampled_from(["fp32", "fp16"]),
    gradients=st.sampled_from(["fp32", "fp16"]),
    loss_scale=st.sampled_from([1.0, 128.0]),
)
STEPS = 4


def written(model: onnx.ModelProto, classes: int, folder: Path) -> tuple[Path, Path]:
    """The model and matching data as files."""
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(2)
    np.savez(folder / "data.npz", x=rng.standard_normal((STEPS, *shape[1:])), y=rng.integers(0, classes, STEPS))
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx", folder / "data.npz"


def check_target(network: tuple[onnx.ModelProto, int], recipe: Recipe, target: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        model, data = written(*network, Path(scratch))
        verdict = verify(compile_model(model, recipe, target), data, STEPS)
        assert verdict.equal, verdict.first_difference
        assert verdict.steps == STEPS


compiling = settings(
    deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)


@given(networks(), RECIPES)
@settings(compiling, max_examples=12)
def test_host_agrees(network: tuple[onnx.ModelProto, int], recipe: Recipe) -> None:
    check_target(network, recipe, "host")


@pytest.mark.qemu
@given(networks(), RECIPES)
@settings(compiling, max_examples=6)
def test_qemu_agrees(network: tuple[onnx.ModelProto, int], recipe: Recipe) -> None:
    check_target(network, recipe, "qemu-zhinx")


@given(networks(), RECIPES)
@settings(deadline=None, derandomize=True, max_examples=60, suppress_health_check=list(HealthCheck))
def test_program_in_memory_agrees_with_graph(network: tuple[onnx.ModelProto, int], recipe: Recipe) -> None:
    """The executor on its arena against the graph without memory: the planner and the lowering add nothing."""
    with tempfile.TemporaryDirectory() as scratch:
        model, data = written(*network, Path(scratch))
        compiled = compile_model(model, recipe)
        samples = load_data(data, compiled.training)
        reference = Reference(compiled.program, compiled.training)
        held = {name: reference.executor.persistent(name) for name in compiled.training.step.persistent}
        for sample, target in samples:
            feeds = {compiled.training.sample: sample, compiled.training.target: target}
            loss = reference.step(sample, target, lambda *_: None)
            held = _advance(compiled.training.graphs, feeds, held, reference.seen % recipe.batch == 0, loss)
            for name, value in held.items():
                np.testing.assert_array_equal(reference.executor.persistent(name), value, err_msg=name)


def _advance(graphs, feeds, held, apply, loss):  # type: ignore[no-untyped-def]
    step = graphs["train_step"]
    values = interpret(step, feeds, held)
    np.testing.assert_array_equal(values[step.outputs[0]][0], loss)
    held = held | {name: values[value] for name, value in step.carries.items()}
    if apply and "apply_batch" in graphs:
        ending = graphs["apply_batch"]
        values = interpret(ending, {}, {name: held[name] for name in ending.persistent if name in held})
        held = held | {name: values[value] for name, value in ending.carries.items()}
    return held
