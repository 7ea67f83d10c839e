/*
 * A translation is a few scalar instructions between a save and a restore of the registers they need. Traps are slow;
 * each of these instructions traps once. In odl_port_counter() it counts, from the second time on, as its translation and
 * two jumps: as many each time, but for the conversion to integers and the shuffle, which branch over an instruction.
 *
 * Registers are saved below the stack pointer, where no C program keeps anything and no interrupt comes by. Scalar
 * binary16 instructions read the low half of a register and sign-extend what they write.
 */
#include "translate.h"

enum { ZERO = 0, SP = 2, MAX_TEMPORARIES = 4, MAX_WORDS = 48 };

extern uint32_t odl_translations_begin[];
extern uint32_t odl_translations_end[];

static uint32_t *next = odl_translations_begin;

/* The instruction under translation, and the registers that its translation may use besides. */
static struct {
    uint32_t rd, rs1, rs2, funct3, funct7;
    int32_t load_offset, store_offset;
    bool broadcast; /* the low half of rs2 serves both lanes */
    uint32_t t[MAX_TEMPORARIES];
    uint32_t n_temporaries;
} now;

/* --- a very small assembler --- */

static void emit(uint32_t word)
{
    *next++ = word;
}

static void emit_r(uint32_t opcode, uint32_t funct3, uint32_t funct7, uint32_t rd, uint32_t rs1, uint32_t rs2)
{
    emit(funct7 << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode);
}

static void emit_i(uint32_t opcode, uint32_t funct3, uint32_t rd, uint32_t rs1, int32_t immediate)
{
    emit((uint32_t)immediate << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode);
}

static void emit_s(uint32_t funct3, uint32_t rs2, uint32_t rs1, int32_t immediate)
{
    uint32_t bits = (uint32_t)immediate;
    emit((bits >> 5 & 127u) << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | (bits & 31u) << 7 | 0x23u);
}

static uint32_t jump(uint32_t from, uint32_t to)
{
    uint32_t far = to - from;
    return (far >> 20 & 1u) << 31 | (far >> 1 & 0x3ffu) << 21 | (far >> 11 & 1u) << 20 | (far >> 12 & 0xffu) << 12 | 0x6fu;
}

/* Integer instructions, in the order of their operands in assembly. */
#define ADD(rd, a, b) emit_r(0x33, 0, 0x00, rd, a, b)
#define SUB(rd, a, b) emit_r(0x33, 0, 0x20, rd, a, b)
#define SLT(rd, a, b) emit_r(0x33, 2, 0x00, rd, a, b)
#define SRL(rd, a, b) emit_r(0x33, 5, 0x00, rd, a, b)
#define OR(rd, a, b) emit_r(0x33, 6, 0x00, rd, a, b)
#define MUL(rd, a, b) emit_r(0x33, 0, 0x01, rd, a, b)
#define ADDI(rd, a, n) emit_i(0x13, 0, rd, a, n)
#define ANDI(rd, a, n) emit_i(0x13, 7, rd, a, n)
#define SLLI(rd, a, n) emit_i(0x13, 1, rd, a, n)
#define SRLI(rd, a, n) emit_i(0x13, 5, rd, a, n)
#define SRAI(rd, a, n) emit_i(0x13, 5, rd, a, 0x400 | (n))
#define LUI(rd, n) emit((n) << 12 | (rd) << 7 | 0x37u)
#define LW(rd, n, a) emit_i(0x03, 2, rd, a, n)
#define SW(b, n, a) emit_s(2, b, a, n)
#define SKIP_IF_ZERO(a) emit((a) << 15 | 0x463u) /* beq a, x0, +8: over one instruction */

/* Floating point rounds to nearest, ties to even. */
#define FCVT_S_H(rd, a) emit_r(0x53, 0, 0x20, rd, a, 2)
#define FCVT_H_S(rd, a) emit_r(0x53, 0, 0x22, rd, a, 0)
#define FCVT_W_H(rd, a) emit_r(0x53, 0, 0x62, rd, a, 0)
#define FCVT_H_W(rd, a) emit_r(0x53, 0, 0x6a, rd, a, 0)
#define FMUL_S(rd, a, b) emit_r(0x53, 0, 0x08, rd, a, b)
#define FADD_S(rd, a, b) emit_r(0x53, 0, 0x00, rd, a, b)
#define FSQRT_H(rd, a) emit_r(0x53, 0, 0x2e, rd, a, 0)

/* --- what translations have in common --- */

/* Names n registers that the instruction does not use, and saves them. */
static void begin(uint32_t n)
{
    static const uint8_t candidates[] = {5, 6, 7, 28, 29, 30, 31};
    now.n_temporaries = 0;
    for (uint32_t i = 0; now.n_temporaries < n; i++) {
        uint32_t candidate = candidates[i];
        if (candidate != now.rd && candidate != now.rs1 && candidate != now.rs2) {
            SW(candidate, -4 * (int32_t)(now.n_temporaries + 1u), SP);
            now.t[now.n_temporaries++] = candidate;
        }
    }
}

static void restore(void)
{
    for (uint32_t i = 0; i < now.n_temporaries; i++) {
        LW(now.t[i], -4 * (int32_t)(i + 1u), SP);
    }
}

/* rd = the low halves of t[0] and t[1], t[1]'s in the high half. */
static void join(void)
{
    SLLI(now.t[1], now.t[1], 16);
    SLLI(now.t[0], now.t[0], 16);
    SRLI(now.t[0], now.t[0], 16);
    OR(now.rd, now.t[0], now.t[1]);
    restore();
}

/* t[1] and t[2] = the operands of the high lane; returns the register of the second one. */
static uint32_t high_operands(void)
{
    SRLI(now.t[1], now.rs1, 16);
    if (now.broadcast) {
        return now.rs2;
    }
    SRLI(now.t[2], now.rs2, 16);
    return now.t[2];
}

/* --- binary16 --- */

/* A scalar instruction of two operands in each lane. */
static void two_lanes(uint32_t opcode, uint32_t funct3, uint32_t funct7)
{
    begin(3);
    emit_r(opcode, funct3, funct7, now.t[0], now.rs1, now.rs2);
    uint32_t second = high_operands();
    emit_r(opcode, funct3, funct7, now.t[1], now.t[1], second);
    join();
}

/* vfmac: rs1 * rs2 + rd, vfmre: rs1 * rs2 - rd, rounded once. */
static void fused_lanes(bool minus)
{
    begin(4);
    uint32_t opcode = minus ? 0x47u : 0x43u;
    emit_r(opcode, 0, now.rd << 2 | 2u, now.t[0], now.rs1, now.rs2);
    uint32_t second = high_operands();
    SRLI(now.t[3], now.rd, 16);
    emit_r(opcode, 0, now.t[3] << 2 | 2u, now.t[1], now.t[1], second);
    join();
}

static void square_root_lanes(void)
{
    begin(2);
    FSQRT_H(now.t[0], now.rs1);
    SRLI(now.t[1], now.rs1, 16);
    FSQRT_H(now.t[1], now.t[1]);
    join();
}

/* vfcpka.h.s */
static void round_two(void)
{
    begin(2);
    FCVT_H_S(now.t[0], now.rs1);
    FCVT_H_S(now.t[1], now.rs2);
    join();
}

/* A register clipped to 16 bits with a sign; t[2] and t[3] are lost. */
static void saturate(uint32_t x)
{
    LUI(now.t[2], 8u);
    ADDI(now.t[2], now.t[2], -1);
    SLT(now.t[3], now.t[2], x);
    SKIP_IF_ZERO(now.t[3]);
    ADDI(x, now.t[2], 0);
    LUI(now.t[2], 0xffff8u);
    SLT(now.t[3], x, now.t[2]);
    SKIP_IF_ZERO(now.t[3]);
    ADDI(x, now.t[2], 0);
}

/* vfcvt.x.h */
static void to_integers(void)
{
    begin(4);
    FCVT_W_H(now.t[0], now.rs1);
    saturate(now.t[0]);
    SRLI(now.t[1], now.rs1, 16);
    FCVT_W_H(now.t[1], now.t[1]);
    saturate(now.t[1]);
    join();
}

/* vfcvt.h.x */
static void from_integers(void)
{
    begin(2);
    SLLI(now.t[0], now.rs1, 16);
    SRAI(now.t[0], now.t[0], 16);
    FCVT_H_W(now.t[0], now.t[0]);
    SRAI(now.t[1], now.rs1, 16);
    FCVT_H_W(now.t[1], now.t[1]);
    join();
}

/* vfdotpex.s.h: rd + (hi * hi + lo * lo) in binary32. The products are exact; the inner sum rounds, and the outer. */
static void dot_product(void)
{
    begin(3);
    FCVT_S_H(now.t[0], now.rs1);
    FCVT_S_H(now.t[2], now.rs2);
    FMUL_S(now.t[0], now.t[0], now.t[2]);
    uint32_t second = high_operands();
    FCVT_S_H(now.t[1], now.t[1]);
    FCVT_S_H(now.t[2], second);
    FMUL_S(now.t[1], now.t[1], now.t[2]);
    FADD_S(now.t[1], now.t[1], now.t[0]);
    FADD_S(now.rd, now.rd, now.t[1]);
    restore();
}

/* fmacex.s.h: the product is exact. */
static void multiply_and_widen(void)
{
    begin(2);
    FCVT_S_H(now.t[0], now.rs1);
    FCVT_S_H(now.t[1], now.rs2);
    FMUL_S(now.t[0], now.t[0], now.t[1]);
    FADD_S(now.rd, now.rd, now.t[0]);
    restore();
}

/* funct7 0x41 and up, of the lanes' width that funct3 says (2, or 6 with a broadcast: binary16). */
static bool translate_vector(void)
{
    now.broadcast = now.funct3 == 6u;
    switch (now.funct7) {
    case 0x41: two_lanes(0x53, 0, 0x02); return true;
    case 0x42: two_lanes(0x53, 0, 0x06); return true;
    case 0x43: two_lanes(0x53, 0, 0x0a); return true;
    case 0x44: two_lanes(0x53, 0, 0x0e); return true;
    case 0x45: two_lanes(0x53, 0, 0x16); return true;
    case 0x46: two_lanes(0x53, 1, 0x16); return true;
    case 0x48: fused_lanes(false); return true;
    case 0x49: fused_lanes(true); return true;
    default: break;
    }
    if (now.broadcast) {
        return false;
    }
    switch (now.funct7 << 5 | (now.funct7 == 0x58u ? 0u : now.rs2)) {
    case 0x47u << 5: square_root_lanes(); return true;
    case 0x4cu << 5 | 2u: to_integers(); return true;
    case 0x4cu << 5 | 3u: from_integers(); return true;
    case 0x58u << 5: round_two(); return true;
    default: return false;
    }
}

/* --- integers --- */

/* p.mac */
static void multiply_accumulate(void)
{
    begin(1);
    MUL(now.t[0], now.rs1, now.rs2);
    ADD(now.rd, now.rd, now.t[0]);
    restore();
}

/* pv.cmpgt.h and pv.cmpgtu.h: all ones where rs1's lane is greater. */
static void compare_lanes(bool is_signed)
{
    begin(3);
    uint32_t set_if_less = is_signed ? 2u : 3u;
    SLLI(now.t[0], now.rs1, 16);
    SLLI(now.t[2], now.rs2, 16);
    emit_r(0x33, set_if_less, 0, now.t[0], now.t[2], now.t[0]);
    int32_t arithmetic = is_signed ? 0x400 : 0;
    emit_i(0x13, 5, now.t[1], now.rs1, arithmetic | 16);
    emit_i(0x13, 5, now.t[2], now.rs2, arithmetic | 16);
    emit_r(0x33, set_if_less, 0, now.t[1], now.t[2], now.t[1]);
    SUB(now.t[0], ZERO, now.t[0]);
    SUB(now.t[1], ZERO, now.t[1]);
    join();
}

/* t[to] = the half of rd (selector 0, 1) or of rs1 (2, 3) that the lowest two bits of register `selector` name. */
static void select_half(uint32_t to, uint32_t selector)
{
    ANDI(now.t[2], selector, 2);
    ADDI(now.t[to], now.rd, 0);
    SKIP_IF_ZERO(now.t[2]);
    ADDI(now.t[to], now.rs1, 0);
    ANDI(now.t[2], selector, 1);
    SLLI(now.t[2], now.t[2], 4);
    SRL(now.t[to], now.t[to], now.t[2]);
}

/* pv.shuffle2.h: each half of rs2 selects one of four. */
static void shuffle(void)
{
    begin(4);
    select_half(0, now.rs2);
    SRLI(now.t[3], now.rs2, 16);
    select_half(1, now.t[3]);
    join();
}

/* pv.pack.h: rs1's low half above rs2's. */
static void pack(void)
{
    begin(2);
    ADDI(now.t[0], now.rs2, 0);
    ADDI(now.t[1], now.rs1, 0);
    join();
}

/* The lowest bit of funct7 means nothing to most of these. */
static bool translate_integers(void)
{
    if (now.funct3 != 0u) {
        return false;
    }
    switch (now.funct7 & 0x7eu) {
    case 0x00: two_lanes(0x33, 0, 0x00); return true;
    case 0x04: two_lanes(0x33, 0, 0x20); return true;
    case 0x0a: compare_lanes(true); return true;
    case 0x1a: compare_lanes(false); return true;
    case 0x64: shuffle(); return true;
    case 0x68: pack(); return true;
    default: return false;
    }
}

/* --- loads and stores --- */

/* The load or store itself, without offset; then the base moves on by `offset`, or by a register if that is not 0. */
static void access_and_advance(void (*access)(uint32_t funct3), uint32_t funct3, int32_t offset, uint32_t by)
{
    if (by == ZERO) {
        access(funct3);
        ADDI(now.rs1, now.rs1, offset);
        return;
    }
    begin(1); /* a load may overwrite the register that tells how far */
    ADDI(now.t[0], by, 0);
    access(funct3);
    ADD(now.rs1, now.rs1, now.t[0]);
    restore();
}

static void load(uint32_t funct3)
{
    emit_i(0x03, funct3, now.rd, now.rs1, 0);
}

static void store(uint32_t funct3)
{
    emit_s(funct3, now.rs2, now.rs1, 0);
}

/* What a load with two registers loads is in funct7: 0x00 byte, 0x08 half, 0x10 word, 0x20 and 0x28 unsigned. */
static bool register_load(uint32_t *funct3)
{
    *funct3 = now.funct7 >> 3;
    return (now.funct7 & 7u) == 0u && (*funct3 <= 2u || *funct3 == 4u || *funct3 == 5u);
}

/* A base that is loaded at the same time is nothing that the cores define. */
static bool translate_load(void)
{
    uint32_t funct3 = now.funct3;
    if (now.rd == now.rs1) {
        return false;
    }
    if (funct3 == 7u && register_load(&funct3)) {
        access_and_advance(load, funct3, 0, now.rs2);
        return true;
    }
    if (funct3 > 2u && funct3 != 4u && funct3 != 5u) {
        return false;
    }
    access_and_advance(load, funct3, now.load_offset, ZERO);
    return true;
}

static bool translate_store(void)
{
    if (now.funct3 <= 2u) {
        access_and_advance(store, now.funct3, now.store_offset, ZERO);
        return true;
    }
    if (now.funct3 < 4u || now.funct3 > 6u || now.funct7 != 0u) {
        return false;
    }
    access_and_advance(store, now.funct3 - 4u, 0, now.rd);
    return true;
}

/* --- */

static bool translate_arithmetic(void)
{
    switch (now.funct3 << 7 | now.funct7) {
    case 0x21: multiply_accumulate(); return true;
    case 0x4b: dot_product(); return true;
    case 4u << 7 | 0x4bu:
        now.broadcast = true;
        dot_product();
        return true;
    default: break;
    }
    return (now.funct3 == 2u || now.funct3 == 6u) && translate_vector();
}

static bool translate_one(uint32_t opcode)
{
    switch (opcode) {
    case 0x0b: return translate_load();
    case 0x2b: return translate_store();
    case 0x33: return translate_arithmetic();
    case 0x53:
        if (now.funct7 == 0x2au) {
            multiply_and_widen();
            return true;
        }
        return false;
    case 0x57: return translate_integers();
    default: return false;
    }
}

static void decode(uint32_t word)
{
    now.rd = word >> 7 & 31u;
    now.funct3 = word >> 12 & 7u;
    now.rs1 = word >> 15 & 31u;
    now.rs2 = word >> 20 & 31u;
    now.funct7 = word >> 25;
    now.load_offset = (int32_t)word >> 20;
    now.store_offset = (int32_t)((uint32_t)((int32_t)word >> 25) << 5 | now.rd);
    now.broadcast = false;
}

bool odl_translate(uint32_t pc)
{
    uint16_t *halves = (uint16_t *)pc;
    uint32_t word = halves[0] | (uint32_t)halves[1] << 16;
    uint32_t *entry = next;
    if (odl_translations_end - next < MAX_WORDS) {
        return false;
    }
    decode(word);
    /* Registers are saved relative to sp, which must not move meanwhile. A store by an offset has that in place of rd. */
    const uint32_t opcode = word & 127u;
    const bool names_sp = now.rs1 == SP || (now.rd == SP && !(opcode == 0x2bu && now.funct3 <= 2u));
    if (names_sp || !translate_one(opcode)) {
        next = entry;
        return false;
    }
    emit(jump((uint32_t)next, pc + 4u));
    uint32_t there = jump(pc, (uint32_t)entry);
    halves[0] = (uint16_t)there;
    halves[1] = (uint16_t)(there >> 16);
    __asm__ volatile(".word 0x0000100f" ::: "memory"); /* fence.i */
    return true;
}
