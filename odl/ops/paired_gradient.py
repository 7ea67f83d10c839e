"""Weight gradients of convolutions and dense layers from operands whose pixels lie in pairs (`PairPixels`).

At once, or, for images that are too large, in several goes, each over some of the pixels. Passes make these operators,
no ONNX node does. The running sums lie in memory between two goes exactly as they are in the accumulator, so no bit
depends on how many goes there are: one binary32 number a sum, or the two binary16 lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.fp16 import Accumulate
from odl.graph import Kernel, Operator, Phase, Slice, Tile
from odl.types import Array, DType, Shape, TensorType

NOTHING = Slice(0, 0, 0)


@dataclass(frozen=True)
class PairedGradient(Operator):
    """dw[o, i, k] = sum over output rows h, then pairs of pixels p in them, of dy[h, p, o] * x[h * stride + i, p, k].

    dy (OH, P, 1, O, 2), x (H, Q, shifts, C, 2) -> dw (count, *weight), weight = (kernel rows,) kernel columns times C:
    output channels `first` .. `first + count - 1` (all where count is 0), binary32 as it leaves the accumulator, or
    rounded to binary16 by `dtype`. `k` counts words from the start of pair p in x. With operands that `PairPixels` made
    that is Conv2dWeightGradient and DenseWeightGradient, bit for bit.
    """

    name: ClassVar[str] = "paired_gradient"
    phase: ClassVar[Phase] = Phase.WEIGHT_GRADIENT
    weight: Shape
    accumulate: Accumulate
    dtype: DType
    stride: int = 1
    first: int = 0
    count: int = 0

    @property
    def kernel_rows(self) -> int:
        return self.weight[0] if len(self.weight) == 3 else 1

    @property
    def run(self) -> int:
        """Neighbouring words of x that a row of the kernel meets."""
        return prod(self.weight) // self.kernel_rows

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (TensorType((self.count or inputs[0].shape[3], *self.weight), self.dtype),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        dy, x = inputs[:2]
        before = np.zeros(self._state(len(self._columns(dy))), np.float32 if self._is_fp32 else np.float16)
        return (self._finished(self._sums(dy, x, before)),)

    @property
    def _is_fp32(self) -> bool:
        return self.accumulate is Accumulate.FP32

    def _state(self, count: int) -> Shape:
        return (count, *self.weight) if self._is_fp32 else (count, *self.weight, 2)

    def _columns(self, dy: Array) -> Array:
        """dy (OH, P, 1, O, 2) -> (count, pixels)."""
        chosen = dy[:, :, 0, self.first :][:, :, : self.count or None]
        return np.moveaxis(chosen, 2, 0).reshape(chosen.shape[2], -1)

    def _sums(self, dy: Array, x: Array, before: Array) -> Array:
        """The accumulators behind these pixels, from those before them."""
        columns = self._columns(dy)
        n_rows, n_pairs = dy.shape[:2]
        words = x.reshape(len(x), -1, 2)
        starts = np.arange(n_pairs)[:, None] * (x.shape[2] * x.shape[3]) + np.arange(self.run)
        seen = np.stack([words[i : i + (n_rows - 1) * self.stride + 1 : self.stride] for i in range(self.kernel_rows)])
        taps = np.moveaxis(seen[:, :, starts], (1, 2, 4), (0, 1, 2)).reshape(columns.shape[1], -1)
        rows, cols = columns.T, taps
        lanes = before.reshape(len(columns), -1, *(() if self._is_fp32 else (2,)))
        if rows.shape[1] <= cols.shape[1]:
            sums = fp16.continue_sums(rows[:, :, None], cols[:, None, :], lanes, self.accumulate)
        else:
            lanes = np.ascontiguousarray(np.swapaxes(lanes, 0, 1))
            sums = np.swapaxes(fp16.continue_sums(cols[:, :, None], rows[:, None, :], lanes, self.accumulate), 0, 1)
        return np.ascontiguousarray(sums).reshape(self._state(len(columns)))

    def _finished(self, sums: Array) -> Array:
        if not self._is_fp32:
            sums = fp16.add16(sums[..., 0], sums[..., 1]).astype(np.float32)
        return sums if self.dtype is DType.F32 else fp16.half(sums)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        dy, x = inputs[:2]
        scalars: dict[str, int | float] = {
            "n_rows": dy.shape[0], "n_pairs": dy.shape[1], "n_outputs": dy.shape[3], "kernel_rows": self.kernel_rows,
            "run": self.run, "stride": self.stride, "x_pair": prod(x.shape[2:4]), "x_row": prod(x.shape[1:4]),
        }  # fmt: skip
        suffix = "_half" if outputs[0].dtype is DType.F16 and len(outputs[0].shape) == 1 + len(self.weight) else ""
        count = self.count or dy.shape[3]
        return Kernel(self.name + suffix, scalars, "odl_paired", {"first": self.first, "count": count})

    def macs(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        dy = inputs[0]
        return (self.count or dy.shape[3]) * prod(self.weight) * dy.shape[0] * dy.shape[1] * 2

    def split(self, first: int, count: int) -> Operator | None:
        return replace(self, first=first, count=count)

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Output channels, by runs of rows of dw."""
        if cut is None:
            return Tile(self, (None, None), (None,))
        part = replace(self, first=self.first + cut.first, count=len(cut))
        return None if cut.axis else Tile(part, (None, None), (cut,))

    def goes(self, inputs: Sequence[TensorType], n_goes: int) -> list[Operator]:
        """The same as about `n_goes` operators, each of which continues the sums of the one before; [] where it cannot.

        They are cut by rows of dy, or, where it has one, by its pairs.
        """
        dy = inputs[0]
        axis = 0 if dy.shape[0] > 1 else 1
        size = dy.shape[axis]
        if axis == 1 and self.kernel_rows * inputs[1].shape[2] > 1:
            return []
        step = -(-size // n_goes)
        parts = [Slice(axis, at, min(at + step, size)) for at in range(0, size, step)]
        fields = (self.weight, self.accumulate, self.dtype, self.stride, self.first, self.count or dy.shape[3])
        kinds = [PairedSumsBegin, *[PairedSumsContinue] * (len(parts) - 1)]
        if (self.accumulate, self.dtype) != (Accumulate.FP32, DType.F32):
            kinds[-1] = PairedSumsEnd
        return [kind(*fields, part=part) for kind, part in zip(kinds, parts, strict=True)] if len(parts) > 1 else []


@dataclass(frozen=True)
class _Sums(PairedGradient):
    """One go, over `part` of dy: dy, x (, sums so far) -> sums (count, *weight) binary32, or (count, *weight, 2)."""

    part: Slice = NOTHING

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (TensorType(self._state(self.count), DType.F32 if self._is_fp32 else DType.F16),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        dy, x, *before = inputs
        state = before[0] if before else np.zeros(self._state(self.count), np.float32 if self._is_fp32 else np.float16)
        seen = self._seen()
        own = (slice(None),) * self.part.axis + (slice(self.part.first, self.part.last),)
        near = (slice(None),) * seen.axis + (slice(seen.first, seen.last),)
        return (self._left(self._sums(dy[own], x[near], state)),)

    def _left(self, sums: Array) -> Array:
        return sums

    def _seen(self) -> Slice:
        """What the go reads of x."""
        if self.part.axis == 1:
            return self.part
        first, last = self.part.first * self.stride, (self.part.last - 1) * self.stride + self.kernel_rows
        return Slice(0, first, last)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        """Of the go's own tile: the kernel sums over all that it gets."""
        assert (self.part.first, self.part.last) == (0, inputs[0].shape[self.part.axis]), self
        return super().kernel(inputs, outputs)

    def macs(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        dy = inputs[0]
        return super().macs(inputs, outputs) * len(self.part) // dy.shape[self.part.axis]

    def split(self, first: int, count: int) -> Operator | None:
        return None

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """All of the sums, from its own part of dy and of x."""
        if cut:
            return None
        op = replace(self, part=Slice(self.part.axis, 0, len(self.part)))
        return Tile(op, (self.part, self._seen(), *(None for _ in inputs[2:])), (None,))


@dataclass(frozen=True)
class PairedSumsBegin(_Sums):
    """The first go: sums start at +0."""

    name: ClassVar[str] = "paired_sums_begin"


@dataclass(frozen=True)
class PairedSumsContinue(_Sums):
    """A later go: dy, x and the sums so far -> the sums, in the same bytes."""

    name: ClassVar[str] = "paired_sums_continue"
    overwrites: ClassVar[tuple[tuple[int, int], ...]] = ((0, 2),)


@dataclass(frozen=True)
class PairedSumsEnd(_Sums):
    """The last go, where the gradient is not the sums themselves: rounded to binary16, or the two lanes added."""

    name: ClassVar[str] = "paired_sums_end"

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (TensorType((self.count, *self.weight), self.dtype),)

    def _left(self, sums: Array) -> Array:
        return self._finished(sums)
