/*
 * All that training has changed, kept over a reset: weights, optimizer state, gradients of a batch under way, loss scale,
 * step, the memory of replay, and how far the caller is in its data. What goes on from a checkpoint computes the bits of
 * what never stopped.
 *
 * Two slots take turns. A slot is erased, filled, read back, and only then gets its header; until then the other one is
 * the checkpoint. So whenever power fails, the last checkpoint or the one before it is whole.
 */
#ifndef ODL_CHECKPOINT_H
#define ODL_CHECKPOINT_H

#include "odl_flash.h"

#include <stdint.h>

#define ODL_CHECKPOINT_MAGIC 0x434c444fu /* "ODLC" */
#define ODL_CHECKPOINT_VERSION 1u

/* The first bytes of a slot, in little endian. What it holds follows at the next unit of programming: the tensors of
 * odl_state, one after another without padding. The header's layout is that of every version. */
struct odl_checkpoint_header {
    uint32_t magic;
    uint32_t version;
    uint32_t model_id;
    uint32_t sequence; /* of the saves, modulo 2^32: the later of two slots is less than 2^31 ahead */
    uint32_t position;
    uint32_t source;
    uint32_t n_bytes;
    uint32_t crc;        /* CRC-32 of what it holds */
    uint32_t header_crc; /* of the words above */
};

enum odl_checkpoint_status {
    ODL_CHECKPOINT_OK = 0,
    ODL_CHECKPOINT_NONE = 1,    /* none was ever saved: the slots are erased */
    ODL_CHECKPOINT_DAMAGED = 2, /* there was something, and none of it is whole: perhaps the first save was cut off */
    ODL_CHECKPOINT_FOREIGN = 3, /* of another model, or of this one made by another recipe or for another target */
    ODL_CHECKPOINT_NEWER = 4,   /* of a later version of this format */
    ODL_CHECKPOINT_FLASH = 5,   /* the flash failed, or does not hold what was written to it */
    ODL_CHECKPOINT_SIZE = 6,    /* a slot of the flash is too small, or its geometry is not one of odl_flash.h */
};

/* Where the caller is in its data, in numbers of its own: `source` says which data, `position` how far. */
struct odl_cursor {
    uint32_t position;
    uint32_t source;
};

/*
 * Save what is in `arena`, between two steps. On ODL_CHECKPOINT_FLASH the checkpoint before is as it was, and the next
 * call tries again. The newest whole slot is never erased, whatever it is: not even that of another model.
 */
enum odl_checkpoint_status odl_checkpoint_save(void *arena, struct odl_cursor cursor);

/*
 * Bring the newest whole checkpoint of this model into `arena`, after odl_init. On any other status arena and cursor are
 * as they were, but on ODL_CHECKPOINT_FLASH: then call odl_init again.
 */
enum odl_checkpoint_status odl_checkpoint_load(void *arena, struct odl_cursor *cursor);

#endif
