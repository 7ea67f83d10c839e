#include "odl_checkpoint.h"

#include "odl_crc32.h"
#include "odl_state.h"

#include <stddef.h>

enum slot_state { SLOT_ERASED, SLOT_DAMAGED, SLOT_WHOLE, SLOT_NEWER };

struct slot {
    uint32_t offset;
    enum slot_state state;
    struct odl_checkpoint_header header;
};

static uint32_t rounded_up(uint32_t n_bytes, uint32_t unit)
{
    return (n_bytes + unit - 1u) / unit * unit;
}

static uint32_t payload_bytes(void)
{
    uint32_t n_bytes = 0;
    for (uint32_t i = 0; i < odl_state_count; i++) {
        n_bytes += odl_state[i].n_bytes;
    }
    return n_bytes;
}

static uint32_t payload_offset(const struct odl_flash_geometry *flash)
{
    return rounded_up(sizeof(struct odl_checkpoint_header), flash->program_bytes);
}

/* Whether the geometry is one, and a slot has room for `n_bytes` behind its header. */
static bool has_room(const struct odl_flash_geometry *flash, uint32_t n_bytes)
{
    const uint32_t unit = flash->program_bytes;
    if (unit < 4u || unit > ODL_FLASH_MOST_PROGRAM_BYTES || (unit & (unit - 1u)) != 0u) {
        return false;
    }
    if (flash->erase_bytes < unit || flash->erase_bytes % unit != 0u || flash->n_bytes % 2u != 0u ||
        flash->n_bytes / 2u % flash->erase_bytes != 0u) {
        return false;
    }
    const uint32_t slot_bytes = flash->n_bytes / 2u;
    return slot_bytes >= payload_offset(flash) && slot_bytes - payload_offset(flash) >= n_bytes;
}

/* Whether the CRC-32 of `n_bytes` of flash could be computed. */
static bool crc_of_flash(uint32_t offset, uint32_t n_bytes, uint32_t *crc)
{
    uint8_t buffer[ODL_FLASH_MOST_PROGRAM_BYTES];
    *crc = 0;
    while (n_bytes > 0u) {
        const uint32_t n = n_bytes < sizeof buffer ? n_bytes : (uint32_t)sizeof buffer;
        if (!odl_flash_read(offset, buffer, n)) {
            return false;
        }
        *crc = odl_crc32(*crc, buffer, n);
        offset += n;
        n_bytes -= n;
    }
    return true;
}

static bool is_erased(const struct odl_checkpoint_header *header)
{
    const uint8_t *bytes = (const uint8_t *)header;
    for (uint32_t i = 0; i < sizeof *header; i++) {
        if (bytes[i] != 0xffu) {
            return false;
        }
    }
    return true;
}

/* Whether a slot could be read, whatever is in it. */
static bool look(const struct odl_flash_geometry *flash, uint32_t offset, struct slot *slot)
{
    struct odl_checkpoint_header *const header = &slot->header;
    slot->offset = offset;
    slot->state = SLOT_DAMAGED;
    if (!odl_flash_read(offset, header, sizeof *header)) {
        return false;
    }
    if (is_erased(header)) {
        slot->state = SLOT_ERASED;
        return true;
    }
    const uint32_t n_headed = offsetof(struct odl_checkpoint_header, header_crc);
    if (header->magic != ODL_CHECKPOINT_MAGIC || header->header_crc != odl_crc32(0, header, n_headed) ||
        !has_room(flash, header->n_bytes)) {
        return true;
    }
    uint32_t crc;
    if (!crc_of_flash(offset + payload_offset(flash), header->n_bytes, &crc)) {
        return false;
    }
    if (crc == header->crc) {
        slot->state = header->version > ODL_CHECKPOINT_VERSION ? SLOT_NEWER : SLOT_WHOLE;
    }
    return true;
}

static bool look_at_both(const struct odl_flash_geometry *flash, struct slot slots[2])
{
    const bool first = look(flash, 0, &slots[0]);
    return look(flash, flash->n_bytes / 2u, &slots[1]) && first;
}

static bool is_ours(const struct slot *slot)
{
    return slot->state == SLOT_WHOLE && slot->header.version == ODL_CHECKPOINT_VERSION &&
           slot->header.model_id == odl_model_id && slot->header.n_bytes == payload_bytes();
}

static bool is_whole(const struct slot *slot)
{
    return slot->state == SLOT_WHOLE || slot->state == SLOT_NEWER;
}

static bool is_later(const struct slot *slot, const struct slot *other)
{
    return (int32_t)(slot->header.sequence - other->header.sequence) > 0;
}

/* The newest slot of which `wanted` is true, or NULL. */
static const struct slot *newest(const struct slot slots[2], bool (*wanted)(const struct slot *))
{
    const struct slot *found = NULL;
    for (uint32_t i = 0; i < 2u; i++) {
        if (wanted(&slots[i]) && (found == NULL || is_later(&slots[i], found))) {
            found = &slots[i];
        }
    }
    return found;
}

/* Programs a stream of bytes in units; the last one is filled up with what erased flash holds. */
struct writer {
    uint32_t offset;
    uint32_t unit;
    uint32_t n_buffered;
    uint32_t crc;
    bool sound;
    _Alignas(8) uint8_t buffer[ODL_FLASH_MOST_PROGRAM_BYTES];
};

static void flush(struct writer *writer)
{
    if (writer->n_buffered == 0u) {
        return;
    }
    while (writer->n_buffered < writer->unit) {
        writer->buffer[writer->n_buffered++] = 0xffu;
    }
    writer->sound = writer->sound && odl_flash_program(writer->offset, writer->buffer, writer->unit);
    writer->offset += writer->unit;
    writer->n_buffered = 0;
}

static void put(struct writer *writer, const void *data, uint32_t n_bytes)
{
    const uint8_t *bytes = data;
    writer->crc = odl_crc32(writer->crc, data, n_bytes);
    for (uint32_t i = 0; i < n_bytes && writer->sound; i++) {
        writer->buffer[writer->n_buffered++] = bytes[i];
        if (writer->n_buffered == writer->unit) {
            flush(writer);
        }
    }
}

static bool erase(const struct odl_flash_geometry *flash, uint32_t offset, uint32_t n_bytes)
{
    for (uint32_t done = 0; done < n_bytes; done += flash->erase_bytes) {
        if (!odl_flash_erase(offset + done)) {
            return false;
        }
    }
    return true;
}

/* Whether the flash holds, from `offset` on, what a writer put there. */
static bool holds(uint32_t offset, uint32_t n_bytes, uint32_t crc)
{
    uint32_t found;
    return crc_of_flash(offset, n_bytes, &found) && found == crc;
}

static bool write_payload(const struct odl_flash_geometry *flash, const struct slot *slot, void *arena, uint32_t *crc)
{
    const uint32_t offset = slot->offset + payload_offset(flash);
    struct writer writer = {.offset = offset, .unit = flash->program_bytes, .sound = true};
    for (uint32_t i = 0; i < odl_state_count; i++) {
        put(&writer, odl_state_data(arena, i), odl_state[i].n_bytes);
    }
    flush(&writer);
    *crc = writer.crc;
    return writer.sound && odl_flash_sync() && holds(offset, payload_bytes(), writer.crc);
}

static bool write_header(
    const struct odl_flash_geometry *flash, const struct slot *slot, const struct odl_checkpoint_header *header)
{
    struct writer writer = {.offset = slot->offset, .unit = flash->program_bytes, .sound = true};
    put(&writer, header, sizeof *header);
    flush(&writer);
    return writer.sound && odl_flash_sync() && holds(slot->offset, sizeof *header, writer.crc);
}

/* Whether the slot now holds what is in `arena`; the header says the rest. */
static bool fill(const struct odl_flash_geometry *flash, const struct slot *slot, void *arena,
                 struct odl_checkpoint_header *header)
{
    if (!erase(flash, slot->offset, payload_offset(flash) + header->n_bytes) ||
        !write_payload(flash, slot, arena, &header->crc)) {
        return false;
    }
    header->header_crc = odl_crc32(0, header, offsetof(struct odl_checkpoint_header, header_crc));
    return write_header(flash, slot, header);
}

enum odl_checkpoint_status odl_checkpoint_save(void *arena, struct odl_cursor cursor)
{
    const struct odl_flash_geometry flash = odl_flash_geometry();
    const uint32_t n_bytes = payload_bytes();
    struct slot slots[2];
    if (!has_room(&flash, n_bytes)) {
        return ODL_CHECKPOINT_SIZE;
    }
    (void)look_at_both(&flash, slots); /* a slot that cannot be read is one to write over */
    const struct slot *const last = newest(slots, is_whole);
    const struct slot *const ours = newest(slots, is_ours);
    const struct slot *const keep = ours != NULL ? ours : last;

    struct odl_checkpoint_header header = {
        .magic = ODL_CHECKPOINT_MAGIC,
        .version = ODL_CHECKPOINT_VERSION,
        .model_id = odl_model_id,
        .sequence = last != NULL ? last->header.sequence + 1u : 0u,
        .position = cursor.position,
        .source = cursor.source,
        .n_bytes = n_bytes,
    };
    bool saved = false;
    for (uint32_t i = 0; i < 2u && !saved; i++) { /* with none to keep, a worn-out slot leaves the other one to try */
        saved = keep != &slots[i] && fill(&flash, &slots[i], arena, &header);
    }
    return saved ? ODL_CHECKPOINT_OK : ODL_CHECKPOINT_FLASH;
}

/* Why there is none of ours. */
static enum odl_checkpoint_status why_none(const struct slot slots[2])
{
    const struct slot *const other = newest(slots, is_whole);
    if (other != NULL) {
        return other->state == SLOT_NEWER ? ODL_CHECKPOINT_NEWER : ODL_CHECKPOINT_FOREIGN;
    }
    const bool none = slots[0].state == SLOT_ERASED && slots[1].state == SLOT_ERASED;
    return none ? ODL_CHECKPOINT_NONE : ODL_CHECKPOINT_DAMAGED;
}

enum odl_checkpoint_status odl_checkpoint_load(void *arena, struct odl_cursor *cursor)
{
    const struct odl_flash_geometry flash = odl_flash_geometry();
    struct slot slots[2];
    if (!has_room(&flash, payload_bytes())) {
        return ODL_CHECKPOINT_SIZE;
    }
    const bool sound = look_at_both(&flash, slots);
    const struct slot *const slot = newest(slots, is_ours);
    if (slot == NULL) {
        return sound ? why_none(slots) : ODL_CHECKPOINT_FLASH;
    }
    uint32_t offset = slot->offset + payload_offset(&flash);
    uint32_t crc = 0;
    for (uint32_t i = 0; i < odl_state_count; i++) {
        void *const data = odl_state_data(arena, i);
        if (!odl_flash_read(offset, data, odl_state[i].n_bytes)) {
            return ODL_CHECKPOINT_FLASH;
        }
        crc = odl_crc32(crc, data, odl_state[i].n_bytes);
        offset += odl_state[i].n_bytes;
    }
    if (crc != slot->header.crc) {
        return ODL_CHECKPOINT_FLASH;
    }
    cursor->position = slot->header.position;
    cursor->source = slot->header.source;
    return ODL_CHECKPOINT_OK;
}
