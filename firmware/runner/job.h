/*
 * Reads the job: what to do, the weights to start from, and the items one at a time.
 */
#ifndef ODL_JOB_H
#define ODL_JOB_H

#include "odl_model.h"
#include "wire.h"

#include <stdbool.h>

#define ODL_PADDED(n_bytes) (((n_bytes) + 3u) & ~3u)

#define ODL_SAMPLE_BYTES ODL_PADDED(ODL_SAMPLE_ELEMS * 2u)
#if ODL_TARGET_IS_LABEL
#define ODL_TARGET_BYTES 4u
#else
#define ODL_TARGET_BYTES ODL_PADDED(ODL_TARGET_ELEMS * 2u)
#endif

struct odl_item {
    odl_half sample[ODL_SAMPLE_BYTES / 2u];
#if ODL_TARGET_IS_LABEL
    int32_t target;
#else
    odl_half target[ODL_TARGET_BYTES / 2u];
#endif
};

/* Opens the job and checks its header against this binary. Returns an ODL_END_ status. */
uint32_t odl_job_open(struct odl_job *job);

/* Loads the job's initial weights over those of odl_init; false if the file ends early. */
bool odl_job_load_weights(const struct odl_job *job, void *arena);

/* Reads the next item; false if the file ends early. */
bool odl_job_next(const struct odl_job *job, struct odl_item *item);

/* After the last item: whether what was read is what was written. */
bool odl_job_close(void);

#endif
