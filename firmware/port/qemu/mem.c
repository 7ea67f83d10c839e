/*
 * The four functions that a compiler may call on its own, even in freestanding C.
 */
#include <stddef.h>
#include <stdint.h>

void *memcpy(void *restrict to, const void *restrict from, size_t n_bytes);
void *memmove(void *to, const void *from, size_t n_bytes);
void *memset(void *to, int byte, size_t n_bytes);
int memcmp(const void *left, const void *right, size_t n_bytes);

static int both_aligned(const void *to, const void *from)
{
    return (((uintptr_t)to | (uintptr_t)from) & 3u) == 0u;
}

void *memcpy(void *restrict to, const void *restrict from, size_t n_bytes)
{
    uint8_t *out = to;
    const uint8_t *in = from;
    if (both_aligned(to, from)) {
        for (; n_bytes >= 4u; n_bytes -= 4u, out += 4, in += 4) {
            *(uint32_t *)(void *)out = *(const uint32_t *)(const void *)in;
        }
    }
    for (; n_bytes > 0u; n_bytes--) {
        *out++ = *in++;
    }
    return to;
}

void *memmove(void *to, const void *from, size_t n_bytes)
{
    uint8_t *out = to;
    const uint8_t *in = from;
    if ((uintptr_t)to - (uintptr_t)from >= n_bytes) {
        return memcpy(to, from, n_bytes);
    }
    while (n_bytes > 0u) {
        n_bytes--;
        out[n_bytes] = in[n_bytes];
    }
    return to;
}

void *memset(void *to, int byte, size_t n_bytes)
{
    uint8_t *out = to;
    uint32_t word = (uint8_t)byte * 0x01010101u;
    if (both_aligned(to, to)) {
        for (; n_bytes >= 4u; n_bytes -= 4u, out += 4) {
            *(uint32_t *)(void *)out = word;
        }
    }
    for (; n_bytes > 0u; n_bytes--) {
        *out++ = (uint8_t)byte;
    }
    return to;
}

int memcmp(const void *left, const void *right, size_t n_bytes)
{
    const uint8_t *a = left;
    const uint8_t *b = right;
    for (; n_bytes > 0u; n_bytes--, a++, b++) {
        if (*a != *b) {
            return *a - *b;
        }
    }
    return 0;
}
