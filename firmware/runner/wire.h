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

#define ODL_WIRE_VERSION 3u
#define ODL_JOB_MAGIC 0x4a4c444fu /* "ODLJ" */
#define ODL_JOB_FILE "job.bin"
#define ODL_LOG_FILE "log.bin"
#define ODL_FLASH_FILE "flash.bin"

#define ODL_JOB_TRAIN 0x01u   /* train on each item; otherwise infer each sample, and items have no target */
#define ODL_JOB_HASHES 0x02u  /* log a CRC-32 of every traced tensor at every step */
#define ODL_JOB_PROFILE 0x04u /* log the counts of every kernel call at every step */
#define ODL_JOB_WEIGHTS 0x08u /* log all weights at the end */
#define ODL_JOB_DUMP 0x10u    /* log one whole traced tensor at one step */
#define ODL_JOB_FLAGS 0x1fu

/* A flash memory for checkpoints, in the file flash.bin, and what goes wrong with it; see flash_model.c. */
struct odl_job_flash {
    uint32_t n_bytes; /* 0: there is none */
    uint32_t erase_bytes;
    uint32_t program_bytes;
    uint32_t every;  /* a checkpoint after that many steps, and after the last one */
    uint32_t source; /* which data the job's items are */
    uint32_t cut_at; /* power fails in this operation, counted from 1; 0: never */
    uint32_t cut_kind;
    uint32_t seed;   /* of what a cut leaves behind */
    uint32_t worn_sector; /* one that is worn out, counted from 1; 0: none */
    uint32_t worn_kind;
};

#define ODL_CUT_BEFORE 0u /* nothing of the operation has happened */
#define ODL_CUT_PREFIX 1u /* its first bytes have, and one of them in part */
#define ODL_CUT_NOISE 2u  /* each bit has or has not */
#define ODL_CUT_AFTER 3u  /* all of it has, and nobody was told */

#define ODL_WORN_REFUSES 0u /* erasing and programming fail, and say so */
#define ODL_WORN_KEEPS 1u   /* some bits cannot be erased, and nobody is told */

struct odl_job {
    uint32_t magic;
    uint32_t version;
    uint32_t model_id;
    uint32_t flags;
    uint32_t n_samples;
    uint32_t sample_bytes; /* of one padded sample */
    uint32_t target_bytes; /* of one padded target, 0 without ODL_JOB_TRAIN */
    uint32_t weight_bytes; /* 0, or the sum over odl_state, without padding: loaded after odl_init */
    uint32_t dump_step;
    uint32_t dump_traced;
    struct odl_job_flash flash;
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
#define ODL_TAG_RESUME 0x55534552u   /* "RESU" index: odl_checkpoint_load's status; struct odl_cursor */
#define ODL_TAG_SAVE 0x45564153u     /* "SAVE" a checkpoint after `step` steps: odl_checkpoint_save's status */
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
#define ODL_END_POWER_CUT 72u   /* the job cut the power, as it said it would */
#define ODL_END_FLASH 73u       /* no flash, or it was used against its rules */
#define ODL_END_WATCHDOG 75u    /* one kernel call took longer than ODL_WATCHDOG_MS; the console names it */
#define ODL_END_ARENA 76u       /* something was written next to the arena */
#define ODL_END_CHECKPOINT 74u  /* RESUME says why the checkpoint is of no use */

#endif
