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

        .section .text.trap, "ax"
        .balign 4
odl_trap_entry:
        la      t0, odl_trap_again      /* the registers are lost: nothing returns from a trap */
        csrw    mtvec, t0
        mv      a3, sp
        la      sp, odl_trap_stack_top
        csrr    a0, mcause
        csrr    a1, mepc
        csrr    a2, mtval
        call    odl_trap
