/*
 * What the runner adds to odl_team.h.
 */
#ifndef ODL_RUNNER_TEAM_H
#define ODL_RUNNER_TEAM_H

#include "odl_team.h"

#include <stdbool.h>

/* Cores that run at once, and which of them this is. */
#if ODL_CORES > 1 && !defined(ODL_PLAYED_TEAM)
#define ODL_REAL_CORES ODL_CORES
#else
#define ODL_REAL_CORES 1
#endif

static inline uint32_t odl_real_core(void)
{
    return ODL_REAL_CORES > 1 ? odl_core() : 0u;
}

/* Whether this core is the one that talks to the world: core 0 of a team, the only one otherwise. */
static inline bool odl_speaks(void)
{
    return odl_real_core() == 0u;
}

#endif
