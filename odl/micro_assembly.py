"""What all micro-kernels share: macros for instructions without a mnemonic, loops, and functions of assembly text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FREE = ("t3", "t4", "t5", "t6")  # accumulators, as far as they go: nobody wants them back
SAVED = tuple(f"s{i}" for i in range(12))
_OWED = frozenset((*SAVED, "ra", "gp", "tp"))  # what the caller wants back; gp and tp too, they are not C's to lose
_SLOTS = 3  # words of the frame below the saved registers: two loop counters, and the arguments

HEAD = """\
/* Micro-kernels, written by odl/microkernels.py. Their C form and arguments: odl_micro.h. */
#include "odl_micro.h"

#if ODL_SIMD

#define INSN_R(op, f3, f7, rd, rs1, rs2) ".insn r " #op ", " #f3 ", " #f7 ", " #rd ", " #rs1 ", " #rs2 "\\n"
#define P_LW(rd, n, at) ".insn i 0x0b, 2, " #rd ", " #at ", " #n "\\n"        /* rd = word at `at`; at += n */
#define P_LW_BY(rd, by, at) INSN_R(0x0b, 7, 0x10, rd, at, by)                /* rd = word at `at`; at += by */
#define P_SW(from, n, at) ".insn s 0x2b, 2, " #from ", " #n "(" #at ")\\n"    /* word at `at` = from; at += n */
#define P_SW_BY(from, by, at) INSN_R(0x2b, 6, 0, by, at, from)               /* word at `at` = from; at += by */
#define P_SH(from, n, at) ".insn s 0x2b, 1, " #from ", " #n "(" #at ")\\n"    /* half at `at` = from; at += n */
#define PACK(rd, hi, lo) INSN_R(0x57, 0, 0x68, rd, hi, lo)                   /* rd = low halves of lo and hi */
#define SHUFFLE(rd, rs, mask) INSN_R(0x57, 0, 0x64, rd, rs, mask)            /* with mask: rd = high halves of rs, rd */
#define ROUND2(rd, lo, hi) INSN_R(0x33, 2, 0x58, rd, lo, hi)                 /* two binary32 to two binary16 */
#define MAC1(acc, x, y) INSN_R(0x53, 7, 0x2a, acc, x, y)                     /* acc + x0 * y0, in binary32 */
#define ADD2(rd, a, b) INSN_R(0x33, 2, 0x41, rd, a, b)
#if ODL_ACCUMULATE_FP16
#define DOT2(acc, x, y) INSN_R(0x33, 2, 0x48, acc, x, y)                     /* two fused multiply-adds */
#else
#define DOT2(acc, x, y) INSN_R(0x33, 0, 0x4b, acc, x, y)                     /* acc + (x1 * y1 + x0 * y0) */
#endif

/* `count` times what lies between LOOP and AGAIN: n halfwords after LOOP itself. Level 0 is inside level 1. */
#if ODL_HARDWARE_LOOPS
#define LOOP(level, count, n) ".insn i 0x7b, 4, x" #level ", " #count ", " #n "\\n"
#define AGAIN(level, spare)
#else
#define LOOP(level, count, n) "sw " #count ", 4*" #level "(sp)\\n1" #level ":\\n"
#define AGAIN(level, spare) \\
    "lw " #spare ", 4*" #level "(sp)\\naddi " #spare ", " #spare ", -1\\nsw " #spare ", 4*" #level "(sp)\\n" \\
    "bnez " #spare ", 1" #level "b\\n"
#endif
"""


def op(name: str, *operands: object) -> str:
    """One of the macros."""
    return f"{name}({', '.join(map(str, operands))})"


def quoted(line: str) -> str:
    """A line of assembly as C; macros and preprocessor lines stay as they are."""
    if line.startswith("#"):
        return line
    return f"    {line}" if line.endswith(")") and line[0].isupper() else f'    "{line}\\n"'


def n_insns(body: Sequence[str], in_fp16: bool) -> int:
    """Instructions of `body`, whose conditions ask for ODL_ACCUMULATE_FP16 and nothing else."""
    count, counts = 0, True
    for line in body:
        if line.startswith("#"):
            counts = {"#if": in_fp16, "#el": not in_fp16, "#en": True}[line[:3]]
        elif counts and not line.startswith("AGAIN") and not line.endswith(":"):
            count += 1
    return count


def choose(in_fp16: Sequence[str], in_fp32: Sequence[str]) -> list[str]:
    """Lines for each accumulator."""
    return ["#if ODL_ACCUMULATE_FP16", *in_fp16, "#else", *in_fp32, "#endif"]


def loop(level: int, count: str, body: Sequence[str], spare: str) -> list[str]:
    """`body`, `count` (a register) times; `spare` is a register that is free at its end."""
    starts = [[op("LOOP", level, count, 2 * n_insns(body, in_fp16))] for in_fp16 in (True, False)]
    start = starts[0] if starts[0] == starts[1] else choose(*starts)
    return [*start, *body, op("AGAIN", level, spare)]


def short(lines: Sequence[str]) -> list[str]:
    """Lines outside of loops, where instructions may take two bytes: less code to wait for."""
    return [".option rvc", *lines, ".balign 4", ".option norvc"]


@dataclass(frozen=True)
class Micro:
    """A block of rows x columns sums."""

    rows: int
    cols: int

    def sums(self) -> list[list[str]]:
        """The accumulators' registers."""
        names = iter((*FREE, *SAVED))
        return [[next(names) for _ in range(self.cols)] for _ in range(self.rows)]

    def function(self, name: str, body: Sequence[str], used: Sequence[str]) -> list[str]:
        """A global function around `body` that keeps the caller's registers."""
        kept = [register for register in dict.fromkeys(used) if register in _OWED]
        places = [(register, 4 * (at + _SLOTS)) for at, register in enumerate(kept)]
        frame = (4 * (len(kept) + _SLOTS) + 15) // 16 * 16
        return [
            f".section .text.{name}, \\\"ax\\\"", ".option push", ".option norvc", ".balign 16", f".globl {name}",
            f".type {name}, @function", f"{name}:",
            *short([f"addi sp, sp, -{frame}", *(f"sw {register}, {place}(sp)" for register, place in places)]),
            *body,
            *short([*(f"lw {register}, {place}(sp)" for register, place in places), f"addi sp, sp, {frame}", "ret"]),
            f".size {name}, . - {name}", ".option pop",
        ]  # fmt: skip

    def lane_sums(self, rd: str, pair: Sequence[str], spare: str) -> list[str]:
        """rd = the rounded values of two sums, as neighbours in memory; destroys the sums."""
        lo, hi = pair
        halves = [op("PACK", rd, hi, lo), f"srli {lo}, {lo}, 16", f"srli {spare}, {hi}, 16"]
        return choose([*halves, op("PACK", spare, spare, lo), op("ADD2", rd, rd, spare)], [op("ROUND2", rd, lo, hi)])

    def lane_sum(self, rd: str, s: str) -> list[str]:
        """rd = the rounded value of one sum."""
        return choose([f"srli {rd}, {s}, 16", op("ADD2", rd, rd, s)], [f"fcvt.h.s {rd}, {s}"])
