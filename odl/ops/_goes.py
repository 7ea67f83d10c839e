"""Sums over pixels in several goes, each over some of the pixels, for images that are too large to lie near at once.

The running sums lie in memory between two goes exactly as they are in the accumulator, so no bit depends on how many
goes there are: one binary32 number a sum, or the two binary16 lanes, which become an axis behind the others.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from odl import fp16
from odl.fp16 import Accumulate
from odl.graph import Kernel, Operator, Slice, Tile
from odl.types import Array, DType, Shape, TensorType

NOTHING = Slice(0, 0, 0)
T = TypeVar("T", bound=Operator)


def sums_type(shape: Shape, accumulate: Accumulate) -> TensorType:
    """How sums of `shape` lie in memory between two goes."""
    fp32 = accumulate is Accumulate.FP32
    return TensorType(shape if fp32 else (*shape, 2), DType.F32 if fp32 else DType.F16)


def start_sums(shape: Shape, accumulate: Accumulate) -> Array:
    """Sums of `shape` before the first go, all +0."""
    type_ = sums_type(shape, accumulate)
    return np.zeros(type_.shape, type_.dtype.numpy)


def finished(sums: Array, accumulate: Accumulate, dtype: DType) -> Array:
    """What sums come to: two lanes of binary16 are added, and binary32 is rounded to binary16 if `dtype` is that."""
    if accumulate is Accumulate.FP16:
        sums = fp16.add16(sums[..., 0], sums[..., 1]).astype(np.float32)
    return sums if dtype is DType.F32 else fp16.half(sums)


def each_go(
    begin: type[T], later: type[T], end: type[T], n_goes: int, accumulate: Accumulate, dtype: DType
) -> list[type[T]]:
    """Which operator makes each go; the last one is an `end` where the gradient is not the sums themselves."""
    kinds = [begin, *[later] * (n_goes - 1)]
    if (accumulate, dtype) != (Accumulate.FP32, DType.F32):
        kinds[-1] = end
    return kinds


def cut_evenly(axis: int, size: int, n_parts: int) -> list[Slice]:
    """About `n_parts` parts of an axis, of one size but for the last."""
    step = -(-size // n_parts)
    return [Slice(axis, at, min(at + step, size)) for at in range(0, size, step)]


@dataclass(frozen=True)
class Summing(Operator):
    """An operator whose sums over pixels can be taken up where they were left."""

    @abstractmethod
    def start(self, dy: Array) -> Array:
        """The sums before the first pixel."""

    @abstractmethod
    def add_up(self, dy: Array, x: Array, sums: Array) -> Array:
        """The sums behind these pixels, from those before them."""


@dataclass(frozen=True)
class Go(Summing):
    """One go of what the other base computes at once, over `part` of dy: dy, x (, sums so far) -> sums, or what they
    come to."""

    part: Slice = NOTHING

    @abstractmethod
    def seen(self) -> Slice:
        """What the go reads of x."""

    def of_outputs(self, cut: Slice) -> Operator | None:
        """The go for slice `cut` of the sums alone, from the same operands, if there is one."""
        return None

    def left(self, sums: Array) -> Array:
        """What the go leaves."""
        return sums

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        dy, x, *before = inputs
        sums = before[0] if before else self.start(dy)
        return (self.left(self.add_up(dy[_index(self.part)], x[_index(self.seen())], sums)),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        """Of the go's own tile: the kernel sums over all that it gets."""
        assert (self.part.first, self.part.last) == (0, inputs[0].shape[self.part.axis]), self
        return super().kernel(inputs, outputs)

    def macs(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return super().macs(inputs, outputs) * len(self.part) // inputs[0].shape[self.part.axis]

    def split(self, first: int, count: int) -> Operator | None:
        return None

    def goes(self, inputs: Sequence[TensorType], n_goes: int) -> Sequence[Operator]:
        return ()

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """All of the sums, or some outputs of them, from its own part of dy and of x."""
        near = replace(self, part=Slice(self.part.axis, 0, len(self.part)))
        op = near.of_outputs(cut) if cut else near
        return Tile(op, (self.part, self.seen(), *(cut for _ in inputs[2:])), (cut,)) if op else None


def _index(cut: Slice) -> tuple[slice, ...]:
    return (*(slice(None),) * cut.axis, slice(cut.first, cut.last))
