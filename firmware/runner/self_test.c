/*
 * One look at the arithmetic before it is trusted: every operation rounds once, to nearest even, and keeps
 * subnormals. It catches contraction (-ffp-contract=fast), fast-math, flush-to-zero and a rounding mode
 * that someone left behind.
 */
#include "self_test.h"

#include "odl_half.h"

#include <stdbool.h>

/* What passes through here is not known at compile time. */
static uint32_t hidden(uint32_t bits)
{
    volatile uint32_t memory = bits;
    return memory;
}

static odl_half half(uint16_t bits)
{
    return odl_from_bits16((uint16_t)hidden(bits));
}

/* a * b + c, rounded twice. */
static bool half_gives(uint16_t a, uint16_t b, uint16_t c, uint16_t expected)
{
    odl_half product = odl_mul16(half(a), half(b));
    odl_half sum = odl_add16(product, half(c));
    return odl_bits16(sum) == expected;
}

static bool float_gives(uint32_t a, uint32_t b, uint32_t c, uint32_t expected)
{
    float product = odl_from_bits32(hidden(a)) * odl_from_bits32(hidden(b));
    float sum = product + odl_from_bits32(hidden(c));
    return odl_bits32(sum) == expected;
}

/* a * b + c, rounded once. */
static bool fused_gives(uint16_t a, uint16_t b, uint16_t c, uint16_t expected)
{
    return odl_bits16(odl_fma16(half(a), half(b), half(c))) == expected;
}

static bool round_gives(uint32_t x, uint16_t expected)
{
    return odl_bits16(odl_round(odl_from_bits32(hidden(x)))) == expected;
}

uint32_t odl_self_test(void)
{
    /* (1 + u)(1 - u) - 1 with u = 2^-10 or 2^-23: the product rounds to 1; fused, -u*u is left. */
    if (!half_gives(0x3c01u, 0x3bfeu, 0xbc00u, 0x0000u)) {
        return 1;
    }
    if (!float_gives(0x3f800001u, 0x3f7ffffeu, 0xbf800000u, 0x00000000u)) {
        return 2;
    }
    if (!fused_gives(0x3c01u, 0x3bfeu, 0xbc00u, 0x8010u)) {
        return 3;
    }
    /* Ties go to even: 1 + ulp/2 down, 1 + ulp + ulp/2 up, -1 - ulp/2 up. */
    if (!half_gives(0x3c00u, 0x3c00u, 0x1000u, 0x3c00u) || !half_gives(0x3c00u, 0x3c01u, 0x1000u, 0x3c02u) ||
        !half_gives(0x3c00u, 0xbc00u, 0x9000u, 0xbc00u)) {
        return 4;
    }
    if (!float_gives(0x3f800000u, 0x3f800000u, 0x33800000u, 0x3f800000u) ||
        !float_gives(0x3f800000u, 0x3f800001u, 0x33800000u, 0x3f800002u) ||
        !float_gives(0x3f800000u, 0xbf800000u, 0xb3800000u, 0xbf800000u)) {
        return 5;
    }
    /* Subnormals survive, as operands and as results. */
    if (!half_gives(0x3c00u, 0x0001u, 0x0001u, 0x0002u) ||
        !float_gives(0x3f800000u, 0x00000001u, 0x00000001u, 0x00000002u)) {
        return 6;
    }
    /* Conversions round the same way, and reach binary16's subnormals: 1 + ulp/2, 1.5 * 2^-24. */
    if (!round_gives(0x3f801000u, 0x3c00u) || !round_gives(0x33c00000u, 0x0002u)) {
        return 7;
    }
    return 0;
}
