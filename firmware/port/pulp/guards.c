/*
 * The watchdog: the fabric controller, which has nothing else to do (start.S).
 */
#include "machine.h"
#include "port.h"

volatile uint32_t odl_watchdog_on;

void odl_port_watchdog(void)
{
    odl_watchdog_on = 1;
}
