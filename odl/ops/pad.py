"""Borders around images, and crops: ONNX Pad, its gradient, and what passes put before kernels that know no padding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.errors import ModelError
from odl.graph import Builder, Kernel, Node, Operator, Slice, Tile
from odl.ops._importer import Importer, OnnxNode, Sample, imports
from odl.ops._pools import Pads, cut_padded_rows
from odl.types import Array, DType, Shape, TensorType


@dataclass(frozen=True)
class Pad(Operator):
    """y = x with `pads` = (top, left, bottom, right) rows and columns of `value` around it. Exact.

    `channels` is how many more of it come behind the channels of a pixel. A negative number takes away instead.
    x (N, H, W, C) -> y (N, top + H + bottom, left + W + right, C + channels), binary16. With more than one image
    (N > 1, as the filters of a kernel are), top and bottom are 0.
    """

    name: ClassVar[str] = "pad"
    moves: ClassVar[bool] = True
    pads: Pads
    value: float = 0.0
    channels: int = 0

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        (x,) = inputs
        n, height, width, channels = x.shape
        top, left, bottom, right = self.pads
        y = TensorType((n, top + height + bottom, left + width + right, channels + self.channels))
        if min(y.shape) < 1 or (n > 1 and (top or bottom)) or x.dtype is not DType.F16:
            raise ModelError("shape-mismatch", self.name, f"{x} to {y}")
        return (y,)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        (x,) = inputs
        top, left, bottom, right = self.pads
        sides = ((0, 0), (top, bottom), (left, right), (0, self.channels))
        more = tuple((max(before, 0), max(behind, 0)) for before, behind in sides)
        wide = np.pad(x, more, constant_values=np.float16(self.value))
        kept = (slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(wide.shape, sides, strict=True))
        return (np.ascontiguousarray(wide[tuple(kept)]),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        """Several images are one of as many rows: nothing comes between them."""
        (x,), (y,) = inputs, outputs
        scalars: dict[str, int | float] = {
            "in_h": prod(x.shape[:2]), "in_w": x.shape[2], "in_c": x.shape[3],
            "out_h": prod(y.shape[:2]), "out_w": y.shape[2], "out_c": y.shape[3],
            "top": self.pads[0], "left": self.pads[1],
            "value_bits": int(fp16.bits(np.float16(self.value))),  # as bits, so that infinities need no spelling in C
        }  # fmt: skip
        return Kernel("pad", scalars, "odl_pad")

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Whole images, the channels of x, or rows of the one image: y's from x's, unless on the border alone."""
        alike = {0: not (self.pads[0] or self.pads[2]), 3: self.channels == 0}
        if cut is None or alike.get(cut.axis):
            return Tile(self, (cut,), (cut,))
        if cut.axis != 1:
            return None
        found = cut_padded_rows(self.pads, cut, inputs[0].shape[1])
        return found and Tile(replace(self, pads=found[0]), (found[1],), (cut,))

    def gradient(self, build: Builder, node: Node, grad: str, wanted: Sequence[bool]) -> Sequence[str | None]:
        top, left, bottom, right = self.pads
        back = Pad((-top, -left, -bottom, -right), channels=-self.channels)
        return (build.add(back, (grad,), f"{node.inputs[0]}.grad"),)


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
    imp.expect(mode == "constant", f"mode {mode!r} is not supported")
    imp.require(len(shape) == 4, f"input {shape} is not an image (1, C, H, W)")
    pads = _pads(imp, node)
    value = imp.constant(node.input(2), "the padding value").ravel() if node.input(2) else np.zeros(1)
    imp.expect(value.size == 1, f"{value.size} padding values are not one")
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
    imp.expect(min(amounts, default=0) >= 0, f"negative pads {amounts} are not supported")
    others = [side.get(axis, 0) for side in (begin, end) for axis in (0, 1)]
    imp.expect(not any(others), f"pads {amounts} reach beyond the spatial axes")
    return begin.get(2, 0), begin.get(3, 0), end.get(2, 0), end.get(3, 0)
