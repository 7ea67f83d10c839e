/*
 * exp, log, tanh, sigmoid and 1/sqrt in binary32, out of + - * / sqrt and bit patterns: no libm.
 *
 * The same operations in the same order as in odl/fp16.py, where the methods, sources and bounds are.
 * Needs -fno-math-errno, so that the square root is an instruction and not a call.
 */
#ifndef ODL_MATH_H
#define ODL_MATH_H

#include "odl_half.h"

#define ODL_INFINITY odl_from_bits32(0x7f800000u)
#define ODL_NAN odl_from_bits32(0x7fc00000u)

/* ln 2 = high + low; high has 9 bits, so that small integers times high are exact. */
#define ODL_LN2_HIGH (355.0f / 512.0f)
#define ODL_LN2_LOW (-2.12194440e-4f)

/* Horner's rule; the coefficient of the highest power comes first. */
static inline float odl_polynomial(float x, const float *coefficients, int n)
{
    float total = coefficients[0];
    for (int i = 1; i < n; i++) {
        total = total * x;
        total = total + coefficients[i];
    }
    return total;
}

/* exp(x) = (1 + tail) * s * t; s and t are powers of two. */
typedef struct {
    float tail;
    float s;
    float t;
} odl_exp_parts;

static inline odl_exp_parts odl_exp_split(float x)
{
    static const float taylor[] = {1.0f / 5040.0f, 1.0f / 720.0f, 1.0f / 120.0f, 1.0f / 24.0f, 1.0f / 6.0f, 0.5f};
    const float shifter = 12582912.0f; /* 1.5 * 2^23: added to a small number it rounds it to an integer */

    x = x > 89.0f ? 89.0f : x;
    x = x < -104.0f ? -104.0f : x;

    float shifted = x * 1.44269504f;
    shifted = shifted + shifter;
    float k = shifted - shifter;
    float high = k * ODL_LN2_HIGH;
    float low = k * ODL_LN2_LOW;
    float r = x - high;
    r = r - low;

    float square = r * r;
    float tail = odl_polynomial(r, taylor, 6);
    tail = tail * square;
    tail = tail + r;

    uint32_t exponent = odl_bits32(shifted) - (odl_bits32(shifter) - 254u); /* k + 2 * bias */
    uint32_t s = exponent >> 1;
    uint32_t t = exponent - s;
    return (odl_exp_parts){tail, odl_from_bits32(s << 23), odl_from_bits32(t << 23)};
}

static inline float odl_exp32(float x)
{
    odl_exp_parts parts = odl_exp_split(x);
    float result = 1.0f + parts.tail;
    result = result * parts.s;
    return result * parts.t;
}

static inline float odl_log32(float x)
{
    static const float series[] = {2.0f / 9.0f, 2.0f / 7.0f, 2.0f / 5.0f, 2.0f / 3.0f};
    const uint32_t sqrt_half = 0x3f3504f3u;

    if (x == 0.0f) {
        return -ODL_INFINITY;
    }
    if (!(x > 0.0f)) {
        return ODL_NAN;
    }
    if (x == ODL_INFINITY) {
        return x;
    }
    float bias = 127.0f;
    if (x < FLT_MIN) {
        x = x * 8388608.0f;
        bias = 127.0f + 23.0f;
    }
    uint32_t biased = odl_bits32(x) + (0x3f800000u - sqrt_half);
    float e = (float)(biased >> 23);
    e = e - bias;
    float m = odl_from_bits32((biased & 0x7fffffu) + sqrt_half);

    float s = m - 1.0f;
    float plus = m + 1.0f;
    s = s / plus;
    float square = s * s;
    float tail = odl_polynomial(square, series, 4);
    tail = tail * square;
    tail = tail * s;

    float low = e * ODL_LN2_LOW;
    float high = e * ODL_LN2_HIGH;
    float twice = 2.0f * s;
    float result = tail + low;
    result = result + twice;
    return result + high;
}

static inline float odl_tanh32(float x)
{
    const uint32_t sign = 0x80000000u;
    odl_exp_parts parts = odl_exp_split(-2.0f * odl_from_bits32(odl_bits32(x) & ~sign));
    float scale = parts.s * parts.t;
    float q = scale * parts.tail;
    float rest = scale - 1.0f;
    q = q + rest;
    float plus = q + 2.0f;
    float magnitude = q / plus;
    return odl_from_bits32((odl_bits32(magnitude) & ~sign) | (odl_bits32(x) & sign));
}

static inline float odl_sigmoid32(float x)
{
    float denominator = odl_exp32(-x);
    denominator = 1.0f + denominator;
    return 1.0f / denominator;
}

/* (1 + cos(pi x)) / 2 for x in [0, 1]. */
static inline float odl_half_cosine32(float x)
{
    static const float taylor[] = {4.7108749e-7f, -2.5202043e-5f, 9.1926026e-4f, -2.0863481e-2f,
                                   0.25366951f,   -1.2337006f,    1.0f};
    float square = x * x;
    float root = odl_polynomial(square, taylor, 7);
    return root * root;
}

static inline float odl_rsqrt32(float x)
{
    float root = __builtin_sqrtf(x);
    return 1.0f / root;
}

#endif
