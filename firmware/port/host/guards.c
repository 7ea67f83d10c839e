/*
 * What guards a run on the developer's own machine: a watchdog of processor time, and a crash that says where it was.
 */
#define _XOPEN_SOURCE 700
#include "port.h"
#include "progress.h"

#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/time.h>

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif

static void look(int number)
{
    (void)number;
    if (!odl_gets_on()) {
        odl_watchdog_bites();
    }
}

#ifndef SANITIZED
/* Has the default action done after it: the signal is still how the run ends. */
static void tell(int number)
{
    odl_port_console("odl: crash");
    odl_tell_place();
    (void)raise(number);
}

/* On a stack of its own, for the one that ran out. */
static void tell_of_crashes(void)
{
    static uint8_t stack[1 << 16];
    static const int crashes[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
    const stack_t alternative = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {.sa_handler = tell, .sa_flags = (int)(SA_ONSTACK | SA_RESETHAND | SA_NODEFER)};
    (void)sigaltstack(&alternative, NULL);
    for (size_t i = 0; i < sizeof crashes / sizeof crashes[0]; i++) {
        (void)sigaction(crashes[i], &action, NULL);
    }
}
#endif

void odl_port_watchdog(void)
{
    const struct timeval period = {.tv_sec = ODL_WATCHDOG_MS / 1000u, .tv_usec = (ODL_WATCHDOG_MS % 1000u) * 1000};
    const struct itimerval timer = {.it_interval = period, .it_value = period};
    struct sigaction action = {.sa_handler = look, .sa_flags = (int)SA_RESTART};
    (void)sigaction(SIGVTALRM, &action, NULL);
    (void)setitimer(ITIMER_VIRTUAL, &timer, NULL);
#ifndef SANITIZED
    tell_of_crashes();
#endif
}
