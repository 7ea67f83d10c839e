/*
 * The watchdog: the machine's timer, which interrupts every ODL_WATCHDOG_MS.
 */
#include "machine.h"
#include "port.h"
#include "progress.h"

#define TICKS ((uint64_t)ODL_WATCHDOG_MS * (TIMER_HZ / 1000u))

enum { MIE_TIMER = 1 << 7, MSTATUS_MIE = 1 << 3 };

static uint64_t due;

/* The high word is out of the way while the low one changes (RISC-V Privileged Architecture, mtimecmp). */
static void set_due(uint64_t time)
{
    due = time;
    TIMER_DUE_HIGH = UINT32_MAX;
    TIMER_DUE_LOW = (uint32_t)time;
    TIMER_DUE_HIGH = (uint32_t)(time >> 32);
}

static uint64_t now(void)
{
    uint32_t high;
    uint32_t low;
    do {
        high = TIMER_HIGH;
        low = TIMER_LOW;
    } while (high != TIMER_HIGH);
    return (uint64_t)high << 32 | low;
}

/* The interrupt's handler. */
void odl_timer(void);
void odl_timer(void)
{
    if (!odl_gets_on()) {
        odl_watchdog_bites();
    }
    set_due(due + TICKS);
}

void odl_port_watchdog(void)
{
    set_due(now() + TICKS);
    __asm__ volatile("csrs mie, %0" : : "r"(MIE_TIMER));
    __asm__ volatile("csrs mstatus, %0" : : "r"(MSTATUS_MIE));
}
