/*
 * QEMU's `virt` machine as far as the runner uses it, and what link.ld and start.S hand to C.
 */
#ifndef ODL_MACHINE_H
#define ODL_MACHINE_H

/* How much RAM the arena, the stack and all variables may take together, and how much of it is stack. */
#ifndef ODL_RAM_BYTES
#define ODL_RAM_BYTES (112 << 20)
#endif
#ifndef ODL_STACK_BYTES
#define ODL_STACK_BYTES (8 << 10)
#endif

#define STACK_PAINT 0x5ac35ac3
#define STACK_GUARD_WORDS 16

#ifdef __ASSEMBLER__

/* The registers that a trap handler in C may change, but for t0 and sp: `each_register sw` saves them below sp + 60, lw
 * restores them. */
        .macro  each_register what
        \what   ra, 0(sp)
        \what   t1, 4(sp)
        \what   t2, 8(sp)
        \what   t3, 12(sp)
        \what   t4, 16(sp)
        \what   t5, 20(sp)
        \what   t6, 24(sp)
        \what   a0, 28(sp)
        \what   a1, 32(sp)
        \what   a2, 36(sp)
        \what   a3, 40(sp)
        \what   a4, 44(sp)
        \what   a5, 48(sp)
        \what   a6, 52(sp)
        \what   a7, 56(sp)
        .endm

#else

#include <stdint.h>

#define UART_TRANSMIT (*(volatile uint8_t *)0x10000000u)
#define TIMER_HZ 10000000u
#define TIMER_LOW (*(volatile uint32_t *)0x0200bff8u)
#define TIMER_HIGH (*(volatile uint32_t *)0x0200bffcu)
#define TIMER_DUE_LOW (*(volatile uint32_t *)0x02004000u)
#define TIMER_DUE_HIGH (*(volatile uint32_t *)0x02004004u)
#define FINISHER (*(volatile uint32_t *)0x00100000u)
#define FINISHER_PASS 0x5555u
#define FINISHER_FAIL 0x3333u

extern uint32_t odl_stack_bottom[];
extern uint32_t odl_stack_top[];

#endif

#endif
