/*
 * What a kernel call of the program writes, for verification.
 */
#ifndef ODL_TRACED_H
#define ODL_TRACED_H

#include <stdint.h>

struct odl_traced {
    uint32_t call;
    uint32_t offset;
    uint32_t n_bytes;
    uint32_t elem_bytes; /* 2: binary16, 4: binary32 or int32 */
    uint32_t is_float;
};

#endif
