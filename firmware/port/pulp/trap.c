/*
 * A trap ends the run: says where and why on the console, and exits with a status of its own.
 */
#include "machine.h"
#include "port.h"
#include "progress.h"
#include "wire.h"

enum { CAUSE_ILLEGAL_INSTRUCTION = 2, CAUSE_ECALL = 11, INSTRUCTION_ECALL = 0x73 };

#define CODE_BEGIN 0x1c000000u
#define CODE_END 0x1c190000u

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
    return core < ODL_CORES && sp < (uint32_t)(stack_of(core) + STACK_GUARD_WORDS);
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
    odl_tell_hex(" cause=", cause);
    odl_tell_hex(" pc=", pc);
    odl_tell_hex(" value=", value);
    odl_tell_hex(" sp=", sp);
    odl_tell_place();
    odl_port_exit(overflow ? ODL_END_STACK : ODL_END_TRAP);
}

/* A trap inside the trap handler: nothing is left to be said. */
__attribute__((aligned(256))) _Noreturn void odl_trap_again(void)
{
    odl_port_exit(ODL_END_TRAP);
}
