"""The input gradient of a convolution with a stride: one small convolution for each phase of its pixels.

Passes make this operator, no ONNX node does (`odl/passes/input_gradients.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.fp16 import Accumulate
from odl.graph import Kernel, Operator, Slice, Tile
from odl.ops._windows import Pair
from odl.ops.dense import product
from odl.types import Array, TensorType

MAX_PHASES = 4


@dataclass(frozen=True)
class PixelPhase:
    """The pixels `first`, `first` + stride, ... (`count` of them) along an axis, which all have the same taps.

    They are the taps number, number + stride, ..., `n_taps` in all. Taken from the last to the first, that of pixel
    `first` + i * stride see position `base` + i, `base` + i + 1, ... of the padded gradient of the output.
    """

    number: int
    n_taps: int
    first: int
    count: int
    base: int


def phases(kernel: int, stride: int, start: int, n_pixels: int) -> list[PixelPhase]:
    """The phases along one axis, those without taps as well. Pixel q belongs to phase (q + `start`) mod stride."""
    found = []
    for number in range(stride):
        n_taps = len(range(number, kernel, stride))
        first = (number - start) % stride
        found.append(
            PixelPhase(
                number, n_taps, first, len(range(first, n_pixels, stride)), (first + start) // stride - n_taps + 1
            )
        )
    return found


@dataclass(frozen=True)
class Conv2dPhases(Operator):
    """dx[q, i] = round16(sum over the taps of q's phase, and output channels o, of dy[p, o] * w[phase][i, tap, o]).

    dy (1, PH, PW, O) with its border of zeros, O even; for each phase with taps, by row, then column, a w as
    `FlipTranspose` makes it, (I, n_rows, n_columns, O), four at most -> dx (1, H, W, I), binary16, of `size` = (H, W).
    `window` and `stride` are those of the convolution; `start`: pixel q of dx stands at q + start on the grid of dy's
    positions times the stride (`phases`). Order: p ascending by row, then column, then o in pairs. A pixel without taps
    is +0. With the border of `odl/passes/input_gradients.py` that is Conv2dInputGradient, bit for bit.
    """

    name: ClassVar[str] = "conv2d_phases"
    arity: ClassVar[int] = 1 + MAX_PHASES
    size: Pair
    start: Pair
    window: Pair
    stride: Pair
    accumulate: Accumulate = Accumulate.FP32

    def axes(self) -> tuple[list[PixelPhase], list[PixelPhase]]:
        """The phases of the rows and of the columns."""
        rows, cols = (phases(*each) for each in zip(self.window, self.stride, self.start, self.size, strict=True))
        return rows, cols

    def pairs(self) -> Iterator[tuple[PixelPhase, PixelPhase]]:
        """The phases that have taps, each with an operand."""
        rows, cols = self.axes()
        yield from ((row, col) for row in rows for col in cols if row.n_taps and col.n_taps)

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        dy, *weights = inputs
        pairs = list(self.pairs())
        channels = weights[0].shape[0]
        assert min(self.start) >= 0, self
        assert dy.shape[3] % 2 == 0, dy
        assert len(pairs) <= MAX_PHASES, self
        for (row, col), w in zip(pairs, weights, strict=True):
            assert w.shape == (channels, row.n_taps, col.n_taps, dy.shape[3]), (self, w)
            for phase, n in ((row, dy.shape[1]), (col, dy.shape[2])):
                inside = phase.base >= 0 and phase.base + phase.count + phase.n_taps - 1 <= n
                assert inside or not phase.count, (self, dy, phase)
        return (TensorType((1, *self.size, channels)),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        dy, *weights = inputs
        channels = weights[0].shape[0]
        dx = np.zeros((1, *self.size, channels), np.float16)
        for (row, col), w in zip(self.pairs(), weights, strict=True):
            if not row.count or not col.count:
                continue
            seen = [
                dy[0, row.base + i :, col.base + j :][: row.count, : col.count]
                for i in range(row.n_taps) for j in range(col.n_taps)
            ]  # fmt: skip
            operand = np.moveaxis(np.stack(seen), 3, 1).reshape(-1, row.count * col.count)
            acc = product(operand, w.reshape(channels, -1).T, None, self.accumulate)
            step_h, step_w = self.stride
            dx[0, row.first :: step_h, col.first :: step_w] = fp16.half(acc).reshape(row.count, col.count, channels)
        return (dx,)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        dy, (dx,) = inputs[0], outputs
        scalars: dict[str, int | float] = {
            "in_h": dy.shape[1], "in_w": dy.shape[2], "in_c": dy.shape[3],
            "out_h": dx.shape[1], "out_w": dx.shape[2], "out_c": dx.shape[3],
            "kernel_h": self.window[0], "kernel_w": self.window[1],
            "stride_h": self.stride[0], "stride_w": self.stride[1],
            "start_h": self.start[0], "start_w": self.start[1],
        }  # fmt: skip
        return Kernel("conv2d_phases", scalars, "odl_phases")

    def macs(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        channels = inputs[0].shape[3] * outputs[0].shape[3]
        return channels * sum(prod((a.count, a.n_taps, b.count, b.n_taps)) for a, b in self.pairs())

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Channels of dx from filters, or rows of dx from rows of dy."""
        whole: tuple[Slice | None, ...] = (None,) * (len(inputs) - 1)
        if cut is None:
            return Tile(self, (None, *whole), (None,))
        if cut.axis == 3:
            return Tile(self, (None, *(Slice(0, cut.first, cut.last) for _ in whole)), (cut,))
        return self._rows(cut, len(whole)) if cut.axis == 1 else None

    def _rows(self, cut: Slice, n_weights: int) -> Tile | None:
        """Rows `cut` of dx. None where no tap reaches them."""
        stride, start = self.stride[0], self.start[0] + cut.first
        live = [each for each in phases(self.window[0], stride, start, len(cut)) if each.n_taps and each.count]
        if not live:
            return None
        begin = min(start // stride, *(each.base for each in live))
        end = max(each.base + each.count + each.n_taps - 1 for each in live)
        size, starts = (len(cut), self.size[1]), (start - stride * begin, self.start[1])
        op = replace(self, size=size, start=starts)
        return Tile(op, (Slice(1, begin, end), *(None for _ in range(n_weights))), (cut,))
