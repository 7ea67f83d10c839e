"""Each instruction of the cluster that computes, in bits, on both simulators."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pulp_programs
import pytest
from pulp_programs import BOTH, Words

from odl import fp16
from odl.targets import Target

N_OPERANDS = 3000

# --- instructions -----------------------------------------------------------------------------------------------------

Halves = npt.NDArray[np.float16]
Lane = Callable[[Halves, Halves, Halves], npt.NDArray[np.generic]]


def lanes(words: Words) -> tuple[Halves, Halves]:
    pairs = words.astype("<u4").view(np.float16)
    return pairs[0::2], pairs[1::2]


def join(lo: npt.NDArray[np.generic], hi: npt.NDArray[np.generic]) -> Words:
    low, high = (np.ascontiguousarray(half).view(np.uint16).astype(np.uint32) for half in (lo, hi))
    return low | high << 16


def each(lane: Lane, broadcast: bool = False) -> Callable[[Words, Words, Words], Words]:
    """A function of halves, in both lanes."""

    def both(d: Words, a: Words, b: Words) -> Words:
        (d0, d1), (a0, a1), (b0, b1) = lanes(d), lanes(a), lanes(b)
        with np.errstate(all="ignore"):
            results = lane(d0, a0, b0), lane(d1, a1, b0 if broadcast else b1)
        lo, hi = (np.asarray(fp16.canonical(x)) if x.dtype == np.float16 else x for x in results)
        return join(lo, hi)

    return both


def smaller(_d: Halves, a: Halves, b: Halves) -> Halves:
    """-0 is less than +0, and a number is taken, not a NaN."""
    first = (a < b) | ((a == b) & np.signbit(a)) | np.isnan(b)
    return np.where(first, a, b)


def larger(_d: Halves, a: Halves, b: Halves) -> Halves:
    first = (a > b) | ((a == b) & ~np.signbit(a)) | np.isnan(b)
    return np.where(first, a, b)


def to_integer(_d: Halves, a: Halves, _b: Halves) -> npt.NDArray[np.int16]:
    """To the nearest, ties to even, within 16 bits; NaN is the largest."""
    wide = np.where(np.isnan(a), 32767.0, np.rint(a.astype(np.float64)))
    return np.minimum(np.maximum(wide, -32768), 32767).astype(np.int16)


def floats(words: Words) -> npt.NDArray[np.float32]:
    return words.astype("<u4").view(np.float32)


def float_words(values: npt.NDArray[np.float32]) -> Words:
    return np.asarray(fp16.canonical(values)).view(np.uint32)


def dot(d: Words, a: Words, b: Words, broadcast: bool = False) -> Words:
    (a0, a1), (b0, b1) = lanes(a), lanes(b)
    b1 = b0 if broadcast else b1
    with np.errstate(all="ignore"):
        sums = fp16.add32(fp16.mul32(*wide(a1, b1)), fp16.mul32(*wide(a0, b0)))
        return float_words(fp16.add32(floats(d), sums))


def wide(*halves: Halves) -> list[npt.NDArray[np.float32]]:
    return [half.astype(np.float32) for half in halves]


def widening_mac(d: Words, a: Words, b: Words) -> Words:
    with np.errstate(all="ignore"):
        return float_words(fp16.add32(floats(d), fp16.mul32(*wide(lanes(a)[0], lanes(b)[0]))))


def round_two(_d: Words, a: Words, b: Words) -> Words:
    with np.errstate(all="ignore"):
        return join(np.asarray(fp16.half(floats(a))), np.asarray(fp16.half(floats(b))))


def shuffle(d: Words, a: Words, b: Words) -> Words:
    choices = np.stack([d & 0xFFFF, d >> 16, a & 0xFFFF, a >> 16])
    lo, hi = (choices[which & 3, np.arange(len(d))] for which in (b, b >> 16))
    return lo | hi << 16


def integer(operation: Callable[..., npt.NDArray[np.generic]], dtype: type) -> Callable[[Words, Words, Words], Words]:
    """A function of 16-bit integers, in both lanes; a truth is all ones."""

    def both(_d: Words, a: Words, b: Words) -> Words:
        (a0, a1), (b0, b1) = ([half.view(dtype) for half in lanes(x)] for x in (a, b))
        lo, hi = operation(a0, b0), operation(a1, b1)
        return join(*(-x.astype(np.int16) if x.dtype == bool else x for x in (lo, hi)))

    return both


def binary(operation: Callable[[Halves, Halves], npt.NDArray[np.generic]]) -> Lane:
    return lambda _d, a, b: operation(a, b)


def multiply_add(d: Halves, a: Halves, b: Halves) -> Halves:
    return np.asarray(fp16.fma16(a, b, d))


def multiply_subtract(d: Halves, a: Halves, b: Halves) -> Halves:
    return np.asarray(fp16.fma16(a, b, -d))


# The encoding after `.insn r`, with the operands that are not %0 (rd), %1 (rs1), %2 (rs2).
PACKED: dict[str, tuple[int, Lane]] = {
    "vfadd": (0x41, binary(fp16.add16)), "vfsub": (0x42, binary(fp16.sub16)), "vfmul": (0x43, binary(fp16.mul16)),
    "vfdiv": (0x44, binary(fp16.div16)), "vfmin": (0x45, smaller), "vfmax": (0x46, larger),
    "vfmac": (0x48, multiply_add), "vfmre": (0x49, multiply_subtract),
}  # fmt: skip
INSTRUCTIONS: dict[str, tuple[str, Callable[[Words, Words, Words], Words]]] = {
    **{f"{name}.h": (f"0x33, 2, {at:#x}, %0, %1, %2", each(lane)) for name, (at, lane) in PACKED.items()},
    **{f"{name}.r.h": (f"0x33, 6, {at:#x}, %0, %1, %2", each(lane, True)) for name, (at, lane) in PACKED.items()},
    "vfsqrt.h": ("0x33, 2, 0x47, %0, %1, x0", each(lambda _d, a, _b: fp16.sqrt16(a))),
    "vfcvt.x.h": ("0x33, 2, 0x4c, %0, %1, x2", each(to_integer)),
    "vfcvt.h.x": ("0x33, 2, 0x4c, %0, %1, x3", each(lambda _d, a, _b: np.asarray(fp16.half(a.view(np.int16))))),
    "vfcpka.h.s": ("0x33, 2, 0x58, %0, %1, %2", round_two),
    "vfdotpex.s.h": ("0x33, 0, 0x4b, %0, %1, %2", dot),
    "vfdotpex.s.r.h": ("0x33, 4, 0x4b, %0, %1, %2", lambda d, a, b: dot(d, a, b, True)),
    "fmacex.s.h": ("0x53, 7, 0x2a, %0, %1, %2", widening_mac),
    "p.mac": ("0x33, 0, 0x21, %0, %1, %2", lambda d, a, b: d + a * b),
    "pv.shuffle2.h": ("0x57, 0, 0x64, %0, %1, %2", shuffle),
    "pv.pack.h": ("0x57, 0, 0x68, %0, %1, %2", lambda _d, a, b: (a << 16) | (b & 0xFFFF)),
    "pv.add.h": ("0x57, 0, 0x00, %0, %1, %2", integer(np.add, np.uint16)),
    "pv.sub.h": ("0x57, 0, 0x04, %0, %1, %2", integer(np.subtract, np.uint16)),
    "pv.cmpgt.h": ("0x57, 0, 0x0a, %0, %1, %2", integer(np.greater, np.int16)),
    "pv.cmpgtu.h": ("0x57, 0, 0x1a, %0, %1, %2", integer(np.greater, np.uint16)),
}

# Three operands wherever a compiler may put them: apart, the same register twice, and in the registers that the
# translations of pulp_qemu use for themselves.
VARIANTS = ("", "twice", "t")

CORNERS = np.array(
    [
        0,
        0x8000,
        1,
        0x8001,
        0x3FF,
        0x400,
        0x3C00,
        0xBC00,
        0x7BFF,
        0xFBFF,
        0x7C00,
        0xFC00,
        0x7E00,
        0x7C01,
        0x77FF,
        0x7800,
    ],
    np.uint32,
)


def operands() -> Words:
    """(N_OPERANDS, 3): halves of every kind and their neighbours, so that sums cancel and round."""
    random = np.random.default_rng(1)

    def halves() -> Words:
        ordinary = random.normal(size=(N_OPERANDS, 3)).astype(np.float16).view(np.uint16).astype(np.uint32)
        any_bits = random.integers(0, 1 << 16, (N_OPERANDS, 3)).astype(np.uint32)
        kind = random.integers(0, 3, (N_OPERANDS, 3))
        return np.choose(kind, [ordinary, any_bits, random.choice(CORNERS, (N_OPERANDS, 3))])

    return halves() | halves() << 16


def c_function(number: int, text: str, variant: str) -> str:
    d, a, b = "d", "a", "a" if variant == "twice" else "b"
    place = "".join(
        f'register uint32_t {x} __asm__("t{i}") = {y};\n' for i, (x, y) in enumerate(zip("xyz", (d, a, b), strict=True))
    )
    names = "xyz" if variant == "t" else (d, a, b)
    return f"""
static uint32_t f{number}(uint32_t d, uint32_t a, uint32_t b)
{{
    (void)b;
    {place if variant == "t" else ""}
    __asm__ volatile(".insn r {text}" : "+r"({names[0]}) : "r"({names[1]}), "r"({names[2]}));
    return {names[0]};
}}
"""


@pytest.fixture(scope="module")
def every_instruction(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Target], dict[tuple[str, str], Words]]:
    """What every instruction and variant gives for `operands()`, on a target; each program runs once."""
    found: dict[str, dict[tuple[str, str], Words]] = {}
    cases = [(name, variant) for name in INSTRUCTIONS for variant in VARIANTS]

    def results(target: Target) -> dict[tuple[str, str], Words]:
        if target.name not in found:
            functions = "".join(
                c_function(i, INSTRUCTIONS[name][0], variant) for i, (name, variant) in enumerate(cases)
            )
            calls = "\n".join(f"out[{i}][n] = f{i}(in[n][0], in[n][1], in[n][2]);" for i in range(len(cases)))
            main = f"""
{functions}
static uint32_t in[{N_OPERANDS}][3];
static uint32_t out[{len(cases)}][{N_OPERANDS}];
int main(void)
{{
    read_words(&in[0][0], {N_OPERANDS * 3});
    for (uint32_t n = 0; n < {N_OPERANDS}; n++) {{
        {calls}
    }}
    write_words(&out[0][0], {len(cases) * N_OPERANDS});
}}
"""
            folder = tmp_path_factory.mktemp("instructions") / "project"
            elf = pulp_programs.build(folder, target, main, {"ODL_CORES": 1})
            words = pulp_programs.run(target, elf, operands()).reshape(len(cases), N_OPERANDS)
            found[target.name] = dict(zip(cases, words, strict=True))
        return found[target.name]

    return results


@pytest.mark.parametrize("target", BOTH)
@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_an_instruction_gives_numpys_bits(
    name: str, target: Target, every_instruction: Callable[[Target], dict[tuple[str, str], Words]]
) -> None:
    d, a, b = operands().T
    for variant in VARIANTS:
        expected = INSTRUCTIONS[name][1](d, a, a if variant == "twice" else b)
        got = every_instruction(target)[name, variant]
        wrong = np.flatnonzero(got != expected)
        assert not len(wrong), (variant, len(wrong), [f"{x[wrong[0]]:08x}" for x in (d, a, b, got, expected)])
