"""How a weight takes steps that are smaller than its last place.

A binary16 weight has 11 bits: a step below half of its last place is lost when the sum is rounded. Four ways to hold a
weight, each with a memory of its own beside it or none; all take the same `way`, the binary32 number to subtract.
`firmware/include/odl_update.h` is the same in C.
"""

from __future__ import annotations

from enum import Enum

import numpy as np
import numpy.typing as npt

from odl import fp16
from odl.types import Array, DType

REST_SCALE = np.float32(2**11)  # of Kahan's rest, which would else sink into binary16's subnormals
_KEPT_BITS = np.uint32(0xFFFFE000)  # of a binary32 pattern, those that binary16 has room for
_SIGN = np.uint32(0x80000000)
_LEAST_NORMAL = np.float32(2**-14)  # of binary16


class Master(Enum):
    """What remembers the part of a step that the binary16 weight has no room for.

    none: nothing does, w' = round16(w - way).
    fp32: a binary32 copy c; c' = rn32(c - way), w' = round16(c').
    kahan: a binary16 rest r, scaled by 2^11; x = rn32(rn32(w + r * 2^-11) - way), w' = round16(x),
        r' = round16(rn32(rn32(x - w') * 2^11)). Products with 2^11 and the difference are exact. W. Kahan, Further
        remarks on reducing truncation errors, Communications of the ACM 8 (1965).
    stochastic: chance; x = rn32(w - way), rounded up or down with a probability that makes the mean x
        (`round_stochastic`). S. Gupta et al., Deep learning with limited numerical precision, ICML 2015.
    """

    NONE = "none"
    FP32 = "fp32"
    KAHAN = "kahan"
    STOCHASTIC = "stochastic"

    @property
    def memory(self) -> DType | None:
        """The type of what lies beside each weight, if anything does."""
        return {Master.FP32: DType.F32, Master.KAHAN: DType.F16}.get(self)

    def begin(self, w: Array) -> Array:
        """The memory of weights `w` before the first step."""
        assert self.memory
        return w.astype(np.float32) if self is Master.FP32 else np.zeros_like(w)

    @np.errstate(all="ignore")
    def step(self, w: Array, memory: Array | None, way: Array, chance: npt.NDArray[np.uint32]) -> tuple[Array, Array]:
        """(w', memory') of binary16 weights `w` after `way`; without a memory the second is w' too.

        `chance`: 13 random bits a weight, for stochastic rounding.
        """
        if self is Master.FP32:
            assert memory is not None
            kept = fp16.sub32(memory, way)
            return fp16.half(kept), kept
        if self is Master.KAHAN:
            assert memory is not None
            value = fp16.add32(w, fp16.mul32(memory, 1 / REST_SCALE))
            exact = fp16.sub32(value, way)
            new = fp16.half(exact)
            return new, fp16.half(fp16.mul32(fp16.sub32(exact, new), REST_SCALE))
        exact = fp16.sub32(w, way)
        new = round_stochastic(exact, chance) if self is Master.STOCHASTIC else fp16.half(exact)
        return new, new


@np.errstate(all="ignore")
def round_stochastic(x: Array, chance: npt.NDArray[np.uint32]) -> fp16.F16:
    """binary32 -> binary16: away from zero with probability `distance to the nearer zero's side / last place`.

    `chance` (0 .. 8191) is added below the last place of |x| and what is then below is cut off: the upper neighbour is
    taken by as many of the 8192 as x is 8192ths of a place above the lower one. Below 2^-14, where places are 2^-24,
    the same after 2^-14 has been added (rounded to 2^-37) and before it is taken away. NaN and infinity stay.
    """
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    size = (bits & ~_SIGN).view(np.float32)
    is_small = size < _LEAST_NORMAL
    raised = np.where(is_small, size + _LEAST_NORMAL, size).view(np.uint32)
    cut = ((raised + chance) & _KEPT_BITS).view(np.float32)
    rounded = np.where(is_small, cut - _LEAST_NORMAL, cut)
    signed = (rounded.view(np.uint32) | (bits & _SIGN)).view(np.float32)
    return fp16.half(np.where(np.isfinite(x), signed, x))


def random_bits(counter: npt.ArrayLike, key: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    """32 random bits for each counter, a function of counter and key alone: uint32, all arithmetic modulo 2^32.

    A Weyl sequence under a mixing function, as in G. Steele, D. Lea and C. Flood, Fast splittable pseudorandom number
    generators, OOPSLA 2014; the mixer is the finalizer of A. Appleby's MurmurHash3.
    """
    with np.errstate(over="ignore"):
        x = np.asarray(counter, np.uint32) * np.uint32(0x9E3779B9) + np.asarray(key, np.uint32)
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        return np.asarray(x ^ (x >> np.uint32(16)), np.uint32)


def salt(stream: int, number: int, seed: int) -> int:
    """The part of a key that a program is compiled with: 31 bits, which C takes for an int, of a number in a stream."""
    return int(random_bits(number, random_bits(stream, seed & 0xFFFFFFFF))) & 0x7FFFFFFF


def chances(first: int, n_elems: int, key: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    """13 random bits for each of the elements `first`, `first + 1`, ...: two neighbours, an even one and the next,
    share a draw: the even one has its lowest bits, the other those from bit 16 on."""
    elements = np.arange(first, first + n_elems, dtype=np.uint32)
    drawn = random_bits(elements >> np.uint32(1), key)
    return (drawn >> ((elements & np.uint32(1)) << np.uint32(4))) & np.uint32(0x1FFF)
