/*
 * binary16 arithmetic: scalars here; pairs and the accumulator of sums of products in odl_lanes.h, which this includes.
 *
 * Every function rounds where odl/fp16.py rounds and gives the same bits, NaNs apart, whose sign and payload
 * differ between processors. Compile with -ffp-contract=off and without any fast-math flag; there is one
 * operation a statement because some compilers keep excess precision within one.
 *
 * Operations of two binary16 numbers are written in binary32 and rounded again, which yields the correctly
 * rounded result; compilers turn that into one instruction where the core has it.
 */
#ifndef ODL_HALF_H
#define ODL_HALF_H

#include <float.h>
#include <stdint.h>

#include "odl_config.h"

#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || \
    defined(__NO_SIGNED_ZEROS__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "compile without -ffast-math and what belongs to it: it changes results"
#endif
#if FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16
#error "float operations must be rounded to float, one by one"
#endif
#ifdef __clang__
#pragma STDC FP_CONTRACT OFF /* gcc has no such word: it needs -ffp-contract=off */
#endif

#define ODL_INLINE static inline __attribute__((always_inline))

typedef _Float16 odl_half;

/* Bit patterns. */

static inline uint16_t odl_bits16(odl_half x)
{
    union { odl_half value; uint16_t bits; } cast = {.value = x};
    return cast.bits;
}

static inline odl_half odl_from_bits16(uint16_t x)
{
    union { uint16_t bits; odl_half value; } cast = {.bits = x};
    return cast.value;
}

static inline uint32_t odl_bits32(float x)
{
    union { float value; uint32_t bits; } cast = {.value = x};
    return cast.bits;
}

static inline float odl_from_bits32(uint32_t x)
{
    union { uint32_t bits; float value; } cast = {.bits = x};
    return cast.value;
}

/* x > 0, by its pattern: a compiler that sees a comparison may turn the choice that follows into fmaxf. */
static inline int odl_is_positive(odl_half x)
{
    return (uint32_t)odl_bits16(x) - 1u < 0x7c00u;
}

/* Scalars. */

static inline odl_half odl_round(float x)
{
    return (odl_half)x;
}

static inline odl_half odl_add16(odl_half a, odl_half b)
{
    float sum = (float)a + (float)b;
    return (odl_half)sum;
}

static inline odl_half odl_sub16(odl_half a, odl_half b)
{
    float difference = (float)a - (float)b;
    return (odl_half)difference;
}

static inline odl_half odl_mul16(odl_half a, odl_half b)
{
    float product = (float)a * (float)b;
    return (odl_half)product;
}

static inline odl_half odl_div16(odl_half a, odl_half b)
{
    float quotient = (float)a / (float)b;
    return (odl_half)quotient;
}

/* Needs -fno-math-errno, or it becomes a call of sqrtf. */
static inline odl_half odl_sqrt16(odl_half a)
{
    float root = __builtin_sqrtf((float)a);
    return (odl_half)root;
}

/* a * b + c, rounded once. The double product is exact; why the sum may be rounded twice: fma16 in odl/fp16.py. */
static inline odl_half odl_fma16(odl_half a, odl_half b, odl_half c)
{
#if defined(__riscv_zfh) || defined(__riscv_zhinx)
    return __builtin_fmaf16(a, b, c);
#else
    double product = (double)a * (double)b;
    double sum = product + (double)c;
    return (odl_half)sum;
#endif
}

#include "odl_lanes.h"

#endif
