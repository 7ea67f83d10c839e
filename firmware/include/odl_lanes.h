/*
 * Two binary16 numbers side by side, and the accumulator of sums of products.
 *
 * The C form is the definition: each lane is a number of its own and rounds as the scalar functions of odl_half.h do.
 * With ODL_SIMD a pair is one word, lane lo in its low half, and an operation is one instruction of PULP's cluster
 * cores: packed-SIMD integers (RI5CY) and binary16 vectors (Xfvec, Xfaux), written as .insn, so any RISC-V compiler
 * with Zfinx and Zhinx will do. Both forms give the same bits, NaNs apart.
 */
#ifndef ODL_LANES_H
#define ODL_LANES_H

#include "odl_half.h"

#ifndef ODL_SIMD
#define ODL_SIMD 0 /* 1: pairs are words, with the instructions named above */
#endif
#ifndef ODL_PAIRWISE
#define ODL_PAIRWISE ODL_SIMD /* 1: elementwise kernels work on pairs; of use where a pair is one operation */
#endif

#if ODL_SIMD

typedef uint32_t odl_half2;
typedef uint32_t __attribute__((may_alias)) odl_word; /* memory that holds two binary16 numbers */

/* One instruction of two operands: major opcode, funct3, funct7. */
#define ODL_INSN2(major, funct3, funct7, a, b) \
    __extension__({ \
        uint32_t result_; \
        __asm__(".insn r " #major ", " #funct3 ", " #funct7 ", %0, %z1, %z2" : "=r"(result_) : "rJ"(a), "rJ"(b)); \
        result_; \
    })

static inline odl_half odl_lo(odl_half2 x)
{
    return odl_from_bits16((uint16_t)x);
}

static inline odl_half odl_hi(odl_half2 x)
{
    return odl_from_bits16((uint16_t)(x >> 16));
}

static inline odl_half2 odl_pack2(odl_half lo, odl_half hi)
{
    return ODL_INSN2(0x57, 0, 0x68, hi, lo); /* pv.pack.h */
}

static inline odl_half2 odl_zero2(void)
{
    return 0;
}

/* p need be aligned to no more than 2 bytes. Written as a load, since a compiler would split an unaligned one. */
static inline odl_half2 odl_load2(const odl_half *p)
{
    uint32_t x;
    __asm__("lw %0, %1" : "=r"(x) : "m"(*(const odl_word *)(const void *)p));
    return x;
}

/* p: aligned to 4 bytes. */
static inline odl_half2 odl_load2_aligned(const odl_half *p)
{
    return *(const odl_word *)(const void *)p;
}

/* p: aligned to 4 bytes. */
static inline void odl_store2(odl_half *p, odl_half2 x)
{
    *(odl_word *)(void *)p = x;
}

static inline odl_half2 odl_add2(odl_half2 a, odl_half2 b)
{
    return ODL_INSN2(0x33, 2, 0x41, a, b); /* vfadd.h */
}

static inline odl_half2 odl_sub2(odl_half2 a, odl_half2 b)
{
    return ODL_INSN2(0x33, 2, 0x42, a, b); /* vfsub.h */
}

static inline odl_half2 odl_mul2(odl_half2 a, odl_half2 b)
{
    return ODL_INSN2(0x33, 2, 0x43, a, b); /* vfmul.h */
}

/* a * b + c, rounded once. */
static inline odl_half2 odl_fma2(odl_half2 a, odl_half2 b, odl_half2 c)
{
    __asm__(".insn r 0x33, 2, 0x48, %0, %1, %2" : "+r"(c) : "r"(a), "r"(b)); /* vfmac.h */
    return c;
}

/* x > 0 ? x : +0. The maximum of RISC-V is just that: +0 is greater than -0, and a number is taken, not a NaN. */
static inline odl_half2 odl_positive2(odl_half2 x)
{
    return ODL_INSN2(0x33, 2, 0x46, x, 0); /* vfmax.h */
}

/* x > 0 ? yes : no. As odl_is_positive does: patterns minus one are compared, unsigned. */
static inline odl_half2 odl_choose_positive2(odl_half2 x, odl_half2 yes, odl_half2 no)
{
    const uint32_t less_one = ODL_INSN2(0x57, 0, 0x00, x, 0xffffffffu); /* pv.add.h */
    const uint32_t mask = ODL_INSN2(0x57, 0, 0x1a, 0x7c007c00u, less_one); /* pv.cmpgtu.h: all ones where greater */
    return no ^ ((yes ^ no) & mask);
}

/* 1 in the lowest bit of each half of a word whose lane is greater than 0. */
static inline uint32_t odl_flags_positive2(odl_half2 x)
{
    const uint32_t less_one = ODL_INSN2(0x57, 0, 0x00, x, 0xffffffffu); /* pv.add.h */
    return ODL_INSN2(0x57, 0, 0x1a, 0x7c007c00u, less_one) & 0x00010001u; /* pv.cmpgtu.h */
}

/* yes where the lowest bit of that half of `flags` is 1, else no. */
static inline odl_half2 odl_choose_flagged2(uint32_t flags, odl_half2 yes, odl_half2 no)
{
    const uint32_t mask = (flags & 0x00010001u) * 0xffffu;
    return no ^ ((yes ^ no) & mask);
}

/* The lanes lo of a and b; their lanes hi; a's hi and b's lo. */
static inline odl_half2 odl_los2(odl_half2 a, odl_half2 b)
{
    return ODL_INSN2(0x57, 0, 0x68, b, a); /* pv.pack.h */
}

/* pv.shuffle2.h. A lane of the selector: 0 and 1 are a's lanes, 2 and 3 are b's. */
static inline odl_half2 odl_shuffle2(odl_half2 a, odl_half2 b, uint32_t selector)
{
    __asm__(".insn r 0x57, 0, 0x64, %0, %1, %2" : "+r"(a) : "r"(b), "r"(selector));
    return a;
}

static inline odl_half2 odl_his2(odl_half2 a, odl_half2 b)
{
    return odl_shuffle2(a, b, 0x00030001u);
}

static inline odl_half2 odl_across2(odl_half2 a, odl_half2 b)
{
    return odl_shuffle2(a, b, 0x00020001u);
}

/* Two binary32 numbers, each rounded. */
static inline odl_half2 odl_round2(float lo, float hi)
{
    return ODL_INSN2(0x33, 2, 0x58, lo, hi); /* vfcpka.h.s */
}

/* x + y.lo and x + y.hi in binary32, rounded; NaN where a lane is not finite. One operation, with a -0 beside the lane
 * that adds nothing, not even to a sum of -0. */

static inline float odl_plus_lo2(float x, odl_half2 y)
{
    __asm__(".insn r 0x33, 0, 0x4b, %0, %1, %2" : "+r"(x) : "r"(odl_pack2(odl_lo(y), 0)), "r"(0x80003c00u));
    return x; /* vfdotpex.s.h */
}

static inline float odl_plus_hi2(float x, odl_half2 y)
{
    __asm__(".insn r 0x33, 0, 0x4b, %0, %1, %2" : "+r"(x) : "r"(y >> 16), "r"(0x80003c00u)); /* vfdotpex.s.h */
    return x;
}

/* x + (lo * 0 + hi * 0), so NaN from there on where a lane was not finite. x begins with +0 and stays +0 till then. */
static inline float odl_trace2(float x, odl_half2 y)
{
    __asm__(".insn r 0x33, 0, 0x4b, %0, %1, zero" : "+r"(x) : "r"(y)); /* vfdotpex.s.h */
    return x;
}

/* acc + (x.hi * y.hi + x.lo * y.lo) in binary32: the products are exact, both sums are rounded. */
static inline float odl_dot2(float acc, odl_half2 x, odl_half2 y)
{
    __asm__(".insn r 0x33, 0, 0x4b, %0, %1, %2" : "+r"(acc) : "r"(x), "r"(y)); /* vfdotpex.s.h */
    return acc;
}

/* 1 if the lanes lo of a and b have the same bits, else 0; likewise the lanes hi. */
static inline uint32_t odl_same_lo2(odl_half2 a, odl_half2 b)
{
    return (a ^ b) << 16 == 0;
}

static inline uint32_t odl_same_hi2(odl_half2 a, odl_half2 b)
{
    return (a ^ b) >> 16 == 0;
}

/* Whether neither lane is infinite or NaN: no exponent field is all ones. */
static inline int odl_are_finite2(odl_half2 x)
{
    return (((x & 0x7c007c00u) + 0x04000400u) & 0x80008000u) == 0;
}

#else

/* Two neighbours in memory; lo comes first. */
typedef struct {
    odl_half lo;
    odl_half hi;
} odl_half2;

static inline odl_half odl_lo(odl_half2 x)
{
    return x.lo;
}

static inline odl_half odl_hi(odl_half2 x)
{
    return x.hi;
}

static inline odl_half2 odl_pack2(odl_half lo, odl_half hi)
{
    return (odl_half2){lo, hi};
}

static inline odl_half2 odl_zero2(void)
{
    return (odl_half2){0, 0};
}

/* p need be aligned to no more than 2 bytes. */
static inline odl_half2 odl_load2(const odl_half *p)
{
    return (odl_half2){p[0], p[1]};
}

/* p: aligned to 4 bytes. */
static inline odl_half2 odl_load2_aligned(const odl_half *p)
{
    return odl_load2(p);
}

/* p: aligned to 4 bytes. */
static inline void odl_store2(odl_half *p, odl_half2 x)
{
    p[0] = x.lo;
    p[1] = x.hi;
}

static inline odl_half2 odl_add2(odl_half2 a, odl_half2 b)
{
    return (odl_half2){odl_add16(a.lo, b.lo), odl_add16(a.hi, b.hi)};
}

static inline odl_half2 odl_sub2(odl_half2 a, odl_half2 b)
{
    return (odl_half2){odl_sub16(a.lo, b.lo), odl_sub16(a.hi, b.hi)};
}

static inline odl_half2 odl_mul2(odl_half2 a, odl_half2 b)
{
    return (odl_half2){odl_mul16(a.lo, b.lo), odl_mul16(a.hi, b.hi)};
}

/* a * b + c, rounded once. */
static inline odl_half2 odl_fma2(odl_half2 a, odl_half2 b, odl_half2 c)
{
    return (odl_half2){odl_fma16(a.lo, b.lo, c.lo), odl_fma16(a.hi, b.hi, c.hi)};
}

/* x > 0 ? yes : no */
static inline odl_half2 odl_choose_positive2(odl_half2 x, odl_half2 yes, odl_half2 no)
{
    return (odl_half2){odl_is_positive(x.lo) ? yes.lo : no.lo, odl_is_positive(x.hi) ? yes.hi : no.hi};
}

/* 1 in the lowest bit of each half of a word whose lane is greater than 0. */
static inline uint32_t odl_flags_positive2(odl_half2 x)
{
    return (odl_is_positive(x.lo) ? 1u : 0u) | (odl_is_positive(x.hi) ? 1u << 16 : 0u);
}

/* yes where the lowest bit of that half of `flags` is 1, else no. */
static inline odl_half2 odl_choose_flagged2(uint32_t flags, odl_half2 yes, odl_half2 no)
{
    return (odl_half2){(flags & 1u) != 0 ? yes.lo : no.lo, (flags >> 16 & 1u) != 0 ? yes.hi : no.hi};
}

/* x > 0 ? x : +0 */
static inline odl_half2 odl_positive2(odl_half2 x)
{
    return odl_choose_positive2(x, x, odl_zero2());
}

/* The lanes lo of a and b; their lanes hi; a's hi and b's lo. */
static inline odl_half2 odl_los2(odl_half2 a, odl_half2 b)
{
    return (odl_half2){a.lo, b.lo};
}

static inline odl_half2 odl_his2(odl_half2 a, odl_half2 b)
{
    return (odl_half2){a.hi, b.hi};
}

static inline odl_half2 odl_across2(odl_half2 a, odl_half2 b)
{
    return (odl_half2){a.hi, b.lo};
}

/* Two binary32 numbers, each rounded. */
static inline odl_half2 odl_round2(float lo, float hi)
{
    return (odl_half2){odl_round(lo), odl_round(hi)};
}

/* x + y.lo and x + y.hi in binary32, rounded. */

static inline float odl_plus_lo2(float x, odl_half2 y)
{
    return x + (float)y.lo;
}

static inline float odl_plus_hi2(float x, odl_half2 y)
{
    return x + (float)y.hi;
}

/* x + (lo * 0 + hi * 0), so NaN from there on where a lane was not finite. x begins with +0 and stays +0 till then. */
static inline float odl_trace2(float x, odl_half2 y)
{
    float hi = (float)y.hi * 0.0f;
    float lo = (float)y.lo * 0.0f;
    float sum = hi + lo;
    return x + sum;
}

/* 1 if the lanes lo of a and b have the same bits, else 0; likewise the lanes hi. */
static inline uint32_t odl_same_lo2(odl_half2 a, odl_half2 b)
{
    return odl_bits16(a.lo) == odl_bits16(b.lo);
}

static inline uint32_t odl_same_hi2(odl_half2 a, odl_half2 b)
{
    return odl_bits16(a.hi) == odl_bits16(b.hi);
}

/* acc + (x.hi * y.hi + x.lo * y.lo) in binary32: the products are exact, both sums are rounded. */
static inline float odl_dot2(float acc, odl_half2 x, odl_half2 y)
{
    float hi = (float)x.hi * (float)y.hi;
    float lo = (float)x.lo * (float)y.lo;
    float sum = hi + lo;
    return acc + sum;
}

/* Whether neither lane is infinite or NaN. */
static inline int odl_are_finite2(odl_half2 x)
{
    return (odl_bits16(x.lo) & 0x7c00u) != 0x7c00u && (odl_bits16(x.hi) & 0x7c00u) != 0x7c00u;
}

#endif

/* Both lanes the same number. */
static inline odl_half2 odl_splat2(odl_half x)
{
    return odl_pack2(x, x);
}

/*
 * The accumulator. By default a binary32 number: a pair of products is summed and rounded, then added and
 * rounded; the products are exact. With ODL_ACCUMULATE_FP16 two binary16 lanes, each a chain of fused
 * multiply-adds, that are added at the end. A bias enters as the first value.
 */
#if ODL_ACCUMULATE_FP16

typedef odl_half2 odl_acc;

static inline odl_acc odl_acc_start(odl_half first)
{
    return odl_pack2(first, 0);
}

static inline odl_acc odl_acc_dot2(odl_acc acc, odl_half2 x, odl_half2 y)
{
    return odl_fma2(x, y, acc);
}

static inline odl_half odl_acc_half(odl_acc acc)
{
    return odl_add16(odl_lo(acc), odl_hi(acc));
}

static inline float odl_acc_float(odl_acc acc)
{
    return (float)odl_acc_half(acc);
}

/* odl_acc_half of two sums. */
static inline odl_half2 odl_acc_pair_half(odl_acc lo, odl_acc hi)
{
    return odl_add2(odl_los2(lo, hi), odl_his2(lo, hi));
}

#else

typedef float odl_acc;

static inline odl_acc odl_acc_start(odl_half first)
{
    return (float)first;
}

static inline odl_acc odl_acc_dot2(odl_acc acc, odl_half2 x, odl_half2 y)
{
    return odl_dot2(acc, x, y);
}

static inline odl_half odl_acc_half(odl_acc acc)
{
    return odl_round(acc);
}

static inline float odl_acc_float(odl_acc acc)
{
    return acc;
}

/* odl_acc_half of two sums. */
static inline odl_half2 odl_acc_pair_half(odl_acc lo, odl_acc hi)
{
    return odl_round2(lo, hi);
}

#endif

static inline odl_acc odl_acc_zero(void)
{
#if ODL_SIMD
    return 0; /* bits, or the number: no instruction */
#else
    return odl_acc_start(0);
#endif
}

#endif
