/*
 * What a tracing build (ODL_TRACE=1) logs about every kernel call. Without ODL_TRACE all of it is empty.
 */
#ifndef ODL_RUNNER_TRACE_H
#define ODL_RUNNER_TRACE_H

#include "wire.h"

#include <stdint.h>

#ifdef ODL_TRACE

#define ODL_RUNNER_TRACES true

uint32_t odl_trace_n_traced(void);
uint32_t odl_trace_n_calls(void);
uint32_t odl_trace_n_counters(void);

/* Takes the job's wishes, and measures what the hook itself costs. */
void odl_trace_open(const struct odl_job *job);

/* Around one training step or inference. */
void odl_trace_begin(uint32_t step);
void odl_trace_end(void);

/* On every core, before its first call. */
void odl_trace_enter(void);

#else

#define ODL_RUNNER_TRACES false

static inline uint32_t odl_trace_n_traced(void)
{
    return 0;
}

static inline uint32_t odl_trace_n_calls(void)
{
    return 0;
}

static inline uint32_t odl_trace_n_counters(void)
{
    return 0;
}

static inline void odl_trace_open(const struct odl_job *job)
{
    (void)job;
}

static inline void odl_trace_begin(uint32_t step)
{
    (void)step;
}

static inline void odl_trace_end(void)
{
}

static inline void odl_trace_enter(void)
{
}

#endif

#endif
