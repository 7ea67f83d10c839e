#include "odl_crc32.h"

/* What four bits at a time become: sixteen words of flash, where a table by bytes takes a kilobyte. */
static const uint32_t by_nibble[16] = {
    0x00000000u, 0x1db71064u, 0x3b6e20c8u, 0x26d930acu, 0x76dc4190u, 0x6b6b51f4u, 0x4db26158u, 0x5005713cu,
    0xedb88320u, 0xf00f9344u, 0xd6d6a3e8u, 0xcb61b38cu, 0x9b64c2b0u, 0x86d3d2d4u, 0xa00ae278u, 0xbdbdf21cu,
};

uint32_t odl_crc32(uint32_t crc, const void *data, uint32_t n_bytes)
{
    const uint8_t *bytes = data;
    crc = ~crc;
    for (uint32_t i = 0; i < n_bytes; i++) {
        crc ^= bytes[i];
        crc = by_nibble[crc & 15u] ^ (crc >> 4);
        crc = by_nibble[crc & 15u] ^ (crc >> 4);
    }
    return ~crc;
}
