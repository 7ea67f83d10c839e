/*
 * A trap ends the run: says where and why on the console, and exits with a status of its own.
 */
#include "machine.h"
#include "port.h"
#include "wire.h"

enum { CAUSE_STORE_ACCESS_FAULT = 7 };

static void print_hex(const char *label, uint32_t value)
{
    char digits[9];
    for (int i = 7; i >= 0; i--) {
        digits[i] = "0123456789abcdef"[value & 15u];
        value >>= 4;
    }
    digits[8] = '\0';
    odl_port_console(label);
    odl_port_console(digits);
}

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
    print_hex(" cause=", cause);
    print_hex(" pc=", pc);
    print_hex(" value=", value);
    print_hex(" sp=", sp);
    odl_port_console("\n");
    odl_port_exit(overflow ? ODL_END_STACK : ODL_END_TRAP);
}

/* A trap inside the trap handler: nothing is left to be said. */
__attribute__((aligned(4))) _Noreturn void odl_trap_again(void)
{
    odl_port_exit(ODL_END_TRAP);
}
