"""Sums of squares: the norm of a gradient, and whether every number of a tensor is finite.

A square is never negative, so nothing cancels: the sum is finite if all numbers are (and their squares do not add up
beyond binary32), and infinite or NaN for ever once one is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.graph import Kernel, Operator, Phase, Slice, Tile
from odl.types import Array, DType, Shape, TensorType

PARTS = 8


def total(parts: Array) -> np.float32:
    """The whole sum: that of the parts in order, from +0, each addition rounded to binary32."""
    found = np.float32(0)
    for part in parts:
        found = np.float32(fp16.add32(found, part))
    return found


def is_finite(parts: Array) -> bool:
    """Whether all that was summed is finite."""
    return bool(np.isfinite(total(parts)))


@dataclass(frozen=True)
class SquareSums(Operator):
    """s[p] = so_far[p] + the sum of x * x over part p; so_far is +0 where there is none.

    x (...) binary16 or binary32 [, so_far (8) binary32] -> s (8) binary32. Part p of 8 are the indices from n * p / 8
    up to n * (p + 1) / 8, both rounded down, of the first axis with n > 1 elements, so that eight cores have one each.
    In a part, elements in storage order in pairs: acc = rn32(acc + rn32(rn32(x1 * x1) + rn32(x0 * x0))); the squares of
    binary16 numbers are exact. An odd part gets a zero. Of a tile, `first` .. `first + count - 1` are its parts, `axis`
    is the axis and `size` is n of the whole.
    """

    name: ClassVar[str] = "square_sums"
    phase: ClassVar[Phase] = Phase.UPDATE
    arity: ClassVar[int] = 2
    in_place: ClassVar[tuple[tuple[int, int], ...]] = ((0, 1),)
    first: int = 0
    count: int = PARTS
    size: int = 0
    axis: int = -1

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        sums = TensorType((self.count,), DType.F32)
        assert all(each == sums for each in inputs[1:]), inputs
        assert inputs[0].dtype in (DType.F16, DType.F32), inputs
        return (sums,)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        x, *so_far = inputs
        rows = x.reshape(self._n_rows(x.shape), -1)
        sums = so_far[0].copy() if so_far else np.zeros(self.count, np.float32)
        with np.errstate(all="ignore"):
            for part, (begin, end) in enumerate(pairwise(self._bounds(len(rows)))):
                squares = np.square(rows[begin:end].astype(np.float32).ravel())
                even = np.append(squares, np.zeros(len(squares) % 2, np.float32))
                terms = np.append(sums[part], even[1::2] + even[0::2])
                sums[part] = np.add.accumulate(terms)[-1]  # one after another: each sum on the way is an output
        return (sums,)

    def _n_rows(self, shape: Shape) -> int:
        return shape[self._axis(shape)]

    def _axis(self, shape: Shape) -> int:
        """The first axis with more than one element, or the last."""
        found = next((axis for axis, size in enumerate(shape) if size > 1), len(shape) - 1)
        return found if self.axis < 0 else self.axis

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        n = self._n_rows(inputs[0].shape)
        sizes = {"n_rows": self.size or n, "row": inputs[0].n_elems // n, "first": self.first, "count": self.count}
        return Kernel(f"{self.name}_{inputs[0].dtype.value}", sizes)

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Some of the parts, from the rows that they are of."""
        if cut is None:
            return Tile(self, (None,) * len(inputs), (None,))
        axis = self._axis(inputs[0].shape)
        size = self.size or inputs[0].shape[axis]
        bounds = self._bounds(inputs[0].shape[axis])
        rows = Slice(axis, bounds[cut.first], bounds[cut.last])
        op = replace(self, first=self.first + cut.first, count=len(cut), size=size, axis=axis)
        return Tile(op, (rows, *(cut for _ in inputs[1:])), (cut,)) if len(rows) else None

    def _bounds(self, n_rows: int) -> list[int]:
        """Where the parts begin, and the last one ends, counted from this tile's first row."""
        size = self.size or n_rows
        ends = [size * part // PARTS for part in range(self.first, self.first + self.count + 1)]
        return [end - ends[0] for end in ends]
