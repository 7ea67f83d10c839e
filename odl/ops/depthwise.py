"""Depthwise convolution (ONNX Conv with one group a channel), and its gradients.

Images are (1, H, W, C), kernels (kh, kw, O): channel o of the output reads channel o // m of the input alone, where
m = O / C. There is no channel axis to take pairs from, so the taps themselves make the pairs, across the ends of kernel
rows. Taps on padding are multiplied as +0, never left out. `conv2d` imports ONNX's Conv for both; a pass makes the goes
of a weight gradient (`_goes`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.errors import ModelError
from odl.fp16 import Accumulate
from odl.graph import Builder, Kernel, Node, Operator, Phase, Slice, Tile
from odl.ops._goes import Go, Summing, cut_evenly, each_go, finished, start_sums, sums_type
from odl.ops._importer import Sample
from odl.ops._windows import Window, grid, hits
from odl.ops.row_sum import WeightRowSum
from odl.types import Array, DType, TensorType

_MOST_HITS = 16  # taps of a pixel that the kernel in words has room for


@dataclass(frozen=True)
class DepthwiseConv2d(Operator):
    """y[p, o] = round16(b[o] + sum over taps of x[tap of p, o // m] * w[tap, o]).

    x (1, H, W, C), w (kh, kw, O), b (O) or none -> y (1, OH, OW, O), all binary16; b is the first value of the sum.
    Order: taps row by row, in pairs that run on across the ends of rows; an odd number of taps gets a zero tap.
    """

    name: ClassVar[str] = "depthwise"
    arity: ClassVar[int] = 3
    stacked: ClassVar[tuple[tuple[int, ...], ...]] = ((0,),)
    window: Window
    accumulate: Accumulate = Accumulate.FP32

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        x, w = inputs[:2]
        if w.shape[:2] != self.window.size or w.shape[2] % x.shape[3]:
            raise ModelError("shape-mismatch", self.name, f"{x} under {w}")
        return (TensorType((1, *self.window.output(*x.shape[1:3]), w.shape[2])),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        x, w, *b = inputs
        taps = _spread(self.window.taps(x.astype(np.float32)), w.shape[2])
        first = np.tile(b[0], taps.shape[4]) if b else None
        acc = fp16.sum_of_products(*_by_rows(taps, w.reshape(-1, w.shape[2])), first, self.accumulate)
        return (fp16.half(acc).reshape(taps.shape[2:]),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        name = "depthwise_unpadded" if _in_words(self.window, inputs[0], outputs[0]) else "depthwise"
        return Kernel(name, self.window.scalars(inputs[0].shape, outputs[0].shape), "odl_window")

    def macs(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return outputs[0].n_elems * self.window.size[0] * self.window.size[1]

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Rows of y from rows of x, or channels, where no tile needs one of x that another needs too."""
        x, weights = inputs[0], len(inputs) - 1
        if cut is None:
            return Tile(self, (None,) * len(inputs), (None,))
        if cut.axis == 3:
            read = _channels_read(cut, x, outputs[0].shape[3])
            filters = [Slice(axis, cut.first, cut.last) for axis in (2, 0)][:weights]
            return Tile(self, (read, *filters), (cut,)) if read else None
        found = self.window.cut_rows(cut.first, cut.last, x.shape[1]) if cut.axis == 1 else None
        return found and Tile(replace(self, window=found[0]), (Slice(1, *found[1:]), *(None,) * weights), (cut,))

    def gradient(self, build: Builder, node: Node, grad: str, wanted: Sequence[bool]) -> Sequence[str | None]:
        x, w, *b = node.inputs
        _, height, width, channels = build.types[x].shape
        dx = dw = db = None
        if wanted[0]:
            dx = build.add(DepthwiseInputGradient(self.window, (height, width, channels)), (grad, w), f"{x}.grad")
        if wanted[1]:
            dw = build.add(DepthwiseWeightGradient(self.window), (grad, x), f"{w}.grad")
        if b and wanted[2]:
            db = build.add(WeightRowSum(build.types[b[0]].shape), (grad,), f"{b[0]}.grad")
        return (dx, dw, db)[: len(node.inputs)]


def _in_words(window: Window, x: TensorType, y: TensorType) -> bool:
    """Whether no tap leaves x, and the channels of x and y pair up alike in words."""
    return not any(window.pads) and x.shape[3] == y.shape[3] and x.shape[3] % 2 == 0


def _channels_read(outputs: Slice, x: TensorType, n_outputs: int) -> Slice | None:
    """The channels of image x that these of `n_outputs` channels read; None where others read one of them too."""
    multiplier = n_outputs // x.shape[3]
    if outputs.first % multiplier or outputs.last % multiplier:
        return None
    return Slice(3, outputs.first // multiplier, outputs.last // multiplier)


def _spread(images: Array, n_outputs: int) -> Array:
    """(..., C) -> (..., O): each channel as often as outputs read it."""
    multiplier = n_outputs // images.shape[-1]
    return images if multiplier == 1 else np.repeat(images, multiplier, axis=-1)


def _by_rows(taps: Array, w: Array) -> tuple[Array, Array]:
    """taps (..., N, OH, OW, C) and w (K, C) as operands (K, N * OH, OW * C) and (K, 1, OW * C) of a sum of products:
    weights repeated along a row of pixels make long runs of both."""
    width, channels = taps.shape[-2:]
    return taps.reshape(len(w), -1, width * channels), np.tile(w[:, None], width)


@dataclass(frozen=True)
class DepthwiseInputGradient(Operator):
    """dx[q, c] = round16(sum over the taps that see q, and the m channels o of c, of dy[p, o] * w[tap, o]).

    dy (1, OH, OW, O), w (kh, kw, O) -> dx of `size` = (H, W, C), as (1, H, W, C). Order: p ascending by row, then
    column, then o; the list of all these in pairs, an odd one with a zero at its end. Taps that would reach a p outside
    dy are products with +0 (`_windows.hits`); a pixel that no tap reaches is +0.
    """

    name: ClassVar[str] = "depthwise_input_gradient"
    stacked: ClassVar[tuple[tuple[int, ...], ...]] = ((0,),)
    window: Window
    size: tuple[int, int, int]
    accumulate: Accumulate = Accumulate.FP32

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (TensorType((1, *self.size)),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        dy, w = inputs
        dx = np.zeros((len(dy), *self.size), np.float16)
        for top in range(min(self.window.stride[0], self.size[0])):
            for left in range(min(self.window.stride[1], self.size[1])):
                self._phase(dx, dy, w, top, left)
        return (dx,)

    def _phase(self, dx: Array, dy: Array, w: Array, top: int, left: int) -> None:
        """Fill the pixels of dx at (top + i * stride, left + j * stride), which all have the same taps."""
        (stride_h, stride_w), (height, width, channels) = self.window.stride, self.size
        rows = hits(top, self.window.size[0], stride_h, self.window.pads[0])
        cols = hits(left, self.window.size[1], stride_w, self.window.pads[1])
        if not rows or not cols:
            return
        count = len(range(top, height, stride_h)), len(range(left, width, stride_w))
        taps = grid(dy.astype(np.float32), [i for i, _ in rows], [j for j, _ in cols], (1, 1), count)
        weights = np.stack([w[i, j] for _, i in rows for _, j in cols])
        operand, factors = (
            np.moveaxis(array.reshape(len(weights), *array.shape[n_axes:-1], channels, -1), -1, 1)
            for array, n_axes in ((taps, 2), (weights, 1))
        )
        acc = fp16.sum_of_products(*_by_rows(operand, factors.reshape(-1, channels)), None, self.accumulate)
        dx[:, top::stride_h, left::stride_w] = fp16.half(acc).reshape(len(dy), *count, channels)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        (height, width), (stride_h, stride_w) = self.window.size, self.window.stride
        pairs_up = inputs[0].shape[3] == outputs[0].shape[3] and outputs[0].shape[3] % 2 == 0
        is_small = -(-height // stride_h) * -(-width // stride_w) <= _MOST_HITS
        name = "depthwise_input_gradient" + ("_words" if pairs_up and is_small else "")
        return Kernel(name, self.window.scalars(outputs[0].shape, inputs[0].shape), "odl_window")

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Rows of dx from the rows of dy that see them, or channels."""
        if cut is None:
            return Tile(self, (None, None), (None,))
        dy, (height, width, channels) = inputs[0], self.size
        if cut.axis == 1:
            window, first, last = self.window.cut_rows_back(cut.first, cut.last, dy.shape[1])
            return Tile(
                replace(self, window=window, size=(len(cut), width, channels)), (Slice(1, first, last), None), (cut,)
            )
        multiplier = dy.shape[3] // channels
        first, last = cut.first * multiplier, cut.last * multiplier
        part = replace(self, size=(height, width, len(cut)))
        return Tile(part, (Slice(3, first, last), Slice(2, first, last)), (cut,)) if cut.axis == 3 else None

    def macs(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return inputs[0].n_elems * self.window.size[0] * self.window.size[1]


@dataclass(frozen=True)
class DepthwiseWeightGradient(Summing):
    """dw[tap, o] = sum over output pixels p of x[tap of p, o // m] * dy[p, o].

    dy (1, OH, OW, O), x (1, H, W, C) -> dw (kh, kw, O), binary32 as it leaves the accumulator, or rounded to binary16
    by `dtype`. Order: output rows; in a row neighbouring pixels in pairs, an odd OW gets a zero pixel (both factors 0).
    """

    name: ClassVar[str] = "depthwise_weight_gradient"
    phase: ClassVar[Phase] = Phase.WEIGHT_GRADIENT
    window: Window
    accumulate: Accumulate = Accumulate.FP32
    dtype: DType = DType.F32

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (TensorType((*self.window.size, inputs[0].shape[3]), self.dtype),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        dy, x = inputs
        return (finished(self.add_up(dy, x, self.start(dy)), self.accumulate, self.dtype),)

    def evaluate_many(self, inputs: Sequence[Array], many: Sequence[bool], n_samples: int) -> tuple[Array, ...]:
        """Samples are so many more channels of one image, which do not mix either."""
        if many != (True, True):
            return super().evaluate_many(inputs, many, n_samples)
        dy, x = (np.moveaxis(array, 0, 3).reshape(*array.shape[1:4], -1) for array in inputs)
        (sums,) = self.evaluate([dy, x])
        parts = sums.reshape(*sums.shape[:2], len(inputs[0]), -1, *sums.shape[3:])
        return (np.moveaxis(parts, 2, 0),)

    def start(self, dy: Array) -> Array:
        return start_sums((*self.window.size, dy.shape[3]), self.accumulate)

    def add_up(self, dy: Array, x: Array, sums: Array) -> Array:
        _, height, width, n_outputs = dy.shape
        odd = width % 2
        taps = np.zeros((*self.window.size, 1, height, width + odd, n_outputs), np.float32)
        self.window.taps(_spread(x.astype(np.float32), n_outputs), taps[..., :width, :])
        pixels = np.pad(dy[0], ((0, 0), (0, odd), (0, 0))).reshape(-1, 1, n_outputs)
        seen = np.moveaxis(taps.reshape(-1, len(pixels), n_outputs), 1, 0)
        lanes = sums.reshape(-1, *sums.shape[2:])
        return fp16.continue_sums(seen, pixels, lanes, self.accumulate).reshape(sums.shape)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        unpadded = _in_words(self.window, inputs[1], inputs[0])
        name = "depthwise_unpadded_weight_gradient" if unpadded else "depthwise_weight_gradient"
        name += "" if self.dtype is DType.F32 else "_half"
        return Kernel(name, self.window.scalars(inputs[1].shape, inputs[0].shape), "odl_window")

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Channels, where no tile needs one of x that another needs too."""
        if cut is None:
            return Tile(self, (None, None), (None,))
        dy, x = inputs
        read = _channels_read(cut, x, dy.shape[3]) if cut.axis == 2 else None
        return Tile(self, (Slice(3, cut.first, cut.last), read), (cut,)) if read else None

    def macs(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return inputs[0].n_elems * self.window.size[0] * self.window.size[1]

    def goes(self, inputs: Sequence[TensorType], n_goes: int) -> Sequence[Operator]:
        """They are cut by rows of dy, where no tap leaves x and channels pair up in words."""
        dy, x = inputs
        parts = cut_evenly(1, dy.shape[1], n_goes)
        if len(parts) == 1 or not _in_words(self.window, x, dy):
            return ()
        classes = DepthwiseSumsBegin, DepthwiseSumsContinue, DepthwiseSumsEnd
        kinds = each_go(*classes, len(parts), self.accumulate, self.dtype)
        fields = (self.window, self.accumulate, self.dtype)
        return [kind(*fields, part=part) for kind, part in zip(kinds, parts, strict=True)]


@dataclass(frozen=True)
class _Sums(Go, DepthwiseWeightGradient):
    """One go, over rows `part` of dy: dy, x (, sums so far) -> sums (kh, kw, O) binary32, or (kh, kw, O, 2)."""

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (sums_type((*self.window.size, inputs[0].shape[3]), self.accumulate),)

    def seen(self) -> Slice:
        stride = self.window.stride[0]
        return Slice(1, self.part.first * stride, (self.part.last - 1) * stride + self.window.size[0])

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        return replace(super().kernel(inputs, outputs), name=self.name)


@dataclass(frozen=True)
class DepthwiseSumsBegin(_Sums):
    """The first go: sums start at +0."""

    name: ClassVar[str] = "depthwise_sums_begin"


@dataclass(frozen=True)
class DepthwiseSumsContinue(_Sums):
    """A later go: dy, x and the sums so far -> the sums, in the same bytes."""

    name: ClassVar[str] = "depthwise_sums_continue"
    overwrites: ClassVar[tuple[tuple[int, int], ...]] = ((0, 2),)


@dataclass(frozen=True)
class DepthwiseSumsEnd(_Sums):
    """The last go, where the gradient is not the sums themselves: rounded to binary16, or the two lanes added."""

    name: ClassVar[str] = "depthwise_sums_end"

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (TensorType((*self.window.size, inputs[0].shape[3]), self.dtype),)

    def left(self, sums: Array) -> Array:
        return finished(sums, self.accumulate, self.dtype)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        kernel = super().kernel(inputs, outputs)
        return kernel if self.dtype is DType.F32 else replace(kernel, name=f"{kernel.name}_half")


def samples() -> Iterable[Sample]:
    """Test cases of ONNX's Conv with as many groups as channels."""

    def conv(
        x: tuple[int, int, int], w: tuple[int, int, int], strides: tuple[int, int] = (1, 1), **more: object
    ) -> Sample:
        shapes = ((1, *x), (w[0], 1, w[1], w[2]), (w[0],))
        return Sample("Conv", shapes, {"group": x[0], "strides": strides, **more}, constants=(1, 2))

    yield conv((3, 5, 6), (3, 3, 3), pads=(1, 1, 1, 1))
    yield conv((9, 7, 7), (9, 3, 3), (2, 2), pads=(0, 0, 1, 1))
    yield conv((2, 9, 5), (2, 4, 3), (2, 1), auto_pad="SAME_UPPER")
    yield conv((3, 5, 4), (6, 2, 2), (1, 2), auto_pad="SAME_LOWER")
    yield conv((3, 6, 7), (9, 3, 2), (2, 3), pads=(0, 2, 1, 0))
    yield conv((2, 4, 5), (10, 1, 3), (3, 1), pads=(3, 0, 0, 2))
    yield conv((17, 3, 3), (17, 3, 3), auto_pad="VALID")
    yield conv((4, 5, 5), (4, 1, 1), (3, 3))
    yield Sample("Conv", ((1, 2, 4, 4), (4, 1, 3, 3)), {"group": 2, "pads": (1, 1, 1, 1)}, constants=(1,))
