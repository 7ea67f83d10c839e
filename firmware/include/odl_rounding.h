/*
 * The mode in which floating point rounds, which the caller of a model may have changed for work of its own.
 */
#ifndef ODL_ROUNDING_H
#define ODL_ROUNDING_H

#include <stdint.h>

/* From here on results are rounded to nearest, ties to even, and subnormals are kept; returns how it was before. */
static inline uint32_t odl_round_to_nearest(void)
{
    uint32_t before = 0;
#if defined(__riscv)
    __asm__ volatile("csrrwi %0, frm, 0" : "=r"(before) : : "memory");
#elif defined(__x86_64__)
    before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(0x1f80u); /* as after reset: no flush to zero either */
#endif
    return before;
}

static inline void odl_round_as_before(uint32_t before)
{
#if defined(__riscv)
    __asm__ volatile("csrw frm, %0" : : "r"(before) : "memory");
#elif defined(__x86_64__)
    __builtin_ia32_ldmxcsr(before);
#else
    (void)before;
#endif
}

#endif
