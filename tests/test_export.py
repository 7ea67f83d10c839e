"""Trained weights on their way back into the ONNX file: only they change, and the file computes what odl computes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import cnn, compiled, draw, infer, input_shape, mlp, model, node, reference, refusal, save
from onnx import TensorProto, helper, numpy_helper

from odl import api
from odl.api import Compiled, compile_model
from odl.compare import Reference
from odl.executor import Executor
from odl.fp16 import half
from odl.ops._importer import CHANNELS_FIRST, CHANNELS_LAST
from odl.recipe import Recipe
from odl.training import INFER
from odl.types import Array


def weights_of(program: Compiled, executor: Executor) -> dict[str, Array]:
    return {name: executor.persistent(name) for name in program.training.trainable}


def trained(program: Compiled, steps: int = 3) -> dict[str, Array]:
    """The weights after some steps on noise."""
    walk = Reference(program.program, program.training)
    inputs = program.training.step.inputs
    for step in range(steps):
        x, target = (half(draw(*inputs[name].shape, seed=step, scale=1)) for name in (
            program.training.sample, program.training.target))  # fmt: skip
        label = np.array([step % 2], np.int32)
        walk.step(x, target if program.recipe.loss == "mse" else label, lambda *_: None)
    return weights_of(program, walk.executor)


def exported(folder: Path, program: Compiled, weights: Mapping[str, Array]) -> onnx.ModelProto:
    path = folder / "tuned.onnx"
    api.export(program, weights, path)
    return onnx.ModelProto.FromString(path.read_bytes())


def initializers(proto: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def changed(before: onnx.ModelProto, after: onnx.ModelProto) -> set[str]:
    """The initializers that hold other values."""
    old, new = initializers(before), initializers(after)
    return {name for name in old if not np.array_equal(old[name], new[name])}


def infer_with(program: Compiled, weights: Mapping[str, Array], x: Array) -> Array:
    executor = Executor(program.program)
    for name, value in weights.items():
        executor.load(name, value)
    stored = half(x.transpose(CHANNELS_LAST) if x.ndim == 4 else x)
    y = executor.run(INFER, {program.training.sample: stored})[0]
    return y.transpose(CHANNELS_FIRST) if y.ndim == 4 else y


MODELS = {
    "dense": mlp(),
    "folded-normalisation": cnn(),
    "normalisation-on-its-own": model(
        node("BatchNormalization", "x g b m v", "n"), node("Relu", "n", "r"), node("Gemm", "r w", "y"),
        g=1 + draw(4), b=draw(4), m=draw(4), v=1 + draw(4) ** 2, w=draw(4, 3),
    ),
    "gemm-without-transposition": model(node("Gemm", "x w b", "y"), w=draw(4, 3), b=draw(1, 3)),
    "gemm-alpha-beta": model(
        node("Gemm", "x w b", "y", alpha=0.25, beta=3.0, transB=1), w=draw(3, 4), b=draw(3)
    ),
    "gemm-alpha-beta-and-a-bias-of-rank-2": model(
        node("Gemm", "x w b", "y", alpha=-2.0, beta=0.5), w=draw(4, 3), b=draw(1, 3)
    ),
    "matmul-and-add": model(node("MatMul", "x w", "h"), node("Add", "h b", "y"), w=draw(4, 3), b=draw(1, 3)),
    "convolution": model(
        node("Conv", "x w b", "y", kernel_shape=[3, 2]), x=(1, 3, 5, 4), w=draw(4, 3, 3, 2), b=draw(4)
    ),
    "depthwise": model(
        node("Conv", "x w b", "y", kernel_shape=[3, 2], group=3), x=(1, 3, 5, 4), w=draw(6, 1, 3, 2), b=draw(6)
    ),
    "depthwise-folded": model(
        node("Conv", "x w", "c", kernel_shape=[3, 2], group=3), node("BatchNormalization", "c g b m v", "y"),
        x=(1, 3, 5, 4), w=draw(6, 1, 3, 2), g=1 + draw(6), b=draw(6), m=draw(6), v=1 + draw(6) ** 2,
    ),
    "pointwise": model(node("Conv", "x w", "y", kernel_shape=[1, 1]), x=(1, 3, 2, 2), w=draw(5, 3, 1, 1)),
    "per-channel": model(
        node("Mul", "x s", "m"), node("Add", "m t", "y"), x=(1, 3, 2, 2), s=draw(3, 1, 1), t=draw(1, 3, 1, 1)
    ),
    "whole-image": model(node("Add", "x w", "y"), x=(1, 3, 2, 4), w=draw(1, 3, 2, 4)),
    "scalar": model(node("Mul", "x s", "y"), s=np.array(0.5, np.float32)),
    "shared": model(
        node("Gemm", "x w b", "h"), node("Tanh", "h", "r"), node("Gemm", "r w b", "y"), w=draw(4, 4), b=draw(4)
    ),
}  # fmt: skip


def loss_of(proto: onnx.ModelProto) -> str:
    return "cross_entropy" if proto.graph.node[-1].op_type == "Gemm" else "mse"


@pytest.mark.parametrize("which", MODELS)
def test_trained_weights_compute_the_same_in_onnx(tmp_path: Path, which: str) -> None:
    proto = MODELS[which]
    program = compiled(tmp_path, proto, loss=loss_of(proto), lr=0.05)
    weights = trained(program)
    x = draw(*input_shape(proto), seed=7, scale=1)
    expected = infer_with(program, weights, x)
    assert np.abs(expected - infer(program, x)).max() > 0.01, "training changed nothing that could be seen"
    found = reference(exported(tmp_path, program, weights), x)
    np.testing.assert_allclose(found, expected, atol=3e-3 * np.abs(expected).max())


@pytest.mark.parametrize("which", MODELS)
def test_untrained_model_is_the_file_bit_by_bit(tmp_path: Path, which: str) -> None:
    program = compiled(tmp_path, MODELS[which], loss="mse")
    weights = weights_of(program, Executor(program.program))
    for chosen in ({}, weights):
        exported(tmp_path, program, chosen)
        assert (tmp_path / "tuned.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()


@pytest.mark.parametrize("which", MODELS)
def test_trained_weights_survive_a_second_import(tmp_path: Path, which: str) -> None:
    """Where nothing is folded or scaled, in bits."""
    program = compiled(tmp_path, MODELS[which], loss=loss_of(MODELS[which]), lr=0.05)
    weights = trained(program)
    again = compile_model(save(tmp_path, exported(tmp_path, program, weights), "again.onnx"), program.recipe, "host")
    for name, value in weights.items():
        found = again.model.graph.persistent[name].initial
        ulp = 1.0 if "folded" in which or "alpha" in which else 0.0
        np.testing.assert_allclose(found.astype(float), value.astype(float), atol=ulp * 2**-9, rtol=ulp * 2**-10)


def test_only_trained_elements_change(tmp_path: Path) -> None:
    program = compiled(tmp_path, mlp())
    weights = weights_of(program, Executor(program.program))
    weights["w1"][2, 3] += 1
    after = exported(tmp_path, program, weights)
    assert changed(mlp(), after) == {"w1"}
    assert np.argwhere(initializers(mlp())["w1"] != initializers(after)["w1"]).tolist() == [[2, 3]]


def test_everything_else_stays(tmp_path: Path) -> None:
    proto = cnn()
    proto.producer_name, proto.doc_string, proto.domain, proto.model_version = "someone", "a model", "org.test", 7
    proto.metadata_props.add(key="classes", value="a,b,c")
    proto.graph.doc_string = "a graph"
    for item in (*proto.graph.node, *proto.graph.initializer):
        item.doc_string = f"about {item.name}"
    program = compiled(tmp_path, proto)
    after = exported(tmp_path, program, trained(program))
    changed = {
        name for name, array in initializers(after).items() if not np.array_equal(array, initializers(proto)[name])
    }
    assert changed == {"w", "beta", "v", "c0"}
    for old, new in zip(proto.graph.initializer, after.graph.initializer, strict=True):
        assert (old.name, old.doc_string, old.dims, old.data_type) == (
            new.name,
            new.doc_string,
            new.dims,
            new.data_type,
        )
        new.CopyFrom(old)
    assert after == proto


def test_frozen_weights_keep_their_bits(tmp_path: Path) -> None:
    program = compiled(tmp_path, cnn(), trainable=("fc",))
    assert changed(cnn(), exported(tmp_path, program, trained(program))) == {"v", "c0"}


def test_external_data_comes_inside(tmp_path: Path) -> None:
    proto = mlp()
    onnx.save(proto, tmp_path / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    program = compile_model(tmp_path / "model.onnx", Recipe(), "host")
    (tmp_path / "w.bin").unlink()
    weights = trained(program)
    x = draw(1, 4, seed=7)
    found = reference(exported(tmp_path, program, weights), x)
    np.testing.assert_allclose(found, infer_with(program, weights, x), atol=5e-3)


@pytest.mark.parametrize("kind", ["float_data", "raw_data"])
def test_both_ways_to_hold_floats(tmp_path: Path, kind: str) -> None:
    proto = mlp()
    tensor = proto.graph.initializer[0]
    values = numpy_helper.to_array(tensor)
    if kind == "float_data":
        tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.FLOAT, values.shape, values.ravel()))
        assert tensor.float_data
    program = compiled(tmp_path, proto)
    weights = trained(program)
    after = exported(tmp_path, program, weights).graph.initializer[0]
    assert not after.float_data
    np.testing.assert_array_equal(half(numpy_helper.to_array(after)), weights["w1"])


def test_local_functions_stay(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 17)]
    layer = helper.make_function("custom", "Layer", ["a", "k"], ["b"], [node("Gemm", "a k", "b")], opsets)
    proto = model(node("Layer", "x w", "y", domain="custom"), functions=[layer], w=draw(4, 3))
    program = compiled(tmp_path, proto)
    after = exported(tmp_path, program, trained(program))
    assert after.functions == proto.functions
    assert changed(proto, after) == {"w"}


def test_unsorted_model_keeps_its_order(tmp_path: Path) -> None:
    proto = mlp()
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    program = compiled(tmp_path, proto)
    assert exported(tmp_path, program, trained(program)).graph.node == proto.graph.node


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_out_of_range_are_refused(tmp_path: Path, bad: float) -> None:
    program = compiled(tmp_path, mlp())
    weights = weights_of(program, Executor(program.program))
    weights["b1"] = np.array([0, bad, 0, 0, 0], np.float16)
    error = refusal(lambda: exported(tmp_path, program, weights))
    assert (error.code, error.exit_code, error.problems[0].where) == ("weight-not-finite", 3, "b1")
    assert not (tmp_path / "tuned.onnx").exists()
