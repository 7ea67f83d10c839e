/*
 * What happens around the kernel calls of odl_model.c: nothing in firmware, unless a trap handler or a watchdog is to know
 * which call is under way (ODL_PROGRESS), or a verifying run looks at what each has written (ODL_TRACE).
 */
#ifndef ODL_PROGRESS_H
#define ODL_PROGRESS_H

#include <stdint.h>

#if defined(ODL_PROGRESS) || defined(ODL_TRACE)
/* The number of the call under way, that in AFTER(..., number) behind it. The firmware has the variable; every core of a
 * team writes the same. */
extern volatile uint32_t odl_now;
#define FIRST(call) (odl_now = (call))
#else
#define FIRST(call) ((void)0)
#endif

#if defined(ODL_TRACE)
void odl_after_call(void *arena, uint32_t call);
#define AFTER(memory, call) odl_after_call(memory, call)
#elif defined(ODL_PROGRESS)
#define AFTER(memory, call) (odl_now = (call) + 1)
#else
#define AFTER(memory, call) ((void)0)
#endif

#endif
