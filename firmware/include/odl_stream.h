/*
 * Streams of words: moves, sums and products that walk through memory with so little to do for each word that the loop
 * is what costs. Cores with packed binary16 do them with post-increment loads and stores, inside a hardware loop where
 * ODL_HARDWARE_LOOPS says so; the C forms beside are the definition. Words are pairs of neighbours, odl_half2.
 */
#ifndef ODL_STREAM_H
#define ODL_STREAM_H

#include <stdint.h>

#include "odl_half.h"

#ifndef ODL_HARDWARE_LOOPS
#define ODL_HARDWARE_LOOPS 0
#endif

#if ODL_SIMD

/* %[n] times (once at least) the instructions up to ODL_AGAIN, of which there are `size` / 2, each of 4 bytes. */
#if ODL_HARDWARE_LOOPS
#define ODL_LOOP(size) ".balign 4\n.insn i 0x7b, 4, x0, %[n], " #size "\n"
#define ODL_AGAIN ""
#else
#define ODL_LOOP(size) "1:\n"
#define ODL_AGAIN "addi %[n], %[n], -1\nbnez %[n], 1b\n"
#endif

#define ODL_R(major, funct3, funct7, rd, a, b) \
    ".insn r " #major ", " #funct3 ", " #funct7 ", %[" #rd "], %[" #a "], %[" #b "]\n"
#define ODL_P_LW(rd, at) ".insn i 0x0b, 2, %[" #rd "], 4(%[" #at "])\n" /* rd = word at `at`; at += 4 bytes */
#define ODL_P_SW(word, at) ".insn s 0x2b, 2, %[" #word "], 4(%[" #at "])\n"
#define ODL_P_LW_BY(rd, at, by) ODL_R(0x0b, 7, 0x10, rd, at, by) /* rd = word at `at`; at += by bytes */
#define ODL_PACK(rd, lo, hi) ODL_R(0x57, 0, 0x68, rd, hi, lo)
#define ODL_SHUFFLE(rd, with, selector) ODL_R(0x57, 0, 0x64, rd, with, selector)
#define ODL_HIGH(word) ".insn i 0x13, 5, %[" #word "], %[" #word "], 16\n"    /* srli */
#define ODL_WIDEN(rd, lane) ".insn r 0x53, 0, 0x20, %[" #rd "], %[" #lane "], x2\n" /* fcvt.s.h */
#define ODL_TIMES(rd, a, b) ".insn r4 0x43, 7, 0, %[" #rd "], %[" #a "], %[" #b "], zero\n" /* fmadd.s: a * b + 0 */
#if ODL_ACCUMULATE_FP16
#define ODL_DOT(acc, x, y) ODL_R(0x33, 2, 0x48, acc, x, y)
#else
#define ODL_DOT(acc, x, y) ODL_R(0x33, 0, 0x4b, acc, x, y)
#endif

#endif

#if ODL_SIMD

/* Pairs of words of y from those of a, and of b; what is left of an odd number of words is the caller's. An operation of
 * the shared arithmetic units stands between others that do not need one, so that cores seldom wait for each other. */

#define ODL_STREAM1(y, a, n_words, operation) \
    do { \
        odl_half *to_ = (y); \
        const odl_half *from_ = (a); \
        uint32_t n_ = (n_words) / 2, u_, v_; \
        if (n_ != 0) { \
            __asm__ volatile( \
                ODL_LOOP(12) ODL_P_LW(u, from) ODL_P_LW(v, from) \
                operation(u) ODL_P_SW(u, to) operation(v) ODL_P_SW(v, to) ODL_AGAIN \
                : [n] "+r"(n_), [to] "+r"(to_), [from] "+r"(from_), [u] "=&r"(u_), [v] "=&r"(v_) \
                : \
                : "memory"); \
        } \
    } while (0)

/* `operation` changes its first register, may destroy the second one, and takes `size` / 2 instructions. */
#define ODL_STREAM2(y, a, b, n_words, operation, size, k0, k1) \
    do { \
        odl_half *to_ = (y); \
        const odl_half *left_ = (a), *right_ = (b); \
        uint32_t n_ = (n_words) / 2, u_, v_, s_, t_; \
        if (n_ != 0) { \
            __asm__ volatile( \
                ODL_LOOP(12 + 2 * size) ODL_P_LW(u, left) ODL_P_LW(s, right) ODL_P_LW(v, left) ODL_P_LW(t, right) \
                operation(u, s) ODL_P_SW(u, to) operation(v, t) ODL_P_SW(v, to) ODL_AGAIN \
                : [n] "+r"(n_), [to] "+r"(to_), [left] "+r"(left_), [right] "+r"(right_), [u] "=&r"(u_), \
                  [v] "=&r"(v_), [s] "=&r"(s_), [t] "=&r"(t_) \
                : [one] "r"(k0), [two] "r"(k1) \
                : "memory"); \
        } \
    } while (0)

#define ODL_POSITIVE(u) ".insn r 0x33, 2, 0x46, %[" #u "], %[" #u "], zero\n" /* vfmax.h: odl_positive2 */
#define ODL_FROM_ZERO(u) ".insn r 0x33, 2, 0x41, %[" #u "], zero, %[" #u "]\n" /* vfadd.h: odl_add2 to zeros */
#define ODL_ADD(u, s) ODL_R(0x33, 2, 0x41, u, u, s)
#define ODL_MUL(u, s) ODL_R(0x33, 2, 0x43, u, u, s)
/* odl_choose_positive2(u, s, 0): pv.add.h of -1, pv.cmpgtu.h, and. */
#define ODL_WHERE_POSITIVE(u, s) \
    ODL_R(0x57, 0, 0x00, u, u, one) ODL_R(0x57, 0, 0x1a, u, two, u) ODL_R(0x33, 7, 0x00, u, u, s)

static inline void odl_stream_positive(odl_half *y, const odl_half *a, const odl_half *b, uint32_t n_words)
{
    (void)b;
    ODL_STREAM1(y, a, n_words, ODL_POSITIVE);
}

static inline void odl_stream_from_zero(odl_half *y, const odl_half *a, const odl_half *b, uint32_t n_words)
{
    (void)b;
    ODL_STREAM1(y, a, n_words, ODL_FROM_ZERO);
}

static inline void odl_stream_where_positive(odl_half *y, const odl_half *a, const odl_half *b, uint32_t n_words)
{
    ODL_STREAM2(y, a, b, n_words, ODL_WHERE_POSITIVE, 6, 0xffffffffu, 0x7c007c00u);
}

static inline void odl_stream_add(odl_half *y, const odl_half *a, const odl_half *b, uint32_t n_words)
{
    ODL_STREAM2(y, a, b, n_words, ODL_ADD, 2, 0, 0);
}

static inline void odl_stream_mul(odl_half *y, const odl_half *a, const odl_half *b, uint32_t n_words)
{
    ODL_STREAM2(y, a, b, n_words, ODL_MUL, 2, 0, 0);
}

#endif

/* n_words words from any element to `to`, which must be aligned to 4 bytes. Bits move, not numbers. */
static inline void odl_copy_words(odl_half *to, const odl_half *from, uint32_t n_words)
{
    uint32_t n = n_words / 4;
    if (n != 0) {
#if ODL_SIMD
        uint32_t a, b, c, d;
        __asm__ volatile(
            ODL_LOOP(16)
            ODL_P_LW(a, from) ODL_P_LW(b, from) ODL_P_LW(c, from) ODL_P_LW(d, from)
            ODL_P_SW(a, to) ODL_P_SW(b, to) ODL_P_SW(c, to) ODL_P_SW(d, to)
            ODL_AGAIN
            : [n] "+r"(n), [to] "+r"(to), [from] "+r"(from), [a] "=&r"(a), [b] "=&r"(b), [c] "=&r"(c), [d] "=&r"(d)
            :
            : "memory");
#else
        for (; n != 0; n--, to += 8, from += 8) {
            const odl_half2 a = odl_load2(from), b = odl_load2(from + 2);
            const odl_half2 c = odl_load2(from + 4), d = odl_load2(from + 6);
            odl_store2(to, a);
            odl_store2(to + 2, b);
            odl_store2(to + 4, c);
            odl_store2(to + 6, d);
        }
#endif
    }
    for (uint32_t i = 0; i < n_words % 4; i++) {
        odl_store2(to + 2 * i, odl_load2(from + 2 * i));
    }
}

/* The same word n_words times to `to`, which must be aligned to 4 bytes. */
static inline void odl_fill_words(odl_half *to, odl_half2 word, uint32_t n_words)
{
    uint32_t n = n_words / 4;
    if (n != 0) {
#if ODL_SIMD
        __asm__ volatile(
            ODL_LOOP(8) ODL_P_SW(word, to) ODL_P_SW(word, to) ODL_P_SW(word, to) ODL_P_SW(word, to) ODL_AGAIN
            : [n] "+r"(n), [to] "+r"(to)
            : [word] "r"(word)
            : "memory");
#else
        for (; n != 0; n--, to += 8) {
            odl_store2(to, word);
            odl_store2(to + 2, word);
            odl_store2(to + 4, word);
            odl_store2(to + 6, word);
        }
#endif
    }
    for (uint32_t i = 0; i < n_words % 4; i++) {
        odl_store2(to + 2 * i, word);
    }
}

/* The two columns of n rows of words, `step` elements apart, as rows: y gets the lanes lo, z the lanes hi. All are
 * aligned to 4 bytes, n and step are even. */
static inline void odl_turn_words(odl_half *y, odl_half *z, const odl_half *from, uint32_t step, uint32_t n_words)
{
    uint32_t n = n_words / 4;
    if (n != 0) {
#if ODL_SIMD
        uint32_t a, b, c, d, t, u;
        __asm__ volatile(
            ODL_LOOP(24)
            ODL_P_LW_BY(a, from, by) ODL_P_LW_BY(b, from, by) ODL_P_LW_BY(c, from, by) ODL_P_LW_BY(d, from, by)
            ODL_PACK(t, a, b) ODL_SHUFFLE(a, b, his) ODL_PACK(u, c, d) ODL_SHUFFLE(c, d, his)
            ODL_P_SW(t, y) ODL_P_SW(u, y) ODL_P_SW(a, z) ODL_P_SW(c, z)
            ODL_AGAIN
            : [n] "+r"(n), [y] "+r"(y), [z] "+r"(z), [from] "+r"(from), [a] "=&r"(a), [b] "=&r"(b), [c] "=&r"(c),
              [d] "=&r"(d), [t] "=&r"(t), [u] "=&r"(u)
            : [by] "r"(step * (uint32_t)sizeof(odl_half)), [his] "r"(0x00030001u)
            : "memory");
#else
        for (; n != 0; n--, y += 4, z += 4, from += 4 * step) {
            const odl_half2 a = odl_load2_aligned(from), b = odl_load2_aligned(from + step);
            const odl_half2 c = odl_load2_aligned(from + 2 * step), d = odl_load2_aligned(from + 3 * step);
            odl_store2(y, odl_los2(a, b));
            odl_store2(y + 2, odl_los2(c, d));
            odl_store2(z, odl_his2(a, b));
            odl_store2(z + 2, odl_his2(c, d));
        }
#endif
    }
    if (n_words % 4 != 0) {
        const odl_half2 a = odl_load2_aligned(from), b = odl_load2_aligned(from + step);
        odl_store2(y, odl_los2(a, b));
        odl_store2(z, odl_his2(a, b));
    }
}

/* Four rows of dw, `step` elements apart: row r gets y[r] times each of n_words words of neighbours of x, plus +0, so
 * that none is -0. x is aligned to 4 bytes. */
static inline void odl_times_words(float *dw, uint32_t step, const odl_half *y, const odl_half *x, uint32_t n_words)
{
    float *to[4];
    float by[4];
    for (uint32_t r = 0; r < 4; r++) {
        to[r] = dw + r * step;
        by[r] = (float)y[r];
    }
#if ODL_SIMD
    if (n_words != 0) {
        float lo, hi, p, q;
        uint32_t both;
        __asm__ volatile(
            ODL_LOOP(40)
            ODL_P_LW(both, x) ODL_WIDEN(lo, both) ODL_HIGH(both)
            ODL_TIMES(p, y0, lo) ODL_WIDEN(hi, both)
            ODL_TIMES(q, y0, hi) ODL_P_SW(p, to0) ODL_TIMES(p, y1, lo) ODL_P_SW(q, to0)
            ODL_TIMES(q, y1, hi) ODL_P_SW(p, to1) ODL_TIMES(p, y2, lo) ODL_P_SW(q, to1)
            ODL_TIMES(q, y2, hi) ODL_P_SW(p, to2) ODL_TIMES(p, y3, lo) ODL_P_SW(q, to2)
            ODL_TIMES(q, y3, hi) ODL_P_SW(p, to3) ODL_P_SW(q, to3)
            ODL_AGAIN
            : [n] "+r"(n_words), [x] "+r"(x), [to0] "+r"(to[0]), [to1] "+r"(to[1]), [to2] "+r"(to[2]),
              [to3] "+r"(to[3]), [lo] "=&r"(lo), [hi] "=&r"(hi), [p] "=&r"(p), [q] "=&r"(q), [both] "=&r"(both)
            : [y0] "r"(by[0]), [y1] "r"(by[1]), [y2] "r"(by[2]), [y3] "r"(by[3])
            : "memory");
    }
#else
    for (uint32_t i = 0; i < 2 * n_words; i++) {
        for (uint32_t r = 0; r < 4; r++) {
            const float product = by[r] * (float)x[i];
            to[r][i] = product + 0.0f;
        }
    }
#endif
}

/* sums[0] and sums[1] plus the columns lo and hi of n_pairs pairs of words of w, `step` elements apart, times the pairs
 * of y. w is aligned to 4 bytes. */
static inline void odl_dot_columns(odl_acc sums[2], const odl_half *y, const odl_half *w, uint32_t step,
                                   uint32_t n_pairs)
{
    odl_acc left = sums[0], right = sums[1];
#if ODL_SIMD
    if (n_pairs != 0) {
        uint32_t a, b, t, both;
        __asm__ volatile(
            ODL_LOOP(14)
            ODL_P_LW_BY(a, w, by) ODL_P_LW_BY(b, w, by) ODL_P_LW(both, y)
            ODL_PACK(t, a, b) ODL_DOT(left, t, both) ODL_SHUFFLE(a, b, his) ODL_DOT(right, a, both)
            ODL_AGAIN
            : [n] "+r"(n_pairs), [w] "+r"(w), [y] "+r"(y), [left] "+r"(left), [right] "+r"(right), [a] "=&r"(a),
              [b] "=&r"(b), [t] "=&r"(t), [both] "=&r"(both)
            : [by] "r"(step * (uint32_t)sizeof(odl_half)), [his] "r"(0x00030001u)
            : "memory");
    }
#else
    for (; n_pairs != 0; n_pairs--, y += 2, w += 2 * step) {
        const odl_half2 a = odl_load2(w), b = odl_load2(w + step), both = odl_load2(y);
        left = odl_acc_dot2(left, odl_los2(a, b), both);
        right = odl_acc_dot2(right, odl_his2(a, b), both);
    }
#endif
    sums[0] = left;
    sums[1] = right;
}

/* sums[0] and sums[1] plus the lanes lo and hi of n_pairs pairs of words, `step` elements apart. */
static inline void odl_sum_words(odl_acc sums[2], const odl_half *x, uint32_t step, uint32_t n_pairs)
{
    odl_half2 ones = odl_splat2((odl_half)1);
    odl_acc left = sums[0], right = sums[1];
    uint32_t n = n_pairs / 2;
#if ODL_SIMD
    if (n != 0) {
        uint32_t a, b, c, d, t, u;
        __asm__ volatile(
            ODL_LOOP(24)
            ODL_P_LW_BY(a, x, by) ODL_P_LW_BY(b, x, by) ODL_P_LW_BY(c, x, by) ODL_P_LW_BY(d, x, by)
            ODL_PACK(t, a, b) ODL_DOT(left, t, ones) ODL_SHUFFLE(a, b, his) ODL_DOT(right, a, ones)
            ODL_PACK(u, c, d) ODL_DOT(left, u, ones) ODL_SHUFFLE(c, d, his) ODL_DOT(right, c, ones)
            ODL_AGAIN
            : [n] "+r"(n), [x] "+r"(x), [left] "+r"(left), [right] "+r"(right), [a] "=&r"(a), [b] "=&r"(b),
              [c] "=&r"(c), [d] "=&r"(d), [t] "=&r"(t), [u] "=&r"(u)
            : [by] "r"(step * (uint32_t)sizeof(odl_half)), [his] "r"(0x00030001u), [ones] "r"(ones)
            : "memory");
    }
    n = n_pairs % 2;
#else
    n = n_pairs;
#endif
    for (; n != 0; n--, x += 2 * step) {
        const odl_half2 a = odl_load2(x), b = odl_load2(x + step);
        left = odl_acc_dot2(left, odl_los2(a, b), ones);
        right = odl_acc_dot2(right, odl_his2(a, b), ones);
    }
    sums[0] = left;
    sums[1] = right;
}

#endif
