/*
 * Does one job: reads it, trains or infers on its items, writes the log.
 */
#include "checkpoints.h"
#include "job.h"
#include "log.h"
#include "odl_state.h"
#include "port.h"
#include "progress.h"
#include "self_test.h"
#include "subject.h"
#include "team.h"
#include "trace.h"

static struct odl_job job;

/* All ones is a NaN in every float format: a value that the program never wrote does not stay hidden. */
static void poison_arena(void)
{
    for (uint32_t i = 0; i < ODL_N_CANARIES; i++) {
        odl_subject.before[i] = ODL_CANARY;
        odl_subject.after[i] = ODL_CANARY;
    }
    uint8_t *const arena = odl_subject.arena;
    for (uint32_t i = 0; i < odl_subject.arena_bytes; i++) {
        arena[i] = 0xffu;
    }
}

static bool arena_intact(void)
{
    for (uint32_t i = 0; i < ODL_N_CANARIES; i++) {
        if (odl_subject.before[i] != ODL_CANARY || odl_subject.after[i] != ODL_CANARY) {
            return false;
        }
    }
    return true;
}

static void log_boot(uint32_t failed_check)
{
    struct odl_boot boot = {
        .version = ODL_WIRE_VERSION,
        .model_id = odl_model_id,
        .arena_bytes = odl_subject.arena_bytes,
        .n_traced = odl_trace_n_traced(),
        .n_calls = odl_trace_n_calls(),
        .n_counters = odl_trace_n_counters(),
        .n_weights = odl_state_count,
        .output_bytes = odl_subject.output_bytes,
    };
    odl_log_record(ODL_TAG_BOOT, 0, failed_check, &boot, sizeof boot);
    odl_log_flush();
}

static void require(bool met, uint32_t status, uint32_t step)
{
    if (!met) {
        odl_log_end(status, step);
    }
}

static void boot(void)
{
    odl_log_open();
    uint32_t status = odl_job_open(&job);
    uint32_t failed_check = odl_self_test();
    log_boot(failed_check);
    require(failed_check == 0u, ODL_END_ARITHMETIC, 0);
    require(status == ODL_END_OK, status, 0);

    bool traces = (job.flags & (ODL_JOB_HASHES | ODL_JOB_PROFILE | ODL_JOB_DUMP)) != 0u;
    require(!traces || ODL_RUNNER_TRACES, ODL_END_NO_TRACE, 0);
    bool dumps = (job.flags & ODL_JOB_DUMP) != 0u;
    require(!dumps || job.dump_traced < odl_trace_n_traced(), ODL_END_BAD_JOB, 0);
}

/* What a team hands back: every core has a result of its own, and core 0's is as good as any. */
struct trained {
    bool has_class;
    float loss;
};

static void train_on_core(void *result)
{
    struct trained mine = {false, 0.0f};
    odl_trace_enter();
    mine.has_class = odl_subject_train(&mine.loss);
    if (odl_speaks()) {
        *(struct trained *)result = mine;
    }
}

static void infer_on_core(void *unused)
{
    (void)unused;
    odl_trace_enter();
    odl_subject_infer();
}

/* One entry of the model on the team, and what it took: in a program with tracing, with all the looking. */
static void run(void (*entry)(void *), void *result, uint32_t step)
{
    uint32_t began = odl_port_counter();
    odl_team_run(entry, result);
    uint32_t count = odl_port_counter() - began;
    odl_log_record(ODL_TAG_COUNT, step, 0, &count, sizeof count);
}

static void train(uint32_t step)
{
    struct trained result = {false, 0.0f};
    run(train_on_core, &result, step);
    require(result.has_class, ODL_END_BAD_LABEL, step); /* who has diverged tells it by its weights */
    const float loss = result.loss;
    odl_log_begin(ODL_TAG_LOSS, step, 0, sizeof loss);
    odl_log_floats(&loss, sizeof loss, sizeof loss);
    odl_log_finish();
}

static void infer(uint32_t step)
{
    run(infer_on_core, 0, step);
    odl_log_begin(ODL_TAG_OUTPUT, step, 0, odl_subject.output_bytes);
    odl_log_floats(odl_subject.output, odl_subject.output_bytes, 2u);
    odl_log_finish();
}

static void do_step(uint32_t step)
{
    require(odl_job_next(&job, odl_subject.item), ODL_END_BAD_JOB, step);
    odl_now_step = step;
    odl_trace_begin(step);
    if (job.flags & ODL_JOB_TRAIN) {
        train(step);
    } else {
        infer(step);
    }
    odl_trace_end();
    require(odl_port_stack_intact(), ODL_END_STACK, step);
    require(arena_intact(), ODL_END_ARENA, step);
    odl_log_flush();
}

static void log_weights(void)
{
    for (uint32_t i = 0; i < odl_state_count; i++) {
        odl_log_record(ODL_TAG_WEIGHT, 0, i, odl_state_data(odl_subject.arena, i), odl_state[i].n_bytes);
    }
}

int main(void)
{
    boot();
    odl_port_watchdog();
    poison_arena();
    odl_subject_init();
    require(odl_job_load_weights(&job, odl_subject.arena), ODL_END_BAD_JOB, 0);

    const uint32_t first = odl_checkpoints_open(&job, odl_subject.arena);
    for (uint32_t step = 0; step < first; step++) {
        require(odl_job_next(&job, odl_subject.item), ODL_END_BAD_JOB, step);
    }
    odl_trace_open(&job);
    for (uint32_t step = first; step < job.n_samples; step++) {
        do_step(step);
        odl_checkpoints_after(&job, odl_subject.arena, step + 1u);
    }
    require(odl_job_close(), ODL_END_BAD_JOB, job.n_samples);

    if (job.flags & ODL_JOB_WEIGHTS) {
        log_weights();
    }
    uint32_t stack_bytes = odl_port_stack_bytes();
    odl_log_record(ODL_TAG_STACK, 0, 0, &stack_bytes, sizeof stack_bytes);
    odl_log_end(ODL_END_OK, job.n_samples);
}
