#include "checkpoints.h"

#include "flash_model.h"
#include "log.h"
#include "odl_checkpoint.h"
#include "port.h"

uint32_t odl_checkpoints_open(const struct odl_job *job, void *arena)
{
    struct odl_cursor cursor = {0, job->flash.source};
    if (job->flash.n_bytes == 0u) {
        return 0;
    }
    odl_flash_model_open(&job->flash);
    const enum odl_checkpoint_status status = odl_checkpoint_load(arena, &cursor);
    odl_log_record(ODL_TAG_RESUME, 0, status, &cursor, sizeof cursor);
    const bool none = status == ODL_CHECKPOINT_NONE || status == ODL_CHECKPOINT_DAMAGED;
    const bool fits = cursor.source == job->flash.source && cursor.position <= job->n_samples;
    if ((status != ODL_CHECKPOINT_OK && !none) || !fits) {
        odl_log_end(ODL_END_CHECKPOINT, 0);
    }
    return cursor.position;
}

void odl_checkpoints_after(const struct odl_job *job, void *arena, uint32_t n_done)
{
    if (job->flash.n_bytes == 0u || (n_done != job->n_samples && (job->flash.every == 0u || n_done % job->flash.every != 0u))) {
        return;
    }
    const struct odl_cursor cursor = {n_done, job->flash.source};
    const uint32_t status = odl_checkpoint_save(arena, cursor);
    odl_log_record(ODL_TAG_SAVE, n_done, 0, &status, sizeof status);
    odl_log_flush();
}
