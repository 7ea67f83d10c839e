"""Two-dimensional convolution with one group, and its gradients.

Images are (1, H, W, C), kernels (out channels, kh, kw, in channels). Taps on padding are multiplied as +0, never left
out, so that an infinite weight gives the same NaN everywhere. A 1x1 kernel with stride 1 and no padding is a dense
layer over pixels and is imported as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.fp16 import Accumulate
from odl.graph import Builder, Kernel, Node, Operator, Phase, Slice, Tile
from odl.ops import depthwise
from odl.ops._importer import Importer, OnnxNode, Sample, imports
from odl.ops._windows import Window, columns, hits, read_window
from odl.ops.dense import Dense, outer, product
from odl.ops.depthwise import DepthwiseConv2d
from odl.ops.row_sum import WeightRowSum
from odl.types import Array, DType, TensorType


@dataclass(frozen=True)
class Conv2d(Operator):
    """y[p, o] = round16(b[o] + sum over taps and channels of x[tap of p, i] * w[o, tap, i]).

    x (1, H, W, I), w (O, kh, kw, I), b (O) or none -> y (1, OH, OW, O), all binary16; b is the first value of the sum.
    Order: kernel rows; in a row (kw, I) as it lies in memory, in pairs. With more than one channel, pairs stay inside a
    tap: an odd I gets a zero channel. With one channel, pairs are neighbouring taps: an odd kw gets a zero tap.
    """

    name: ClassVar[str] = "conv2d"
    arity: ClassVar[int] = 3
    stacked: ClassVar[tuple[tuple[int, ...], ...]] = ((0,),)
    window: Window
    accumulate: Accumulate = Accumulate.FP32

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        x, w = inputs[:2]
        height, width = self.window.output(*x.shape[1:3])
        return (TensorType((1, height, width, w.shape[0])),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        x, w, *b = inputs
        odd = (0, w.shape[3] % 2) if w.shape[3] > 1 else (w.shape[2] % 2, 0)
        weights = np.pad(w, ((0, 0), (0, 0), (0, odd[0]), (0, odd[1])))
        taps = self.window.columns(x, *odd)
        columns = taps.reshape(-1, prod(taps.shape[3:]))
        acc = product(columns, weights.reshape(len(w), -1).T, b[0] if b else None, self.accumulate)
        return (fp16.half(acc).reshape(*taps.shape[3:], len(w)),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        name = "conv2d_unpadded" if self.window.walks_words(inputs[0].shape) else "conv2d"
        return Kernel(name, self.window.scalars(inputs[0].shape, outputs[0].shape), "odl_window")

    def macs(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return outputs[0].n_elems * inputs[1].n_elems // inputs[1].shape[0]

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Rows of y from rows of x, or channels of y from filters."""
        weights: tuple[Slice | None, ...] = (None,) * (len(inputs) - 1)
        if cut is None:
            return Tile(self, (None, *weights), (None,))
        if cut.axis == 3:
            filters = Slice(0, cut.first, cut.last)
            return Tile(self, (None, *(filters for _ in weights)), (cut,))
        found = self.window.cut_rows(cut.first, cut.last, inputs[0].shape[1]) if cut.axis == 1 else None
        return found and Tile(replace(self, window=found[0]), (Slice(1, *found[1:]), *weights), (cut,))

    def gradient(self, build: Builder, node: Node, grad: str, wanted: Sequence[bool]) -> Sequence[str | None]:
        x, w, *b = node.inputs
        size = build.types[x].shape[1:3]
        dx = dw = db = None
        if wanted[0]:
            dx = build.add(Conv2dInputGradient(self.window, (size[0], size[1])), (grad, w), f"{x}.grad")
        if wanted[1]:
            dw = build.add(Conv2dWeightGradient(self.window), (grad, x), f"{w}.grad")
        if b and wanted[2]:
            db = build.add(WeightRowSum(build.types[b[0]].shape), (grad,), f"{b[0]}.grad")
        return (dx, dw, db)[: len(node.inputs)]


@dataclass(frozen=True)
class Conv2dInputGradient(Operator):
    """dx[q, i] = round16(sum over the taps that see q, and output channels o, of dy[p, o] * w[o, tap, i]).

    dy (1, OH, OW, O), w (O, kh, kw, I) -> dx (1, H, W, I). Order: p ascending by row, then column, then o in pairs; an
    odd O gets a zero. Taps that would reach a p outside dy are products with +0 (`_windows.hits`); a pixel that no
    tap reaches is +0.
    """

    name: ClassVar[str] = "conv2d_input_gradient"
    stacked: ClassVar[tuple[tuple[int, ...], ...]] = ((0,),)
    window: Window
    size: tuple[int, int]
    accumulate: Accumulate = Accumulate.FP32

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (TensorType((1, *self.size, inputs[1].shape[3])),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        dy, w = inputs
        dx = np.zeros((len(dy), *self.size, w.shape[3]), np.float16)
        weights = np.pad(w, ((0, len(w) % 2), (0, 0), (0, 0), (0, 0)))
        for top in range(min(self.window.stride[0], self.size[0])):
            for left in range(min(self.window.stride[1], self.size[1])):
                self._phase(dx, dy, weights, top, left)
        return (dx,)

    def _phase(self, dx: Array, dy: Array, w: Array, top: int, left: int) -> None:
        """Fill the pixels of dx at (top + i * stride, left + j * stride), which all have the same taps."""
        (stride_h, stride_w), (height, width) = self.window.stride, self.size
        rows = hits(top, self.window.size[0], stride_h, self.window.pads[0])
        cols = hits(left, self.window.size[1], stride_w, self.window.pads[1])
        if not rows or not cols:
            return
        count = len(range(top, height, stride_h)), len(range(left, width, stride_w))
        taps = columns(dy, [i for i, _ in rows], [j for j, _ in cols], (1, 1), count, dy.shape[3] % 2)
        weights = [w[:, i, j] for _, i in rows for _, j in cols]
        acc = product(taps.reshape(-1, prod(taps.shape[3:])), np.concatenate(weights), None, self.accumulate)
        dx[:, top::stride_h, left::stride_w] = fp16.half(acc).reshape(*taps.shape[3:], -1)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        return Kernel("conv2d_input_gradient", self.window.scalars(outputs[0].shape, inputs[0].shape), "odl_window")

    def macs(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return inputs[0].n_elems * inputs[1].n_elems // inputs[1].shape[0]


@dataclass(frozen=True)
class Conv2dWeightGradient(Operator):
    """dw[o, tap, i] = sum over output pixels p of dy[p, o] * x[tap of p, i].

    dy (1, OH, OW, O), x (1, H, W, I) -> dw (count, kh, kw, I) of output channels `first` .. `first + count - 1` (all
    where count is 0), binary32 as it leaves the accumulator, or rounded to binary16 by `dtype`. Order: output rows;
    in a row neighbouring pixels in pairs, an odd OW gets a zero pixel (both factors +0).
    """

    name: ClassVar[str] = "conv2d_weight_gradient"
    phase: ClassVar[Phase] = Phase.WEIGHT_GRADIENT
    window: Window
    accumulate: Accumulate = Accumulate.FP32
    dtype: DType = DType.F32
    first: int = 0
    count: int = 0

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        dy, x = inputs
        return (TensorType((self.count or dy.shape[3], *self.window.size, x.shape[3]), self.dtype),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        return (self.evaluate_many([array[None] for array in inputs], (True, True), 1)[0][0],)

    def evaluate_many(self, inputs: Sequence[Array], many: Sequence[bool], n_samples: int) -> tuple[Array, ...]:
        if not all(many):
            return super().evaluate_many(inputs, many, n_samples)
        dy, x = (array[:, 0] for array in inputs)
        chosen = dy[..., self.first :][..., : self.count or None]
        n, height, width, n_outputs = chosen.shape
        odd = width % 2
        pixels = np.zeros((height, width + odd, n, n_outputs), np.float32)
        pixels[:, :width] = np.moveaxis(chosen, 0, 2)
        taps = np.zeros((height, width + odd, n, *self.window.size, x.shape[3]), np.float32)
        self.window.taps(x.astype(np.float32), np.moveaxis(taps[:, :width], (3, 4, 2), (0, 1, 2)))
        rows, cols = (array.reshape(height * (width + odd), n, -1) for array in (pixels, taps))
        acc = outer(rows, cols, self.accumulate).reshape(n, n_outputs, *taps.shape[3:])
        return (acc if self.dtype is DType.F32 else fp16.half(acc),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        name = "conv2d_weight_gradient" if self.dtype is DType.F32 else "conv2d_weight_gradient_half"
        window = self.window.scalars(inputs[1].shape, inputs[0].shape)
        return Kernel(name, window, "odl_window", {"first": self.first, "count": outputs[0].shape[0]})

    def macs(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return outputs[0].n_elems * inputs[0].shape[1] * inputs[0].shape[2]

    def split(self, first: int, count: int) -> Operator:
        return replace(self, first=self.first + first, count=count)

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Output channels, by runs of rows of dw."""
        if cut is None:
            return Tile(self, (None, None), (None,))
        part = self.split(cut.first, len(cut))
        return None if cut.axis else Tile(part, (None, None), (cut,))


def _samples() -> Iterable[Sample]:
    def conv(
        x: tuple[int, int, int], w: tuple[int, int, int], strides: tuple[int, int] = (1, 1), **more: object
    ) -> Sample:
        shapes = ((1, *x), (w[0], x[0], w[1], w[2]), (w[0],))
        return Sample("Conv", shapes, {"strides": strides, **more}, constants=(1, 2))

    yield conv((3, 6, 5), (4, 3, 3), pads=(1, 1, 1, 1))
    yield conv((4, 7, 7), (5, 3, 3), (2, 2), pads=(0, 0, 1, 1))
    yield conv((2, 8, 8), (3, 1, 1), (2, 2))
    yield conv((6, 3, 5), (8, 1, 1))
    yield conv((1, 9, 6), (3, 4, 3), (2, 1), pads=(2, 0, 1, 1))
    yield conv((1, 6, 8), (2, 3, 4), (1, 2), auto_pad="SAME_UPPER")
    yield conv((5, 6, 7), (1, 2, 2), (3, 2), auto_pad="SAME_LOWER")
    yield conv((2, 5, 5), (7, 5, 5), auto_pad="VALID")
    yield conv((3, 4, 4), (2, 2, 3), (1, 3), pads=(3, 0, 0, 2))
    yield Sample("Conv", ((1, 2, 4, 4), (3, 2, 3, 3)), {"pads": (1, 1, 1, 1)}, constants=(1,))
    yield from depthwise.samples()


@imports("Conv", samples=_samples, limits="1-D or 2-D, dilation 1, groups = 1 or depthwise, constant weights")
def _import(imp: Importer, node: OnnxNode) -> None:
    x, w, b = node.input(0), node.input(1), node.input(2)
    kernel, shape = imp.constant(w, "the kernel").shape, imp.shape(x)
    imp.require(len(kernel) == 4 and len(shape) == 4, f"input {shape} and kernel {kernel} are not two-dimensional")
    window = read_window(imp, node, (kernel[2], kernel[3]), shape)
    group = node.attributes.get("group", 1)
    imp.require(kernel[1] * group == shape[1], f"{group} groups of {kernel[1]} channels are not {shape[1]} channels")
    imp.require(group == 1 or kernel[1] == 1, f"{group} groups of {kernel[1]} channels: only 1 group or depthwise")
    imp.require(kernel[0] % group == 0, f"{kernel[0]} output channels do not divide into {group} groups")
    bias = (imp.weight(b, (0,)),) if b else ()
    if group > 1:
        weight = imp.weight(w, (2, 3, 0, 1), (kernel[2], kernel[3], kernel[0]))
        y = imp.add(DepthwiseConv2d(window), (imp.value(x), weight, *bias))
    elif window == Window((1, 1), (1, 1), (0, 0, 0, 0)):
        weight = imp.weight(w, (0, 2, 3, 1), (kernel[0], kernel[1]))
        y = imp.add(Dense(), (imp.value(x), weight, *bias))
    else:
        y = imp.add(Conv2d(window), (imp.value(x), imp.weight(w, (0, 2, 3, 1)), *bias))
    height, width = window.output(shape[2], shape[3])
    imp.bind(node.outputs[0], y, (1, kernel[0], height, width))
