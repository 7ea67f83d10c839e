/*
 * What the runner needs from the machine under it. One folder of firmware/port implements it.
 */
#ifndef ODL_PORT_H
#define ODL_PORT_H

#include <stdbool.h>
#include <stdint.h>

enum odl_port_mode { ODL_PORT_READ, ODL_PORT_WRITE, ODL_PORT_UPDATE };

/* A file handle, or a negative number. Writing creates the file or empties it; updating reads and writes what is there. */
int32_t odl_port_open(const char *path, enum odl_port_mode mode);

/* Bytes read: fewer than `n_bytes` only at the end of the file or after an error. */
uint32_t odl_port_read(int32_t file, void *data, uint32_t n_bytes);

/* Whether all bytes were written; the reader of the file sees them when this returns. */
bool odl_port_write(int32_t file, const void *data, uint32_t n_bytes);

/* Whether what is read or written next is at `offset` of a file for updating. */
bool odl_port_seek(int32_t file, uint32_t offset);

void odl_port_close(int32_t file);

/* Ends the run with an ODL_END_ status. */
_Noreturn void odl_port_exit(uint32_t status);

/* Prints for a human; works inside a trap handler. */
void odl_port_console(const char *text);

/*
 * Calls entry(argument) on every core of the team (odl_team.h), and returns when all are done. One core asks for it, and
 * is one of them. A port with several cores brings this function and odl_port_team.h; elsewhere it is a call.
 */
#if __has_include("odl_port_team.h")
void odl_team_run(void (*entry)(void *), void *argument);
#else
static inline void odl_team_run(void (*entry)(void *), void *argument)
{
    entry(argument);
}
#endif

/* The longest that a kernel call may take, in milliseconds of the machine's own clock. */
#ifndef ODL_WATCHDOG_MS
#define ODL_WATCHDOG_MS 10000
#endif

/* Starts a watchdog: every ODL_WATCHDOG_MS it asks odl_gets_on(), and where nothing does, odl_watchdog_bites(). */
void odl_port_watchdog(void);

/* Instructions retired so far, or cycles on a machine that times them, modulo 2^32; always 0 where nothing is counted. */
uint32_t odl_port_counter(void);

/*
 * What a profile counts, modulo 2^32, and the names, each ended by a zero. The first is odl_port_counter(); what follows is
 * the asking core's own, and a profile adds it up over the team. A port that counts more than one thing brings them in
 * odl_port_counters.h.
 */
#if __has_include("odl_port_counters.h")
#include "odl_port_counters.h"
#else
#define ODL_COUNTERS 1u
#define ODL_COUNTER_NAMES "instructions"
static inline void odl_port_counters(uint32_t now[ODL_COUNTERS])
{
    now[0] = odl_port_counter();
}
#endif

/* Deepest use of the stack so far in bytes, 0 where the port does not measure it. */
uint32_t odl_port_stack_bytes(void);

/* False once the stack has reached its guard words. */
bool odl_port_stack_intact(void);

#endif
