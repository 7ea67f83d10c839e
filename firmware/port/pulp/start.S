/*
 * From reset to main(), which core 0 of the cluster runs, and what the other cores do meanwhile.
 *
 * Every core begins at _start. The fabric controller switches the caches on, starts the cluster and sleeps for good.
 * The trap vector comes first: without it an illegal instruction starts the program all over.
 */
#include "machine.h"

#if ODL_CORES < 1 || ODL_CORES > 8
#error "ODL_CORES: a cluster has one to eight cores"
#endif

#define TEAM_MASK ((1 << ODL_CORES) - 1)
#define LAST_HART_OF_CLUSTER 31

/* For link.ld: a linker option would do, but not every linker driver passes --defsym on. */
        .globl  odl_ram_bytes, odl_cores, odl_given_stack_bytes, odl_stacks_bytes
        .globl  odl_runner_stack_bytes, odl_trap_stacks_bytes
        .set    odl_ram_bytes, ODL_RAM_BYTES
        .set    odl_cores, ODL_CORES
        .set    odl_given_stack_bytes, GIVEN_STACK_BYTES
        .set    odl_stacks_bytes, ODL_CORES * ODL_STACK_BYTES
        .set    odl_runner_stack_bytes, RUNNER_STACK_BYTES
        .set    odl_trap_stacks_bytes, N_TRAP_STACKS * TRAP_STACK_BYTES

/* All registers are free here. The barrier wakes the core: p.elw x0 is no load, hence a register. */
        .macro  barrier
        li      t6, BARRIER
        .insn   i 0x03, 6, t6, t6, BARRIER_WAIT
        .endm

/* Fills words from t0 up to t2 with t1. */
        .macro  fill
1:      bgeu    t0, t2, 2f
        sw      t1, 0(t0)
        addi    t0, t0, 4
        j       1b
2:
        .endm

        .section .text.start, "ax"
        .balign 256                     /* a boot address has its low 8 bits clear */
        .globl  _start
_start:
        la      t0, odl_trap_entry
        csrw    mtvec, t0
        .option push
        .option norelax
        la      gp, __global_pointer$
        .option pop
        csrr    a0, mhartid
        li      t0, LAST_HART_OF_CLUSTER
        bgtu    a0, t0, start_cluster

        csrw    fcsr, zero              /* round to nearest even, no flags */
        li      t0, -1
        csrw    COUNTED_EVENTS, t0
        csrwi   COUNTER_MODE, 1         /* on */
        lui     t1, %hi(odl_stack_bytes)
        addi    t1, t1, %lo(odl_stack_bytes)
        mul     t0, a0, t1
        la      t2, odl_stacks_bottom
        add     t0, t0, t2
        add     sp, t0, t1
        mv      t2, sp
        li      t1, STACK_PAINT
        fill
        li      t0, EVENT_UNIT
        li      t1, (EVENT_BARRIER | EVENT_MUTEX)
        sw      t1, EVENT_MASK(t0)
        bnez    a0, worker

        la      t0, odl_runner_stack_bottom
        la      sp, odl_runner_stack_top
        mv      t2, sp
        li      t1, STACK_PAINT
        fill
        la      t0, odl_bss_begin
        la      t2, odl_bss_end
        li      t1, 0
        fill
        la      t0, odl_l1_bss_begin
        la      t2, odl_l1_bss_end
        fill
        la      a0, odl_l1_const_begin
        la      a1, odl_l1_const_load
        la      a2, odl_l1_const_end
        sub     a2, a2, a0
        call    memcpy
        li      t0, BARRIER             /* the trigger mask first: it is complete before anybody is woken */
        li      t1, TEAM_MASK
        sw      t1, BARRIER_TRIGGER_MASK(t0)
        sw      t1, BARRIER_TARGET_MASK(t0)
        call    main                    /* ends the run itself */

worker:
        barrier
        la      t0, odl_team_work
        lw      t1, 0(t0)
        lw      a0, 4(t0)
        jalr    t1
        barrier
        j       worker

start_cluster:
        li      t0, CONTROLLER_ICACHE_ENABLE
        li      t1, -1
        sw      t1, 0(t0)
        li      t0, CLUSTER_CONTROL
        li      t1, 1
        sw      t1, CLUSTER_CLOCK_GATE(t0)
        li      t2, CLUSTER_ICACHE_ENABLE
        li      t1, -1
        sw      t1, 0(t2)
        la      t1, _start
        addi    t2, t0, CLUSTER_BOOT_ADDRESS
        addi    t3, t2, 4 * ODL_CORES
1:      sw      t1, 0(t2)
        addi    t2, t2, 4
        bltu    t2, t3, 1b
        li      t1, TEAM_MASK
        sw      t1, CLUSTER_FETCH_ENABLE(t0)

/* Nothing is left for the fabric controller to do, and a cluster that hangs cannot be its own watchdog. */
watch:
        li      t0, WATCHDOG_ROUNDS
1:      addi    t0, t0, -1
        bnez    t0, 1b
        la      t0, odl_watchdog_on
        lw      t0, 0(t0)
        beqz    t0, watch
        la      sp, odl_trap_stacks_bottom + N_TRAP_STACKS * TRAP_STACK_BYTES
        call    odl_gets_on
        bnez    a0, watch
        call    odl_watchdog_bites

/* void odl_team_run(void (*entry)(void *), void *argument): core 0's part, on its stack in L1. */
        .section .text.odl_team_run, "ax"
        .globl  odl_team_run
odl_team_run:
        addi    sp, sp, -16
        sw      ra, 12(sp)
        sw      s0, 8(sp)
        mv      s0, sp
        lui     t1, %hi(odl_stack_bytes)
        addi    t1, t1, %lo(odl_stack_bytes)
        la      sp, odl_stacks_bottom
        add     sp, sp, t1
        mv      t1, a0
        mv      a0, a1
#if ODL_CORES > 1
        la      t0, odl_team_work
        sw      t1, 0(t0)
        sw      a1, 4(t0)
        barrier
#endif
        jalr    t1
#if ODL_CORES > 1
        barrier
#endif
        mv      sp, s0
        lw      s0, 8(sp)
        lw      ra, 12(sp)
        addi    sp, sp, 16
        ret

        .section .bss.odl_l1.team, "aw", @nobits
        .balign 4
odl_team_work:
        .skip   8

        .section .text.trap, "ax"
        .balign 256
odl_trap_entry:
        la      t0, odl_trap_again      /* the registers are lost: nothing returns from a trap */
        csrw    mtvec, t0
        mv      a3, sp
        csrr    a4, mhartid
        li      t0, N_TRAP_STACKS - 1
        bltu    a4, t0, 1f
        mv      a4, t0                  /* the fabric controller's is the last */
1:      addi    t0, a4, 1
        li      t1, TRAP_STACK_BYTES
        mul     t0, t0, t1
        la      sp, odl_trap_stacks_bottom
        add     sp, sp, t0
        csrr    a0, mcause
        csrr    a1, mepc
        csrr    a2, mtval
        call    odl_trap
