/*
 * Writes the log: buffered, checksummed, ended. A write that fails ends the run.
 */
#ifndef ODL_LOG_H
#define ODL_LOG_H

#include "odl_crc32.h"

#include <stdint.h>

/* odl_crc32 of elements of `elem_bytes` (2: binary16, 4: binary32) in which every NaN is the canonical one:
 * cores differ in the sign and payload of the NaNs they make. */
uint32_t odl_crc32_floats(uint32_t crc, const void *data, uint32_t n_bytes, uint32_t elem_bytes);

/* Creates the log file. */
void odl_log_open(void);

/* One record in one call, or opened, filled by any number of calls and closed. */
void odl_log_record(uint32_t tag, uint32_t step, uint32_t index, const void *payload, uint32_t n_bytes);
void odl_log_begin(uint32_t tag, uint32_t step, uint32_t index, uint32_t n_bytes);
void odl_log_payload(const void *data, uint32_t n_bytes);
void odl_log_floats(const void *data, uint32_t n_bytes, uint32_t elem_bytes);
void odl_log_finish(void);

/* Hands all that is buffered to the reader of the file. */
void odl_log_flush(void);

/* Logs END with the step it came at, closes the file and ends the run. */
_Noreturn void odl_log_end(uint32_t status, uint32_t step);

#endif
