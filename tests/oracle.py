"""IEEE 754 arithmetic on fractions: what the numerics must compute, worked out another way.

Every binary16 and binary32 number is a Python float, so values travel as those. A finite result is computed
exactly, as a Fraction, and rounded by `rounded`; zeros, infinities and NaNs follow Python's own floats, whose
products and sums of these numbers are exact where they are zero and special where the operands are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest
from math import inf, isfinite


@dataclass(frozen=True)
class Format:
    """A binary format: bits of the significand, exponents of the least and the greatest normal number."""

    precision: int
    least: int
    greatest: int


HALF = Format(11, -14, 15)
SINGLE = Format(24, -126, 127)


def rounded(exact: Fraction, to: Format) -> float:
    """The nearest number of the format, ties to even; infinite from half an ulp above the greatest on."""
    magnitude = abs(exact)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()  # or one too many
    if magnitude < Fraction(2) ** exponent:
        exponent -= 1
    quantum = Fraction(2) ** (max(exponent, to.least) - to.precision + 1)
    nearest = round(magnitude / quantum) * quantum  # round() of a Fraction takes ties to even
    result = inf if nearest >= Fraction(2) ** (to.greatest + 1) else float(nearest)
    return -result if exact < 0 else result


def add(a: float, b: float, to: Format) -> float:
    return fma(a, 1.0, b, to)


def multiply(a: float, b: float, to: Format) -> float:
    special = a * b
    return special if special == 0 or not isfinite(special) else rounded(Fraction(a) * Fraction(b), to)


def divide(a: float, b: float, to: Format) -> float:
    """For b other than 0."""
    special = a / b
    return special if special == 0 or not isfinite(special) else rounded(Fraction(a) / Fraction(b), to)


def fma(a: float, b: float, c: float, to: Format) -> float:
    special = a * b + c
    if not all(map(isfinite, (a, b, c))):
        return special
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    return rounded(exact, to) if exact else special


def sum_fp32(x: Sequence[float], y: Sequence[float], init: float) -> float:
    """The contract's binary32 accumulator."""
    acc = init
    products = [multiply(a, b, SINGLE) for a, b in zip(x, y, strict=True)]
    for first, second in zip_longest(products[0::2], products[1::2], fillvalue=0.0):
        acc = add(acc, add(first, second, SINGLE), SINGLE)
    return acc


def sum_fp16(x: Sequence[float], y: Sequence[float], init: float) -> float:
    """The contract's two binary16 lanes."""
    lanes = [init, 0.0]
    for k in range(len(x) + len(x) % 2):
        a, b = (x[k], y[k]) if k < len(x) else (0.0, 0.0)
        lanes[k % 2] = fma(a, b, lanes[k % 2], HALF)
    return add(*lanes, HALF)
