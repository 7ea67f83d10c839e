"""One bit an element in place of the element: what the gradient of an activation reads of its output.

Passes make these operators, no ONNX node does (`odl/passes/mask_signs.py`). A mask is words of 32 bits, in storage
order: bit j of a word tells of its element 2j, bit 16 + j of element 2j + 1, so that the halves of a word belong to the
two lanes in which pairs of binary16 numbers are computed. Bits behind the last element are 0.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.graph import Kernel, Operator, Slice, Tile
from odl.types import Array, DType, Shape, TensorType

WORD = 32


def mask_type(type_: TensorType) -> TensorType:
    """The words for a tensor: its first axes as long as what follows them is whole words, then words."""
    whole = [at for at in range(len(type_.shape)) if at == 0 or prod(type_.shape[at:]) % WORD == 0]
    shape = type_.shape[: whole[-1]]
    return TensorType((*shape, -(-prod(type_.shape[len(shape) :]) // WORD)), DType.I32)


def packed(flags: Array) -> Array:
    """The mask of a tensor of booleans."""
    shape = mask_type(TensorType(flags.shape)).shape
    padded = np.zeros(prod(shape) * WORD, np.bool_)
    padded[: flags.size] = flags.ravel()
    lanes = padded.reshape(-1, WORD // 2, 2).transpose(0, 2, 1)
    return np.packbits(lanes, bitorder="little").view("<i4").astype(np.int32).reshape(shape)


def unpacked(mask: Array, shape: Shape) -> Array:
    """The booleans of a tensor of `shape`, whose mask it is."""
    bits = np.unpackbits(np.ascontiguousarray(mask, "<i4").view(np.uint8), bitorder="little")
    lanes = bits.reshape(-1, 2, WORD // 2).transpose(0, 2, 1)
    return lanes.ravel()[: prod(shape)].reshape(shape).astype(np.bool_)


class _Masked(Operator):
    """What the operators of this file share: their kernels' arguments, and cuts into whole words."""

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        n_elems = next(type_.n_elems for type_ in (*inputs, *outputs) if type_.dtype is DType.F16)
        return Kernel(self.name, {"n_elems": n_elems, **asdict(self)})


class _MakesMask(_Masked):
    """y, any shape, binary16 -> mask, `mask_type` of it."""

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (mask_type(inputs[0]),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        return (packed(self.flags(inputs[0])),)

    @abstractmethod
    def flags(self, y: Array) -> Array:
        """The booleans that become bits."""

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Rows of the mask from the same rows of y; words of y's last axis from 32 neighbours each."""
        if cut is None:
            return Tile(self, (None,), (None,))
        (y,), words = inputs, mask_type(inputs[0])
        if cut.axis < len(words.shape) - 1:
            return Tile(self, (cut,), (cut,))
        if len(words.shape) < len(y.shape):
            return None
        last = min(cut.last * WORD, y.shape[cut.axis])
        return Tile(self, (Slice(cut.axis, cut.first * WORD, last),), (cut,))


@dataclass(frozen=True)
class PositiveMask(_MakesMask):
    """1 where y > 0, so 0 for -0, +0 and NaN. Exact."""

    name: ClassVar[str] = "positive_mask"

    def flags(self, y: Array) -> Array:
        positive: Array = y > 0
        return positive


@dataclass(frozen=True)
class BetweenMask(_MakesMask):
    """1 where low < y < high, two binary32 numbers rounded to binary16; so 0 on them, and for NaN. Exact."""

    name: ClassVar[str] = "between_mask"
    low: float
    high: float

    def flags(self, y: Array) -> Array:
        low, high = fp16.half(np.array([self.low, self.high], np.float32))
        between: Array = (y > low) & (y < high)
        return between


class _ReadsMask(_Masked):
    """mask, dy -> dx as dy: where a bit is 1 dy, else what `otherwise` says."""

    in_place: ClassVar[tuple[tuple[int, int], ...]] = ((0, 1),)

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        mask, dy = inputs
        assert mask == mask_type(dy), f"{mask} is no mask of {dy}"
        return (dy,)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        mask, dy = inputs
        return (np.where(unpacked(mask, dy.shape), dy, self.otherwise(dy)),)

    @abstractmethod
    def otherwise(self, dy: Array) -> Array | np.float16:
        """dx where the bit is 0."""

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Rows from rows of whole words; along the last axis, whole words of it."""
        if cut is None:
            return Tile(self, (None, None), (None,))
        mask, dy = inputs
        if cut.axis < len(mask.shape) - 1:
            return Tile(self, (cut, cut), (cut,))
        is_last = cut.axis == len(mask.shape) - 1 == len(dy.shape) - 1
        if not is_last or cut.first % WORD or (cut.last % WORD and cut.last != dy.shape[-1]):
            return None
        words = Slice(cut.axis, cut.first // WORD, -(-cut.last // WORD))
        return Tile(self, (words, cut), (cut,))


@dataclass(frozen=True)
class MaskedGradient(_ReadsMask):
    """dx = dy where its bit of the mask is 1, else +0: the gradient of Relu and Clip. Exact."""

    name: ClassVar[str] = "masked_gradient"

    def otherwise(self, dy: Array) -> Array | np.float16:
        return np.float16(0)


@dataclass(frozen=True)
class MaskedSlope(_ReadsMask):
    """dx = dy where its bit of the mask is 1, else round16(dy * alpha), alpha a binary32 number rounded to binary16.

    The gradient of LeakyRelu.
    """

    name: ClassVar[str] = "masked_slope"
    alpha: float

    def otherwise(self, dy: Array) -> Array | np.float16:
        return fp16.mul16(dy, np.float16(np.float32(self.alpha)))
