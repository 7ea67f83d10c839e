/*
 * Reads the job: what to do, the weights to start from, and the items one at a time.
 */
#ifndef ODL_JOB_H
#define ODL_JOB_H

#include "wire.h"

#include <stdbool.h>

/* Opens the job and checks its header against this binary. Returns an ODL_END_ status. */
uint32_t odl_job_open(struct odl_job *job);

/* Loads the job's initial weights over those of odl_init; false if the file ends early. */
bool odl_job_load_weights(const struct odl_job *job, void *arena);

/* Reads the next item, a sample and behind it its target; false if the file ends early. */
bool odl_job_next(const struct odl_job *job, void *item);

/* After the last item: whether what was read is what was written. */
bool odl_job_close(void);

#endif
