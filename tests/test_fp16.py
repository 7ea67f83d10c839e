"""The numerics against exact fractions, and against the C header in bits."""

from __future__ import annotations

from math import inf

import numpy as np
import oracle
import pytest
from host_c import Function, HostLibrary, compilers
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from oracle import HALF

from odl import fp16
from odl.fp16 import Accumulate, bits, half
from odl.types import Array

pytestmark = pytest.mark.filterwarnings("error")

ALL_HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
POSITIVE_CORNERS = (
    *(0x0000, 0x0001, 0x0002, 0x03FF, 0x0400, 0x0401, 0x07FF, 0x1400, 0x2BFF, 0x3BFF, 0x3C00, 0x3C01, 0x3C02),
    *(0x3FFF, 0x4200, 0x4C00, 0x5BFF, 0x6801, 0x77FF, 0x7800, 0x7BFE, 0x7BFF, 0x7C00, 0x7E00),
)
CORNERS = np.array([sign | c for c in POSITIVE_CORNERS for sign in (0, 0x8000)], np.uint16).view(np.float16)


def random_halves(n: int, seed: int) -> Array:
    """Half of them any bit pattern, half of them around 1, where sums and products stay finite."""
    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 1 << 16, n // 2, dtype=np.uint16).view(np.float16)
    return rng.permutation(np.concatenate([patterns, rng.standard_normal(n - n // 2).astype(np.float16)]))


def triples() -> list[Array]:
    """All triples of corners, and a million random ones."""
    corners = np.meshgrid(CORNERS, CORNERS, CORNERS)
    return [np.append(grid.ravel(), random_halves(10**6, seed)) for seed, grid in enumerate(corners)]


def assert_same_bits(got: Array, want: Array) -> None:
    assert got.dtype == want.dtype
    assert_array_equal(bits(got), bits(want))


halves = st.one_of(st.sampled_from(CORNERS.tolist()), st.integers(0, 0xFFFF).map(lambda i: float(ALL_HALVES[i])))


# -- Rounding to binary16 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sign", [1, -1])
def test_half_rounds_to_nearest_even_at_every_midpoint(dtype: type, sign: int) -> None:
    below = np.arange(0x7C00, dtype=np.uint16)
    lower = below.view(np.float16).astype(dtype)
    upper = np.append(lower[1:], dtype(65536))
    midpoint = (lower + upper) / 2
    negative = np.uint16(0x8000 if sign < 0 else 0)
    assert_array_equal(bits(half(sign * midpoint)), below + (below & 1) | negative)
    assert_array_equal(bits(half(sign * np.nextafter(midpoint, dtype(0)))), below | negative)
    assert_array_equal(bits(half(sign * np.nextafter(midpoint, dtype(inf)))), below + 1 | negative)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.floats(-70000, 70000) | st.floats(-1e-4, 1e-4))
def test_half_of_float64_is_the_oracle(value: float) -> None:
    want = oracle.rounded(oracle.Fraction(value), HALF) if value else value
    assert bits(half(value)) == bits(np.float16(want))


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint8, np.int32, np.int64, np.uint64, np.float16])
def test_half_of_other_types_rounds_once(dtype: type[np.generic]) -> None:
    candidates = [0, 1, -1, 127, 2049, 2051, -2050, 65519, 65520, 2**24 + 1, 2**53 + 1, 2**63 - 1, 2**64 - 1]
    info = (0, 1) if dtype is np.bool_ else (-2048, 2048)
    if np.issubdtype(dtype, np.integer):
        info = (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    values = [v for v in candidates if info[0] <= v <= info[1]]
    want = [oracle.rounded(oracle.Fraction(v), HALF) for v in values]
    assert_array_equal(half(np.array(values, dtype)), want)


def test_half_refuses_what_it_would_round_twice() -> None:
    for dtype in (np.longdouble, np.complex64, np.str_):
        with pytest.raises(TypeError):
            half(np.zeros(2, dtype))


def test_nans_are_canonical() -> None:
    nans16 = np.array([0x7C01, 0x7E00, 0x7FFF, 0xFC01, 0xFE00, 0xFFFF], np.uint16).view(np.float16)
    nans32 = np.array([0x7F800001, 0xFFFFFFFF, 0xFFC00000], np.uint32).view(np.float32)
    for got in (half(nans16), half(nans32), fp16.canonical(nans16)):
        assert_array_equal(got.view(np.uint16), np.full(got.shape, 0x7E00))
    assert_array_equal(bits(nans16), np.full(6, 0x7E00, np.uint16))
    assert_array_equal(bits(nans32), np.full(3, 0x7FC00000, np.uint32))


def test_bits_keep_everything_but_nans() -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16)
    numbers = patterns[patterns & 0x7FFF <= 0x7C00]
    assert_array_equal(bits(numbers.view(np.float16)), numbers)
    assert bits(patterns) is patterns
    with pytest.raises(TypeError):
        bits(np.zeros(1))


# -- One operation, one rounding -------------------------------------------------------------------------------

ORACLES = {"add16": oracle.add, "mul16": oracle.multiply, "div16": oracle.divide}


@pytest.mark.parametrize("name", ORACLES)
@settings(max_examples=1000)
@given(a=halves, b=halves)
def test_operations_are_the_oracle(name: str, a: float, b: float) -> None:
    if name == "div16" and b == 0:
        return
    got = getattr(fp16, name)(np.float16(a), np.float16(b))
    assert bits(got) == bits(np.float16(ORACLES[name](a, b, HALF)))


@pytest.mark.parametrize("operation", [np.add, np.subtract, np.multiply, np.divide])
def test_operations_are_those_of_float64_rounded_once(operation: np.ufunc) -> None:
    a, b, _ = triples()
    with np.errstate(all="ignore"):
        want = half(operation(a.astype(np.float64), b.astype(np.float64)))
    name = {"add": "add16", "subtract": "sub16", "multiply": "mul16", "divide": "div16"}[operation.__name__]
    assert_same_bits(getattr(fp16, name)(a, b), want)


def test_sqrt16_is_that_of_float64_rounded_once() -> None:
    with np.errstate(all="ignore"):
        want = half(np.sqrt(ALL_HALVES.astype(np.float64)))
    assert_same_bits(fp16.sqrt16(ALL_HALVES), want)


def test_operations_refuse_wider_operands() -> None:
    x = np.ones(3, np.float16)
    for wide in (np.float32, np.float64, np.int32):
        for call in (fp16.add16, fp16.sub16, fp16.mul16, fp16.div16):
            with pytest.raises(TypeError):
                call(x, x.astype(wide))
        with pytest.raises(TypeError):
            fp16.fma16(x, x.astype(wide), x)
    with pytest.raises(TypeError):
        fp16.add32(x, x.astype(np.float64))


def test_fma16_rounds_once_where_twice_is_wrong() -> None:
    through_binary32 = [(0x36FE, 0x2702, 0x39AD, 0x39C5), (0xC680, 0x6C34, 0x8B08, 0xF6D5)]
    product_first = [(0x6920, 0x0E73, 0xBC8F, 0xAED5), (0x7BFF, 0x4000, 0xFBFF, 0x7BFF)]
    inexact_in_binary64 = [(0x0001, 0x0001, 0x7BFF, 0x7BFF), (0x0001, 0x8001, 0x0400, 0x0400)]
    traps = np.array(through_binary32 + product_first + inexact_in_binary64, np.uint16).view(np.float16)
    a, b, c, want = traps.T
    assert_same_bits(fp16.fma16(a, b, c), want)
    twice32 = half(fp16.add32(fp16.mul32(a, b), c))
    twice16 = fp16.add16(fp16.mul16(a, b), c)
    assert_array_equal(bits(twice32) != bits(want), [True, True, False, False, False, False])
    assert (bits(twice16) != bits(want))[2:4].all()


@settings(max_examples=3000)
@given(a=halves, b=halves, c=halves)
def test_fma16_is_the_oracle(a: float, b: float, c: float) -> None:
    got = fp16.fma16(np.float16(a), np.float16(b), np.float16(c))
    assert bits(got) == bits(np.float16(oracle.fma(a, b, c, HALF)))


# -- Sums of products ------------------------------------------------------------------------------------------

SUMS = {Accumulate.FP32: oracle.sum_fp32, Accumulate.FP16: oracle.sum_fp16}
BOTH = pytest.mark.parametrize("accumulate", Accumulate)


def plain_sum(x: Array, y: Array, init: Array, accumulate: Accumulate) -> Array:
    """The contract without blocks, chunks and buffers."""
    pad = len(x) % 2
    x, y = (np.concatenate([a, np.zeros((pad, *a.shape[1:]), np.float16)]) for a in (x, y))
    if accumulate is Accumulate.FP32:
        for k in range(0, len(x), 2):
            high, low = fp16.mul32(x[k + 1], y[k + 1]), fp16.mul32(x[k], y[k])
            init = fp16.add32(init, fp16.add32(high, low))
        return init
    lanes = [init, np.zeros_like(init)]
    for k in range(len(x)):
        lanes[k % 2] = fp16.fma16(x[k], y[k], lanes[k % 2])
    return fp16.add16(*lanes).astype(np.float32)


@BOTH
@settings(max_examples=600)
@given(init=halves, terms=st.lists(st.tuples(halves, halves), max_size=6))
def test_sum_of_products_is_the_oracle(accumulate: Accumulate, init: float, terms: list[tuple[float, float]]) -> None:
    x, y = ([pair[i] for pair in terms] for i in (0, 1))
    arrays = (np.array(values, np.float16) for values in (x, y))
    got = fp16.sum_of_products(*arrays, np.array(init, np.float16), accumulate)
    assert got.shape == ()
    assert_same_bits(got, np.array(SUMS[accumulate](x, y, init), np.float32))


@BOTH
def test_sum_of_products_rounds_in_the_order_of_the_contract(accumulate: Accumulate) -> None:
    rng = np.random.default_rng(5)
    x, y = (rng.standard_normal((9, 500)).astype(np.float16) for _ in range(2))
    got = fp16.sum_of_products(x, y, None, accumulate)
    want = [SUMS[accumulate](x[:, i].tolist(), y[:, i].tolist(), 0.0) for i in range(x.shape[1])]
    assert_same_bits(got, np.array(want, np.float32))
    backwards = fp16.sum_of_products(x[::-1], y[::-1], None, accumulate)
    assert (bits(backwards) != bits(got)).any()


@BOTH
@pytest.mark.parametrize("sizes", [(1, 1, 1), (50, 7, 1000), (1 << 16, 1 << 12, 1 << 17)])
@pytest.mark.parametrize(
    ("x_shape", "y_shape"),
    [
        ((7, 600, 1), (7, 1, 90)),
        ((3001, 5, 1), (3001, 1, 9)),
        ((4, 1, 3), (4, 2, 3)),
        ((1, 6, 2, 3, 1), (1, 1, 1, 1, 4)),
        ((5,), (5,)),
        ((0, 4), (0, 4)),
        ((2, 0, 3), (2, 1, 3)),
    ],
)
def test_sum_of_products_is_the_same_in_any_blocks(
    accumulate: Accumulate,
    sizes: tuple[int, int, int],
    x_shape: tuple[int, ...],
    y_shape: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, size in zip(("_BLOCK", "_RUN", "_CHUNK"), sizes, strict=True):
        monkeypatch.setattr(fp16, name, size)
    rng = np.random.default_rng(3)
    x, y = (rng.standard_normal(shape).astype(np.float16) for shape in (x_shape, y_shape))
    shape = np.broadcast_shapes(x_shape[1:], y_shape[1:])
    init = rng.standard_normal(shape).astype(np.float16)
    got = fp16.sum_of_products(x, y, init, accumulate)
    assert got.flags.c_contiguous
    assert_same_bits(got, np.asarray(plain_sum(x, y, init, accumulate), np.float32).reshape(shape))
    wide = fp16.sum_of_products(x.astype(np.float32), y.astype(np.float32), init, accumulate)
    assert_same_bits(wide, got)


@BOTH
def test_first_value_of_a_sum(accumulate: Accumulate) -> None:
    x, y = random_halves(80, 8).reshape(4, 20), random_halves(80, 9).reshape(4, 20)
    zero = fp16.sum_of_products(x, y, np.float32(0) * np.ones(20, np.float32), accumulate)
    assert_same_bits(fp16.sum_of_products(x, y, None, accumulate), zero)
    first = np.array([1 + 2**-12], np.float32)
    nothing = np.zeros((2, 3), np.float16)
    kept = first if accumulate is Accumulate.FP32 else half(first)
    want = np.broadcast_to(kept.astype(np.float32), 3)
    assert_same_bits(fp16.sum_of_products(nothing, nothing, first, accumulate), want)
    assert first[0] == np.float32(1 + 2**-12)


@pytest.mark.parametrize("n", range(5))
def test_a_sum_of_negative_zeros_is_positive_once_it_is_padded(n: int) -> None:
    minus = np.full(n, -0.0, np.float16)
    one, first = np.ones(n, np.float16), np.array(-0.0, np.float32)
    fp32, fp16_ = (fp16.sum_of_products(minus, one, first, mode) for mode in Accumulate)
    assert_same_bits(fp32, np.array(0.0 if n % 2 else -0.0, np.float32))
    assert_same_bits(fp16_, np.array(0.0, np.float32))


@BOTH
@pytest.mark.parametrize("n", [0, 1, 6, 7])
def test_sum_with_ones(accumulate: Accumulate, n: int) -> None:
    x = random_halves(n * 50, 1).reshape(n, 5, 10)
    init = random_halves(10, 2)
    want = fp16.sum_of_products(x, np.ones_like(x), init, accumulate)
    assert_same_bits(fp16.sum_with_ones(x, accumulate, init), want)


def test_sum_of_products_refuses() -> None:
    x = np.ones((4, 3), np.float16)
    with pytest.raises(ValueError, match="cannot reduce"):
        fp16.sum_of_products(x, x[:3], None, Accumulate.FP32)
    with pytest.raises(ValueError, match="cannot reduce"):
        fp16.sum_of_products(x, x[:, :, None], None, Accumulate.FP32)
    for operands in ((x.astype(np.float64), x, None), (x, x, x[0].astype(np.float64))):
        with pytest.raises(TypeError):
            fp16.sum_of_products(*operands, Accumulate.FP32)


# -- NumPy = C -------------------------------------------------------------------------------------------------

H = "odl_half"
PRELUDE = """#define ODL_ACCUMULATE_FP16 %d
#include "odl_half.h"
static odl_acc dots(odl_half first, odl_half x0, odl_half x1, odl_half x2, odl_half x3,
                    odl_half y0, odl_half y1, odl_half y2, odl_half y3)
{
    const odl_half x[] = {x0, x1, x2, x3};
    odl_acc acc = odl_acc_dot2(odl_acc_start(first), odl_load2(x), odl_pack2(y0, y1));
    return odl_acc_dot2(acc, odl_load2(x + 2), odl_pack2(y2, y3));
}
#define dots_float(...) odl_acc_float(dots(__VA_ARGS__))
#define dots_half(...) odl_acc_half(dots(__VA_ARGS__))
#define zero_dot(x0, x1, y0, y1) \
    odl_acc_float(odl_acc_dot2(odl_acc_zero(), odl_pack2(x0, x1), odl_pack2(y0, y1)))
"""
FUNCTIONS = {
    "odl_round": Function(H, ("float",)),
    "odl_sqrt16": Function(H, (H,)),
    "odl_add16": Function(H, (H, H)),
    "odl_sub16": Function(H, (H, H)),
    "odl_mul16": Function(H, (H, H)),
    "odl_div16": Function(H, (H, H)),
    "odl_fma16": Function(H, (H, H, H)),
    "dots_float": Function("float", (H,) * 9),
    "dots_half": Function(H, (H,) * 9),
    "zero_dot": Function("float", (H,) * 4),
}


@pytest.fixture(scope="module", params=compilers(), ids=lambda command: command[-1])
def host_cc(request: pytest.FixtureRequest) -> list[str]:
    return request.param


@pytest.fixture(scope="module", params=Accumulate)
def host(
    request: pytest.FixtureRequest, host_cc: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Accumulate, HostLibrary]:
    prelude = PRELUDE % (request.param is Accumulate.FP16)
    return request.param, HostLibrary(host_cc, prelude, FUNCTIONS, tmp_path_factory.mktemp("c"))


def test_c_operations_are_those_of_numpy(host: tuple[Accumulate, HostLibrary]) -> None:
    _, c = host
    operands = triples()
    for name in ("add16", "sub16", "mul16", "div16"):
        assert_same_bits(c.call(f"odl_{name}", *operands[:2]), getattr(fp16, name)(*operands[:2]))
    assert_same_bits(c.call("odl_fma16", *operands), fp16.fma16(*operands))
    assert_same_bits(c.call("odl_sqrt16", ALL_HALVES), fp16.sqrt16(ALL_HALVES))


def test_c_rounding_is_that_of_numpy(host: tuple[Accumulate, HostLibrary]) -> None:
    _, c = host
    rng = np.random.default_rng(7)
    patterns = rng.integers(0, 1 << 32, 10**6, dtype=np.uint32).view(np.float32)
    middles = ALL_HALVES.astype(np.float32).view(np.uint32)[:, None] + np.array([-1, 0, 1, 0xFFF, 0x1000, 0x1001])
    values = np.concatenate([patterns, middles.astype(np.uint32).ravel().view(np.float32)])
    assert_same_bits(c.call("odl_round", values), half(values))


def test_c_sums_of_products_are_those_of_numpy(host: tuple[Accumulate, HostLibrary]) -> None:
    accumulate, c = host
    columns = [random_halves(10**6, seed) for seed in range(20, 29)]
    x, y = np.stack(columns[1:5]), np.stack(columns[5:])
    want = fp16.sum_of_products(x, y, columns[0], accumulate)
    assert_same_bits(c.call("dots_float", *columns), want)
    assert_same_bits(c.call("dots_half", *columns), half(want))
    assert_same_bits(c.call("zero_dot", *x[:2], *y[:2]), fp16.sum_of_products(x[:2], y[:2], None, accumulate))
