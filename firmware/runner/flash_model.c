#include "flash_model.h"

#include "log.h"
#include "odl_flash.h"
#include "port.h"

static struct odl_job_flash model;
static int32_t flash_file = -1;
static uint32_t n_operations;
static uint32_t noise;

void odl_flash_model_open(const struct odl_job_flash *flash)
{
    model = *flash;
    noise = flash->seed | 1u;
    flash_file = odl_port_open(ODL_FLASH_FILE, ODL_PORT_UPDATE);
    if (flash_file < 0) {
        odl_port_console("odl: there is no flash\n");
        odl_log_end(ODL_END_FLASH, 0);
    }
}

struct odl_flash_geometry odl_flash_geometry(void)
{
    const struct odl_flash_geometry geometry = {model.n_bytes, model.erase_bytes, model.program_bytes};
    return geometry;
}

/* xorshift32: Marsaglia, Xorshift RNGs, 2003. */
static uint32_t next_noise(void)
{
    noise ^= noise << 13;
    noise ^= noise >> 17;
    noise ^= noise << 5;
    return noise;
}

static void require(bool kept, const char *rule)
{
    if (!kept) {
        odl_port_console("odl: flash: ");
        odl_port_console(rule);
        odl_port_console("\n");
        odl_log_end(ODL_END_FLASH, n_operations);
    }
}

static void read_file(uint32_t offset, void *data, uint32_t n_bytes)
{
    require(odl_port_seek(flash_file, offset) && odl_port_read(flash_file, data, n_bytes) == n_bytes, "cannot be read");
}

static void write_file(uint32_t offset, const void *data, uint32_t n_bytes)
{
    require(odl_port_seek(flash_file, offset) && odl_port_write(flash_file, data, n_bytes), "cannot be written");
}

static bool is_inside(uint32_t offset, uint32_t n_bytes)
{
    return offset <= model.n_bytes && n_bytes <= model.n_bytes - offset;
}

bool odl_flash_read(uint32_t offset, void *data, uint32_t n_bytes)
{
    require(is_inside(offset, n_bytes), "a read leaves it");
    read_file(offset, data, n_bytes);
    return true;
}

/* What a byte on its way from `old` to `new` is when power fails there: each bit has changed or has not. */
static uint8_t torn(uint8_t old, uint8_t new)
{
    const uint8_t done = (uint8_t)(next_noise() >> 11);
    return (uint8_t)((old & ~done) | (new & done));
}

static _Noreturn void cut_power(void)
{
    odl_port_close(flash_file);
    odl_log_end(ODL_END_POWER_CUT, n_operations);
}

/* One operation on a few bytes: from `old` to `new`, or to where the power cut leaves it. `n_whole`: how many bytes of
 * the operation are done before those that are torn. */
static void change(uint32_t offset, const uint8_t *old, const uint8_t *new, uint32_t n_bytes, bool cut, uint32_t n_whole)
{
    uint8_t after[ODL_FLASH_MOST_PROGRAM_BYTES];
    for (uint32_t i = 0; i < n_bytes; i++) {
        after[i] = new[i];
        if (cut && model.cut_kind == ODL_CUT_BEFORE) {
            after[i] = old[i];
        } else if (cut && model.cut_kind == ODL_CUT_NOISE) {
            after[i] = torn(old[i], new[i]);
        } else if (cut && model.cut_kind == ODL_CUT_PREFIX) {
            after[i] = i < n_whole ? new[i] : i == n_whole ? torn(old[i], new[i]) : old[i];
        }
    }
    write_file(offset, after, n_bytes);
}

static bool is_worn(uint32_t offset)
{
    return model.worn_sector != 0u && offset / model.erase_bytes == model.worn_sector - 1u;
}

static void program_unit(uint32_t offset, const uint8_t *data)
{
    uint8_t old[ODL_FLASH_MOST_PROGRAM_BYTES];
    uint8_t new[ODL_FLASH_MOST_PROGRAM_BYTES];
    const bool cut = ++n_operations == model.cut_at;
    const bool keeps = is_worn(offset);
    read_file(offset, old, model.program_bytes);
    for (uint32_t i = 0; i < model.program_bytes; i++) {
        require(old[i] == 0xffu || keeps, "a unit is programmed that is not erased");
        new[i] = old[i] & data[i];
    }
    change(offset, old, new, model.program_bytes, cut, next_noise() % model.program_bytes);
    if (cut) {
        cut_power();
    }
}

bool odl_flash_program(uint32_t offset, const void *data, uint32_t n_bytes)
{
    require(is_inside(offset, n_bytes) && offset % model.program_bytes == 0u && n_bytes % model.program_bytes == 0u,
            "what is programmed is not whole units of it");
    require((uintptr_t)data % 8u == 0u, "what is programmed is not aligned");
    if (is_worn(offset) && model.worn_kind == ODL_WORN_REFUSES) {
        return false;
    }
    const uint8_t *bytes = data;
    for (uint32_t done = 0; done < n_bytes; done += model.program_bytes) {
        program_unit(offset + done, bytes + done);
    }
    return true;
}

bool odl_flash_erase(uint32_t offset)
{
    require(is_inside(offset, model.erase_bytes) && offset % model.erase_bytes == 0u, "what is erased is no sector");
    const bool worn = is_worn(offset);
    if (worn && model.worn_kind == ODL_WORN_REFUSES) {
        return false;
    }
    const bool cut = ++n_operations == model.cut_at;
    const uint32_t n_whole = next_noise() % model.erase_bytes;
    uint32_t n_bytes;
    for (uint32_t done = 0; done < model.erase_bytes; done += n_bytes) {
        uint8_t old[ODL_FLASH_MOST_PROGRAM_BYTES];
        uint8_t new[ODL_FLASH_MOST_PROGRAM_BYTES];
        const uint32_t left = model.erase_bytes - done;
        n_bytes = left < sizeof old ? left : (uint32_t)sizeof old;
        read_file(offset + done, old, n_bytes);
        for (uint32_t i = 0; i < n_bytes; i++) {
            new[i] = worn ? (uint8_t)(old[i] | next_noise() >> 11) : 0xffu;
        }
        /* of a chunk before the torn byte all bytes are done, of one behind it none */
        change(offset + done, old, new, n_bytes, cut, n_whole > done ? n_whole - done : 0u);
        if (cut && model.cut_kind == ODL_CUT_PREFIX && n_whole < done + n_bytes) {
            break;
        }
    }
    if (cut) {
        cut_power();
    }
    return true;
}

bool odl_flash_sync(void)
{
    return true;
}
