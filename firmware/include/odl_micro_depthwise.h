/* Depthwise kernels without padding: two neighbouring channels, which are one word of an image, at a time.
 *
 * The reduction axis has its pairs a pixel or a row apart, so two words are taken crosswise: {a.lo, b.lo} is the pair of
 * the first channel, {a.hi, b.hi} that of the second one. Every sum runs in the order that odl/ops/depthwise.py states.
 * Images are height x width x channels; those of the .insn form (ODL_SIMD) must be aligned to 4 bytes. A pointer `x` or
 * `y` is at the first of the two channels.
 *
 * With ODL_SIMD the 3x3 kernels with stride 1 are functions in assembly (odl/microkernels_depthwise.py), which take structs;
 * the C form of both is their definition.
 */
#ifndef ODL_MICRO_DEPTHWISE_H
#define ODL_MICRO_DEPTHWISE_H

#include <stddef.h>
#include <stdint.h>

#include "odl_half.h"
#include "odl_team.h"
#include "odl_window.h"

static inline int odl_is_3x3(const struct odl_window *s)
{
    return s->kernel_h == 3 && s->kernel_w == 3 && s->stride_h == 1 && s->stride_w == 1;
}

/* n_cols columns of n_rows output pixels of two channels, both positive: 3x3, stride 1. Bytes from a pixel to the next
 * and from a row to the next. A call changes y, x and n_cols. The layout is known to odl/microkernels_depthwise.py. */
struct odl_columns {
    odl_half *y;
    const odl_half *x, *w, *bias;
    uint32_t pixel, x_row, y_row;
    uint32_t n_cols, n_rows;
};

/* The word at *p; *p moves on by `step` elements. Volatile, so that a compiler leaves the loads between the dot products,
 * where they cost nothing. It hides from the compiler that memory is read: no kernel reads what it has written. */
static inline odl_half2 odl_next2(const odl_half **p, uint32_t step)
{
#if ODL_SIMD
    odl_half2 word;
    __asm__ volatile(".insn r 0x0b, 7, 0x10, %0, %1, %2" /* p.lw word, bytes(p!) */
                     : "=&r"(word), "+r"(*p)
                     : "r"(step * (uint32_t)sizeof(odl_half)));
#else
    const odl_half2 word = odl_load2(*p);
    *p += step;
#endif
    return word;
}

/* The pair of a lane and a zero. */

static inline odl_half2 odl_alone_lo(odl_half2 a)
{
    return odl_los2(a, odl_pack2(0, 0));
}

static inline odl_half2 odl_alone_hi(odl_half2 a)
{
#if ODL_SIMD
    return a >> 16;
#else
    return odl_his2(a, odl_pack2(0, 0));
#endif
}

/* The sums of two channels over the same terms. */
typedef struct {
    odl_acc lo, hi;
} odl_sums;

/* One pair of the reduction axis: words a, b of x and the pairs `lo`, `hi` of the other factor. */
static inline void odl_sums_dot(odl_sums *sums, odl_half2 a, odl_half2 b, odl_half2 lo, odl_half2 hi)
{
    sums->lo = odl_acc_dot2(sums->lo, odl_los2(a, b), lo);
    sums->hi = odl_acc_dot2(sums->hi, odl_his2(a, b), hi);
}

/* The last of an odd number, whose partner is zero in both factors. */
static inline void odl_sums_end(odl_sums *sums, odl_half2 a, odl_half2 lo, odl_half2 hi)
{
    sums->lo = odl_acc_dot2(sums->lo, odl_alone_lo(a), lo);
    sums->hi = odl_acc_dot2(sums->hi, odl_alone_hi(a), hi);
}

/* Three kernel rows, or three rows of an image, in one column. */
typedef struct {
    odl_half2 row[3];
} odl_column;

/* The nine taps of two channels as pairs across the ends of rows; the last tap is alone. */
typedef struct {
    odl_sums start;
    odl_half2 lo[5], hi[5];
} odl_taps;

static inline void odl_read_taps(odl_taps *taps, const odl_half *w, const odl_half *b, uint32_t step)
{
    taps->start.lo = odl_acc_start(b[0]);
    taps->start.hi = odl_acc_start(b[1]);
    for (uint32_t k = 0; k < 4; k++) {
        const odl_half2 tap = odl_next2(&w, step);
        const odl_half2 next = odl_next2(&w, step);
        taps->lo[k] = odl_los2(tap, next);
        taps->hi[k] = odl_his2(tap, next);
    }
    const odl_half2 tap = odl_load2_aligned(w);
    taps->lo[4] = odl_alone_lo(tap);
    taps->hi[4] = odl_alone_hi(tap);
}

static inline void odl_read_column(odl_column *column, const odl_half *rows[3], uint32_t step)
{
    for (uint32_t i = 0; i < 3; i++) {
        column->row[i] = odl_next2(&rows[i], step);
    }
}

/* One output pixel: a and b are the columns on its left, c the one that comes in. */
static inline void odl_slide(odl_half *y, const odl_taps *taps, const odl_column *a, const odl_column *b, odl_column *c,
                         const odl_half *rows[3], uint32_t step)
{
    odl_sums sums = taps->start;
    c->row[0] = odl_next2(&rows[0], step);
    odl_sums_dot(&sums, a->row[0], b->row[0], taps->lo[0], taps->hi[0]);
    c->row[1] = odl_next2(&rows[1], step);
    odl_sums_dot(&sums, c->row[0], a->row[1], taps->lo[1], taps->hi[1]);
    c->row[2] = odl_next2(&rows[2], step);
    odl_sums_dot(&sums, b->row[1], c->row[1], taps->lo[2], taps->hi[2]);
    odl_sums_dot(&sums, a->row[2], b->row[2], taps->lo[3], taps->hi[3]);
    odl_sums_end(&sums, c->row[2], taps->lo[4], taps->hi[4]);
    odl_store2(y, odl_acc_pair_half(sums.lo, sums.hi));
}

/* Along rows, where two of three columns of a window stay for the next one. The assembly goes down columns. */
static inline void odl_columns_3x3_in_c(const struct odl_columns *a)
{
    const uint32_t step = a->pixel / (uint32_t)sizeof(odl_half);
    const uint32_t line = a->x_row / (uint32_t)sizeof(odl_half);
    odl_taps taps;
    odl_read_taps(&taps, a->w, a->bias, step);
    for (uint32_t row = 0; row < a->n_rows; row++) {
        const odl_half *const x = a->x + row * line;
        const odl_half *rows[3] = {x, x + line, x + 2 * line};
        odl_half *y = a->y + row * (a->y_row / (uint32_t)sizeof(odl_half));
        const odl_half *const end = y + a->n_cols * step;
        odl_column p, q, r;
        odl_read_column(&p, rows, step);
        odl_read_column(&q, rows, step);
        for (;;) {
            odl_slide(y, &taps, &p, &q, &r, rows, step);
            if ((y += step) == end) {
                break;
            }
            odl_slide(y, &taps, &q, &r, &p, rows, step);
            if ((y += step) == end) {
                break;
            }
            odl_slide(y, &taps, &r, &p, &q, rows, step);
            if ((y += step) == end) {
                break;
            }
        }
    }
}

#if ODL_SIMD
void odl_columns_3x3(struct odl_columns *a);
#else
static inline void odl_columns_3x3(struct odl_columns *a)
{
    odl_columns_3x3_in_c(a);
}
#endif

/* This core's share of the columns of all pairs of channels. b may be NULL. */
static inline void odl_all_columns_3x3(odl_half *y, const odl_half *x, const odl_half *w, const odl_half *b,
                                       const struct odl_window *s)
{
    static const odl_half none[2] = {(odl_half)0, (odl_half)0};
    const odl_range share = odl_share(s->in_c / 2 * s->out_w);
    if (share.first == share.last) {
        return;
    }
    const uint32_t pixel = s->in_c * (uint32_t)sizeof(odl_half);
    uint32_t c = share.first / s->out_w * 2;
    uint32_t col = share.first % s->out_w;
    for (uint32_t left = share.last - share.first; left > 0; c += 2, col = 0) {
        struct odl_columns columns = {
            .y = y + col * s->in_c + c, .x = x + col * s->in_c + c, .w = w + c, .bias = b == NULL ? none : b + c,
            .pixel = pixel, .x_row = s->in_w * pixel, .y_row = s->out_w * pixel,
            .n_cols = s->out_w - col < left ? s->out_w - col : left, .n_rows = s->out_h,
        };
        left -= columns.n_cols;
        odl_columns_3x3(&columns);
    }
}

/* The next tap of the kernel, in x. */
typedef struct {
    const odl_half *at;
    uint32_t col;
} odl_walk;

static inline const odl_half *odl_next_tap(odl_walk *walk, const struct odl_window *s)
{
    const odl_half *const found = walk->at;
    walk->at += s->in_c;
    if (++walk->col == s->kernel_w) {
        walk->col = 0;
        walk->at += (s->in_w - s->kernel_w) * s->in_c;
    }
    return found;
}

enum { ODL_PIXELS = 4 };

/* Two channels of n <= ODL_PIXELS neighbouring output pixels, any kernel and stride. */
static inline void odl_some_pixels(uint32_t n, odl_half *y, const odl_half *x, const odl_half *w, const odl_half *b,
                               const struct odl_window *s)
{
    const uint32_t step = s->stride_w * s->in_c;
    odl_walk walk = {x, 0};
    odl_sums sums[ODL_PIXELS];
    for (uint32_t p = 0; p < n; p++) {
        sums[p].lo = odl_acc_start(b == NULL ? (odl_half)0 : b[0]);
        sums[p].hi = odl_acc_start(b == NULL ? (odl_half)0 : b[1]);
    }
    for (uint32_t left = s->kernel_h * s->kernel_w; left > 0; left -= left > 1 ? 2 : 1) {
        const odl_half *one = odl_next_tap(&walk, s);
        const odl_half2 v = odl_next2(&w, s->in_c);
        if (left == 1) {
            for (uint32_t p = 0; p < n; p++) {
                odl_sums_end(&sums[p], odl_next2(&one, step), odl_alone_lo(v), odl_alone_hi(v));
            }
            break;
        }
        const odl_half *two = odl_next_tap(&walk, s);
        const odl_half2 u = odl_next2(&w, s->in_c);
        const odl_half2 lo = odl_los2(v, u);
        const odl_half2 hi = odl_his2(v, u);
        for (uint32_t p = 0; p < n; p++) {
            const odl_half2 first = odl_next2(&one, step);
            odl_sums_dot(&sums[p], first, odl_next2(&two, step), lo, hi);
        }
    }
    for (uint32_t p = 0; p < n; p++) {
        odl_store2(y + p * s->in_c, odl_acc_pair_half(sums[p].lo, sums[p].hi));
    }
}

static inline void odl_rows_of_any(odl_half *y, const odl_half *x, const odl_half *w, const odl_half *b,
                        const struct odl_window *s, uint32_t n_rows)
{
    for (uint32_t row = 0; row < n_rows; row++) {
        uint32_t p = 0;
        for (; p + ODL_PIXELS <= s->out_w; p += ODL_PIXELS) {
            odl_some_pixels(ODL_PIXELS, y + p * s->in_c, x + p * s->stride_w * s->in_c, w, b, s);
        }
        for (; p < s->out_w; p++) {
            odl_some_pixels(1, y + p * s->in_c, x + p * s->stride_w * s->in_c, w, b, s);
        }
        y += s->out_w * s->in_c;
        x += s->stride_h * s->in_w * s->in_c;
    }
}

/* Two channels of neighbouring taps of one kernel row, summed over all output pixels. x is at the first tap of the first
 * pixel. */
enum { ODL_TAPS = 3 };

/* n <= ODL_TAPS taps, any stride: every tap reads its own pixels. */
static inline void odl_dot_some(uint32_t n, odl_sums all[ODL_TAPS], const odl_half *dy, const odl_half *x,
                            const struct odl_window *s)
{
    const uint32_t pixel = s->in_c;
    const uint32_t step = s->stride_w * pixel;
    const uint32_t line = s->stride_h * s->in_w * pixel;
    const uint32_t width = s->out_w;
    odl_sums sums[ODL_TAPS];
    for (uint32_t t = 0; t < n; t++) {
        sums[t] = all[t];
    }
    for (uint32_t left = s->out_h; left > 0; left--) {
        const odl_half *const end = dy + (width - width % 2) * pixel;
        const odl_half *seen[ODL_TAPS];
        for (uint32_t t = 0; t < n; t++) {
            seen[t] = x + t * pixel;
        }
        while (dy != end) {
            const odl_half2 g = odl_next2(&dy, pixel);
            const odl_half2 h = odl_next2(&dy, pixel);
            const odl_half2 lo = odl_los2(g, h);
            const odl_half2 hi = odl_his2(g, h);
            for (uint32_t t = 0; t < n; t++) {
                const odl_half2 a = odl_next2(&seen[t], step);
                odl_sums_dot(&sums[t], a, odl_next2(&seen[t], step), lo, hi);
            }
        }
        if (width % 2) {
            const odl_half2 g = odl_next2(&dy, pixel);
            for (uint32_t t = 0; t < n; t++) {
                odl_sums_end(&sums[t], odl_load2_aligned(seen[t]), odl_alone_lo(g), odl_alone_hi(g));
            }
        }
        x += line;
    }
    for (uint32_t t = 0; t < n; t++) {
        all[t] = sums[t];
    }
}

/* A kernel row of three taps, stride 1: tap 2 of two pixels sees what tap 0 of the next two will see. Without padding, x is
 * at its next row once it has gone through one. */
static inline void odl_dot_three(odl_sums all[ODL_TAPS], const odl_half *dy, const odl_half *x, const struct odl_window *s)
{
    const uint32_t step = s->in_c;
    const uint32_t skip = (s->stride_h - 1) * s->in_w * step;
    const uint32_t width = s->out_w;
    odl_sums sums[ODL_TAPS] = {all[0], all[1], all[2]};
    for (uint32_t left = s->out_h; left > 0; left--) {
        const odl_half *const end = dy + (width - width % 2) * step;
        const odl_half2 a = odl_next2(&x, step);
        odl_half2 b = odl_next2(&x, step);
        odl_half2 lo = odl_los2(a, b);
        odl_half2 hi = odl_his2(a, b);
        while (dy != end) {
            const odl_half2 g = odl_next2(&dy, step);
            const odl_half2 h = odl_next2(&dy, step);
            const odl_half2 g_lo = odl_los2(g, h);
            const odl_half2 g_hi = odl_his2(g, h);
            const odl_half2 c = odl_next2(&x, step);
            sums[0].lo = odl_acc_dot2(sums[0].lo, lo, g_lo);
            sums[0].hi = odl_acc_dot2(sums[0].hi, hi, g_hi);
            const odl_half2 d = odl_next2(&x, step);
            odl_sums_dot(&sums[1], b, c, g_lo, g_hi);
            lo = odl_los2(c, d);
            hi = odl_his2(c, d);
            sums[2].lo = odl_acc_dot2(sums[2].lo, lo, g_lo);
            sums[2].hi = odl_acc_dot2(sums[2].hi, hi, g_hi);
            b = d;
        }
        if (width % 2) {
            const odl_half2 g = odl_next2(&dy, step);
            const odl_half2 g_lo = odl_alone_lo(g);
            const odl_half2 g_hi = odl_alone_hi(g);
            sums[0].lo = odl_acc_dot2(sums[0].lo, odl_alone_lo(lo), g_lo);
            sums[0].hi = odl_acc_dot2(sums[0].hi, odl_alone_lo(hi), g_hi);
            odl_sums_end(&sums[1], b, g_lo, g_hi);
            odl_sums_end(&sums[2], odl_next2(&x, step), g_lo, g_hi);
        }
        x += skip;
    }
    all[0] = sums[0];
    all[1] = sums[1];
    all[2] = sums[2];
}

#if ODL_SIMD

/* sums[tap] = start[tap] + sum over n_rows rows, then pixels in pairs, of dy * x, two channels side by side: the taps of one
 * kernel row, or two; x is at the first tap of the first pixel, x_row bytes above that of the second kernel row. start may
 * be NULL, for +0; `out` gets the sums as they are, or rounded to binary16 if is_half. For n_blocks blocks of two
 * channels, one behind the other. Steps are bytes, from tap to tap and from pixel to pixel. The three counts are positive;
 * a call changes dy, x, start, out and n_blocks. The layout is known to odl/microkernels_depthwise.py. */
struct odl_tap_sums {
    const odl_half *dy, *x;
    const odl_acc *start;
    void *out;
    uint32_t start_tap, out_tap, is_half;
    uint32_t pixel, x_row;
    uint32_t n_rows, n_pairs, n_blocks;
};

void odl_tap_sums_1_even(struct odl_tap_sums *a);
void odl_tap_sums_1_odd(struct odl_tap_sums *a);
void odl_tap_sums_2_even(struct odl_tap_sums *a);
void odl_tap_sums_2_odd(struct odl_tap_sums *a);

/* The sums of two lanes, rounded and added, take their own place as floats. */
static inline void odl_finish_taps(void *out, uint32_t n_taps, uint32_t n_channels, uint32_t n_sums)
{
#if ODL_ACCUMULATE_FP16
    for (uint32_t t = 0; t < n_taps; t++) {
        for (uint32_t c = t * n_channels; c < t * n_channels + n_sums; c++) {
            const float value = odl_acc_float(((const odl_acc *)out)[c]);
            ((float *)out)[c] = value;
        }
    }
#else
    (void)out, (void)n_taps, (void)n_channels, (void)n_sums;
#endif
}

/* One of two halves of all pairs of channels, the first two kernel rows or the third, and the share of `core` in it. */
static inline void odl_some_tap_sums_3x3(uint32_t row, uint32_t core, void *dw, odl_acc *cells, const odl_half *dy,
                                         const odl_half *x, const struct odl_window *s, uint32_t first, uint32_t last,
                                         uint32_t is_half)
{
    const uint32_t n = s->in_c / 2;
    const uint32_t rest = n % ODL_CORES;
    const uint32_t c = 2 * (n / ODL_CORES * core + (core < rest ? core : rest));
    const uint32_t n_blocks = n / ODL_CORES + (core < rest ? 1u : 0u);
    if (n_blocks == 0) {
        return;
    }
    const uint32_t is_rounded = last && is_half;
    const uint32_t cell = is_rounded ? 2 : 4;
    const uint32_t at = row * 3 * s->in_c + c;
    unsigned char *const out = (unsigned char *)(last ? dw : (void *)cells) + at * cell;
    struct odl_tap_sums sums = {
        .dy = dy + c, .x = x + row * s->in_w * s->in_c + c, .start = first ? NULL : cells + at, .out = out,
        .start_tap = s->in_c * 4, .out_tap = s->in_c * cell, .is_half = is_rounded,
        .pixel = s->in_c * 2, .x_row = s->in_w * s->in_c * 2,
        .n_rows = s->out_h, .n_pairs = s->out_w / 2, .n_blocks = n_blocks,
    };
    if (row == 0) {
        s->out_w % 2 ? odl_tap_sums_2_odd(&sums) : odl_tap_sums_2_even(&sums);
    } else {
        s->out_w % 2 ? odl_tap_sums_1_odd(&sums) : odl_tap_sums_1_even(&sums);
    }
    if (last && !is_half) {
        odl_finish_taps(out, row == 0 ? 6 : 3, s->in_c, 2 * n_blocks);
    }
}

/* 3x3, stride 1, more than one pixel in a row. Cores that get more of the one half get less of the other. */
static inline void odl_all_tap_sums_3x3(void *dw, odl_acc *cells, const odl_half *dy, const odl_half *x,
                                        const struct odl_window *s, uint32_t first, uint32_t last, uint32_t is_half)
{
    uint32_t core = odl_core();
    for (uint32_t row = 0; row < 3; row += 2) {
        odl_some_tap_sums_3x3(row, core, dw, cells, dy, x, s, first, last, is_half);
        core = ODL_CORES - 1 - core;
    }
}

#endif

#endif
