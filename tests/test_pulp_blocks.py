"""The blocks in assembly, through the kernels that call them, as PULP's cores run them: the bits of NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pulp_programs
import pytest
from pass_operators import draw, works
from pulp_programs import BOTH, words
from team import Work, word

from odl.fp16 import Accumulate
from odl.ops.dense import Dense, DenseInputGradient, DenseWeightGradient
from odl.ops.pair_pixels import PairPixels
from odl.ops.paired_gradient import PairedGradient
from odl.targets import Target
from odl.types import Array, DType

N_OPERANDS, N_NUMBERS = 5, 14

# Each case: kernel, words of the result, which operand it overwrites (or -1), words of each operand, the numbers that
# the kernel takes; then the operands. Output: results, a canary behind each.
MAIN = """
#include "odl_kernels.h"
enum { N_WORDS = __IN__, N_OUT = __OUT__, N_CASES = __CASES__, N_OPERANDS = __OPERANDS__, N_HEAD = __HEAD__ };
static uint32_t in[N_WORDS], out[N_OUT];
const odl_half odl_zeros[64] = {0};

static void compute(uint32_t kernel, void *y, void *const p[N_OPERANDS], const uint32_t *n)
{
    const void *const s = n;
    switch (kernel) {
__CALLS__
    }
}

static void work(void *nothing)
{
    uint32_t *at = in;
    uint32_t *to = out;
    (void)nothing;
    for (uint32_t i = 0; i < N_CASES; i++) {
        void *operands[N_OPERANDS];
        uint32_t *behind = at + N_HEAD;
        for (uint32_t k = 0; k < N_OPERANDS; k++) {
            operands[k] = at[3 + k] == 0 ? NULL : behind;
            behind += at[3 + k];
        }
        ODL_EACH_CORE compute(at[0], to, operands, at + 3 + N_OPERANDS);
        odl_barrier();
        to += at[1] + 1;
        at = behind;
    }
}

/* What a kernel overwrites is there before. */
static void prepare(void)
{
    const uint32_t *at = in;
    uint32_t *to = out;
    for (uint32_t i = 0; i < N_CASES; i++) {
        const uint32_t *operand = at + N_HEAD;
        for (uint32_t k = 0; k < N_OPERANDS; k++) {
            for (uint32_t word = 0; k == at[2] && word < at[1]; word++) {
                to[word] = operand[word];
            }
            operand += at[3 + k];
        }
        to += at[1] + 1;
        at = operand;
    }
}

int main(void)
{
    read_words(in, N_WORDS);
    for (uint32_t i = 0; i < N_OUT; i++) {
        out[i] = __CANARY__u;
    }
    prepare();
    odl_team_run(work, NULL);
    write_words(out, N_OUT);
}
"""


def grid(accumulate: Accumulate) -> Iterator[Work]:
    """Every number of rows and columns about a block's 4 and a group of blocks, where some blocks are none."""
    rng = np.random.default_rng(21)
    for rows, cols in product((1, 2, 3, 4, 5, 7, 8, 9), repeat=2):
        n, dtype = 2 + 2 * int(rng.integers(0, 4)), DType.F16 if (rows + cols) % 2 else DType.F32
        dense = [draw(rng, shape, 0.01) for shape in ((rows, n), (cols, n), (cols,))]
        yield Work(Dense(accumulate), tuple(dense[: 2 + (rows + cols // 2) % 2]))
        n_rows, n_pairs = (int(k) for k in rng.integers(1, 4, 2))
        shapes = ((n_rows, n_pairs, 1, rows, 2), (n_rows, n_pairs, 1, cols, 2))
        yield Work(PairedGradient((cols,), accumulate, dtype), tuple(draw(rng, shape, 0.01) for shape in shapes))
        is_odd = bool(rows % 2)
        yield Work(PairPixels((0, 0, 0, 0), -(-rows // 2), is_odd=is_odd), (draw(rng, (1, 2, rows, cols), 0.1),))
        first, count = (1, rows - 1) if rows > 1 else (0, 0)
        single = DenseWeightGradient(accumulate, dtype, first, count)
        yield Work(single, (draw(rng, (1, rows), 0.01), draw(rng, (1, cols), 0.01)))
        shapes = ((1 + rows % 2 * 2, cols), (cols, rows))
        yield Work(DenseInputGradient(accumulate), tuple(draw(rng, shape, 0.01) for shape in shapes))


# All 65,536 numbers of each mask do not lie together in L2; test_pass_kernels.py has them.
MOST_BYTES = 1 << 17


@cache
def cases(accumulate: Accumulate) -> tuple[Work, ...]:
    """With at least one pair in each reduction: an empty sum is no kernel's work."""
    small = (work for work in works(accumulate) if sum(array.nbytes for array in work.inputs) < MOST_BYTES)
    return (*small, *grid(accumulate))


def call(work: Work) -> str:
    """The kernel's call in C: what it writes, what it reads, a struct or its fields, what comes behind."""
    kernel, n_kept = work.kernel, len(kept(work))
    operands = ["y", *(f"p[{at}]" for at in range(n_kept + max(work.op.arity - len(work.inputs), 0)))]
    n = len(kernel.scalars)
    given = [*kernel.scalars.values(), *kernel.extra.values()]
    taken = [f"odl_from_bits32(n[{at}])" if isinstance(value, float) else f"n[{at}]" for at, value in enumerate(given)]
    numbers, extra = ["s"] if kernel.struct else taken[:n], taken[n:]
    return f"odl_{kernel.name}({', '.join((*operands, *numbers, *extra))}); break;"


def kept(work: Work) -> list[Array]:
    """The operands that are not overwritten."""
    gone = set(dict(work.op.overwrites).values())
    return [array for at, array in enumerate(work.inputs) if at not in gone]


def program(folder: Path, target: Target, cores: int, accumulate: Accumulate) -> tuple[Path, Array]:
    """The ELF file and what it reads."""
    chosen = cases(accumulate)
    calls = {work.kernel.name: call(work) for work in chosen}
    numbers = {name: number for number, name in enumerate(calls)}
    given, n_out = [], 0
    for work in chosen:
        assert calls[work.kernel.name] == call(work)
        kernel, sums = (
            work.kernel,
            [array for at, array in enumerate(work.inputs) if at in dict(work.op.overwrites).values()],
        )
        operands = [words(array) for array in kept(work)]
        operands += [words(array)[:0] for array in [work.inputs[0]] * (N_OPERANDS - len(operands) - len(sums))]
        operands += [words(array) for array in sums]
        values = [word(value) for value in (*kernel.scalars.values(), *kernel.extra.values())]
        n = len(words(work.expected()[0]))
        head = [numbers[kernel.name], n, N_OPERANDS - 1 if sums else N_OPERANDS, *map(len, operands), *values]
        given += [np.array(head + [0] * (N_NUMBERS - len(values)), np.uint32), *operands]
        n_out += n + 1
    lines = "\n".join(f"    case {number}: {calls[name]}" for name, number in numbers.items())
    data = np.concatenate(given)
    blanks = {
        "IN": len(data), "OUT": n_out, "CASES": len(chosen), "CALLS": lines, "OPERANDS": N_OPERANDS,
        "HEAD": 3 + N_OPERANDS + N_NUMBERS,
    }  # fmt: skip
    return pulp_programs.build_kernels(folder, target, cores, accumulate, numbers, MAIN, blanks), data


@pytest.mark.parametrize("accumulate", Accumulate, ids=lambda mode: mode.value)
@pytest.mark.parametrize("cores", [1, 3, 8])
@pytest.mark.parametrize("target", BOTH)
def test_bits_are_those_of_numpy(target: Target, cores: int, accumulate: Accumulate, tmp_path: Path) -> None:
    elf, data = program(tmp_path, target, cores, accumulate)
    pulp_programs.check(pulp_programs.run(target, elf, data), cases(accumulate))


@pytest.mark.parametrize("accumulate", Accumulate, ids=lambda mode: mode.value)
def test_every_kernel_of_a_block_is_called(accumulate: Accumulate) -> None:
    """Products, sums over pixels at once and in goes, float or half, and pairs of pixels."""
    called = {work.kernel.name for work in cases(accumulate)}
    sums = {f"paired_sums_{name}" for name in ("begin", "continue", "end_half")}
    gradients = {"paired_gradient", "paired_gradient_half", "pair_pixels"}
    dense = {"dense", "dense_input_gradient", "dense_weight_gradient", "dense_weight_gradient_half"}
    assert called >= sums | gradients | dense | {"conv2d_unpadded", "conv2d_phases"}
    assert ("paired_sums_end" in called) == (accumulate is Accumulate.FP16)
