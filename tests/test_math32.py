"""exp, log, tanh, sigmoid and 1/sqrt: error against binary64, and the bits of the C header."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest
from host_c import Function, HostLibrary, compilers
from numpy.testing import assert_array_equal

from odl import fp16
from odl.fp16 import bits, half
from odl.types import Array

pytestmark = pytest.mark.filterwarnings("error")

ALL_HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
REFERENCE: dict[str, Callable[[Array], Array]] = {
    "exp32": np.exp,
    "log32": np.log,
    "tanh32": np.tanh,
    "sigmoid32": lambda x: 1 / (1 + np.exp(-x)),
    "rsqrt32": lambda x: 1 / np.sqrt(x),
}
MISROUNDED_HALVES = {"exp32": 2, "log32": 1, "tanh32": 2, "sigmoid32": 7, "rsqrt32": 0}
BOUND_ULP32 = {"exp32": 1.0, "log32": 2.0, "tanh32": 3.0, "sigmoid32": 3.0, "rsqrt32": 1.5}
NAMES = pytest.mark.parametrize("name", REFERENCE)


def reference(name: str, x: Array) -> Array:
    with np.errstate(all="ignore"):
        return REFERENCE[name](x.astype(np.float64))


def singles() -> Array:
    """Any bit pattern, and the ranges where the functions live: a million numbers."""
    rng = np.random.default_rng(17)
    patterns = rng.integers(0, 1 << 32, 400_000, dtype=np.uint32).view(np.float32)
    ranges = [(-105, 90), (-18, 18), (-1, 1), (0.5, 2), (86, 90), (-105, -86)]
    return np.concatenate([patterns, *(rng.uniform(*r, 100_000).astype(np.float32) for r in ranges)])


def error_in_ulp(got: Array, true: Array, precision: int, least: int) -> Array:
    exponent = np.frexp(true)[1] - 1
    return np.abs(got.astype(np.float64) - true) / np.ldexp(1.0, np.maximum(exponent, least) - precision + 1)


@NAMES
def test_all_halves_are_within_an_ulp_and_nearly_all_correctly_rounded(name: str) -> None:
    got, true = half(getattr(fp16, name)(ALL_HALVES)), reference(name, ALL_HALVES)
    finite = np.isfinite(true) & (np.abs(true) < 65520)
    assert error_in_ulp(got[finite], true[finite], 11, -14).max() <= 0.5002
    assert_array_equal(bits(got[~finite]), bits(half(true[~finite])))
    assert np.count_nonzero(bits(got) != bits(half(true))) <= MISROUNDED_HALVES[name]


@NAMES
def test_error_in_binary32(name: str) -> None:
    x = singles()
    got, true = getattr(fp16, name)(x), reference(name, x)
    with np.errstate(over="ignore"):
        finite = np.isfinite(true.astype(np.float32))
    if name == "sigmoid32":
        finite &= x > -88.7
    assert error_in_ulp(got[finite], true[finite], 24, -126).max() <= BOUND_ULP32[name]


TINY, HUGE = 2.0**-149, 2.0**127
SPECIAL = {
    "exp32": [(-inf, 0.0), (-104, 0.0), (-103.5, TINY), (-0.0, 1.0), (0.0, 1.0), (88.8, inf), (inf, inf)],
    "log32": [(-inf, nan), (-TINY, nan), (-0.0, -inf), (0.0, -inf), (1.0, 0.0), (inf, inf)],
    "tanh32": [(-inf, -1.0), (-0.0, -0.0), (0.0, 0.0), (TINY, TINY), (-TINY, -TINY), (9.5, 1.0), (inf, 1.0)],
    "sigmoid32": [(-inf, 0.0), (-89, 0.0), (-0.0, 0.5), (0.0, 0.5), (20, 1.0), (inf, 1.0)],
    "rsqrt32": [(-inf, nan), (-1, nan), (-0.0, -inf), (0.0, inf), (4.0, 0.5), (inf, 0.0)],
}


@NAMES
def test_special_values(name: str) -> None:
    x, want = np.array([*SPECIAL[name], (nan, nan)], np.float32).T
    assert_array_equal(bits(getattr(fp16, name)(x)), bits(want))


def test_log32_of_subnormals() -> None:
    x = np.array([2.0**-149, 3 * 2.0**-149, 2.0**-127, 2.0**-126 - 2.0**-149, 2.0**-126], np.float32)
    assert error_in_ulp(fp16.log32(x), reference("log32", x), 24, -126).max() <= BOUND_ULP32["log32"]


def test_tanh32_is_odd() -> None:
    x = singles()
    assert_array_equal(bits(fp16.tanh32(-x)), bits(-fp16.tanh32(x)))


@NAMES
def test_shapes_and_types(name: str) -> None:
    function = getattr(fp16, name)
    x = np.linspace(0.5, 2, 6, dtype=np.float32).reshape(2, 3)
    assert function(x).shape == (2, 3)
    assert function(x).dtype == np.float32
    assert function(x[:0]).shape == (0, 3)
    assert bits(function(x[1, 2])) == bits(function(x))[1, 2]
    assert_array_equal(bits(function(x.T)), bits(function(x)).T)
    assert_array_equal(bits(function(half(x))), bits(function(half(x).astype(np.float32))))
    with pytest.raises(TypeError):
        function(x.astype(np.float64))


@pytest.fixture(scope="module", params=compilers(), ids=lambda command: command[-1])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HostLibrary:
    functions = {f"odl_{name}": Function("float", ("float",)) for name in REFERENCE}
    folder: Path = tmp_path_factory.mktemp("c")
    return HostLibrary(request.param, '#include "odl_math.h"\n', functions, folder)


@NAMES
def test_c_functions_are_those_of_numpy(name: str, host: HostLibrary) -> None:
    x = np.concatenate([ALL_HALVES.astype(np.float32), singles()])
    assert_array_equal(bits(host.call(f"odl_{name}", x)), bits(getattr(fp16, name)(x)))
