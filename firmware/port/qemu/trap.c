/*
 * A trap ends the run: says where and why on the console, and exits with a status of its own.
 */
#include "machine.h"
#include "port.h"
#include "progress.h"
#include "wire.h"

enum { CAUSE_STORE_ACCESS_FAULT = 7 };

/* The push that overflows aims at the flash right below the stack. */
static bool is_stack_overflow(uint32_t cause, uint32_t address, uint32_t sp)
{
    uint32_t bottom = (uint32_t)odl_stack_bottom;
    return cause == CAUSE_STORE_ACCESS_FAULT && address < bottom && sp < bottom + 4u * STACK_GUARD_WORDS;
}

/* `value` is mtval: the address of a failed access, or the bits of an illegal instruction. */
_Noreturn void odl_trap(uint32_t cause, uint32_t pc, uint32_t value, uint32_t sp);
_Noreturn void odl_trap_again(void);

_Noreturn void odl_trap(uint32_t cause, uint32_t pc, uint32_t value, uint32_t sp)
{
    bool overflow = is_stack_overflow(cause, value, sp);
    odl_port_console(overflow ? "odl: stack overflow" : "odl: trap");
    odl_tell_hex(" cause=", cause);
    odl_tell_hex(" pc=", pc);
    odl_tell_hex(" value=", value);
    odl_tell_hex(" sp=", sp);
    odl_tell_place();
    odl_port_exit(overflow ? ODL_END_STACK : ODL_END_TRAP);
}

/* A trap inside the trap handler: nothing is left to be said. */
__attribute__((aligned(4))) _Noreturn void odl_trap_again(void)
{
    odl_port_exit(ODL_END_TRAP);
}
