#include "trace.h"

#ifdef ODL_TRACE

#include "log.h"
#include "odl_progress.h"
#include "odl_traced.h"
#include "port.h"
#include "subject.h"
#include "team.h"

static struct odl_job wishes;
static uint32_t step;
static uint32_t next_traced;
static uint32_t last_call;

static uint32_t hook_cost[ODL_COUNTERS];

/* Of each core: its counters when the call began, then what the call has added to them. */
ODL_LOCAL static uint32_t counts[ODL_REAL_CORES][ODL_COUNTERS];

uint32_t odl_trace_n_traced(void)
{
    return odl_traces.n_traced;
}

uint32_t odl_trace_n_calls(void)
{
    return odl_traces.n_calls;
}

uint32_t odl_trace_n_counters(void)
{
    return ODL_COUNTERS;
}

static uint32_t hash(uint32_t so_far, const uint8_t *data, const struct odl_traced *traced)
{
    if (traced->is_float) {
        return odl_crc32_floats(so_far, data, traced->n_bytes, traced->elem_bytes);
    }
    return odl_crc32(so_far, data, traced->n_bytes);
}

static void dump(const uint8_t *data, const struct odl_traced *traced, uint32_t index)
{
    odl_log_begin(ODL_TAG_TENSOR, step, index, traced->n_bytes);
    if (traced->is_float) {
        odl_log_floats(data, traced->n_bytes, traced->elem_bytes);
    } else {
        odl_log_payload(data, traced->n_bytes);
    }
    odl_log_finish();
}

/* Calls come in rising order within an entry of the program, and so do the traced tensors: one cursor serves both. A step
 * may run an entry again: its hashes then go on from those of before. */
static void look_at(const uint8_t *arena, uint32_t call)
{
    if (call <= last_call) {
        next_traced = 0;
    }
    last_call = call;
    const uint32_t n = odl_traces.n_traced;
    while (next_traced < n && odl_traces.traced[next_traced].call < call) {
        next_traced++;
    }
    for (; next_traced < n && odl_traces.traced[next_traced].call == call; next_traced++) {
        const struct odl_traced *traced = &odl_traces.traced[next_traced];
        const uint8_t *data = arena + traced->offset;
        if (wishes.flags & ODL_JOB_HASHES) {
            odl_traces.hashes[next_traced] = hash(odl_traces.hashes[next_traced], data, traced);
        }
        if ((wishes.flags & ODL_JOB_DUMP) && step == wishes.dump_step && next_traced == wishes.dump_traced) {
            dump(data, traced, next_traced);
        }
    }
}

/* Time is core 0's, from the moment all have begun to that when all are done; what else is counted, all cores' together. */
static void add_counts(uint32_t *sums)
{
    for (uint32_t i = 0; i < ODL_COUNTERS; i++) {
        uint32_t sum = 0;
        for (uint32_t core = 0; core < (i == 0u ? 1u : ODL_REAL_CORES); core++) {
            sum += counts[core][i];
        }
        sums[i] += sum > hook_cost[i] ? sum - hook_cost[i] : 0u;
    }
}

/* Every core of a team comes by. The others wait while core 0 looks, so that nothing changes under its eyes. */
__attribute__((noinline)) void odl_after_call(void *arena, uint32_t call)
{
    odl_barrier();
    uint32_t *mine = counts[odl_real_core()];
    uint32_t now[ODL_COUNTERS];
    odl_port_counters(now);
    for (uint32_t i = 0; i < ODL_COUNTERS; i++) {
        mine[i] = now[i] - mine[i];
    }
    odl_barrier();
    if (odl_speaks()) {
        odl_now = call + 1u;
        add_counts(&odl_traces.counts[call * ODL_COUNTERS]);
        if (wishes.flags & (ODL_JOB_HASHES | ODL_JOB_DUMP)) {
            look_at(arena, call);
        }
    }
    odl_barrier();
    odl_port_counters(mine);
}

/* Twice: the first time the instruction cache does not know the hook. */
static void measure_hook(void *unused)
{
    (void)unused;
    odl_after_call(0, 0);
    if (odl_speaks()) {
        for (uint32_t i = 0; i < ODL_COUNTERS; i++) {
            odl_traces.counts[i] = 0;
        }
    }
    odl_after_call(0, 0);
}

void odl_trace_enter(void)
{
    odl_port_counters(counts[odl_real_core()]);
}

void odl_trace_open(const struct odl_job *job)
{
    odl_team_run(measure_hook, 0);
    for (uint32_t i = 0; i < ODL_COUNTERS; i++) {
        hook_cost[i] = odl_traces.counts[i];
    }
    wishes = *job;
    if (wishes.flags & ODL_JOB_PROFILE) {
        odl_log_record(ODL_TAG_COUNTERS, 0, 0, ODL_COUNTER_NAMES, sizeof ODL_COUNTER_NAMES);
    }
}

void odl_trace_begin(uint32_t this_step)
{
    step = this_step;
    next_traced = 0;
    last_call = 0;
    for (uint32_t i = 0; i < odl_traces.n_traced; i++) {
        odl_traces.hashes[i] = 0;
    }
    for (uint32_t i = 0; i < odl_traces.n_calls * ODL_COUNTERS; i++) {
        odl_traces.counts[i] = 0;
    }
}

void odl_trace_end(void)
{
    if (wishes.flags & ODL_JOB_HASHES) {
        odl_log_record(ODL_TAG_HASHES, step, 0, odl_traces.hashes, odl_traces.n_traced * 4u);
    }
    if (wishes.flags & ODL_JOB_PROFILE) {
        odl_log_record(ODL_TAG_PROFILE, step, 0, odl_traces.counts, odl_traces.n_calls * ODL_COUNTERS * 4u);
    }
}

#endif
