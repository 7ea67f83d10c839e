/* QEMU's `virt` machine: its UART and its test finisher, and what start.S calls when something goes wrong. */
#include "board.h"
#include "machine.h"

enum { TRAPPED = 100 };

_Noreturn void odl_trap(void);
_Noreturn void odl_trap_again(void);
void odl_timer(void);

void board_write(const char *text)
{
    for (; *text != '\0'; text++) {
        UART_TRANSMIT = (uint8_t)*text;
    }
}

_Noreturn void board_stop(uint32_t status)
{
    FINISHER = status == 0u ? FINISHER_PASS : (status << 16) | FINISHER_FAIL;
    for (;;) {
    }
}

_Noreturn void odl_trap(void)
{
    board_write("trap\n");
    board_stop(TRAPPED);
}

/* A trap vector lies on a multiple of four. */
__attribute__((aligned(4))) _Noreturn void odl_trap_again(void)
{
    board_stop(TRAPPED);
}

/* No interrupt is ever enabled. */
void odl_timer(void)
{
}
