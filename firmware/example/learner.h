/*
 * A device that learns: samples come in through a function of yours, losses go out through another.
 *
 * Nothing here is generated and nothing depends on a board. Copy it, or take it as a reading of odl.h.
 */
#ifndef LEARNER_H
#define LEARNER_H

#include "odl.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a sample should be taken for: a class, or all elements of the output. */
#if ODL_TARGET_IS_LABEL
typedef int32_t learner_target;
#else
typedef odl_half learner_target;
#endif

/* Yours: puts the next sample and its target there, scaled as in training, images channels last. False: there is none
 * now, and what was written is not used. */
typedef bool (*learner_acquire)(odl_half sample[ODL_SAMPLE_ELEMS], learner_target target[ODL_TARGET_ELEMS]);

/* Yours: is told of each step, from 0 on, and of the loss before its update. */
typedef void (*learner_report)(uint32_t step, float loss);

/* The first weights, out of flash. False: arithmetic of this build on this core is not the model's, see odl_self_test. */
bool learner_start(void);

/* Trains on up to n_steps samples, fewer where `acquire` has none or a status is not ODL_OK. Returns the last status. */
enum odl_status learner_run(uint32_t n_steps, learner_acquire acquire, learner_report report);

/* What the model makes of a sample. */
void learner_infer(const odl_half sample[ODL_SAMPLE_ELEMS], odl_half output[ODL_OUTPUT_ELEMS]);

#ifdef __cplusplus
}
#endif

#endif
