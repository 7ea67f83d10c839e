/*
 * What the cores of a PULP cluster count, for port.h. start.S switches the counters on.
 */
#ifndef ODL_PORT_COUNTERS_H
#define ODL_PORT_COUNTERS_H

#include "odl_dma.h"

#include <stdint.h>

/* Stalls are cycles: a load's result used at once, instructions not in the cache, an FPU that is busy with another core. */
#define ODL_COUNTERS 6u
#define ODL_COUNTER_NAMES "cycles\0instructions\0load_use\0instruction_cache\0fpu\0dma_wait"

static inline void odl_port_counters(uint32_t now[ODL_COUNTERS])
{
    __asm__ volatile("csrr %0, mcycle" : "=r"(now[0]));
    __asm__ volatile("csrr %0, 0x781" : "=r"(now[1]));
    __asm__ volatile("csrr %0, 0x782" : "=r"(now[2]));
    __asm__ volatile("csrr %0, 0x784" : "=r"(now[3]));
    __asm__ volatile("csrr %0, 0x792" : "=r"(now[4]));
    now[5] = odl_core() == 0u ? odl_dma_waited : 0u;
}

#endif
