/*
 * Checkpoints of a job: where it goes on, and when one is saved.
 */
#ifndef ODL_RUNNER_CHECKPOINTS_H
#define ODL_RUNNER_CHECKPOINTS_H

#include "wire.h"

/* The step that the job goes on with: 0 without flash or without a checkpoint. One that is of no use ends the run. */
uint32_t odl_checkpoints_open(const struct odl_job *job, void *arena);

/* After `n_done` steps: saves, if it is time. A save that fails is logged, and training goes on. */
void odl_checkpoints_after(const struct odl_job *job, void *arena, uint32_t n_done);

#endif
