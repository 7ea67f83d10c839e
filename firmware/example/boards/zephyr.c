/* Any board of Zephyr's: its console. Nothing follows the end. */
#include "board.h"

#include <zephyr/kernel.h>
#include <zephyr/sys/printk.h>

void board_write(const char *text)
{
    printk("%s", text);
}

_Noreturn void board_stop(uint32_t status)
{
    printk("status %u\n", (unsigned int)status);
    for (;;) {
        k_sleep(K_FOREVER);
    }
}
