/*
 * Elementwise kernels: one function of lanes, applied to tensors by all cores.
 *
 * The function is inlined. Where pairs are words (ODL_PAIRWISE) it sees two neighbours at a time, as far as the tensors lie
 * alike in their words; else, and for the elements left over, one element in lane lo, and its lane hi is thrown away.
 */
#ifndef ODL_MAP_H
#define ODL_MAP_H

#include "odl_lanes.h"
#include "odl_stream.h"
#include "odl_team.h"

enum { ODL_MAP_PAIRS = 4 }; /* pairs loaded before the first is stored: no load is waited for */

/* Of two elements each of a and b, and of the constants at k. */
typedef odl_half2 odl_lanes_of(odl_half2 a, odl_half2 b, const odl_half2 *k);

/* The same for n_words whole words, y may be a or b; f and k are for those who need them. */
typedef void odl_words_of(odl_half *y, const odl_half *a, const odl_half *b, uint32_t n_words, odl_lanes_of *f,
                          const odl_half2 *k);

/* This core's part of n neighbours, in whole blocks of the loop below. */
static inline odl_range odl_share_lanes(uint32_t n)
{
    return ODL_CORES == 1 ? (odl_range){0, n} : odl_share_groups(n, 2 * ODL_MAP_PAIRS);
}

/* Whether p and q are both at the start of a word, or both in the middle of one. */
static inline int odl_lie_alike(const odl_half *p, const odl_half *q)
{
    return (((uintptr_t)p ^ (uintptr_t)q) & 2u) == 0;
}

static inline uint32_t odl_starts_word(const odl_half *p)
{
    return ((uintptr_t)p & 2u) == 0;
}

ODL_INLINE void odl_map_one(odl_half *y, const odl_half *a, const odl_half *b, odl_lanes_of *f, const odl_half2 *k)
{
    *y = odl_lo(f(odl_pack2(*a, 0), odl_pack2(*b, 0), k));
}

/* The words of any function. */
ODL_INLINE void odl_map_words(odl_half *y, const odl_half *a, const odl_half *b, uint32_t n_words, odl_lanes_of *f,
                              const odl_half2 *k)
{
    const odl_half *const end = y + 2 * n_words;
    const odl_half *const end_of_blocks = end - 2 * (n_words % ODL_MAP_PAIRS);
    while (y != end_of_blocks) {
        odl_half2 u[ODL_MAP_PAIRS];
        odl_half2 v[ODL_MAP_PAIRS];
        for (uint32_t j = 0; j < ODL_MAP_PAIRS; j++) {
            u[j] = odl_load2_aligned(a + 2 * j);
            v[j] = odl_load2_aligned(b + 2 * j);
        }
        for (uint32_t j = 0; j < ODL_MAP_PAIRS; j++) {
            u[j] = f(u[j], v[j], k);
        }
        for (uint32_t j = 0; j < ODL_MAP_PAIRS; j++) {
            odl_store2(y + 2 * j, u[j]);
        }
        y += 2 * ODL_MAP_PAIRS;
        a += 2 * ODL_MAP_PAIRS;
        b += 2 * ODL_MAP_PAIRS;
    }
    for (; y != end; y += 2, a += 2, b += 2) {
        odl_store2(y, f(odl_load2_aligned(a), odl_load2_aligned(b), k));
    }
}

/* y[i] = f(a[i], b[i]) for the elements of `part`. y may be a or b. A function of one operand takes it twice. `words` does
 * those that can be done as words. */
ODL_INLINE void odl_map_by(odl_half *y, const odl_half *a, const odl_half *b, odl_range part, odl_lanes_of *f,
                           const odl_half2 *k, odl_words_of *words)
{
    uint32_t i = part.first;
    if (ODL_PAIRWISE && odl_lie_alike(y, a) && odl_lie_alike(y, b)) {
        if (i < part.last && !odl_starts_word(y + i)) {
            odl_map_one(y + i, a + i, b + i, f, k);
            i++;
        }
        if (i < part.last) {
            const uint32_t n_words = (part.last - i) / 2;
            words(y + i, a + i, b + i, n_words, f, k);
            i += 2 * n_words;
        }
    }
    for (; i < part.last; i++) {
        odl_map_one(y + i, a + i, b + i, f, k);
    }
}

ODL_INLINE void odl_map(odl_half *y, const odl_half *a, const odl_half *b, odl_range part, odl_lanes_of *f,
                        const odl_half2 *k)
{
    odl_map_by(y, a, b, part, f, k, odl_map_words);
}

/* y[i] = f(a[i], b[i mod n_b]): all elements of a and y, n_elems, by all cores. y may be a, or b if that is as long. */
ODL_INLINE void odl_map_rows(odl_half *y, const odl_half *a, const odl_half *b, uint32_t n_elems, uint32_t n_b,
                             odl_lanes_of *f, odl_words_of *words)
{
    const odl_range part = odl_share_lanes(n_elems);
    uint32_t j = part.first % n_b;
    for (uint32_t i = part.first; i < part.last; j = 0) {
        const uint32_t rest = part.last - i;
        const uint32_t count = n_b - j < rest ? n_b - j : rest;
        odl_map_by(y + i, a + i, b + j, (odl_range){0, count}, f, NULL, words);
        i += count;
    }
}

/* Words of functions that cores with packed binary16 do as streams; elsewhere they are maps like any other. */
#if ODL_SIMD
#define ODL_STREAMED(name, stream) \
    ODL_INLINE void name(odl_half *y, const odl_half *a, const odl_half *b, uint32_t n_words, odl_lanes_of *f, \
                         const odl_half2 *k) \
    { \
        stream(y, a, b, n_words); \
        if (n_words % 2 != 0) { \
            y += 2 * (n_words - 1), a += 2 * (n_words - 1), b += 2 * (n_words - 1); \
            odl_store2(y, f(odl_load2_aligned(a), odl_load2_aligned(b), k)); \
        } \
    }
#else
#define ODL_STREAMED(name, stream) \
    ODL_INLINE void name(odl_half *y, const odl_half *a, const odl_half *b, uint32_t n_words, odl_lanes_of *f, \
                         const odl_half2 *k) \
    { \
        odl_map_words(y, a, b, n_words, f, k); \
    }
#endif

/* to[i] = from[i] for the elements of `part`; bits, not numbers. Only `to` need lie in words. */
static inline void odl_copy(odl_half *to, const odl_half *from, odl_range part)
{
    uint32_t i = part.first;
    if (i < part.last && !odl_starts_word(to + i)) {
        to[i] = from[i];
        i++;
    }
    if (i < part.last) {
        const uint32_t n_words = (part.last - i) / 2;
        odl_copy_words(to + i, from + i, n_words);
        i += 2 * n_words;
    }
    if (i < part.last) {
        to[i] = from[i];
    }
}

#endif
