#ifndef ODL_SELF_TEST_H
#define ODL_SELF_TEST_H

#include <stdint.h>

/* 0 if the arithmetic of this build on this core keeps the numerics contract, else the number of the
 * first check that failed (see self_test.c). */
uint32_t odl_self_test(void);

#endif
