"""Rewrites at import, one at a time: that they happen, that they change no number, and when they must not happen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from models import codes, compiled, draw, infer, input_shape, load, model, node, reference, refusal, value
from onnx import TensorProto, helper

from odl import api
from odl.compare import Reference
from odl.fp16 import half
from odl.rewrites import arithmetic
from odl.types import Array


def ints(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


def norm(channels: int) -> dict[str, Array]:
    drawn = {name: draw(channels, seed=at) for at, name in enumerate(("gamma", "beta", "mean", "var"))}
    return drawn | {"var": 0.5 + drawn["var"] ** 2}


NHWC, NCHW = [0, 2, 3, 1], [0, 3, 1, 2]

# The model, and the operators that it becomes.
REWRITTEN = {
    "keras": (
        model(
            node("Transpose", "x", "i", perm=NCHW), node("Conv", "i w", "c"), node("Transpose", "c", "n", perm=NHWC),
            node("Add", "n b", "a"), node("Relu", "a", "r"), node("Transpose", "r", "j", perm=NCHW),
            node("Conv", "j v", "y"), x=(1, 6, 5, 2), w=draw(4, 2, 3, 3), b=draw(4), v=draw(3, 4, 2, 2),
        ),
        ["transpose", "conv2d", "add", "relu", "conv2d"],
    ),
    "keras-pad-concat-mean": (
        model(
            node("Transpose", "x", "i", perm=NCHW), node("Conv", "i w", "c"), node("Transpose", "c", "n", perm=NHWC),
            node("Pad", "n pads", "p"), node("Concat", "p p", "k", axis=-1),
            node("ReduceMean", "k", "y", axes=[1, 2], keepdims=0), x=(1, 6, 5, 2), w=draw(4, 2, 3, 3),
            pads=ints(0, 1, 2, 0, 0, 0, 1, 0),
        ),
        ["transpose", "conv2d", "pad", "concat", "average_pool", "reshape"],
    ),
    "signal": (
        model(
            node("Conv", "x w b", "c", pads=[2, 1], strides=[2], kernel_shape=[3]),
            node("BatchNormalization", "c gamma beta mean var", "n"), node("Relu", "n", "r"),
            node("MaxPool", "r", "p", kernel_shape=[2]), node("GlobalAveragePool", "p", "g"), node("Flatten", "g", "y"),
            x=(1, 2, 11), w=draw(4, 2, 3), b=draw(4), **norm(4),
        ),
        ["reshape", "transpose", "conv2d", "relu", "max_pool", "average_pool", "reshape", "reshape"],
    ),
    "signal-residual": (
        model(
            node("Conv", "x w", "c", pads=[1, 1]), node("Add", "x c", "a"), node("Mul", "a s", "m"),
            node("Softmax", "m", "y"), x=(1, 3, 8), w=draw(3, 3, 3), s=draw(1, 3, 1),
        ),
        ["reshape", "transpose", "conv2d", "add", "mul", "transpose", "reshape", "softmax"],
    ),
    "turned-weight": (
        model(node("Transpose", "w", "t"), node("MatMul", "x t", "y"), w=draw(3, 4)),
        ["dense"],
    ),
    "padding": (
        model(
            node("Pad", "x pads zero", "p"), node("Conv", "p w", "c", pads=[1, 0, 0, 1]), node("Relu", "c", "y"),
            x=(1, 2, 5, 5), w=draw(3, 2, 3, 3), pads=ints(0, 0, 1, 2, 0, 0, 0, 1), zero=np.float32(0),
        ),
        ["conv2d", "relu"],
    ),
    "shape-arithmetic": (
        model(
            node("Conv", "x w", "c"), node("Shape", "c", "s"), node("Gather", "s at", "n"),
            node("Cast", "n", "f", to=1), node("Mul", "f one", "g"), node("Cast", "g", "i", to=7),
            node("Concat", "i rest", "to", axis=0), node("Reshape", "c to", "y"), x=(1, 2, 5, 5), w=draw(3, 2, 3, 3),
            at=ints(0), rest=ints(-1), one=np.array([1], np.float32),
        ),
        ["conv2d", "transpose", "reshape"],
    ),
    "decomposed-normalisation": (
        model(
            node("Add", "var eps", "v"), node("Sqrt", "v", "d"), node("Div", "gamma d", "s"), node("Mul", "x s", "m"),
            node("Gemm", "m w", "y"), w=draw(4, 3),
            eps=np.float32(0.1), var=norm(4)["var"], gamma=draw(4),
        ),
        ["mul", "dense"],
    ),
    "split": (
        model(
            node("Split", "x", "a b c", axis=1, num_outputs=3), node("Mul", "a b", "m"),
            node("Concat", "c m", "k", axis=1), node("Conv", "k w", "y"), x=(1, 6, 3, 2), w=draw(2, 4, 2, 2), opset=18,
        ),
        ["slice", "slice", "slice", "mul", "concat", "conv2d"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", REWRITTEN)
def test_rewritten(tmp_path: Path, which: str) -> None:
    proto, operators = REWRITTEN[which]
    assert [each.op.name for each in load(tmp_path, proto).graph.nodes] == operators


@pytest.mark.parametrize("which", REWRITTEN)
def test_inference_agrees_with_onnx(tmp_path: Path, which: str) -> None:
    proto, _ = REWRITTEN[which]
    x = draw(*input_shape(proto), seed=5, scale=1)
    expected = reference(proto, x)
    found = infer(compiled(tmp_path, proto, loss="mse"), x)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=4e-3 * np.abs(expected).max())


def test_turned_weights_are_trained_and_go_back(tmp_path: Path) -> None:
    proto = model(
        node("Transpose", "w", "t"), node("MatMul", "x t", "h"), node("Unsqueeze", "h two", "i"),
        node("Conv", "i k", "c"), node("Unsqueeze", "b axes", "u"), node("Add", "c u", "a"),
        node("Flatten", "a", "y"), w=draw(6, 4), k=draw(3, 1, 3), b=draw(3), axes=ints(0, 2), two=ints(1),
    )  # fmt: skip
    program = compiled(tmp_path, proto, loss="mse", lr=0.05)
    assert {*program.training.trainable} == {"w", "k", "b"}
    np.savez(tmp_path / "data.npz", x=draw(8, 4, scale=1), y=draw(8, 12, seed=2))
    run = api.train(program, tmp_path / "data.npz", 8, on=api.NUMPY)
    api.export(program, run.weights, tmp_path / "tuned.onnx")
    tuned = onnx.load(tmp_path / "tuned.onnx")
    for old, new in zip(proto.graph.initializer, tuned.graph.initializer, strict=True):
        assert old.dims == new.dims
        assert (old == new) == (old.name in ("axes", "two"))
    x = draw(1, 4, seed=9, scale=1)
    device = Reference(program.program, program.training)
    device.load(run.weights)
    np.testing.assert_allclose(device.infer(half(x)[None]).reshape(1, 12), reference(tuned, x), atol=1e-2)
    assert api.verify(program, tmp_path / "data.npz", 2).equal


def test_a_weight_turned_in_two_ways_is_frozen(tmp_path: Path) -> None:
    proto = model(
        node("Transpose", "w", "t"), node("MatMul", "x t", "h"), node("Gemm", "h w b", "y"), w=draw(4, 4), b=draw(4)
    )
    held = load(tmp_path, proto).graph.persistent
    assert {name: tensor.origin is not None for name, tensor in held.items()} == {"t": False, "w": True, "b": True}


def test_padding_that_is_more_than_zeros_stays(tmp_path: Path) -> None:
    def padded(*more: onnx.NodeProto, fill: float = 0.0, outputs: str = "y") -> list[str]:
        proto = model(
            node("Pad", "x pads fill", "p"), *more, x=(1, 2, 5, 5), outputs=outputs, w=draw(2, 2, 3, 3),
            pads=ints(0, 0, 1, 1, 0, 0, 1, 1), fill=np.float32(fill),
        )  # fmt: skip
        return [each.op.name for each in load(tmp_path, proto).graph.nodes]

    conv = node("Conv", "p w", "c")
    assert padded(conv, node("Relu", "c", "y")) == ["conv2d", "relu"]
    assert "pad" in padded(conv, node("Relu", "c", "y"), fill=1.0)
    assert "pad" in padded(node("MaxPool", "p", "y", kernel_shape=[2, 2]))
    assert "pad" in padded(node("Conv", "p w", "c", pads=[1, 1, 1, 1]), node("Add", "c p", "y"))
    assert "pad" in padded(node("Conv", "p w", "y", auto_pad="SAME_UPPER"))


def test_a_branch_that_is_known_is_taken(tmp_path: Path) -> None:
    def side(name: str, op_type: str) -> onnx.GraphProto:
        inner = [node(op_type, "h", "t"), node("Neg", "t", "out")]
        return helper.make_graph(inner, name, [], [value("out", (1, 3))])

    def chosen(then: bool) -> onnx.ModelProto:
        first = node("If", "yes", "a", then_branch=side("then", "Relu"), else_branch=side("else", "Tanh"))
        second = node("If", "yes", "b", then_branch=side("then", "Sigmoid"), else_branch=side("else", "Relu"))
        return model(node("Gemm", "x w", "h"), first, second, node("Add", "a b", "y"), w=draw(4, 3), yes=np.array(then))

    for then, operators in (
        (True, ["dense", "relu", "neg", "sigmoid", "neg", "add"]),
        (False, ["dense", "tanh", "neg", "relu", "neg", "add"]),
    ):  # fmt: skip
        assert [each.op.name for each in load(tmp_path, chosen(then)).graph.nodes] == operators
        x = draw(1, 4, seed=3, scale=1)
        np.testing.assert_allclose(
            infer(compiled(tmp_path, chosen(then), loss="mse"), x), reference(chosen(then), x), atol=4e-3
        )


@pytest.mark.parametrize("op_type", ["ConstantOfShape", "Expand", "Range"])
def test_arithmetic_that_would_fill_the_memory_is_left_alone(
    tmp_path: Path, op_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arithmetic, "_run", lambda node, *_: pytest.fail(f"{node.op_type} was run"))
    operands = {
        "ConstantOfShape": "huge", "Expand": "one huge", "Range": "zero far one",
    }[op_type]  # fmt: skip
    proto = model(
        node(op_type, operands, "c"), node("Cast", "c", "f", to=1), node("Reshape", "f to", "r"),
        node("Gemm", "x r", "y"), huge=ints(1 << 20, 1 << 20), one=np.int64(1), zero=np.int64(0), far=np.int64(1 << 50),
        to=ints(4, -1),
    )  # fmt: skip
    assert op_type in refusal(lambda: load(tmp_path, proto)).problems[0].where


def test_an_open_batch_hides_nothing_else(tmp_path: Path) -> None:
    """All problems at once: the batch, and what would still be missing with a batch of 1."""
    proto = model(
        node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Concat", "n rest", "to", axis=0),
        node("Reshape", "x to", "r"), node("Erf", "r", "y", "erf"), x=("n", 2, 2), zero=ints(0), rest=ints(4),
    )  # fmt: skip
    assert sorted(codes(refusal(lambda: load(tmp_path, proto)))) == ["dynamic-shape", "unsupported-operator"]


def test_other_open_dimensions_cannot_be_fixed(tmp_path: Path) -> None:
    for shape in (("n", "m"), (1, "m"), ("n", 0)):
        path = tmp_path / "model.onnx"
        onnx.save(model(node("Gemm", "x w", "y"), x=shape, w=draw(4, 3)), path)
        error = refusal(lambda: api.compile_model(path, fix_batch=True))  # noqa: B023
        assert codes(error) == ["dynamic-shape"]
        assert "--fix-batch" not in error.problems[0].hint


def test_operators_of_other_domains_are_named(tmp_path: Path) -> None:
    proto = model(node("ATen", "x", "h", "odd", domain="custom"), node("Gemm", "h w", "y"), w=draw(4, 3))
    (problem,) = refusal(lambda: load(tmp_path, proto)).problems
    assert "custom.ATen 'odd'" in problem.where
    assert "newer exporter" in problem.hint


def test_a_cast_to_float32_is_nothing(tmp_path: Path) -> None:
    proto = model(node("Cast", "x", "f", to=TensorProto.FLOAT), node("Gemm", "f w", "y"), w=draw(4, 3))
    assert [each.op.name for each in load(tmp_path, proto).graph.nodes] == ["dense"]


def test_the_proto_is_not_touched(tmp_path: Path) -> None:
    proto, _ = REWRITTEN["shape-arithmetic"]
    held = load(tmp_path, proto).proto
    assert held == proto
