#include "job.h"

#include "log.h"
#include "odl_state.h"
#include "port.h"
#include "subject.h"

static int32_t job_file = -1;
static uint32_t body_crc;

static bool read_body(void *data, uint32_t n_bytes)
{
    uint32_t n = odl_port_read(job_file, data, n_bytes);
    body_crc = odl_crc32(body_crc, data, n);
    return n == n_bytes;
}

static uint32_t all_weight_bytes(void)
{
    uint32_t n_bytes = 0;
    for (uint32_t i = 0; i < odl_state_count; i++) {
        n_bytes += odl_state[i].n_bytes;
    }
    return n_bytes;
}

static bool header_is_sound(const struct odl_job *job)
{
    return job->magic == ODL_JOB_MAGIC && job->version == ODL_WIRE_VERSION &&
           job->crc == odl_crc32(0, job, sizeof *job - sizeof job->crc);
}

static bool header_fits(const struct odl_job *job)
{
    uint32_t target_bytes = (job->flags & ODL_JOB_TRAIN) ? odl_subject.target_bytes : 0u;
    return (job->flags & ~ODL_JOB_FLAGS) == 0u && job->sample_bytes == odl_subject.sample_bytes &&
           job->target_bytes == target_bytes &&
           (job->weight_bytes == 0u || job->weight_bytes == all_weight_bytes());
}

uint32_t odl_job_open(struct odl_job *job)
{
    job_file = odl_port_open(ODL_JOB_FILE, ODL_PORT_READ);
    if (job_file < 0 || odl_port_read(job_file, job, sizeof *job) != sizeof *job || !header_is_sound(job)) {
        return ODL_END_BAD_JOB;
    }
    if (job->model_id != odl_model_id) {
        return ODL_END_OTHER_MODEL;
    }
    return header_fits(job) ? ODL_END_OK : ODL_END_BAD_JOB;
}

bool odl_job_load_weights(const struct odl_job *job, void *arena)
{
    if (job->weight_bytes == 0u) {
        return true;
    }
    for (uint32_t i = 0; i < odl_state_count; i++) {
        if (!read_body(odl_state_data(arena, i), odl_state[i].n_bytes)) {
            return false;
        }
    }
    uint32_t padding;
    return read_body(&padding, (4u - job->weight_bytes % 4u) % 4u);
}

bool odl_job_next(const struct odl_job *job, void *item)
{
    return read_body(item, job->sample_bytes + job->target_bytes);
}

bool odl_job_close(void)
{
    uint32_t crc;
    bool sound = odl_port_read(job_file, &crc, sizeof crc) == sizeof crc && crc == body_crc;
    odl_port_close(job_file);
    return sound;
}
