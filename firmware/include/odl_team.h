/*
 * The cores that share a kernel's work. Every core runs the same calls; a kernel computes the share of its outputs that
 * belongs to `odl_core()`. Who computes an output never changes its bits: a sum is never cut.
 *
 * Three builds: one core (all of this vanishes); a real team, whose port provides odl_core(), odl_barrier(), odl_lock()
 * and odl_unlock(); and a team played by one core, which does the shares of core 0, 1, 2, ... one after another
 * (ODL_PLAYED_TEAM).
 */
#ifndef ODL_TEAM_H
#define ODL_TEAM_H

#include <stdint.h>

#ifndef ODL_CORES
#define ODL_CORES 1
#endif

#if ODL_CORES == 1

#define ODL_EACH_CORE
static inline uint32_t odl_core(void)
{
    return 0;
}
static inline void odl_barrier(void)
{
}
static inline void odl_lock(void)
{
}
static inline void odl_unlock(void)
{
}

#elif defined(ODL_PLAYED_TEAM)

extern uint32_t odl_played_core;
#define ODL_EACH_CORE for (odl_played_core = 0; odl_played_core < ODL_CORES; odl_played_core++)
static inline uint32_t odl_core(void)
{
    return odl_played_core;
}
static inline void odl_barrier(void)
{
}
static inline void odl_lock(void)
{
}
static inline void odl_unlock(void)
{
}

#else

#define ODL_EACH_CORE
/* The port's odl_core(), and odl_barrier(): it waits for all cores; what they wrote before is seen by all after it.
 * Between odl_lock() and odl_unlock() is one core at a time. */
#include "odl_port_team.h"

#endif

/* sum[0] += n modulo 2^32, of all cores that come by. Who reads it waits for the next barrier. */
static inline void odl_add_up(int32_t *sum, int32_t n)
{
    odl_lock();
    *sum = (int32_t)((uint32_t)*sum + (uint32_t)n);
    odl_unlock();
}

/* Variables and constants that belong into the memory next to the cores: sections that the port's link script knows. */
#ifdef __ELF__
#define ODL_LOCAL __attribute__((section(".bss.odl_l1")))
#define ODL_LOCAL_CONSTANT __attribute__((section(".rodata.odl_l1")))
#else
#define ODL_LOCAL
#define ODL_LOCAL_CONSTANT
#endif

/* Items `first` up to, not including, `last`. */
typedef struct {
    uint32_t first;
    uint32_t last;
} odl_range;

/* This core's part of `n_items` neighbours: parts differ by one item at most, and are empty where there are too few. */
static inline odl_range odl_share(uint32_t n_items)
{
    const uint32_t core = odl_core();
    const uint32_t least = n_items / ODL_CORES;
    const uint32_t rest = n_items % ODL_CORES;
    const uint32_t first = core * least + (core < rest ? core : rest);
    return (odl_range){first, first + least + (core < rest ? 1u : 0u)};
}

/* The same in whole groups of `group` items: neighbours that are stored or loaded together stay on one core. */
static inline odl_range odl_share_groups(uint32_t n_items, uint32_t group)
{
    const odl_range groups = odl_share((n_items + group - 1u) / group);
    const uint32_t first = groups.first * group;
    const uint32_t last = groups.last * group;
    return (odl_range){first < n_items ? first : n_items, last < n_items ? last : n_items};
}

#endif
