/*
 * The words that the two ends of a run agree on: the job file that goes in and the log that comes out.
 * The other end is odl/wire.py; a test compares every constant. All words are little endian.
 *
 * Job: struct odl_job, then the initial weights one after another, then n_samples items of (sample, target);
 * weights, sample and target are each padded with zeros to a multiple of 4 bytes. Last comes the CRC-32 of
 * everything after the header.
 *
 * Log: records of struct odl_record, n_bytes of payload, and the CRC-32 of both. BOOT is the first record
 * and END the last one; a log without END is a run that did not finish.
 */
#ifndef ODL_WIRE_H
#define ODL_WIRE_H

#include <stdint.h>

#define ODL_WIRE_VERSION 2u
#define ODL_JOB_MAGIC 0x4a4c444fu /* "ODLJ" */
#define ODL_JOB_FILE "job.bin"
#define ODL_LOG_FILE "log.bin"

#define ODL_JOB_TRAIN 0x01u   /* train on each item; otherwise infer each sample, and items have no target */
#define ODL_JOB_HASHES 0x02u  /* log a CRC-32 of every traced tensor at every step */
#define ODL_JOB_PROFILE 0x04u /* log the counts of every kernel call at every step */
#define ODL_JOB_WEIGHTS 0x08u /* log all weights at the end */
#define ODL_JOB_DUMP 0x10u    /* log one whole traced tensor at one step */
#define ODL_JOB_FLAGS 0x1fu

struct odl_job {
    uint32_t magic;
    uint32_t version;
    uint32_t model_id;
    uint32_t flags;
    uint32_t n_samples;
    uint32_t sample_bytes; /* of one padded sample */
    uint32_t target_bytes; /* of one padded target, 0 without ODL_JOB_TRAIN */
    uint32_t weight_bytes; /* 0, or the sum over odl_weights, without padding: loaded after odl_init */
    uint32_t dump_step;
    uint32_t dump_traced;
    uint32_t crc; /* of the words above */
};

struct odl_record {
    uint32_t tag;
    uint32_t step;
    uint32_t index;
    uint32_t n_bytes;
};

#define ODL_TAG_BOOT 0x544f4f42u     /* "BOOT" index: failed self-test or 0; payload: struct odl_boot */
#define ODL_TAG_LOSS 0x53534f4cu     /* "LOSS" binary32 */
#define ODL_TAG_HASHES 0x48534148u   /* "HASH" one CRC-32 per traced tensor, 0 where its call did not run */
#define ODL_TAG_OUTPUT 0x5054554fu   /* "OUTP" binary16 values */
#define ODL_TAG_TENSOR 0x534e4554u   /* "TENS" index: traced tensor; its elements */
#define ODL_TAG_WEIGHT 0x54484757u   /* "WGHT" index: weight; its bytes as they lie in memory */
#define ODL_TAG_COUNT 0x4e554f43u    /* "COUN" of the whole step, by the first counter */
#define ODL_TAG_COUNTERS 0x454d414eu /* "NAME" of the counters, each ended by a zero */
#define ODL_TAG_PROFILE 0x464f5250u  /* "PROF" counts per kernel call: n_counters each */
#define ODL_TAG_STACK 0x4b415453u    /* "STAK" deepest stack in bytes, 0 where nobody measures it */
#define ODL_TAG_END 0x20444e45u      /* "END " step: where it ended; one ODL_END word */

struct odl_boot {
    uint32_t version;
    uint32_t model_id;
    uint32_t arena_bytes;
    uint32_t n_traced;
    uint32_t n_calls;
    uint32_t n_counters; /* that a profile has: 0 without tracing */
    uint32_t n_weights;
    uint32_t output_bytes;
};

/* How a run ends: the payload of END and the exit status of the simulator. Clear of 1 and 2, which
 * simulators return on their own, and of 128 and up, which shells use for signals. */
#define ODL_END_OK 0u
#define ODL_END_BAD_JOB 64u     /* missing, short, garbled, or of another protocol version */
#define ODL_END_OTHER_MODEL 65u /* the job was made for another program than this binary */
#define ODL_END_NO_TRACE 66u    /* the job wants tracing and this binary was built without ODL_TRACE */
#define ODL_END_BAD_LABEL 67u   /* a label is not a class of the model */
#define ODL_END_ARITHMETIC 68u  /* the boot self-test found arithmetic outside the numerics contract */
#define ODL_END_STACK 69u       /* the stack ran out */
#define ODL_END_IO 70u          /* the log could not be written */
#define ODL_END_TRAP 71u        /* the core trapped; the console names cause, pc and value */

#endif
