"""Sums of gradients over the samples of a mini-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.graph import Kernel, Operator, Phase, Slice, Tile
from odl.types import Array, DType, TensorType


@dataclass(frozen=True)
class AccumulateGradient(Operator):
    """sum[rows] = round(sum + g), one addition an element, rounded to the sum's own type.

    sum (N, ...) binary32 or binary16; g (count, ...) of the same type, of the rows `first` .. `first + count - 1` of
    sum (all where count is 0) -> sum, changed in place.
    """

    name: ClassVar[str] = "accumulate_gradient"
    phase: ClassVar[Phase] = Phase.WEIGHT_GRADIENT
    overwrites: ClassVar[tuple[tuple[int, int], ...]] = ((0, 0),)
    first: int = 0
    count: int = 0

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        total, g = inputs
        assert g == TensorType((self.count or total.shape[0], *total.shape[1:]), total.dtype), (total, g)
        return (total,)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        total, g = inputs[0].copy(), inputs[1]
        block = slice(self.first, self.first + g.shape[0])
        add = fp16.add32 if g.dtype == np.float32 else fp16.add16
        total[block] = add(total[block], g)
        return (total,)

    def evaluate_many(self, inputs: Sequence[Array], many: Sequence[bool], n_samples: int) -> tuple[Array, ...]:
        """The gradients of all samples, one after another, to one copy of a sum that they share."""
        if tuple(many) != (False, True):
            return super().evaluate_many(inputs, many, n_samples)
        total, gradients = inputs[0].copy(), inputs[1]
        block = total[self.first : self.first + gradients.shape[1]]
        add = fp16.add32 if gradients.dtype == np.float32 else fp16.add16
        for g in gradients:
            block[...] = add(block, g)
        return (total,)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        total, g = inputs
        row = total.n_elems // total.shape[0]
        return Kernel(f"accumulate_gradient_{g.dtype.value}", {"first": self.first * row, "n_elems": g.n_elems})

    def split(self, first: int, count: int) -> Operator:
        return replace(self, first=first, count=count)

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Cuts along axis 0 of what is added; the sum is needed no further than that."""
        total, g = inputs
        cut = cut or Slice(0, 0, g.shape[0])
        if cut.axis or cut.last > g.shape[0]:
            return None
        rows = Slice(0, self.first + cut.first, self.first + cut.last)
        held = None if len(rows) == total.shape[0] else rows
        return Tile(replace(self, first=0, count=0), (held, None if len(cut) == g.shape[0] else cut), (held,))


@dataclass(frozen=True)
class AddSums(AccumulateGradient):
    """The same, of sums that tell whether a step is sound."""

    name: ClassVar[str] = "add_sums"
    phase: ClassVar[Phase] = Phase.UPDATE


@dataclass(frozen=True)
class ClearGradient(Operator):
    """sum = +0: what an update leaves behind at the end of a mini-batch. Binary32 or binary16, changed in place."""

    name: ClassVar[str] = "clear_gradient"
    phase: ClassVar[Phase] = Phase.UPDATE
    overwrites: ClassVar[tuple[tuple[int, int], ...]] = ((0, 0),)

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        assert inputs[0].dtype in (DType.F16, DType.F32), inputs
        return (inputs[0],)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        return (np.zeros_like(inputs[0]),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        return Kernel(f"{self.name}_{outputs[0].dtype.value}", {"n_elems": outputs[0].n_elems})

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        return Tile(self, (cut,), (cut,))
