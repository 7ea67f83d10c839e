"""Sums over the rows of a matrix, of values or of products: the gradients of broadcast operands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.errors import ModelError
from odl.fp16 import Accumulate
from odl.graph import Kernel, Operator, Phase, Slice, Tile
from odl.types import Array, DType, Shape, TensorType


@dataclass(frozen=True)
class RowSum(Operator):
    """s[n] = sum over m of x[m, n] * y[m, n]; without y, of x[m, n] * 1.

    x and y (M * N elements each, binary16, in storage order) -> s of `shape` (N elements), rounded to binary16, or
    binary32 as it leaves the accumulator, by `dtype`. Neighbouring rows m make the pairs, an odd M gets a zero row.
    With N = 1 it is the sum over everything.
    """

    name: ClassVar[str] = "row_sum"
    arity: ClassVar[int] = 2
    shape: Shape
    accumulate: Accumulate = Accumulate.FP32
    dtype: DType = DType.F16

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        n_cols = prod(self.shape)
        if inputs[0].n_elems % n_cols or any(type_.n_elems != inputs[0].n_elems for type_ in inputs):
            raise ModelError("shape-mismatch", self.name, f"{', '.join(map(str, inputs))} in rows of {n_cols}")
        return (TensorType(self.shape, self.dtype),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        return (self.evaluate_many([array[None] for array in inputs], (True,) * len(inputs), 1)[0][0],)

    def evaluate_many(self, inputs: Sequence[Array], many: Sequence[bool], n_samples: int) -> tuple[Array, ...]:
        if not all(many):
            return super().evaluate_many(inputs, many, n_samples)
        x, *y = (np.swapaxes(array.reshape(len(array), -1, prod(self.shape)), 0, 1) for array in inputs)
        sums = fp16.sum_of_products(x, y[0], None, self.accumulate) if y else fp16.sum_with_ones(x, self.accumulate)
        return ((sums if self.dtype is DType.F32 else fp16.half(sums)).reshape(-1, *self.shape),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        n_cols = outputs[0].n_elems
        name = "row_sum" if self.dtype is DType.F32 else "row_sum_half"
        return Kernel(name, {"n_rows": inputs[0].n_elems // n_cols, "n_cols": n_cols})

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Columns: the last axis, if all of them lie along that, in s as in x and y."""
        if cut is None:
            return Tile(self, (None,) * len(inputs), (None,))
        axis, n_cols = len(self.shape) - 1, prod(self.shape)
        if cut.axis != axis or any(type_.shape[-1] != n_cols for type_ in (*inputs, *outputs)):
            return None
        columns = tuple(Slice(len(type_.shape) - 1, cut.first, cut.last) for type_ in inputs)
        return Tile(replace(self, shape=(*self.shape[:-1], len(cut))), columns, (cut,))

    def macs(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return inputs[0].n_elems if len(inputs) == 2 else 0


@dataclass(frozen=True)
class WeightRowSum(RowSum):
    """RowSum as the gradient of a weight."""

    name: ClassVar[str] = "weight_row_sum"
    phase: ClassVar[Phase] = Phase.WEIGHT_GRADIENT
    dtype: DType = DType.F32
