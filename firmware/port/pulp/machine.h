/*
 * The PULP cluster as far as the runner uses it, and what link.ld and start.S hand to C.
 *
 * Eight cores share 64 KiB of one-cycle memory (L1); a fabric controller outside boots the chip and starts them. All of
 * the runner is core 0's; the others wait until odl_team_run gives them something to do.
 */
#ifndef ODL_MACHINE_H
#define ODL_MACHINE_H

#ifndef ODL_CORES
#define ODL_CORES 1 /* as in odl_team.h */
#endif

/* How much of L2 the arena and all variables may take together. Code, constants and core 0's own stack come on top. */
#ifndef ODL_RAM_BYTES
#define ODL_RAM_BYTES (1536 << 10)
#endif

/* The stack of each core in L1, where kernels run. Unless another number than the least is asked for, link.ld gives all
 * that is left there. */
#define LEAST_STACK_BYTES 1072
#ifndef ODL_STACK_BYTES
#define ODL_STACK_BYTES LEAST_STACK_BYTES
#endif
#if ODL_STACK_BYTES == LEAST_STACK_BYTES
#define GIVEN_STACK_BYTES 0
#else
#define GIVEN_STACK_BYTES ODL_STACK_BYTES
#endif

/* The runner's stack in L2: core 0 leaves it when the team runs. */
#define RUNNER_STACK_BYTES (8 << 10)
#define TRAP_STACK_BYTES 256
#define N_TRAP_STACKS 9

/* The fabric controller is the watchdog (odl_port_watchdog): it counts to this between two looks. */
#ifndef ODL_WATCHDOG_MS
#define ODL_WATCHDOG_MS 10000 /* as in port.h */
#endif
#define WATCHDOG_ROUNDS (ODL_WATCHDOG_MS * 12500) /* of four cycles, at 50 MHz */

#define STACK_PAINT 0x5ac35ac3
#define STACK_GUARD_WORDS 16

#define COUNTED_EVENTS 0xcc0
#define COUNTER_MODE 0xcc1
#define CLUSTER_CONTROL 0x10200000
#define CLUSTER_FETCH_ENABLE 0x08
#define CLUSTER_CLOCK_GATE 0x20
#define CLUSTER_BOOT_ADDRESS 0x40
#define CLUSTER_TIMER 0x10200400
#define CLUSTER_ICACHE_ENABLE 0x10201400
#define CONTROLLER_ICACHE_ENABLE 0x1a108800
#define EVENT_UNIT 0x00204000
#define EVENT_MASK 0x00
#define EVENT_BARRIER 0x10000
#define EVENT_MUTEX 0x20000
#define BARRIER 0x00204200
#define BARRIER_TRIGGER_MASK 0x00
#define BARRIER_TARGET_MASK 0x0c
#define BARRIER_WAIT 0x1c

#ifndef __ASSEMBLER__

#include <stdint.h>

#define CHARACTER_OUT 0x1a10f000u
#define EXIT (*(volatile uint32_t *)0x1a1040a0u)
#define EXIT_NOW 0x80000000u

extern volatile uint32_t odl_watchdog_on;
extern uint32_t odl_stacks_bottom[];
extern uint8_t odl_stack_bytes[]; /* its address is the number */
extern uint32_t odl_runner_stack_bottom[];
extern uint32_t odl_runner_stack_top[];

#define STACK_BYTES ((uint32_t)odl_stack_bytes)

/* The lowest word of a core's stack. */
static inline uint32_t *stack_of(uint32_t core)
{
    return odl_stacks_bottom + core * (STACK_BYTES / 4u);
}

#endif

#endif
