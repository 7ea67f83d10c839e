/*
 * What the kernels of optimizers share: the guard of an update, and how a weight takes steps below its last place.
 *
 * The same operations in the same order as in odl/masters.py and odl/ops/square_sums.py, where sources and bounds are.
 */
#ifndef ODL_UPDATE_H
#define ODL_UPDATE_H

#include "odl_half.h"
#include "odl_team.h"

enum { ODL_UNSCALE = 0, ODL_LR = 1, ODL_STEP_SIZE = 2, ODL_CORRECTION = 3 }; /* what rates hold */
enum { ODL_PARTS = 8 };                                                     /* of a sum of squares */

ODL_INLINE int odl_is_finite32(float x)
{
    const uint32_t exponent = 0x7f800000u;
    return (odl_bits32(x) & exponent) != exponent;
}

ODL_INLINE int odl_is_finite16(odl_half x)
{
    const uint32_t exponent = 0x7c00u;
    return (odl_bits16(x) & exponent) != exponent;
}

ODL_INLINE float odl_square_total(const float *squares)
{
    float total = 0.0f;
    for (uint32_t part = 0; part < ODL_PARTS; part++) {
        total = total + squares[part];
    }
    return total;
}

/* Whether everything that was squared is finite: only then may an update touch anything. */
ODL_INLINE int odl_allows(const float *guard)
{
    return odl_is_finite32(odl_square_total(guard));
}

/* g * unscale, and between -clip and clip where clip is not 0. */
ODL_INLINE float odl_unscaled(float g, const float *rates, float clip)
{
    const float unscaled = g * rates[ODL_UNSCALE];
    if (clip > 0.0f) {
        return unscaled > clip ? clip : unscaled < -clip ? -clip : unscaled;
    }
    return unscaled;
}

/* What is stored of a state: binary16, or binary32 as it is. */
ODL_INLINE float odl_kept_f16(float x)
{
    return (float)odl_round(x);
}

ODL_INLINE float odl_kept_f32(float x)
{
    return x;
}

/* 32 random bits of a counter and a key. */
ODL_INLINE uint32_t odl_random_bits(uint32_t counter, uint32_t key)
{
    uint32_t x = counter * 0x9e3779b9u + key;
    x = (x ^ (x >> 16)) * 0x85ebca6bu;
    x = (x ^ (x >> 13)) * 0xc2b2ae35u;
    return x ^ (x >> 16);
}

/* 13 of them for an element: an even one and the next share a draw. */
ODL_INLINE uint32_t odl_chance(uint32_t element, uint32_t key)
{
    return (odl_random_bits(element >> 1, key) >> ((element & 1u) << 4)) & 0x1fffu;
}

/* x rounded to one of its two neighbours, to each with the probability that makes the mean x. */
ODL_INLINE odl_half odl_round_stochastic(float x, uint32_t chance)
{
    const uint32_t sign = 0x80000000u;
    const uint32_t kept = 0xffffe000u;
    const float least_normal = 0x1p-14f;
    if (!odl_is_finite32(x)) {
        return odl_round(x);
    }
    const float size = odl_from_bits32(odl_bits32(x) & ~sign);
    const int is_small = size < least_normal;
    const float raised = is_small ? size + least_normal : size;
    const float cut = odl_from_bits32((odl_bits32(raised) + chance) & kept);
    const float rounded = is_small ? cut - least_normal : cut;
    return odl_round(odl_from_bits32(odl_bits32(rounded) | (odl_bits32(x) & sign)));
}

/* The same of two neighbours, an even element and the next, with their common draw. */
ODL_INLINE odl_half2 odl_round_stochastic2(float lo, float hi, uint32_t draw)
{
    const uint32_t kept = 0xffffe000u;
    const uint32_t twice_least_normal = 0x38800000u << 1;
    const uint32_t chance_lo = draw & 0x1fffu;
    const uint32_t chance_hi = (draw >> 16) & 0x1fffu;
    const uint32_t x = odl_bits32(lo);
    const uint32_t y = odl_bits32(hi);
    if (__builtin_expect(x << 1 >= twice_least_normal && y << 1 >= twice_least_normal, 1)) {
        return odl_round2(odl_from_bits32((x + chance_lo) & kept), odl_from_bits32((y + chance_hi) & kept));
    }
    return odl_pack2(odl_round_stochastic(lo, chance_lo), odl_round_stochastic(hi, chance_hi));
}

/* A weight after a step, and what lies beside it: a binary32 copy, or a binary16 rest of what was rounded away. */
typedef struct {
    odl_half weight;
    float copy;
    odl_half rest;
} odl_stepped;

ODL_INLINE odl_stepped odl_step_none(odl_half w, float way)
{
    const float moved = (float)w - way;
    return (odl_stepped){odl_round(moved), 0.0f, 0};
}

ODL_INLINE odl_stepped odl_step_fp32(float copy, float way)
{
    const float moved = copy - way;
    return (odl_stepped){odl_round(moved), moved, 0};
}

/* The rest is scaled by 2^11, so that it does not sink into binary16's subnormals. */
ODL_INLINE odl_stepped odl_step_kahan(odl_half w, odl_half rest, float way)
{
    const float owed = (float)rest * 0x1p-11f;
    const float value = (float)w + owed;
    const float moved = value - way;
    const odl_half weight = odl_round(moved);
    const float lost = moved - (float)weight;
    const float scaled = lost * 0x1p11f;
    return (odl_stepped){weight, 0.0f, odl_round(scaled)};
}

ODL_INLINE odl_stepped odl_step_stochastic(odl_half w, float way, uint32_t chance)
{
    const float moved = (float)w - way;
    return (odl_stepped){odl_round_stochastic(moved, chance), 0.0f, 0};
}

#endif
