"""A border of constants around an image (ONNX Pad), and its gradient, which cuts the border off."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.graph import Builder, Kernel, Node, Operator
from odl.ops._importer import Importer, OnnxNode, Sample, imports
from odl.ops._pools import Pads
from odl.types import Array, Shape, TensorType


def _arguments(image: Shape, pads: Pads) -> dict[str, int | float]:
    """Kernel arguments; `image` is the shape inside the border."""
    _, height, width, channels = image
    sides = dict(zip(("top", "left", "bottom", "right"), pads, strict=True))
    return {"height": height, "width": width, "n_channels": channels, **sides}


@dataclass(frozen=True)
class Pad(Operator):
    """y = x with `pads` = (top, left, bottom, right) rows and columns of `value`, a binary16 number, around it. Exact.

    x (1, H, W, C) -> y (1, top + H + bottom, left + W + right, C), binary16.
    """

    name: ClassVar[str] = "pad"
    pads: Pads
    value: float = 0.0

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        n, height, width, channels = inputs[0].shape
        top, left, bottom, right = self.pads
        return (TensorType((n, top + height + bottom, left + width + right, channels)),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        (x,) = inputs
        top, left, bottom, right = self.pads
        widths = ((0, 0), (top, bottom), (left, right), (0, 0))
        return (np.pad(x, widths, constant_values=np.float16(self.value)),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        # As bits, so that infinities need no spelling in C.
        bits = int(fp16.bits(np.float16(self.value)))
        return Kernel("pad", {**_arguments(inputs[0].shape, self.pads), "value_bits": bits})

    def gradient(self, build: Builder, node: Node, grad: str, wanted: Sequence[bool]) -> Sequence[str | None]:
        return (build.add(Crop(self.pads), (grad,), f"{node.inputs[0]}.grad"),)


@dataclass(frozen=True)
class Crop(Operator):
    """y = x without its outermost `pads` = (top, left, bottom, right) rows and columns. Exact, binary16."""

    name: ClassVar[str] = "crop"
    pads: Pads

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        n, height, width, channels = inputs[0].shape
        top, left, bottom, right = self.pads
        return (TensorType((n, height - top - bottom, width - left - right, channels)),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        (x,) = inputs
        top, left, bottom, right = self.pads
        return (np.ascontiguousarray(x[:, top : x.shape[1] - bottom, left : x.shape[2] - right]),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        arguments = _arguments(outputs[0].shape, self.pads)
        del arguments["bottom"]
        return Kernel("crop", arguments)


def _samples() -> Iterable[Sample]:
    def pad(x: Shape, pads: tuple[int, ...], *more: Array, opset: int = 17) -> Sample:
        values = dict(enumerate((np.array(pads, np.int64), *more), start=1))
        shapes = (x, *(tuple(value.shape) for value in values.values()))
        return Sample("Pad", shapes, {"mode": "constant"}, constants=tuple(values), values=values, opset=opset)

    yield pad((1, 3, 4, 5), (0, 0, 1, 2, 0, 0, 3, 1))
    yield pad((1, 2, 3, 3), (0, 0, 0, 0, 0, 0, 1, 1), np.array(0.1, np.float32))
    yield pad((1, 1, 1, 1), (0, 0, 2, 0, 0, 0, 0, 1), np.array(-1.5, np.float32))
    yield pad((1, 2, 3, 4), (0,) * 8)
    axes = np.array([2, -1], np.int64)
    yield pad((1, 2, 3, 4), (1, 0, 0, 2), np.array(0.0, np.float32), axes, opset=18)


@imports("Pad", samples=_samples, limits="mode constant, the spatial axes of one image, constant pads of at least 0")
def _import(imp: Importer, node: OnnxNode) -> None:
    x, shape = node.input(0), imp.shape(node.input(0))
    mode = node.attributes.get("mode", "constant")
    imp.require(mode == "constant", f"mode {mode!r} is not supported")
    imp.require(len(shape) == 4, f"input {shape} is not an image (1, C, H, W)")
    pads = _pads(imp, node)
    value = imp.constant(node.input(2), "the padding value").ravel() if node.input(2) else np.zeros(1)
    imp.require(value.size == 1, f"{value.size} padding values are not one")
    if not any(pads):
        imp.alias(node.outputs[0], x)
        return
    top, left, bottom, right = pads
    y = imp.add(Pad(pads, float(fp16.half(value)[0])), (imp.value(x),))
    imp.bind(node.outputs[0], y, (*shape[:2], top + shape[2] + bottom, left + shape[3] + right))


def _pads(imp: Importer, node: OnnxNode) -> Pads:
    """(top, left, bottom, right) from the inputs `pads` and `axes`."""
    amounts = [int(n) for n in imp.constant(node.input(1), "pads").ravel()]
    axes = list(range(4))
    if node.input(3):
        axes = [int(axis) % 4 for axis in imp.constant(node.input(3), "axes").ravel()]
    imp.require(len(amounts) == 2 * len(axes), f"{len(amounts)} pads for {len(axes)} axes")
    begin = dict(zip(axes, amounts[: len(axes)], strict=True))
    end = dict(zip(axes, amounts[len(axes) :], strict=True))
    imp.require(min(amounts, default=0) >= 0, f"negative pads {amounts} are not supported")
    others = [side.get(axis, 0) for side in (begin, end) for axis in (0, 1)]
    imp.require(not any(others), f"pads {amounts} reach beyond the spatial axes")
    return begin.get(2, 0), begin.get(3, 0), end.get(2, 0), end.get(3, 0)
