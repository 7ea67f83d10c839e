/*
 * CRC-32 as in Ethernet, zip and Python's zlib: polynomial 0x04c11db7, reflected. Begin with 0 and go on with the result.
 */
#ifndef ODL_CRC32_H
#define ODL_CRC32_H

#include <stdint.h>

uint32_t odl_crc32(uint32_t crc, const void *data, uint32_t n_bytes);

#endif
