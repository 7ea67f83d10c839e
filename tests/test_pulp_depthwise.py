"""The depthwise kernels as PULP's cores run them: the bits of NumPy, whoever computes what."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pulp_programs
import pytest
from pulp_programs import BOTH, words
from team import Work

from odl import fp16
from odl.fp16 import Accumulate
from odl.ops._windows import Window
from odl.ops.depthwise import DepthwiseConv2d, DepthwiseWeightGradient
from odl.targets import Target
from odl.types import Array, DType, Shape

GRADIENT = "depthwise_unpadded_weight_gradient"
GOES = ("depthwise_sums_begin", "depthwise_sums_continue", "depthwise_sums_end", "depthwise_sums_end_half")
KERNELS = ("depthwise_unpadded", GRADIENT, f"{GRADIENT}_half", *GOES)

# Each case: kernel, words of out, a, b and bias, the window; then a, b and bias. Output: tensors, a canary behind each.
MAIN = """
#include "odl_kernels.h"
enum { N_WORDS = __IN__, N_OUT = __OUT__, N_CASES = __CASES__, N_HEAD = 17, N_CELLS = 4096 };
static uint32_t in[N_WORDS], out[N_OUT], cells[N_CELLS];

/* The image in up to three runs of rows. */
static void in_goes(void *dw, const odl_half *dy, const odl_half *x, const struct odl_window *s, int is_half)
{
    struct odl_window run = *s;
    const uint32_t n = (s->out_h + 2) / 3;
    for (uint32_t row = 0; row < s->out_h; row += n) {
        run.out_h = s->out_h - row < n ? s->out_h - row : n;
        run.in_h = (run.out_h - 1) * s->stride_h + s->kernel_h;
        const odl_half *const g = dy + row * s->out_w * s->out_c;
        const odl_half *const image = x + row * s->stride_h * s->in_w * s->in_c;
        if (row == 0) {
            odl_depthwise_sums_begin(cells, g, image, &run);
        } else if (row + n < s->out_h) {
            odl_depthwise_sums_continue(cells, g, image, &run);
        } else if (is_half) {
            odl_depthwise_sums_end_half(dw, g, image, cells, &run);
        } else {
            odl_depthwise_sums_end(dw, g, image, cells, &run);
        }
    }
}

static void compute(uint32_t kernel, void *y, const odl_half *a, const odl_half *b, const odl_half *bias,
                    const struct odl_window *s)
{
    switch (kernel) {
    case 0: odl_depthwise_unpadded(y, a, b, bias, s); break;
    case 1: odl_depthwise_unpadded_weight_gradient(y, a, b, s); break;
    case 2: odl_depthwise_unpadded_weight_gradient_half(y, a, b, s); break;
    default: in_goes(y, a, b, s, kernel == 4); break;
    }
}

static void work(void *nothing)
{
    const uint32_t *at = in;
    uint32_t *to = out;
    (void)nothing;
    for (uint32_t i = 0; i < N_CASES; i++) {
        const odl_half *const a = (const odl_half *)(at + N_HEAD);
        const odl_half *const b = a + 2 * at[2];
        const struct odl_window *const s = (const void *)(at + 5);
        ODL_EACH_CORE compute(at[0], to, a, b, at[4] == 0 ? NULL : b + 2 * at[3], s);
        odl_barrier(); /* before `cells` are those of another case */
        to += at[1] + 1;
        at += N_HEAD + at[2] + at[3] + at[4];
    }
}

int main(void)
{
    read_words(in, N_WORDS);
    for (uint32_t i = 0; i < N_OUT; i++) {
        out[i] = __CANARY__u;
    }
    odl_team_run(work, NULL);
    write_words(out, N_OUT);
}
"""


def numbers(shape: Shape, seed: int) -> Array:
    """Binary16 numbers: around 1, or zeros of both signs and tiny ones; by every third seed a few of any pattern."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape).astype(np.float16)
    few = rng.choice(np.array([0.0, -0.0, 1.0, -1.0, 6e-8, -6e-8], np.float16), shape)
    patterns = rng.integers(0, 1 << 16, shape, dtype=np.uint16).view(np.float16)
    kind = rng.random(shape)
    some = np.where(kind < (0.9, 0.2, 0.1)[seed % 3], few, values)
    return fp16.canonical(np.where((kind > 0.9) & (seed % 3 == 2), patterns, some))


def geometries() -> Iterator[tuple[Shape, Window]]:
    """(rows, columns, channels) of an image, and its window: sizes of one, odd and even ones, shares of every kind."""
    square = Window((3, 3), (1, 1), (0, 0, 0, 0))
    for rows, cols, channels in (
        *((3, 3, 2), (3, 4, 2), (4, 3, 6), (3, 5, 16), (4, 4, 34), (5, 6, 4), (6, 5, 18), (3, 9, 10), (9, 3, 10)),
        *((7, 8, 8), (8, 7, 14), (13, 5, 64), (5, 13, 32), (10, 10, 2)),
    ):
        yield (rows, cols, channels), square
    for size, stride in (((3, 3), (2, 2)), ((3, 3), (1, 2)), ((3, 3), (2, 1)), ((5, 4), (1, 1)), ((1, 3), (1, 1))):
        yield (9, 9, 6), Window(size, stride, (0, 0, 0, 0))


@cache
def cases(accumulate: Accumulate) -> tuple[tuple[int, Work], ...]:
    """Works, each with the number of its kernel in MAIN."""
    found = []
    for seed, ((rows, cols, channels), window) in enumerate(geometries()):
        x = numbers((1, rows, cols, channels), seed)
        dy = numbers((1, *window.output(rows, cols), channels), seed + 1)
        w, b = numbers((*window.size, channels), seed + 3), numbers((channels,), seed + 6)
        forward = DepthwiseConv2d(window, accumulate)
        found += [(0, Work(forward, (x, w, b))), (0, Work(forward, (x, w)))]
        for number in (1, 2, 3, 4) if dy.shape[1] > 1 else (1, 2):
            dtype = DType.F32 if number % 2 else DType.F16
            found.append((number, Work(DepthwiseWeightGradient(window, accumulate, dtype), (dy, x))))
    return tuple(found)


def program(folder: Path, target: Target, cores: int, accumulate: Accumulate) -> tuple[Path, Array]:
    """The ELF file and what it reads."""
    given, n_out = [], 0
    for number, work in cases(accumulate):
        tensors = [words(array) for array in work.inputs]
        lengths = [len(tensor) for tensor in tensors] + [0] * (3 - len(tensors))
        n = work.expected()[0].nbytes // 4
        given += [np.array([number, n, *lengths, *work.kernel.scalars.values()], np.uint32), *tensors]
        n_out += n + 1
    data = np.concatenate(given)
    blanks = {"IN": len(data), "OUT": n_out, "CASES": len(cases(accumulate))}
    return pulp_programs.build_kernels(folder, target, cores, accumulate, KERNELS, MAIN, blanks), data


@pytest.mark.parametrize("accumulate", Accumulate)
@pytest.mark.parametrize("cores", [1, 3, 8])
@pytest.mark.parametrize("target", BOTH)
def test_bits_are_those_of_numpy(target: Target, cores: int, accumulate: Accumulate, tmp_path: Path) -> None:
    elf, data = program(tmp_path, target, cores, accumulate)
    pulp_programs.check(pulp_programs.run(target, elf, data), [work for _, work in cases(accumulate)])
