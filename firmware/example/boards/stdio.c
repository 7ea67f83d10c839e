/* A computer: its console, and an end to the process. */
#include "board.h"

#include <stdio.h>
#include <stdlib.h>

void board_write(const char *text)
{
    (void)fputs(text, stdout);
}

_Noreturn void board_stop(uint32_t status)
{
    exit((int)status);
}
