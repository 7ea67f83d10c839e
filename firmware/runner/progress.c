#include "progress.h"

#include "odl_team.h"
#include "port.h"
#include "wire.h"

ODL_LOCAL volatile uint32_t odl_now;
ODL_LOCAL volatile uint32_t odl_now_step;

void odl_tell_hex(const char *label, uint32_t value)
{
    char digits[9];
    for (int i = 7; i >= 0; i--) {
        digits[i] = "0123456789abcdef"[value & 15u];
        value >>= 4;
    }
    digits[8] = '\0';
    odl_port_console(label);
    odl_port_console(digits);
}

void odl_tell_place(void)
{
    odl_tell_hex(" step=", odl_now_step);
    odl_tell_hex(" call=", odl_now);
    odl_port_console("\n");
}

bool odl_gets_on(void)
{
    static uint32_t last_step = UINT32_MAX;
    static uint32_t last_call;
    const uint32_t step = odl_now_step;
    const uint32_t call = odl_now;
    const bool gets_on = step != last_step || call != last_call;
    last_step = step;
    last_call = call;
    return gets_on;
}

_Noreturn void odl_watchdog_bites(void)
{
    odl_port_console("odl: watchdog");
    odl_tell_place();
    odl_port_exit(ODL_END_WATCHDOG);
}
