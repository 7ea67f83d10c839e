/*
 * What checkpoints need of a flash memory: five functions, which a board brings. `firmware/runner/flash_model.c` is an
 * example on a file; docs/CHECKPOINTS.md says how to write one.
 *
 * Offsets count from the start of the region that belongs to checkpoints. All functions are called from one core, and
 * none from an interrupt. Nothing else feeds a watchdog during a save, so erase and program should. A read that fails is
 * tried again before it says so: a save takes a slot that does not answer for one to write over.
 */
#ifndef ODL_FLASH_H
#define ODL_FLASH_H

#include <stdbool.h>
#include <stdint.h>

/* The largest unit of programming that is known: a page of most serial flashes. */
#define ODL_FLASH_MOST_PROGRAM_BYTES 256u

struct odl_flash_geometry {
    uint32_t n_bytes;       /* of the region: two slots, each of whole sectors */
    uint32_t erase_bytes;   /* of a sector, the least that can be erased */
    uint32_t program_bytes; /* the least that can be programmed, a power of two from 4 to 256 */
};

struct odl_flash_geometry odl_flash_geometry(void);

/* Whether `n_bytes` from `offset` on were read. Any offset and any number. */
bool odl_flash_read(uint32_t offset, void *data, uint32_t n_bytes);

/* Whether erased flash was programmed: `offset` and `n_bytes` are multiples of program_bytes, `data` is aligned to 8
 * bytes. Nothing is programmed twice without being erased in between. */
bool odl_flash_program(uint32_t offset, const void *data, uint32_t n_bytes);

/* Whether the sector at `offset` was erased: all its bytes are 0xff. */
bool odl_flash_erase(uint32_t offset);

/* Whether all that was programmed and erased would survive a power cut now. */
bool odl_flash_sync(void);

#endif
