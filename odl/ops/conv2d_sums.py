"""A convolution's weight gradient in several goes, each over some rows of the output: for images that are too large.

The running sums lie in memory between two goes exactly as they are in the accumulator, so no bit depends on how many
goes there are: one binary32 number a sum, or the two binary16 lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.fp16 import Accumulate
from odl.graph import Kernel, Operator, Phase, Slice, Tile
from odl.ops._windows import Window
from odl.types import Array, DType, TensorType


@dataclass(frozen=True)
class _Sums(Operator):
    """What the goes have in common. Fields as in Conv2dWeightGradient; `rows` are the output rows of this go.

    dy (1, OH, OW, O), x (1, H, W, I) without padding -> sums (count, kh, kw, I) binary32, or (count, kh, kw, I, 2)
    binary16. Order: output rows; in a row neighbouring pixels in pairs, an odd OW gets a zero pixel.
    """

    phase: ClassVar[Phase] = Phase.WEIGHT_GRADIENT
    window: Window
    accumulate: Accumulate
    dtype: DType
    first: int
    count: int
    rows: tuple[int, int]

    def sums(self, x: TensorType) -> TensorType:
        shape = (self.count, *self.window.size, x.shape[3])
        return TensorType(shape, DType.F32) if self.accumulate is Accumulate.FP32 else TensorType((*shape, 2))

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (self.sums(inputs[1]),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        dy, x, *before = inputs
        state = before[0] if before else np.zeros(self.sums(_type(x)).shape, self.sums(_type(x)).dtype.numpy)
        columns = dy[0, self.rows[0] : self.rows[1], :, self.first : self.first + self.count]
        odd = columns.shape[1] % 2
        columns = np.pad(columns, ((0, 0), (0, odd), (0, 0)))
        taps = np.moveaxis(self.window.taps(x[:, slice(*self._x_rows())]), (2, 3), (0, 1))
        taps = np.pad(taps, ((0, 0), (0, odd), (0, 0), (0, 0), (0, 0)))
        n = columns.shape[0] * columns.shape[1]
        operands = columns.reshape(n, -1, 1), taps.reshape(n, 1, -1)
        lanes = state.reshape(self.count, -1, *state.shape[4:])
        return (fp16.continue_sums(*operands, lanes, self.accumulate).reshape(state.shape),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        dy, x = inputs[:2]
        window = self.window.scalars(x.shape, dy.shape)
        return Kernel(self.name, window, "odl_window", {"first": self.first, "count": self.count})

    def macs(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        taps = self.window.size[0] * self.window.size[1] * inputs[1].shape[3]
        return self.count * taps * (self.rows[1] - self.rows[0]) * inputs[0].shape[2]

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """All of the sums, from its own rows of dy and of x."""
        if cut:
            return None
        n_rows = self.rows[1] - self.rows[0]
        seen = Slice(1, *self._x_rows())
        own = Slice(1, *self.rows)
        op = replace(self, rows=(0, n_rows))
        return Tile(op, (own, seen, *(None for _ in inputs[2:])), (None,))

    def _x_rows(self) -> tuple[int, int]:
        stride = self.window.stride[0]
        return self.rows[0] * stride, (self.rows[1] - 1) * stride + self.window.size[0]


@dataclass(frozen=True)
class Conv2dSumsBegin(_Sums):
    """The first go: sums start at +0."""

    name: ClassVar[str] = "conv2d_sums_begin"


@dataclass(frozen=True)
class Conv2dSumsContinue(_Sums):
    """A later go: dy, x and the sums so far -> the sums, in the same bytes."""

    name: ClassVar[str] = "conv2d_sums_continue"
    overwrites: ClassVar[tuple[tuple[int, int], ...]] = ((0, 2),)


@dataclass(frozen=True)
class Conv2dSumsEnd(_Sums):
    """The last go, where the gradient is not the sums themselves: rounded to binary16, or the two lanes added."""

    name: ClassVar[str] = "conv2d_sums_end"

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (TensorType((self.count, *self.window.size, inputs[1].shape[3]), self.dtype),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        (sums,) = super().evaluate(inputs)
        if self.accumulate is Accumulate.FP16:
            sums = fp16.add16(sums[..., 0], sums[..., 1]).astype(np.float32)
        return (sums if self.dtype is DType.F32 else fp16.half(sums),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        found = super().kernel(inputs, outputs)
        return found if self.dtype is DType.F32 else replace(found, name=f"{found.name}_half")


def _type(x: Array) -> TensorType:
    return TensorType(x.shape)
