"""Awkward shapes: what is supported computes what ONNX's reference evaluator does, the rest is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from models import compiled, draw, infer, input_shape, load, model, node, reference, refusal

from odl.compare import Reference
from odl.fp16 import bits, half
from odl.types import Shape


def agrees(folder: Path, proto: onnx.ModelProto) -> None:
    """The model can be trained, and its inference is ONNX's up to what binary16 rounds, layer by layer."""
    program = compiled(folder, proto, loss="mse")
    x = draw(*input_shape(proto), seed=2, scale=1)
    expected = reference(proto, x)
    found = infer(program, x)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=3e-3 * max(1.0, float(np.abs(expected).max())))
    walk = Reference(program.program, program.training)
    sample, target = (program.training.step.inputs[n] for n in (program.training.sample, program.training.target))
    loss = walk.step(half(draw(*sample.shape)), half(draw(*target.shape)), lambda *_: None)
    assert np.isfinite(loss)


def refused(folder: Path, proto: onnx.ModelProto) -> str:
    error = refusal(lambda: load(folder, proto))
    assert error.exit_code == 3
    return error.code


def conv(x: Shape, w: Shape, **attributes: object) -> onnx.ModelProto:
    return model(node("Conv", "x w b", "y", **attributes), x=(1, *x), w=draw(*w), b=draw(w[0]))


def pool(op_type: str, x: Shape, kernel: Shape, **attributes: object) -> onnx.ModelProto:
    """A pool behind a multiplication, so that there is something to train."""
    return model(
        node("Mul", "x w", "m"), node(op_type, "m", "y", kernel_shape=kernel, **attributes), x=(1, *x), w=1 + draw(1)
    )


def reshaped(x: Shape, *shapes: Shape, **attributes: object) -> onnx.ModelProto:
    """x through each of `shapes`, then plus a weight."""
    names = ["x", *(f"r{at}" for at in range(len(shapes)))]
    nodes = [node("Reshape", f"{names[at]} s{at}", names[at + 1], **attributes) for at in range(len(shapes))]
    targets = {f"s{at}": np.array(shape, np.int64) for at, shape in enumerate(shapes)}
    return model(*nodes, node("Mul", f"{names[-1]} w", "y"), x=x, w=1 + draw(1), **targets)


# --- convolutions


@pytest.mark.parametrize("pads", [(0, 0, 1, 1), (1, 0, 0, 2), (2, 3, 0, 1), (0, 1, 2, 0)])
@pytest.mark.parametrize("stride", [1, 2])
def test_asymmetric_pads(tmp_path: Path, pads: tuple[int, ...], stride: int) -> None:
    agrees(tmp_path, conv((3, 6, 5), (4, 3, 3, 3), pads=pads, strides=(stride, stride)))


@pytest.mark.parametrize("size", [(7, 7), (5, 8), (9, 3)])
@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_stride_two_on_odd_sizes(tmp_path: Path, size: tuple[int, int], auto_pad: str) -> None:
    agrees(tmp_path, conv((2, *size), (3, 2, 3, 3), strides=(2, 2), auto_pad=auto_pad))


@pytest.mark.parametrize("strides", [(3, 3), (4, 1), (1, 5)])
def test_stride_beyond_the_kernel(tmp_path: Path, strides: tuple[int, int]) -> None:
    agrees(tmp_path, conv((2, 7, 8), (3, 2, 2, 2), strides=strides))


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (1, 3), (3, 1), (3, 5), (5, 3), (17, 7), (7, 17)])
def test_odd_channels(tmp_path: Path, inputs: int, outputs: int) -> None:
    agrees(tmp_path, conv((inputs, 4, 5), (outputs, inputs, 3, 3), pads=(1, 1, 1, 1)))
    agrees(tmp_path, conv((inputs, 4, 5), (outputs, inputs, 1, 1)))


@pytest.mark.parametrize(("channels", "multiplier"), [(1, 1), (3, 1), (5, 1), (3, 3), (1, 5), (17, 1)])
def test_depthwise_channels(tmp_path: Path, channels: int, multiplier: int) -> None:
    weight = (channels * multiplier, 1, 3, 3)
    agrees(tmp_path, conv((channels, 5, 4), weight, group=channels, pads=(1, 0, 1, 1), strides=(2, 1)))


@pytest.mark.parametrize("kernel", [(7, 1), (1, 5), (6, 6)])
def test_kernel_larger_than_the_input_but_not_than_its_padding(tmp_path: Path, kernel: tuple[int, int]) -> None:
    agrees(tmp_path, conv((2, 4, 3), (3, 2, *kernel), pads=(2, 2, 2, 2)))


def test_kernel_of_the_size_of_the_input(tmp_path: Path) -> None:
    agrees(tmp_path, conv((3, 4, 5), (2, 3, 4, 5)))


def test_image_of_one_pixel(tmp_path: Path) -> None:
    agrees(tmp_path, conv((3, 1, 1), (2, 3, 3, 3), pads=(1, 1, 1, 1)))
    agrees(tmp_path, conv((1, 1, 1), (1, 1, 1, 1)))


REFUSED_CONV = {
    "kernel-larger-than-input": conv((2, 4, 3), (3, 2, 5, 3)),
    "kernel-larger-than-padded-input": conv((2, 4, 3), (3, 2, 3, 6), pads=(1, 1, 1, 1)),
    "dilation": conv((2, 9, 9), (3, 2, 3, 3), dilations=(2, 2)),
    "groups": conv((4, 5, 5), (6, 2, 3, 3), group=2),
}


@pytest.mark.parametrize("which", REFUSED_CONV)
def test_convolution_refused(tmp_path: Path, which: str) -> None:
    assert refused(tmp_path, REFUSED_CONV[which]) == "unsupported-attribute"


@pytest.mark.parametrize("attributes", [{"strides": (0, 1)}, {"strides": (1,)}, {"pads": (1, 1)}, {"pads": (-1,) * 4}])
def test_convolution_with_nonsense(tmp_path: Path, attributes: dict[str, object]) -> None:
    assert refused(tmp_path, conv((2, 6, 6), (3, 2, 3, 3), **attributes)) == "shape-mismatch"


def test_unknown_automatic_pads(tmp_path: Path) -> None:
    assert refused(tmp_path, conv((2, 6, 6), (3, 2, 3, 3), auto_pad="SAME")) == "unsupported-attribute"


def test_convolution_of_other_ranks(tmp_path: Path) -> None:
    rows = model(node("Conv", "x w", "y"), x=(1, 2, 6), w=draw(3, 2, 3, 1))
    assert refused(tmp_path, rows) == "shape-mismatch"
    shared = model(node("Conv", "x w", "c"), node("Conv", "c w", "y"), x=(1, 3, 9), w=draw(3, 3, 3))
    assert refused(tmp_path, shared) == "unsupported-attribute"  # a kernel of two is turned for neither


def test_convolution_whose_parts_do_not_fit(tmp_path: Path) -> None:
    wrong_channels = model(node("Conv", "x w", "y"), x=(1, 2, 6, 6), w=draw(3, 4, 3, 3))
    wrong_bias = model(node("Conv", "x w b", "y"), x=(1, 2, 6, 6), w=draw(3, 2, 3, 3), b=draw(2))
    wrong_kernel = conv((2, 6, 6), (3, 2, 3, 3), kernel_shape=(2, 2))
    assert refused(tmp_path, wrong_channels) == "unsupported-attribute"
    assert refused(tmp_path, wrong_bias) == "shape-mismatch"
    assert refused(tmp_path, wrong_kernel) == "shape-mismatch"


# --- pools


POOLS = [
    {"x": (3, 7, 6), "kernel": (3, 2), "strides": (2, 2)},
    {"x": (1, 5, 5), "kernel": (2, 2), "strides": (2, 2)},
    {"x": (5, 6, 7), "kernel": (3, 3), "strides": (2, 3), "pads": (1, 0, 1, 2)},
    {"x": (2, 4, 4), "kernel": (2, 3), "strides": (3, 3), "pads": (1, 1, 0, 0)},
    {"x": (3, 4, 5), "kernel": (4, 5)},
]


@pytest.mark.parametrize(("ceil", "count"), [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("shape", POOLS)
def test_average_pool(tmp_path: Path, shape: dict[str, Shape], ceil: int, count: int) -> None:
    agrees(tmp_path, pool("AveragePool", **shape, ceil_mode=ceil, count_include_pad=count))


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("shape", POOLS)
def test_max_pool(tmp_path: Path, shape: dict[str, Shape], ceil: int) -> None:
    agrees(tmp_path, pool("MaxPool", **shape, ceil_mode=ceil))


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(("auto_pad", "pads"), [("SAME_UPPER", (1, 0, 1, 1)), ("SAME_LOWER", (1, 1, 1, 0))])
def test_pool_with_automatic_pads(tmp_path: Path, op_type: str, auto_pad: str, pads: Shape) -> None:
    """The reference evaluator gets SAME_LOWER of MaxPool wrong, so it is asked with the pads that ONNX's text gives."""
    automatic = pool(op_type, (3, 5, 7), (3, 2), strides=(2, 2), auto_pad=auto_pad)
    explicit = pool(op_type, (3, 5, 7), (3, 2), strides=(2, 2), pads=pads)
    x = draw(1, 3, 5, 7, seed=2, scale=1)
    expected = reference(explicit, x)
    assert expected.shape == (1, 3, 3, 4)
    np.testing.assert_allclose(infer(compiled(tmp_path, automatic, loss="mse"), x), expected, atol=3e-3)


@pytest.mark.parametrize("op_type", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("x", [(3, 1, 1), (1, 5, 3), (17, 2, 2)])
def test_global_pool(tmp_path: Path, op_type: str, x: Shape) -> None:
    agrees(tmp_path, model(node("Mul", "x w", "m"), node(op_type, "m", "y"), x=(1, *x), w=1 + draw(1)))


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
def test_pool_refused(tmp_path: Path, op_type: str) -> None:
    assert refused(tmp_path, pool(op_type, (2, 3, 3), (4, 2))) == "unsupported-attribute"
    assert refused(tmp_path, pool(op_type, (2, 4, 4), (2, 2), pads=(2, 0, 0, 0))) == "unsupported-attribute"
    assert refused(tmp_path, pool(op_type, (2, 4, 4), (2, 2), strides=(0, 1))) == "shape-mismatch"


# --- dense layers and the rest


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (1, 7), (7, 1), (3, 5), (17, 3)])
def test_dense_of_odd_sizes(tmp_path: Path, inputs: int, outputs: int) -> None:
    agrees(tmp_path, model(node("Gemm", "x w b", "y"), x=(1, inputs), w=draw(inputs, outputs), b=draw(outputs)))
    agrees(tmp_path, model(node("MatMul", "x w", "y"), x=(1, 3, inputs), w=draw(inputs, outputs)))


@pytest.mark.parametrize("bias", [(1,), (2,), (1, 1), ()])
def test_bias_of_another_size(tmp_path: Path, bias: Shape) -> None:
    proto = model(node("Gemm", "x w b", "y"), x=(1, 4), w=draw(4, 3), b=draw(*bias))
    assert refused(tmp_path, proto) == "unsupported-attribute"


def test_bias_of_rank_three(tmp_path: Path) -> None:
    proto = model(node("Gemm", "x w b", "y"), x=(1, 4), w=draw(4, 3), b=draw(1, 1, 3))
    assert refused(tmp_path, proto) == "shape-mismatch"


def test_bias_of_a_column_is_not_taken_for_a_row(tmp_path: Path) -> None:
    """As many rows as columns: sizes alone would not tell."""
    proto = model(
        node("Transpose", "x", "t"), node("Gemm", "t w b", "y"), x=(1, 3), w=draw(1, 3), b=draw(3, 1)
    )  # fmt: skip
    assert refused(tmp_path, proto) == "shape-mismatch"


def test_dense_whose_sizes_differ(tmp_path: Path) -> None:
    assert refused(tmp_path, model(node("Gemm", "x w", "y", "fc"), w=draw(5, 3))) == "shape-mismatch"


def test_operands_that_do_not_broadcast(tmp_path: Path) -> None:
    assert refused(tmp_path, model(node("Add", "x w", "y"), w=draw(3))) == "shape-mismatch"


RESHAPES: dict[str, tuple[Shape, ...]] = {
    "zero-and-minus-one": ((1, 3, 4, 5), (0, -1)),
    "zeros": ((1, 3, 4, 5), (0, 0, -1)),
    "to-an-image-and-back": ((1, 24), (1, 2, 3, 4), (0, -1)),
    "swapped-axes": ((1, 3, 4, 5), (0, 5, 4, -1), (1, -1)),
    "same": ((1, 6), (1, 6)),
    "one-pixel": ((1, 5, 1, 1), (1, -1)),
    "one-channel": ((1, 1, 3, 4), (0, 4, 3)),
}


@pytest.mark.parametrize("which", RESHAPES)
def test_reshape(tmp_path: Path, which: str) -> None:
    agrees(tmp_path, reshaped(*RESHAPES[which]))


@pytest.mark.parametrize("shape", [(1, -1, -1), (5, -1), (1, -2, 12), (0, 0, 0, 0, 0)])
def test_reshape_to_what_is_no_shape(tmp_path: Path, shape: Shape) -> None:
    assert refused(tmp_path, reshaped((1, 3, 4, 2), shape)) == "shape-mismatch"


def test_reshape_to_another_number_of_elements(tmp_path: Path) -> None:
    assert refused(tmp_path, reshaped((1, 3, 4, 2), (1, 7))) == "unsupported-attribute"
    assert refused(tmp_path, reshaped((1, 6), (0, 6), allowzero=1)) == "unsupported-attribute"


@pytest.mark.parametrize("axis", [0, 1, 2, 3, 4, -1])
def test_flatten(tmp_path: Path, axis: int) -> None:
    agrees(
        tmp_path, model(node("Flatten", "x", "f", axis=axis), node("Mul", "f w", "y"), x=(1, 3, 2, 5), w=1 + draw(1))
    )


@pytest.mark.parametrize("n", [2, 3, 4, 5, 9])
def test_concat_of_many(tmp_path: Path, n: int) -> None:
    names = [f"h{at}" for at in range(n)]
    nodes = [node("Mul", f"x w{at}", name) for at, name in enumerate(names)]
    weights = {f"w{at}": draw(1, seed=at) for at in range(n)}
    agrees(tmp_path, model(*nodes, node("Concat", " ".join(names), "y", axis=1), x=(1, 3, 2, 3), **weights))


# --- one sample, one class


@pytest.mark.parametrize("batch", [2, 8])
def test_batch_in_the_file(tmp_path: Path, batch: int) -> None:
    proto = model(node("Gemm", "x w", "y"), x=(batch, 4), w=draw(4, 3))
    error = refusal(lambda: load(tmp_path, proto))
    assert (error.code, error.exit_code) == ("input-shape", 3)
    assert "--batch" in error.problems[0].hint


def test_one_class(tmp_path: Path) -> None:
    """The loss is 0 and so is its gradient."""
    program = compiled(tmp_path, model(node("Gemm", "x w b", "y"), w=draw(4, 1), b=draw(1)), lr=1.0)
    walk = Reference(program.program, program.training)
    before = {name: walk.executor.persistent(name) for name in program.training.trainable}
    assert walk.step(half(draw(1, 4)), np.zeros(1, np.int32), lambda *_: None) == 0
    for name, value in before.items():
        np.testing.assert_array_equal(bits(walk.executor.persistent(name)), bits(value))


@pytest.mark.parametrize("x", [(1, 2, 3, 4), (1, 3, 4)])
def test_cross_entropy_of_more_than_one_row(tmp_path: Path, x: Shape) -> None:
    error = refusal(lambda: compiled(tmp_path, model(node("Mul", "x w", "y"), x=x, w=1 + draw(1))))
    assert (error.code, error.exit_code) == ("loss-shape", 3)
