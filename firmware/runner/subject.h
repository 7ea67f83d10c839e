/*
 * The model that is run, as the rest of the runner sees it. Its sizes are known to subject.c alone: all other files are
 * compiled once for all models.
 */
#ifndef ODL_RUNNER_SUBJECT_H
#define ODL_RUNNER_SUBJECT_H

#include <stdbool.h>
#include <stdint.h>

#define ODL_CANARY 0x0dd1c0deu
#define ODL_N_CANARIES 16u

struct odl_subject {
    uint32_t sample_bytes; /* of an item, in whole words; so is target_bytes */
    uint32_t target_bytes;
    uint32_t output_bytes;
    uint32_t arena_bytes;
    uint8_t *arena;
    volatile uint32_t *before; /* the arena's canaries */
    volatile uint32_t *after;
    void *item; /* a sample, and behind it its target */
    void *output;
};

extern const struct odl_subject odl_subject;

#ifdef ODL_TRACE
/* What a program with tracing keeps of a step: a hash of each traced tensor, and of each call ODL_COUNTERS counts. */
struct odl_traces {
    const struct odl_traced *traced; /* by call, ascending */
    uint32_t n_traced;
    uint32_t n_calls;
    uint32_t *hashes;
    uint32_t *counts;
};

extern const struct odl_traces odl_traces;
#endif

void odl_subject_init(void);

/* Learn from the item, on every core; false if its label is no class. */
bool odl_subject_train(float *loss);

/* The output for the item's sample, on every core. */
void odl_subject_infer(void);

#endif
