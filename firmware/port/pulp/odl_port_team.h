/*
 * The team of a PULP cluster, for odl_team.h: the core's number is in its hartid, the barrier and a mutex
 * in the event unit. Each is one instruction.
 */
#ifndef ODL_PORT_TEAM_H
#define ODL_PORT_TEAM_H

#include <stdint.h>

static inline uint32_t odl_core(void)
{
    uint32_t hart;
    __asm__("csrr %0, mhartid" : "=r"(hart)); /* cluster << 5 | core, and the cluster is number 0 */
    return hart;
}

/* p.elw: the load triggers the barrier, and returns when all cores have. The core's clock is off in between. */
static inline void odl_barrier(void)
{
    uint32_t events;
    __asm__ volatile(".insn i 0x03, 6, %0, %1, 0x1c" : "=r"(events) : "r"(0x00204200u) : "memory");
}

/* The event unit's first mutex: p.elw returns when it is this core's, and a store gives it back. */
static inline void odl_lock(void)
{
    uint32_t message;
    __asm__ volatile(".insn i 0x03, 6, %0, %1, 0xc0" : "=r"(message) : "r"(0x00204000u) : "memory");
}

static inline void odl_unlock(void)
{
    __asm__ volatile("sw zero, 0xc0(%0)" : : "r"(0x00204000u) : "memory");
}

#endif
