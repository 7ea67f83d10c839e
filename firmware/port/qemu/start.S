/*
 * From reset to main(). RAM begins with the stack, which grows down towards the flash below it: the flash
 * is write-protected, so a stack that overflows traps instead of reaching data.
 */
#include "machine.h"

#define MSTATUS_FS 0x6000
#define PMP_LOCKED_NAPOT_READ_EXECUTE 0x9d

/* For link.ld: a linker option would do, but not every linker driver passes --defsym on. */
        .globl  odl_ram_bytes, odl_stack_bytes
        .set    odl_ram_bytes, ODL_RAM_BYTES
        .set    odl_stack_bytes, ODL_STACK_BYTES

        .section .text.start, "ax"
        .globl  _start
_start:
        la      t0, odl_trap_entry
        csrw    mtvec, t0
        .option push
        .option norelax
        la      gp, __global_pointer$
        .option pop
        la      sp, odl_stack_top

        li      t0, MSTATUS_FS          /* floating point on (no effect where it uses the integer registers) */
        csrs    mstatus, t0
        csrw    fcsr, zero              /* round to nearest even, no flags */

        lui     t0, %hi(odl_flash_napot)
        addi    t0, t0, %lo(odl_flash_napot)
        csrw    pmpaddr0, t0
        li      t0, PMP_LOCKED_NAPOT_READ_EXECUTE
        csrw    pmpcfg0, t0

        la      t0, odl_stack_bottom
        li      t1, STACK_PAINT
1:      sw      t1, 0(t0)
        addi    t0, t0, 4
        bltu    t0, sp, 1b

        la      a0, odl_data_begin
        la      a1, odl_data_load
        la      a2, odl_data_end
        sub     a2, a2, a0
        call    memcpy
        la      a0, odl_bss_begin
        li      a1, 0
        la      a2, odl_bss_end
        sub     a2, a2, a0
        call    memset

        call    main                    /* ends the run itself */

/* An interrupt is the timer's and returns; C saves the other registers, and uses none of floating point. From anything
 * else nothing returns. */
        .section .text.trap, "ax"
        .balign 4
odl_trap_entry:
        csrw    mscratch, sp
        la      sp, odl_trap_stack_top - 80
        each_register sw
        sw      t0, 60(sp)
        la      t0, odl_trap_again
        csrw    mtvec, t0
        csrr    a0, mcause
        bgez    a0, 1f
        call    odl_timer
        la      t0, odl_trap_entry
        csrw    mtvec, t0
        each_register lw
        lw      t0, 60(sp)
        csrr    sp, mscratch
        mret

1:      csrr    a1, mepc
        csrr    a2, mtval
        csrr    a3, mscratch
        call    odl_trap
