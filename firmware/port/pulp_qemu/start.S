/*
 * From reset to main(), as on the other QEMU targets, but for a core that has more instructions than QEMU knows: the
 * first time that it meets one, the trap handler replaces it (translate.c). Hence code is writable here. What catches a
 * stack that overflows is the upper half of the flash, which nobody may touch.
 */
#include "machine.h"

#define CAUSE_ILLEGAL_INSTRUCTION 2
#define PMP_LOCKED_NAPOT_NOTHING 0x98
#define TRANSLATION_BYTES (512 << 10)

/* For link.ld: a linker option would do, but not every linker driver passes --defsym on. */
        .globl  odl_ram_bytes, odl_stack_bytes, odl_translation_bytes
        .set    odl_ram_bytes, ODL_RAM_BYTES
        .set    odl_stack_bytes, ODL_STACK_BYTES
        .set    odl_translation_bytes, TRANSLATION_BYTES

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
        csrw    fcsr, zero              /* round to nearest even, no flags */

        lui     t0, %hi(odl_guard_napot)
        addi    t0, t0, %lo(odl_guard_napot)
        csrw    pmpaddr0, t0
        li      t0, PMP_LOCKED_NAPOT_NOTHING
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

/* C saves the other registers. The interrupted stack pointer and t0 are on the trap stack as well. */
        .section .text.trap, "ax"
        .balign 4
odl_trap_entry:
        csrw    mscratch, sp
        la      sp, odl_trap_stack_top - 80
        each_register sw
        sw      t0, 60(sp)
        csrr    t0, mscratch
        sw      t0, 64(sp)
        la      t0, odl_trap_again
        csrw    mtvec, t0

        csrr    t0, mcause
        bltz    t0, 2f
        li      t1, CAUSE_ILLEGAL_INSTRUCTION
        bne     t0, t1, 1f
        csrr    a0, mepc
        call    odl_translate
        beqz    a0, 1f
3:      la      t0, odl_trap_entry
        csrw    mtvec, t0
        each_register lw
        lw      t0, 60(sp)
        lw      sp, 64(sp)
        mret                            /* to the jump that now is there */

2:      call    odl_timer
        j       3b

1:      csrr    a0, mcause
        csrr    a1, mepc
        csrr    a2, mtval
        lw      a3, 64(sp)
        call    odl_trap
