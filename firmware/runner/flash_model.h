/*
 * A flash memory in a file, for checkpoints of the runner: with a flash's rules, and with what may happen to one.
 *
 * What is programmed must be erased, whole units at whole units; anything else ends the run. Each sector erased and each
 * unit programmed is one operation, in the file when the call returns. The job may cut the power in one of them, and may
 * have a sector that is worn out.
 */
#ifndef ODL_RUNNER_FLASH_MODEL_H
#define ODL_RUNNER_FLASH_MODEL_H

#include "wire.h"

/* Opens the file, which is as long as the geometry says; without it the run ends. */
void odl_flash_model_open(const struct odl_job_flash *flash);

#endif
