/*
 * A trap ends the run: says where and why on the console, and exits with a status of its own.
 */
#include "machine.h"
#include "port.h"
#include "wire.h"

enum { CAUSE_ILLEGAL_INSTRUCTION = 2, CAUSE_ECALL = 11, INSTRUCTION_ECALL = 0x73 };

#define CODE_BEGIN 0x1c000000u
#define CODE_END 0x1c190000u

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

/* The instruction there, 16 or 32 bits; 0 if it cannot be read. */
static uint32_t instruction_at(uint32_t pc)
{
    if (pc < CODE_BEGIN || pc >= CODE_END - 2u) {
        return 0;
    }
    const uint16_t *halves = (const uint16_t *)pc;
    return (halves[0] & 3u) == 3u ? halves[0] | (uint32_t)halves[1] << 16 : halves[0];
}

/* Nothing guards a stack in L1 but its lowest words; the fabric controller has none. */
static bool is_stack_overflow(uint32_t core, uint32_t sp)
{
    return core < ODL_CORES && sp < (uint32_t)odl_stacks_bottom + core * ODL_STACK_BYTES + 4u * STACK_GUARD_WORDS;
}

_Noreturn void odl_trap(uint32_t cause, uint32_t pc, uint32_t value, uint32_t sp, uint32_t core);
_Noreturn void odl_trap_again(void);

/* Some of these cores give every exception the cause of an ECALL, and no value: the instruction tells. */
_Noreturn void odl_trap(uint32_t cause, uint32_t pc, uint32_t value, uint32_t sp, uint32_t core)
{
    uint32_t instruction = instruction_at(pc);
    if (cause == CAUSE_ECALL && instruction != INSTRUCTION_ECALL) {
        cause = CAUSE_ILLEGAL_INSTRUCTION;
        value = instruction;
    }
    bool overflow = is_stack_overflow(core, sp);
    odl_port_console(overflow ? "odl: stack overflow" : "odl: trap");
    print_hex(" cause=", cause);
    print_hex(" pc=", pc);
    print_hex(" value=", value);
    print_hex(" sp=", sp);
    odl_port_console("\n");
    odl_port_exit(overflow ? ODL_END_STACK : ODL_END_TRAP);
}

/* A trap inside the trap handler: nothing is left to be said. */
__attribute__((aligned(256))) _Noreturn void odl_trap_again(void)
{
    odl_port_exit(ODL_END_TRAP);
}
