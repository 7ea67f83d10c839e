"""The numerics: every rounding that happens on a device happens here first, with the same bits.

Storage is IEEE 754 binary16, round to nearest even, subnormals kept. A NaN stays a NaN, but its sign and
payload mean nothing until `canonical` has replaced them: processors differ in what they produce.
`firmware/include/odl_half.h` and `odl_math.h` are the same functions in C, in the same order of operations.

NumPy's `+ - * / sqrt` on float16 and float32 and its conversions round as IEEE says (float16 through
float32, which for these five is innocuous: 24 >= 2 * 11 + 2 bits, S. A. Figueroa, SIGNUM 1995). Its
reductions and its exp, log, tanh change with the processor, so none of them is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from itertools import product
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from odl.types import Array

F16 = npt.NDArray[np.float16]
F32 = npt.NDArray[np.float32]
Operand = Array | np.generic
Real = TypeVar("Real", bound=np.floating[Any])


class Accumulate(Enum):
    """What holds a sum of products: one binary32 number, or two binary16 lanes."""

    FP32 = "fp32"
    FP16 = "fp16"


def canonical(a: npt.ArrayLike) -> Array:
    """A float16 or float32 array with every NaN replaced by 0x7e00 or 0x7fc00000."""
    values = np.asarray(a)
    if values.dtype not in (np.float16, np.float32):
        raise TypeError(f"{values.dtype} has no canonical NaN")
    found = is_nan(values)
    return np.where(found, values.dtype.type(np.nan), values) if found.any() else values.copy()


def is_nan(a: Array) -> npt.NDArray[np.bool_]:
    """Which elements of a float16 or float32 array are NaN.

    Like the next two it looks at bit patterns, as C does: NumPy takes the elements of a float16 array one by one.
    """
    if a.dtype != np.float16:
        return np.isnan(a)
    return (a.view(np.uint16) & np.uint16(0x7FFF)) > np.uint16(0x7C00)


def is_positive(a: F16) -> npt.NDArray[np.bool_]:
    """a > 0, which no NaN is; `odl_is_positive` in C."""
    return (a.view(np.uint16) - np.uint16(1)) < np.uint16(0x7C00)  # 0 - 1 is the largest of all


def kept(a: F16, where: npt.NDArray[np.bool_]) -> F16:
    """a where the condition holds, else +0; both of one shape."""
    return (a.view(np.uint16) * where).view(np.float16)


def bits(a: npt.ArrayLike) -> npt.NDArray[np.integer[Any]]:
    """What is compared and dumped: `canonical(a)` as uint16 or uint32; integers as they are."""
    values = np.asarray(a)
    if np.issubdtype(values.dtype, np.integer):
        return values
    return canonical(values).view(f"u{values.dtype.itemsize}")


@np.errstate(all="ignore")
def half(a: npt.ArrayLike) -> F16:
    """Bools, integers or floats of up to 64 bits, rounded once to binary16; NaNs are canonical."""
    values = np.asarray(a)
    if values.dtype.kind not in "biuf" or values.dtype.itemsize > 8:
        raise TypeError(f"{values.dtype} is not rounded to binary16")
    if values.dtype.kind != "f":
        values = values.astype(np.float64)  # exact below 2^53, far beyond where binary16 overflows
    rounded = values.astype(np.float16)
    found = is_nan(rounded)
    return np.where(found, np.float16(np.nan), rounded) if found.any() else rounded


# -- One operation, one rounding. Operands broadcast. ----------------------------------------------------------


def _once(dtype: type[Real], operation: np.ufunc, *operands: Operand) -> npt.NDArray[Real]:
    """An operation rounded to `dtype`; an operand wider than that is a TypeError, not a second rounding."""
    with np.errstate(all="ignore"):
        return np.asarray(operation(*operands, dtype=dtype, casting="safe"))


def _exact(dtype: type[Real], a: Operand) -> npt.NDArray[Real]:
    return _once(dtype, np.positive, a)


def _once16(operation: np.ufunc, *operands: Operand) -> F16:
    """Of binary16 operands, in binary32 and rounded again, as NumPy does it for one element after the other."""
    wide = [_exact(np.float16, operand).astype(np.float32) for operand in operands]
    with np.errstate(all="ignore"):
        return np.asarray(operation(*wide), np.float32).astype(np.float16)


def add16(a: Operand, b: Operand) -> F16:
    """rn16(a + b)"""
    return _once16(np.add, a, b)


def sub16(a: Operand, b: Operand) -> F16:
    """rn16(a - b)"""
    return _once16(np.subtract, a, b)


def mul16(a: Operand, b: Operand) -> F16:
    """rn16(a * b)"""
    return _once16(np.multiply, a, b)


def div16(a: Operand, b: Operand) -> F16:
    """rn16(a / b)"""
    return _once16(np.divide, a, b)


def sqrt16(a: Operand) -> F16:
    """rn16(sqrt(a))"""
    return _once16(np.sqrt, a)


def add32(a: Operand, b: Operand) -> F32:
    """rn32(a + b)"""
    return _once(np.float32, np.add, a, b)


def sub32(a: Operand, b: Operand) -> F32:
    """rn32(a - b)"""
    return _once(np.float32, np.subtract, a, b)


def mul32(a: Operand, b: Operand) -> F32:
    """rn32(a * b)"""
    return _once(np.float32, np.multiply, a, b)


def div32(a: Operand, b: Operand) -> F32:
    """rn32(a / b)"""
    return _once(np.float32, np.divide, a, b)


@np.errstate(all="ignore")
def fma16(a: Operand, b: Operand, c: Operand) -> F16:
    """rn16(a * b + c), rounded once.

    a * b has 22 bits and is exact in float64. The float64 sum can be inexact only where |a * b| overflows
    binary16 whatever c is, or where |a * b| < 2^-29 |c|: there c is the result, and no rounding boundary is
    near. So rounding the sum again, to binary16, does no harm.
    """
    x, y, z = (_exact(np.float16, operand).astype(np.float64) for operand in (a, b, c))
    return half(x * y + z)


# -- Sums of products ------------------------------------------------------------------------------------------

# Of 4-byte numbers: the sums that are held while products are added to them, how many of them lie along the last axis,
# and the products that are made at once. Smaller, NumPy's loops end too soon; larger, they leave the cache.
_BLOCK, _RUN, _CHUNK = 1 << 16, 1 << 12, 1 << 17


@np.errstate(all="ignore")
def sum_of_products(x: Array, y: Array, init: Array | None, accumulate: Accumulate) -> F32:
    """The sum over axis 0 of `x * y`: convolution, matmul and their gradients all are this.

    `x` and `y`: binary16 values (as float16, or widened to float32) of one rank; axis 0 is the reduction, of
    length K in both, and the other axes broadcast against each other to the result's shape, as in
    (K, M, 1) and (K, 1, N). `init`: the first value of the sum, broadcastable to the result; None is +0.
    Terms are taken in pairs, in order; for odd K a pair is completed by +0 * +0.

    fp32: `acc = rn32(acc + rn32(x[k+1] * y[k+1] + x[k] * y[k]))`; the products are exact in binary32.
    fp16: two lanes, `acc[l] = fma16(x[2k+l], y[2k+l], acc[l])`; lane 0 starts at rn16(init), lane 1 at +0;
    the result is rn16(acc[0] + acc[1]).

    The result is float32, not yet rounded to binary16 in the fp32 case. The last axis is the inner loop: it
    is fastest when that is the longest one.
    """
    sums = np.zeros(np.broadcast_shapes(x.shape[1:], y.shape[1:]), np.float32)
    if init is not None:
        np.copyto(sums, init, casting="safe")
    if accumulate is Accumulate.FP32:
        _reduce(x, y, sums[None], _reduce32)
        return sums
    lanes = np.stack([sums.astype(np.float16), np.zeros(sums.shape, np.float16)])
    _reduce(x, y, lanes, _reduce16)
    return add16(lanes[0], lanes[1]).astype(np.float32)


def _reduce(x: Array, y: Array, sums: Array, reduce: Callable[[Array, Array, Array], None]) -> None:
    """Add products to sums (..., *shape), block by block."""
    if len(x) != len(y) or x.ndim != y.ndim:
        raise ValueError(f"cannot reduce {x.shape} against {y.shape}")
    pairs = (_pairs(operand, np.float32 if sums.dtype == np.float32 else np.float64) for operand in (x, y))
    xs, ys = (np.broadcast_to(p, (*p.shape[:2], *sums.shape[1:])) for p in pairs)
    with _unbuffered():
        for block in _blocks(sums.shape[1:]):
            reduce(xs[:, :, *block], ys[:, :, *block], sums[:, *block])


@contextmanager
def _unbuffered() -> Iterator[None]:
    """Operands that repeat along an axis as they are: rows of less than NumPy's buffer, 8192 elements, would be copied
    into that one by one, which takes three times as long as to multiply them."""
    usual = np.setbufsize(16)
    try:
        yield
    finally:
        np.setbufsize(usual)


def continue_sums(x: Array, y: Array, state: Array, accumulate: Accumulate) -> Array:
    """Sums of products taken up where they were left: `sum_of_products` over an even K, from a state to a state.

    `x` (K, ...) and `y` (K, ...) broadcast to (K, S). `state`: fp32: the sums (S) so far, float32; fp16: the two lanes
    of each, (S, 2) float16. From all zeros, over all of K, it is `sum_of_products`, but for the last addition of fp16.
    """
    if accumulate is Accumulate.FP32:
        return sum_of_products(x, y, state, accumulate)
    lanes = np.moveaxis(state, -1, 0).copy()
    with np.errstate(all="ignore"):
        _reduce(x, y, lanes, _reduce16)
    return np.ascontiguousarray(np.moveaxis(lanes, 0, -1))


def sum_with_ones(x: Array, accumulate: Accumulate, init: Array | None = None) -> F32:
    """The sum over axis 0 of `x`, in the order and with the roundings of `sum_of_products(x, 1, ...)`."""
    ones = np.ones((len(x), *(1 for _ in x.shape[1:])), np.float16)
    return sum_of_products(x, ones, init, accumulate)


def _pairs(a: Array, dtype: type[np.floating[Any]]) -> Array:
    """(K, ...) widened, completed to an even K with +0, as (K / 2, 2, ...)."""
    if a.dtype == dtype and len(a) % 2 == 0:
        return a.reshape(len(a) // 2, 2, *a.shape[1:])
    even = np.zeros((len(a) + len(a) % 2, *a.shape[1:]), dtype)
    np.copyto(even[: len(a)], a, casting="safe")
    return even.reshape(len(even) // 2, 2, *a.shape[1:])


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[Any, ...]]:
    """Cuts a shape into blocks of at most `_BLOCK` elements, of nearly the same size, whole along the last axes."""
    left, cuts = _BLOCK, list[list[slice]]()
    for axis, n in reversed(list(enumerate(shape))):
        room = _RUN if axis == len(shape) - 1 else left
        n_cuts = -(-n // max(1, room))
        step = -(-n // max(1, n_cuts))
        cuts.insert(0, [slice(start, start + step) for start in range(0, n, max(1, step))])
        left //= max(1, step)
    yield from product(*cuts) if shape else [(...,)]


def _products(x: Array, y: Array) -> Iterator[Array]:
    """x * y of (K / 2, 2, ...), as many pairs at a time as make a chunk, each time in the same buffer."""
    n_pairs = max(1, 4 * _CHUNK // max(1, x[:1].size * x.itemsize))
    buffer = np.empty((min(n_pairs, len(x)), *x.shape[1:]), x.dtype)
    for start in range(0, len(x), n_pairs):
        part = x[start : start + n_pairs]
        yield np.multiply(part, y[start : start + n_pairs], out=buffer[: len(part)])


def _reduce32(x: Array, y: Array, sums: F32) -> None:
    acc = sums[0, ...]
    for products in _products(x, y):
        for pair in np.add(products[:, 1], products[:, 0], out=products[:, 0]):
            np.add(acc, pair, out=acc)


def _reduce16(x: Array, y: Array, lanes: F16) -> None:
    """As `fma16` does: in float64, rounded to binary16 after each sum."""
    wide = lanes.astype(np.float64)
    for products in _products(x, y):
        for pair in products:
            np.add(wide, pair, out=wide)
            lanes[...] = wide
            wide[...] = lanes


# -- Functions of binary32, out of + - * / sqrt and bit patterns -------------------------------------------------
# Over all 5 * 65,536 binary16 inputs, 12 results rounded to binary16 are not the correctly rounded number, and
# those are within 0.5002 ulp of the true value.

_ONE = np.float32(1)
_TWO = np.float32(2)
_INF = np.float32(np.inf)
_LOG2_E = np.float32(1.44269504)
_LN2_HIGH = np.float32(355 / 512)
_LN2_LOW = np.float32(-2.12194440e-4)
_SHIFTER = np.float32(3 << 22)  # added to a small number it rounds it to an integer, in the low bits
_EXP = [_ONE / np.float32(n) for n in (5040, 720, 120, 24, 6, 2)]
_TINY = np.float32(2**-126)  # the least normal number
_TWO_23 = np.float32(2**23)
_BITS_ONE = np.uint32(0x3F800000)
_BITS_SQRT_HALF = np.uint32(0x3F3504F3)
_ATANH = [_TWO / np.float32(n) for n in (9, 7, 5, 3)]


def _polynomial(x: F32, coefficients: list[np.float32]) -> F32:
    """Horner's rule; the coefficient of the highest power comes first."""
    total = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + coefficient
    return total


def _exp_parts(a: Operand) -> tuple[F32, F32, F32]:
    """(tail, s, t) with exp(a) = (1 + tail) * s * t; s and t are powers of two.

    Argument reduction of W. J. Cody and W. Waite, Software Manual for the Elementary Functions (1980),
    chapter 6: a = k ln 2 + r, |r| <= ln 2 / 2, with ln 2 in two parts of which k times the first is exact.
    Then tail = exp(r) - 1 = r + r^2 (1/2! + r/3! + ... + r^5/7!); cut off there, it lacks r^8 / 8! < 2^-27.4.
    Clamping to [-104, 89] keeps k small, and the results 0 and infinity. 2^k is two factors because
    k reaches from -150 to 128, and results below 2^-126 are rounded once, by the last product.
    """
    x = _exact(np.float32, a)
    x = np.where(x > 89, np.float32(89), x)
    x = np.where(x < -104, np.float32(-104), x)
    shifted = x * _LOG2_E + _SHIFTER
    k = shifted - _SHIFTER
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    tail = _polynomial(r, _EXP) * (r * r) + r
    exponent = shifted.view(np.uint32) - (_SHIFTER.view(np.uint32) - np.uint32(254))  # k + 2 * bias
    s = exponent >> np.uint32(1)
    t = exponent - s
    return tail, (s << np.uint32(23)).view(np.float32), (t << np.uint32(23)).view(np.float32)


@np.errstate(all="ignore")
def exp32(a: Operand) -> F32:
    """exp(a), float32 in and out, within 1 ulp. Method: see `_exp_parts`."""
    tail, s, t = _exp_parts(a)
    return (_ONE + tail) * s * t


@np.errstate(all="ignore")
def log32(a: Operand) -> F32:
    """log(a), float32 in and out, within 2 ulp; -inf at zeros, NaN below.

    a = m 2^e, sqrt(1/2) <= m < sqrt(2); log m = 2 atanh(s) = 2s + s (2/3 s^2 + ... + 2/9 s^8) with
    s = (m - 1) / (m + 1), |s| < 0.1716 (Cody and Waite, chapter 5, with the Taylor coefficients): cut off
    there, it lacks less than 2^-28.9 of the result. ln 2 is in two parts, as in `exp32`.
    """
    x = _exact(np.float32, a)
    tiny = x < _TINY
    biased = np.where(tiny, x * _TWO_23, x).view(np.uint32) + (_BITS_ONE - _BITS_SQRT_HALF)
    e = (biased >> np.uint32(23)).astype(np.float32) - np.where(tiny, np.float32(127 + 23), np.float32(127))
    m = ((biased & np.uint32(0x7FFFFF)) + _BITS_SQRT_HALF).view(np.float32)
    s = (m - _ONE) / (m + _ONE)
    tail = _polynomial(s * s, _ATANH) * (s * s) * s
    positive = ((tail + e * _LN2_LOW) + _TWO * s) + e * _LN2_HIGH
    return np.select([x == 0, x == _INF, x > 0], [-_INF, _INF, positive], np.float32(np.nan))


@np.errstate(all="ignore")
def tanh32(a: Operand) -> F32:
    """tanh(a), float32 in and out, within 3 ulp also near 0: -q / (q + 2) with q = exp(-2 |a|) - 1."""
    x = _exact(np.float32, a)
    tail, s, t = _exp_parts(-_TWO * np.abs(x))
    scale = s * t
    q = scale * tail + (scale - _ONE)
    return np.copysign(q / (q + _TWO), x)


@np.errstate(all="ignore")
def sigmoid32(a: Operand) -> F32:
    """1 / (1 + exp(-a)), float32 in and out, within 3 ulp; 0 where exp(-a) overflows, below a = -88.73."""
    return _ONE / (_ONE + exp32(-_exact(np.float32, a)))


_COSINE = [
    np.float32(c) for c in (4.7108749e-7, -2.5202043e-5, 9.1926026e-4, -2.0863481e-2, 0.25366951, -1.2337006, 1.0)
]  # of cos(pi / 2 * x) in x^2: Taylor's, which lack less than 6.4e-9 at x = 1


def half_cosine32(a: Operand) -> F32:
    """(1 + cos(pi a)) / 2 for a in [0, 1], float32 in and out, within 2e-7: the square of cos(pi / 2 * a)."""
    x = _exact(np.float32, a)
    root = _polynomial(mul32(x, x), _COSINE)
    return mul32(root, root)


def rsqrt32(a: Operand) -> F32:
    """1 / sqrt(a), float32 in and out, both operations rounded: within 1.5 ulp; infinite at zeros."""
    return div32(_ONE, _once(np.float32, np.sqrt, a))
