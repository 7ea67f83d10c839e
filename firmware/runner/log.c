#include "log.h"

#include "port.h"
#include "wire.h"

static int32_t log_file = -1;
static uint8_t buffer[4096];
static uint32_t n_buffered;
static uint32_t record_crc;

struct chunk {
    uint32_t n_bytes;
    union {
        uint16_t halves[64];
        uint32_t words[32];
    } bits;
};

static void canonical_chunk(struct chunk *chunk, const void *data, uint32_t n_bytes, uint32_t elem_bytes)
{
    chunk->n_bytes = n_bytes < sizeof chunk->bits ? n_bytes : (uint32_t)sizeof chunk->bits;
    if (elem_bytes == 2u) {
        const uint16_t *halves = data;
        for (uint32_t i = 0; i < chunk->n_bytes / 2u; i++) {
            chunk->bits.halves[i] = (halves[i] & 0x7fffu) > 0x7c00u ? 0x7e00u : halves[i];
        }
    } else {
        const uint32_t *words = data;
        for (uint32_t i = 0; i < chunk->n_bytes / 4u; i++) {
            chunk->bits.words[i] = (words[i] & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : words[i];
        }
    }
}

uint32_t odl_crc32_floats(uint32_t crc, const void *data, uint32_t n_bytes, uint32_t elem_bytes)
{
    const uint8_t *bytes = data;
    struct chunk chunk;
    for (uint32_t done = 0; done < n_bytes; done += chunk.n_bytes) {
        canonical_chunk(&chunk, bytes + done, n_bytes - done, elem_bytes);
        crc = odl_crc32(crc, &chunk.bits, chunk.n_bytes);
    }
    return crc;
}

void odl_log_open(void)
{
    log_file = odl_port_open(ODL_LOG_FILE, ODL_PORT_WRITE);
    if (log_file < 0) {
        odl_port_console("odl: cannot create the log\n");
        odl_port_exit(ODL_END_IO);
    }
}

void odl_log_flush(void)
{
    if (!odl_port_write(log_file, buffer, n_buffered)) {
        odl_port_console("odl: cannot write the log\n");
        odl_port_exit(ODL_END_IO);
    }
    n_buffered = 0;
}

static void put(const void *data, uint32_t n_bytes)
{
    const uint8_t *bytes = data;
    while (n_bytes > 0) {
        uint32_t room = (uint32_t)sizeof buffer - n_buffered;
        uint32_t n = n_bytes < room ? n_bytes : room;
        for (uint32_t i = 0; i < n; i++) {
            buffer[n_buffered + i] = bytes[i];
        }
        n_buffered += n;
        bytes += n;
        n_bytes -= n;
        if (n_buffered == sizeof buffer) {
            odl_log_flush();
        }
    }
}

void odl_log_begin(uint32_t tag, uint32_t step, uint32_t index, uint32_t n_bytes)
{
    struct odl_record record = {tag, step, index, n_bytes};
    record_crc = 0;
    odl_log_payload(&record, sizeof record);
}

void odl_log_payload(const void *data, uint32_t n_bytes)
{
    record_crc = odl_crc32(record_crc, data, n_bytes);
    put(data, n_bytes);
}

void odl_log_floats(const void *data, uint32_t n_bytes, uint32_t elem_bytes)
{
    const uint8_t *bytes = data;
    struct chunk chunk;
    for (uint32_t done = 0; done < n_bytes; done += chunk.n_bytes) {
        canonical_chunk(&chunk, bytes + done, n_bytes - done, elem_bytes);
        odl_log_payload(&chunk.bits, chunk.n_bytes);
    }
}

void odl_log_finish(void)
{
    put(&record_crc, sizeof record_crc);
}

void odl_log_record(uint32_t tag, uint32_t step, uint32_t index, const void *payload, uint32_t n_bytes)
{
    odl_log_begin(tag, step, index, n_bytes);
    odl_log_payload(payload, n_bytes);
    odl_log_finish();
}

_Noreturn void odl_log_end(uint32_t status, uint32_t step)
{
    odl_log_record(ODL_TAG_END, step, 0, &status, sizeof status);
    odl_log_flush();
    odl_port_close(log_file);
    odl_port_exit(status);
}
