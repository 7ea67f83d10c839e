"""Weight gradients of convolutions and dense layers from operands whose pixels lie in pairs (`PairPixels`).

At once, or, for images that are too large, in several goes (`_goes`). Passes make these operators, no ONNX node does.
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
from odl.ops._goes import Go, Summing, cut_evenly, each_go, finished, start_sums, sums_type
from odl.types import Array, DType, Shape, TensorType


@dataclass(frozen=True)
class PairedGradient(Summing):
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
        dy, x = inputs
        return (finished(self.add_up(dy, x, self.start(dy)), self.accumulate, self.dtype),)

    def start(self, dy: Array) -> Array:
        return start_sums((len(self._columns(dy)), *self.weight), self.accumulate)

    def _columns(self, dy: Array) -> Array:
        """dy (OH, P, 1, O, 2) -> (count, pixels)."""
        chosen = dy[:, :, 0, self.first :][:, :, : self.count or None]
        return np.moveaxis(chosen, 2, 0).reshape(chosen.shape[2], -1)

    def add_up(self, dy: Array, x: Array, sums: Array) -> Array:
        columns = self._columns(dy)
        n_rows, n_pairs = dy.shape[:2]
        words = x.reshape(len(x), -1, 2)
        starts = np.arange(n_pairs)[:, None] * (x.shape[2] * x.shape[3]) + np.arange(self.run)
        seen = np.stack([words[i : i + (n_rows - 1) * self.stride + 1 : self.stride] for i in range(self.kernel_rows)])
        taps = np.moveaxis(seen[:, :, starts], (1, 2, 4), (0, 1, 2)).reshape(columns.shape[1], -1)
        rows, cols = columns.T, taps
        lanes = sums.reshape(len(columns), -1, *(() if self.accumulate is Accumulate.FP32 else (2,)))
        if rows.shape[1] <= cols.shape[1]:
            lanes = fp16.continue_sums(rows[:, :, None], cols[:, None, :], lanes, self.accumulate)
        else:
            lanes = np.ascontiguousarray(np.swapaxes(lanes, 0, 1))
            lanes = np.swapaxes(fp16.continue_sums(cols[:, :, None], rows[:, None, :], lanes, self.accumulate), 0, 1)
        return np.ascontiguousarray(lanes).reshape(sums.shape)

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
        return replace(self, first=self.first + first, count=count)

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Output channels, by runs of rows of dw."""
        if cut is None:
            return Tile(self, (None, None), (None,))
        part = replace(self, first=self.first + cut.first, count=len(cut))
        return None if cut.axis else Tile(part, (None, None), (cut,))

    def is_piece(self, inputs: Sequence[TensorType]) -> bool:
        return 0 < self.count < inputs[0].shape[3]

    def goes(self, inputs: Sequence[TensorType], n_goes: int) -> Sequence[Operator]:
        """They are cut by rows of dy, or, where it has one, by its pairs."""
        dy, x = inputs
        axis = 0 if dy.shape[0] > 1 else 1
        if axis == 1 and self.kernel_rows * x.shape[2] > 1:
            return ()
        fields = (self.weight, self.accumulate, self.dtype, self.stride, self.first, self.count or dy.shape[3])
        parts = cut_evenly(axis, dy.shape[axis], n_goes)
        classes = PairedSumsBegin, PairedSumsContinue, PairedSumsEnd
        kinds = each_go(*classes, len(parts), self.accumulate, self.dtype)
        return [kind(*fields, part=part) for kind, part in zip(kinds, parts, strict=True)] if len(parts) > 1 else ()


@dataclass(frozen=True)
class _Sums(Go, PairedGradient):
    """One go, over `part` of dy: dy, x (, sums so far) -> sums (count, *weight) binary32, or (count, *weight, 2)."""

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (sums_type((self.count, *self.weight), self.accumulate),)

    def seen(self) -> Slice:
        if self.part.axis == 1:
            return self.part
        return Slice(0, self.part.first * self.stride, (self.part.last - 1) * self.stride + self.kernel_rows)

    def of_outputs(self, cut: Slice) -> Operator | None:
        return None if cut.axis else replace(self, first=self.first + cut.first, count=len(cut))


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

    def left(self, sums: Array) -> Array:
        return finished(sums, self.accumulate, self.dtype)
