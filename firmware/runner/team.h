/*
 * What the runner adds to odl_team.h.
 */
#ifndef ODL_RUNNER_TEAM_H
#define ODL_RUNNER_TEAM_H

#include "odl_team.h"

#include <stdbool.h>

/* Whether this core is the one that talks to the world: core 0 of a team, the only one otherwise. */
static inline bool odl_speaks(void)
{
#if ODL_CORES > 1 && !defined(ODL_PLAYED_TEAM)
    return odl_core() == 0u;
#else
    return true;
#endif
}

#endif
