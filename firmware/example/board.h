/* What main.c needs of a board. */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

void board_write(const char *text);

/* The end, well (0) or not. A board that has nowhere to go stays here. */
_Noreturn void board_stop(uint32_t status);

#endif
