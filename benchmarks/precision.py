"""One 3x3 convolution's training step in binary16 and in binary32, by blocks of one shape: what binary16 gains.

16 channels in and out, 32x32 pixels, padding of 1: forward, weight gradient and input gradient, in tiles of four rows
that lie in L1 while the cores work. Both programs are the same but for the kernels and the bytes of an element.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import bare, fp32_kernels
from odl import microkernels
from odl.targets.pulp import PULP_OPEN

SIZE, CHANNELS, TILE_ROWS = 32, 16, 4
MACS = 3 * SIZE * SIZE * CHANNELS * CHANNELS * 9
PHASES = ("forward", "weight_gradient", "input_gradient")

Array = npt.NDArray[np.generic]
Wide = npt.NDArray[np.float64]

# The FP32 kernel's work is cut as odl_product and odl_pixel_sums cut it; all blocks are whole.
_KERNELS = {
    "fp16": """
typedef odl_half element;
typedef odl_acc partial;

const odl_half odl_zeros[CHANNELS] = {0};

ODL_LOCAL_CONSTANT static const struct odl_window window = {
    .in_h = TILE_ROWS + 2, .in_w = PADDED, .in_c = CHANNELS, .out_h = TILE_ROWS, .out_w = SIZE, .out_c = CHANNELS,
    .kernel_h = 3, .kernel_w = 3, .stride_h = 1, .stride_w = 1,
};

static void product(element *y, const element *x, const element *w)
{
    odl_window_product(y, x, w, NULL, &window);
}

ODL_LOCAL static element dy_pairs[TILE_ROWS * SIZE * CHANNELS];
ODL_LOCAL static element x_pairs[(TILE_ROWS + 2) * PADDED * CHANNELS * 2];

/* As odl_pair_pixels does. The last pixel of x begins no pair that anybody reads. */
static void lay_in_pairs(const element *dy, const element *x)
{
    const odl_range two = odl_share(TILE_ROWS * SIZE / 2);
    const element *const first = dy + two.first * 2 * CHANNELS;
    const struct odl_pairs of_dy = {dy_pairs + two.first * 2 * CHANNELS, first, first + CHANNELS,
                                    two.last - two.first, CHANNELS / 4, CHANNELS * 2};
    odl_interleave(&of_dy);
    const odl_range four = odl_share(((TILE_ROWS + 2) * PADDED - 1) * CHANNELS / 4);
    const struct odl_pairs of_x = {x_pairs + 8 * four.first, x + 4 * four.first, x + 4 * four.first + CHANNELS, 1,
                                   four.last - four.first, 0};
    odl_interleave(&of_x);
    odl_barrier();
}

static void pixel_sums(element *dw, partial *sums, const element *dy, const element *x, uint32_t part)
{
    lay_in_pairs(dy, x);
    const struct odl_pixel_sums all = {
        .dw = dw, .sums = sums, .dy = dy_pairs, .x = x_pairs, .part = part, .is_half = 1, .n_outputs = CHANNELS,
        .n_runs = 3, .run = RUN, .run_step = PADDED * CHANNELS, .n_rows = TILE_ROWS, .n_pairs = SIZE / 2,
        .dy_pair = CHANNELS, .x_pair = 2 * CHANNELS, .x_row = PADDED * CHANNELS,
    };
    odl_pixel_sums(&all);
}
""",
    "fp32": """
typedef float element;
typedef float partial;

void fp32_dot_4x4(struct odl_dot *dot);
void fp32_outer_4x4(struct odl_outer *outer);

static void product(element *y, const element *x, const element *w)
{
    const odl_range share = odl_share(TILE_ROWS * SIZE / 4);
    for (uint32_t block = share.first; block < share.last; block++) {
        struct odl_dot dot = {.w = (const void *)w, .w_step = RUN * 3 * 4, .n_blocks = CHANNELS / 4, .n_runs = 3,
                              .n_pairs = RUN, .x_skip = (PADDED * CHANNELS - RUN) * 4};
        for (uint32_t r = 0; r < 4; r++) {
            const uint32_t pixel = block * 4 + r;
            dot.x[r] = (const void *)(x + (pixel / SIZE * PADDED + pixel % SIZE) * CHANNELS);
            dot.y[r] = (void *)(y + pixel * CHANNELS);
        }
        fp32_dot_4x4(&dot);
    }
}

static void pixel_sums(element *dw, partial *sums, const element *dy, const element *x, uint32_t part)
{
    const odl_range share = odl_share(CHANNELS / 4 * 3 * (RUN / 4));
    partial *to = part & ODL_PART_LAST ? dw : sums;
    for (uint32_t block = share.first; block < share.last;) {
        const uint32_t run = block / (RUN / 4) % 3;
        const uint32_t first = block / (RUN / 4) / 3 * 4;
        const uint32_t across = block % (RUN / 4);
        const uint32_t rest = RUN / 4 - across;
        const uint32_t n = rest < share.last - block ? rest : share.last - block;
        const uint32_t cell = (first * 3 + run) * RUN + across * 4;
        struct odl_outer outer = {
            .dy = (const void *)(dy + first), .x = (const void *)(x + run * PADDED * CHANNELS + across * 4),
            .start = part & ODL_PART_FIRST ? NULL : (const void *)(sums + cell), .out = to + cell,
            .start_row = RUN * 3 * 4, .out_row = RUN * 3 * 4, .n_blocks = n, .n_rows = TILE_ROWS, .n_pairs = SIZE,
            .dy_pair = CHANNELS * 4, .x_pair = CHANNELS * 4, .x_skip = 2 * CHANNELS * 4,
        };
        fp32_outer_4x4(&outer);
        block += n;
    }
}
""",
}

_HEAD = f"""
#include "odl_micro.h"

enum {{ SIZE = {SIZE}, PADDED = SIZE + 2, CHANNELS = {CHANNELS}, TILE_ROWS = {TILE_ROWS}, RUN = 3 * CHANNELS }};
"""

_PROGRAM = """
enum { N_WEIGHTS = CHANNELS * 3 * RUN };

/* In L2: what comes in, with a border of zeros around both images, and what goes out. */
static struct {
    element x[PADDED][PADDED][CHANNELS];
    element dy[PADDED][PADDED][CHANNELS];
    element w[N_WEIGHTS];
    element flipped[N_WEIGHTS];
} in;
static struct {
    uint32_t cycles[3];
    uint32_t with_transfers[3];
    element y[SIZE][SIZE][CHANNELS];
    element dx[SIZE][SIZE][CHANNELS];
    element dw[N_WEIGHTS];
} out;

ODL_LOCAL static element image[TILE_ROWS + 2][PADDED][CHANNELS];
ODL_LOCAL static element tile[TILE_ROWS][SIZE][CHANNELS];
ODL_LOCAL static element weights[N_WEIGHTS];
ODL_LOCAL static partial sums[N_WEIGHTS];

static uint32_t began;

static void start(void)
{
    odl_barrier();
    if (odl_core() == 0) {
        began = odl_port_counter();
    }
}

static void stop(uint32_t *cycles)
{
    odl_barrier();
    if (odl_core() == 0) {
        *cycles += odl_port_counter() - began;
    }
}

static void copy_in(void *l1, const void *l2, uint32_t n_bytes)
{
    odl_dma_wait(odl_dma_in(l1, l2, n_bytes));
}

typedef element row_of_output[SIZE][CHANNELS];
typedef element row_of_image[PADDED][CHANNELS];

static void convolution(row_of_output *y, row_of_image *x, const element *w, uint32_t *cycles)
{
    copy_in(weights, w, sizeof weights);
    for (uint32_t row = 0; row < SIZE; row += TILE_ROWS) {
        copy_in(image, x[row], sizeof image);
        start();
        product(&tile[0][0][0], &image[0][0][0], weights);
        stop(cycles);
        odl_dma_wait(odl_dma_out(tile, y[row], sizeof tile));
    }
}

static void weight_gradient(uint32_t *cycles)
{
    for (uint32_t row = 0; row < SIZE; row += TILE_ROWS) {
        copy_in(image, in.x[row], sizeof image);
        const uint32_t row_bytes = sizeof tile[0];
        odl_dma_wait(odl_dma_in_rows(tile, &in.dy[row + 1][1], TILE_ROWS, row_bytes, sizeof in.dy[0]));
        start();
        pixel_sums(weights, sums, &tile[0][0][0], &image[0][0][0],
                   (row == 0 ? ODL_PART_FIRST : 0) | (row + TILE_ROWS == SIZE ? ODL_PART_LAST : 0));
        stop(cycles);
    }
    odl_dma_wait(odl_dma_out(weights, out.dw, sizeof weights));
}

static void step(void *unused)
{
    (void)unused;
    for (uint32_t phase = 0; phase < 3; phase++) {
        odl_barrier();
        const uint32_t at = odl_port_counter();
        if (phase == 1) {
            weight_gradient(&out.cycles[phase]);
        } else {
            convolution(phase ? out.dx : out.y, phase ? in.dy : in.x, phase ? in.flipped : in.w, &out.cycles[phase]);
        }
        odl_barrier();
        if (odl_core() == 0) {
            out.with_transfers[phase] = odl_port_counter() - at;
        }
    }
}

int main(void)
{
    read_words((uint32_t *)(void *)&in, sizeof in / 4);
    odl_team_run(step, NULL);
    for (uint32_t phase = 0; phase < 3; phase++) {
        out.cycles[phase] = 0;
    }
    odl_team_run(step, NULL);
    write_words((const uint32_t *)(void *)&out, sizeof out / 4);
}
"""


def program(name: str) -> tuple[str, dict[str, str]]:
    """main.c of "fp16" or "fp32", and the other sources."""
    source = microkernels.source() if name == "fp16" else fp32_kernels.source()
    return _HEAD + _KERNELS[name] + _PROGRAM, {"micro.c": source}


def operands(dtype: npt.DTypeLike) -> tuple[Array, Array, Array]:
    """x and dy (PADDED, PADDED, CHANNELS) with a border of zeros, w (o, 3, 3, c)."""
    random = np.random.default_rng(5)
    shape = (SIZE, SIZE, CHANNELS)
    x, dy = (np.pad(random.normal(size=shape), ((1, 1), (1, 1), (0, 0))).astype(dtype) for _ in range(2))
    return x, dy, (random.normal(size=(CHANNELS, 3, 3, CHANNELS)) / 12).astype(dtype)


def reference(x: Wide, dy: Wide, w: Wide) -> tuple[Wide, Wide, Wide]:
    """y, dx and dw in binary64."""
    inside = slice(1, -1)

    def convolved(image: Wide, weights: Wide) -> Wide:
        windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3), axis=(0, 1))
        return np.asarray(np.einsum("hwcij,oijc->hwo", windows, weights))

    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(0, 1))
    dw = np.einsum("hwo,hwcij->oijc", dy[inside, inside], windows)
    return convolved(x, w), convolved(dy, flipped(w)), dw


def flipped(w: Any) -> Any:
    """The weights that the input gradient multiplies dy by."""
    return w[:, ::-1, ::-1].transpose(3, 1, 2, 0)


def measure(name: str, *, accumulate_fp16: bool = False, banks: bool = False) -> dict[str, Any]:
    """Cycles by phase, on eight cores with operands in L1, and with the transfers of the tiles, which nothing hides.

    Raises AssertionError if a result is further from binary64 than rounding explains.
    """
    dtype = np.float16 if name == "fp16" else np.float32
    x, dy, w = operands(dtype)
    given = np.concatenate([part.ravel() for part in (x, dy, w, flipped(w))])
    main, sources = program(name)
    with tempfile.TemporaryDirectory(prefix="odl-") as scratch:
        defines = {"ODL_ACCUMULATE_FP16": int(accumulate_fp16)}
        elf = bare.build(Path(scratch) / "project", PULP_OPEN, main, defines, sources)
        words = bare.run(PULP_OPEN, elf, given.view(np.uint32), banks=banks)
    epsilon = 2.0**-10 if accumulate_fp16 else 2.0**-23
    _check(words[6:].view(dtype), (x, dy, w), epsilon, 2.0**-10 if name == "fp16" else 2.0**-23)
    cycles = dict(zip(PHASES, words[:3].tolist(), strict=True))
    moved = dict(zip(PHASES, words[3:6].tolist(), strict=True))
    total = sum(cycles.values())
    return {"cycles": total, "macs": MACS, "mac_per_cycle": MACS / total, "phases": cycles, "with_transfers": moved}


def _check(got: Array, given: tuple[Array, Array, Array], of_sums: float, of_results: float) -> None:
    """A sum of n products is within n roundings of their magnitudes' sum, and rounded once more."""
    wide = [part.astype(np.float64) for part in given]
    exact, sizes = reference(*wide), reference(*(np.abs(part) for part in wide))
    at = 0
    for want, size, n in zip(exact, sizes, (9 * CHANNELS, 9 * CHANNELS, SIZE * SIZE), strict=True):
        part = got[at : at + want.size].reshape(want.shape).astype(np.float64)
        at += want.size
        bound = n * of_sums * size + of_results * np.abs(want)
        assert (np.abs(part - want) <= bound).all(), "the kernel is wrong"
    assert at == got.size
