/*
 * Micro-kernels: the inner loops of convolutions without padding, of dense layers, and of their weight gradients.
 *
 * `odl_dot_*` multiplies rows of x with rows of w along memory, `odl_outer_*` sums over pixels. Here is their C form, the
 * definition, and above it how a kernel's work is cut into blocks and shared by the cores. With ODL_SIMD the blocks
 * of 4 rows or 1, and 4 columns or fewer, are functions in assembly (odl/microkernels.py), which want words aligned:
 * addresses of x, w and dy, and all distances between pixels, rows and runs, are multiples of 4 bytes.
 *
 * The order inside a sum is the same in every block, so that no bit depends on how the work is cut.
 */
#ifndef ODL_MICRO_H
#define ODL_MICRO_H

#include <stddef.h>
#include <stdint.h>

#include "odl_half.h"
#include "odl_team.h"
#include "odl_window.h"

#ifndef ODL_SIMD
#define ODL_SIMD 0
#endif

/* Rows of a block: with one register file and no packed arithmetic there is room for two. */
#ifndef ODL_MICRO_ROWS
#define ODL_MICRO_ROWS (ODL_SIMD ? 4 : 2)
#endif

enum { ODL_MICRO_COLS = 4 };

/* Every file with a kernel brings these functions; weak, so that the linker keeps one, and the instruction cache too. */
#define ODL_MICRO_FUNCTION __attribute__((noinline, weak))

/* sums[r][c] = bias[c] + sum over runs, then pairs k, of x[r][k] * w[c][k], each rounded to y[r][c]; for n_blocks blocks
 * of columns, one behind the other in w, bias and y. Steps are bytes: bias_step from one block's bias to the next's, w_step
 * from one column's weights to the next's, x_skip from the end of a run to the start of the next. A call changes
 * x, y, w, bias and n_blocks; n_blocks, n_runs and n_pairs are positive. The layout is known to odl/microkernels.py. */
struct odl_dot {
    const odl_half *x[4];
    odl_half *y[4];
    const odl_half *w;
    const odl_half *bias;
    uint32_t bias_step, w_step;
    uint32_t n_blocks, n_runs, n_pairs;
    uint32_t x_skip;
};

/* sums[o][c] = start[o][c] + sum over image rows, then pairs of pixels p, of dy[p][o] * x[p][c]; a word holds a pair. For
 * n_blocks blocks of columns, one behind the other in x, start and out. start may be NULL, for +0. The sums go to `out`
 * as they are, or rounded to binary16 if is_half. Steps are bytes: rows of start and out, pairs of dy and x, and from
 * behind the last pair of an image row of x to the next row. A call changes x, start, out and n_blocks. The layout is
 * known to odl/microkernels.py. */
struct odl_outer {
    const odl_half *dy;
    const odl_half *x;
    const odl_acc *start;
    void *out;
    uint32_t start_row, out_row;
    uint32_t is_half;
    uint32_t n_blocks, n_rows, n_pairs;
    uint32_t dy_pair, x_pair, x_skip;
};

/* y = {a0, b0}, {a1, b1}, ... for n_runs runs of n_fours times four neighbours of a and b, skip bytes between them. */
struct odl_pairs {
    odl_half *y;
    const odl_half *a;
    const odl_half *b;
    uint32_t n_runs, n_fours, skip;
};

static inline const odl_half *odl_bytes_on(const odl_half *p, uint32_t n_bytes)
{
    return p + (int32_t)n_bytes / (int32_t)sizeof *p;
}

/* The C form of odl_dot_<rows>x<cols>. */
static inline __attribute__((always_inline)) void odl_dot_in_c(struct odl_dot *a, uint32_t rows, uint32_t cols)
{
    for (uint32_t block = 0; block < a->n_blocks; block++) {
        odl_acc sums[4][4];
        const odl_half *x[4];
        const odl_half *w[4];
        for (uint32_t r = 0; r < rows; r++) {
            x[r] = a->x[r];
            for (uint32_t c = 0; c < cols; c++) {
                sums[r][c] = odl_acc_start(a->bias[c]);
            }
        }
        for (uint32_t c = 0; c < cols; c++) {
            w[c] = odl_bytes_on(a->w, (block * cols + c) * a->w_step);
        }
        for (uint32_t run = 0; run < a->n_runs; run++) {
            for (uint32_t k = 0; k < a->n_pairs; k++) {
                odl_half2 col[4];
                for (uint32_t c = 0; c < cols; c++) {
                    col[c] = odl_load2_aligned(w[c]);
                    w[c] += 2;
                }
                for (uint32_t r = 0; r < rows; r++) {
                    const odl_half2 row = odl_load2_aligned(x[r]);
                    x[r] += 2;
                    for (uint32_t c = 0; c < cols; c++) {
                        sums[r][c] = odl_acc_dot2(sums[r][c], row, col[c]);
                    }
                }
            }
            for (uint32_t r = 0; r < rows; r++) {
                x[r] = odl_bytes_on(x[r], a->x_skip);
            }
        }
        for (uint32_t r = 0; r < rows; r++) {
            for (uint32_t c = 0; c < cols; c++) {
                a->y[r][c] = odl_acc_half(sums[r][c]);
            }
            a->y[r] += cols;
        }
        a->bias = odl_bytes_on(a->bias, a->bias_step);
    }
}

/* The C form of odl_outer_<rows>x<cols>, one block of columns: its sums. */
static inline __attribute__((always_inline)) void odl_outer_sums(odl_acc sums[4][4], const struct odl_outer *a,
                                                                 uint32_t rows, uint32_t cols)
{
    const odl_half *dy = a->dy;
    const odl_half *x = a->x;
    for (uint32_t row = 0; row < a->n_rows; row++) {
        for (uint32_t pair = 0; pair < a->n_pairs; pair++) {
            odl_half2 col[4];
            for (uint32_t c = 0; c < cols; c++) {
                col[c] = odl_load2_aligned(x + 2 * c);
            }
            for (uint32_t r = 0; r < rows; r++) {
                const odl_half2 both = odl_load2_aligned(dy + 2 * r);
                for (uint32_t c = 0; c < cols; c++) {
                    sums[r][c] = odl_acc_dot2(sums[r][c], both, col[c]);
                }
            }
            dy = odl_bytes_on(dy, a->dy_pair);
            x = odl_bytes_on(x, a->x_pair);
        }
        x = odl_bytes_on(x, a->x_skip);
    }
}

/* The C form of odl_outer_<rows>x<cols>. */
static inline __attribute__((always_inline)) void odl_outer_in_c(struct odl_outer *a, uint32_t rows, uint32_t cols)
{
    for (uint32_t block = 0; block < a->n_blocks; block++) {
        odl_acc sums[4][4];
        for (uint32_t r = 0; r < rows; r++) {
            for (uint32_t c = 0; c < cols; c++) {
                sums[r][c] = a->start == NULL ? odl_acc_zero() : a->start[r * (a->start_row / 4) + block * cols + c];
            }
        }
        odl_outer_sums(sums, a, rows, cols);
        for (uint32_t r = 0; r < rows; r++) {
            for (uint32_t c = 0; c < cols; c++) {
                if (a->is_half) {
                    ((odl_half *)a->out)[r * (a->out_row / 2) + block * cols + c] = odl_acc_half(sums[r][c]);
                } else {
                    ((odl_acc *)a->out)[r * (a->out_row / 4) + block * cols + c] = sums[r][c];
                }
            }
        }
        a->x += 2 * cols;
    }
}

/* The block functions. `rows` is ODL_MICRO_ROWS or 1, `cols` is ODL_MICRO_COLS or 1, or, for odl_outer with several rows, 3. */

#if ODL_SIMD

void odl_dot_4x4(struct odl_dot *a);
void odl_dot_4x1(struct odl_dot *a);
void odl_dot_1x4(struct odl_dot *a);
void odl_dot_1x1(struct odl_dot *a);
void odl_outer_4x4(struct odl_outer *a);
void odl_outer_4x3(struct odl_outer *a);
void odl_interleave(const struct odl_pairs *a);

static inline void odl_dot(struct odl_dot *a, uint32_t rows, uint32_t cols)
{
    if (rows > 1) {
        cols > 1 ? odl_dot_4x4(a) : odl_dot_4x1(a);
    } else {
        cols > 1 ? odl_dot_1x4(a) : odl_dot_1x1(a);
    }
}

/* Blocks at the edges: rare, and out of the way of the others' code. */
ODL_MICRO_FUNCTION void odl_outer_edge(struct odl_outer *a, uint32_t rows, uint32_t cols)
{
    if (rows > 1) {
        odl_outer_in_c(a, 4, 1);
    } else if (cols > 1) {
        odl_outer_in_c(a, 1, 4);
    } else {
        odl_outer_in_c(a, 1, 1);
    }
}

static inline void odl_outer(struct odl_outer *a, uint32_t rows, uint32_t cols)
{
    if (rows > 1 && cols > 1) {
        cols > 3 ? odl_outer_4x4(a) : odl_outer_4x3(a);
    } else {
        odl_outer_edge(a, rows, cols);
    }
}

#else

static inline void odl_interleave(const struct odl_pairs *p)
{
    odl_half *y = p->y;
    const odl_half *a = p->a;
    const odl_half *b = p->b;
    for (uint32_t run = 0; run < p->n_runs; run++) {
        for (uint32_t i = 0; i < 4 * p->n_fours; i++) {
            *y++ = *a++;
            *y++ = *b++;
        }
        a = odl_bytes_on(a, p->skip);
        b = odl_bytes_on(b, p->skip);
    }
}

static inline void odl_dot(struct odl_dot *a, uint32_t rows, uint32_t cols)
{
    if (rows > 1) {
        cols > 1 ? odl_dot_in_c(a, ODL_MICRO_ROWS, ODL_MICRO_COLS) : odl_dot_in_c(a, ODL_MICRO_ROWS, 1);
    } else {
        cols > 1 ? odl_dot_in_c(a, 1, ODL_MICRO_COLS) : odl_dot_in_c(a, 1, 1);
    }
}

static inline void odl_outer(struct odl_outer *a, uint32_t rows, uint32_t cols)
{
    if (rows > 1) {
        cols > 3   ? odl_outer_in_c(a, ODL_MICRO_ROWS, ODL_MICRO_COLS)
        : cols > 1 ? odl_outer_in_c(a, ODL_MICRO_ROWS, 3)
                   : odl_outer_in_c(a, ODL_MICRO_ROWS, 1);
    } else {
        cols > 1 ? odl_outer_in_c(a, 1, ODL_MICRO_COLS) : odl_outer_in_c(a, 1, 1);
    }
}

#endif

/* --- Products: y[pixel][o] = b[o] + sum over the pixel's runs of x, times the weights of o ---
 *
 * Pixel (h, w) of y lies at y + h * y_row + w * y_pixel, its first run at x + h * x_row + w * x_pixel, further runs
 * run_step apart. n_runs runs of `run` elements meet n_runs * run weights of each o in order; `run` is even. All in elements. */
struct odl_product {
    odl_half *y;
    const odl_half *x;
    const odl_half *w;
    const odl_half *b; /* or NULL */
    uint32_t out_h, out_w, out_c;
    uint32_t x_row, x_pixel;
    uint32_t y_row, y_pixel;
    uint32_t n_runs, run, run_step;
};

/* Blocks of `rows` pixels from `pixel` on times blocks of `cols` outputs from `out` on: this core's share of them. */
ODL_MICRO_FUNCTION void odl_product_part(const struct odl_product *p, uint32_t rows, uint32_t cols, uint32_t pixel,
                                         uint32_t n_down, uint32_t out, uint32_t n_across)
{
    const odl_range share = odl_share(n_down * n_across);
    if (share.first == share.last) {
        return;
    }
    const odl_half none[4] = {(odl_half)0, (odl_half)0, (odl_half)0, (odl_half)0};
    const uint32_t n_weights = p->n_runs * p->run;
    const uint32_t at = pixel + share.first / n_across * rows;
    uint32_t left = share.last - share.first;
    uint32_t across = share.first % n_across;
    uint32_t col = at % p->out_w;
    const odl_half *x = p->x + at / p->out_w * p->x_row + col * p->x_pixel;
    odl_half *y = p->y + at / p->out_w * p->y_row + col * p->y_pixel;
    while (left > 0) {
        const uint32_t first = out + across * cols;
        struct odl_dot dot;
        for (uint32_t r = 0; r < rows; r++) {
            dot.x[r] = x;
            dot.y[r] = y + first;
            x += p->x_pixel;
            y += p->y_pixel;
            if (++col == p->out_w) {
                col = 0;
                x += (int32_t)(p->x_row - p->out_w * p->x_pixel); /* may lead back: pixels of other phases lie between */
                y += (int32_t)(p->y_row - p->out_w * p->y_pixel);
            }
        }
        dot.w = p->w + first * n_weights;
        dot.bias = p->b == NULL ? none : p->b + first;
        dot.bias_step = p->b == NULL ? 0 : cols * (uint32_t)sizeof(odl_half);
        dot.w_step = n_weights * (uint32_t)sizeof(odl_half);
        dot.n_blocks = n_across - across < left ? n_across - across : left;
        dot.n_runs = p->n_runs;
        dot.n_pairs = p->run / 2;
        dot.x_skip = (p->run_step - p->run) * (uint32_t)sizeof(odl_half);
        left -= dot.n_blocks;
        across = 0;
        odl_dot(&dot, rows, cols);
    }
}

/* All pixels and outputs: whole blocks, then what remains of outputs, of pixels, of both. */
static inline void odl_product(const struct odl_product *p)
{
    const uint32_t n_pixels = p->out_h * p->out_w;
    const uint32_t down = n_pixels / ODL_MICRO_ROWS;
    const uint32_t across = p->out_c / ODL_MICRO_COLS;
    const uint32_t pixel = down * ODL_MICRO_ROWS;
    const uint32_t out = across * ODL_MICRO_COLS;
    odl_product_part(p, ODL_MICRO_ROWS, ODL_MICRO_COLS, 0, down, 0, across);
    odl_product_part(p, ODL_MICRO_ROWS, 1, 0, down, out, p->out_c - out);
    odl_product_part(p, 1, ODL_MICRO_COLS, pixel, n_pixels - pixel, 0, across);
    odl_product_part(p, 1, 1, pixel, n_pixels - pixel, out, p->out_c - out);
}

/* --- Sums over pixels: dw[o][run][c] = sum over image rows, then pairs of pixels p, of dy[p][o] * x[p][run][c] ---
 *
 * A word holds the two pixels of a pair (odl/ops/pair_pixels.py). The words of a pair of dy are n_outputs of dy_pair, and
 * its rows follow each other; pair p of row h has its words for run i at x + h * x_row + p * x_pair + i * run_step. An
 * image in several tiles of rows, one call each: `part` says whether this is the first (else the sums start from
 * `sums`) and whether it is the last (else they go there, and dw stays as it is). Steps in words. */
enum { ODL_PART_FIRST = 1, ODL_PART_LAST = 2 };

struct odl_pixel_sums {
    void *dw; /* float, or odl_half if is_half */
    odl_acc *sums;
    const odl_half *dy;
    const odl_half *x;
    uint32_t part, is_half;
    uint32_t n_outputs, n_runs, run, run_step;
    uint32_t n_rows, n_pairs;
    uint32_t dy_pair, x_pair, x_row;
};

/* Two lanes, rounded and added, take their own place as a float. */
static inline void odl_finish_cells(const struct odl_outer *a, uint32_t rows, uint32_t n)
{
#if ODL_ACCUMULATE_FP16
    for (uint32_t r = 0; r < rows; r++) {
        unsigned char *row = (unsigned char *)a->out + r * a->out_row;
        for (uint32_t c = 0; c < n; c++) {
            const float value = odl_acc_float(((const odl_acc *)(const void *)row)[c]);
            ((float *)(void *)row)[c] = value;
        }
    }
#else
    (void)a, (void)rows, (void)n;
#endif
}

/* Blocks of `rows` outputs from `out` on times blocks of `cols` columns of every run from `col` on: this core's share. */
ODL_MICRO_FUNCTION void odl_pixel_sums_part(const struct odl_pixel_sums *p, uint32_t rows, uint32_t cols,
                                                          uint32_t out, uint32_t n_down, uint32_t col,
                                                          uint32_t n_across)
{
    const odl_range share = odl_share(n_down * p->n_runs * n_across);
    if (share.first == share.last) {
        return;
    }
    const uint32_t is_last = p->part & ODL_PART_LAST;
    const uint32_t is_half = is_last && p->is_half;
    const uint32_t n_cells = p->n_runs * p->run;
    uint32_t left = share.last - share.first;
    uint32_t across = share.first % n_across;
    uint32_t run = share.first / n_across % p->n_runs;
    uint32_t first = out + share.first / n_across / p->n_runs * rows;
    while (left > 0) {
        const uint32_t at = col + across * cols;
        const uint32_t cell = first * n_cells + run * p->run + at;
        const uint32_t n = n_across - across < left ? n_across - across : left;
        unsigned char *to = is_last ? p->dw : (void *)p->sums;
        struct odl_outer outer = {
            .dy = p->dy + 2 * first, .x = p->x + 2 * (run * p->run_step + at),
            .start = p->part & ODL_PART_FIRST ? NULL : p->sums + cell,
            .out = to + cell * (is_half ? 2 : 4), .start_row = n_cells * 4, .out_row = n_cells * (is_half ? 2 : 4),
            .is_half = is_half, .n_blocks = n, .n_rows = p->n_rows, .n_pairs = p->n_pairs,
            .dy_pair = p->dy_pair * 4, .x_pair = p->x_pair * 4, .x_skip = (p->x_row - p->n_pairs * p->x_pair) * 4,
        };
        const struct odl_outer cells = outer;
        odl_outer(&outer, rows, cols);
        if (is_last && !is_half) {
            odl_finish_cells(&cells, rows, n * cols);
        }
        left -= n;
        across = 0;
        if (++run == p->n_runs) {
            run = 0;
            first += rows;
        }
    }
}

/* All outputs and columns: whole blocks, then what remains of columns, of outputs, of both. Where they come out even so,
 * some blocks have three columns, and none remains. */
static inline void odl_pixel_sums(const struct odl_pixel_sums *p)
{
    const uint32_t down = p->n_outputs / ODL_MICRO_ROWS;
    const uint32_t out = down * ODL_MICRO_ROWS;
    const uint32_t missing = (0 - p->run) % ODL_MICRO_COLS; /* to a multiple: so many blocks may have one column less */
    const uint32_t threes = p->run >= 3 * missing ? missing : 0;
    const uint32_t fours = (p->run - 3 * threes) / ODL_MICRO_COLS;
    const uint32_t narrow = fours * ODL_MICRO_COLS;
    const uint32_t single = narrow + 3 * threes;
    odl_pixel_sums_part(p, ODL_MICRO_ROWS, ODL_MICRO_COLS, 0, down, 0, fours);
    odl_pixel_sums_part(p, ODL_MICRO_ROWS, 3, 0, down, narrow, threes);
    odl_pixel_sums_part(p, ODL_MICRO_ROWS, 1, 0, down, single, p->run - single);
    const uint32_t across = p->run / ODL_MICRO_COLS;
    const uint32_t col = across * ODL_MICRO_COLS;
    odl_pixel_sums_part(p, 1, ODL_MICRO_COLS, out, p->n_outputs - out, 0, across);
    odl_pixel_sums_part(p, 1, 1, out, p->n_outputs - out, col, p->run - col);
}

/* --- Windows: a convolution is a product whose runs are the rows of its kernel --- */

/* Without padding; the rows of a kernel are whole pairs. */
static inline void odl_window_product(odl_half *y, const odl_half *x, const odl_half *w, const odl_half *b,
                                      const struct odl_window *s)
{
    const struct odl_product product = {
        .y = y, .x = x, .w = w, .b = b, .out_h = s->out_h, .out_w = s->out_w, .out_c = s->out_c,
        .x_row = s->stride_h * s->in_w * s->in_c, .x_pixel = s->stride_w * s->in_c,
        .y_row = s->out_w * s->out_c, .y_pixel = s->out_c,
        .n_runs = s->kernel_h, .run = s->kernel_w * s->in_c, .run_step = s->in_w * s->in_c,
    };
    odl_product(&product);
}

#endif
