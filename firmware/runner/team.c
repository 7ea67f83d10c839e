#include "team.h"

#if ODL_CORES > 1 && defined(ODL_PLAYED_TEAM)
uint32_t odl_played_core;
#else
typedef int odl_team_is_not_played;
#endif
