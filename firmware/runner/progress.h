/*
 * Where the run is, and whether it still gets on.
 */
#ifndef ODL_RUNNER_PROGRESS_H
#define ODL_RUNNER_PROGRESS_H

#include "odl_progress.h"

#include <stdbool.h>
#include <stdint.h>

/* The step under way. */
extern volatile uint32_t odl_now_step;

/* Prints a word and eight hexadecimal digits; works inside a trap handler. */
void odl_tell_hex(const char *label, uint32_t value);

/* Prints the step and the call, and ends the line; works inside a trap handler. */
void odl_tell_place(void);

/* For a watchdog: whether another call is under way than when it last asked. */
bool odl_gets_on(void);

/* What a watchdog does that has lost patience. */
_Noreturn void odl_watchdog_bites(void);

#endif
