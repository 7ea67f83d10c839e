"""The floating-point instructions in RISC-V machine code, decoded without a disassembler.

RISC-V Instruction Set Manual, volume I: the RV32 opcode map, and the F, D, Zfh and C chapters. Zfinx and Zhinx use the
encodings of F and Zfh.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from odl.elf import read_elf

_FUSED = {0x43: "fmadd", 0x47: "fmsub", 0x4B: "fnmsub", 0x4F: "fnmadd"}
_MEMORY = {0x07: "fl", 0x27: "fs"}
_OP_FP = 0x53
_FORMATS = "sdhq"
_WIDTHS = {1: "h", 2: "w", 3: "d", 4: "q"}

# funct5 of OP-FP; where funct3 tells several operations apart, in its order.
_OPERATIONS = {
    0x00: ("fadd",), 0x01: ("fsub",), 0x02: ("fmul",), 0x03: ("fdiv",), 0x0B: ("fsqrt",),
    0x04: ("fsgnj", "fsgnjn", "fsgnjx"), 0x05: ("fmin", "fmax"), 0x14: ("fle", "flt", "feq"), 0x1C: ("fmv.x", "fclass"),
}  # fmt: skip
_MOVES = {0x18: "fcvt.int.{0}", 0x1A: "fcvt.{0}.int", 0x1E: "fmv.{0}.x", 0x08: "fcvt.{0}.{1}"}

# (quadrant, funct3) of the 16-bit loads and stores of doubles. Those of floats are their own; all other 16-bit
# instructions know integers alone.
_COMPRESSED = {
    (0, 1): "fld", (0, 3): "flw", (0, 5): "fsd", (0, 7): "fsw",
    (2, 1): "fld", (2, 3): "flw", (2, 5): "fsd", (2, 7): "fsw",
}  # fmt: skip


def float_instructions(path: Path) -> set[str]:
    """The floating-point instructions of an object or a program, as `float_name` calls them."""
    image = path.read_bytes()
    code = (section for section in read_elf(path).sections if section.name.startswith(".text"))
    names = {float_name(word) for s in code for word in words(image[s.offset : s.offset + s.n_bytes])}
    return names - {""}


def words(code: bytes) -> Iterator[int]:
    """Each instruction: two bytes, or four where the lowest two bits are set."""
    offset = 0
    while offset < len(code):
        n_bytes = 4 if code[offset] & 3 == 3 else 2
        yield int.from_bytes(code[offset : offset + n_bytes], "little")
        offset += n_bytes


def float_name(word: int) -> str:
    """`fadd.s` and so on, with `int` for any integer type; empty for what has nothing to do with floats.

    A move between registers is the sign injection that it is. Compressed or not makes no difference.
    """
    opcode, funct3, funct5 = word & 0x7F, word >> 12 & 7, word >> 27
    to, of = _FORMATS[word >> 25 & 3], _FORMATS[word >> 20 & 3]
    if opcode & 3 != 3:
        return _COMPRESSED.get((word & 3, word >> 13), "")
    if opcode in _MEMORY:
        return _MEMORY[opcode] + _WIDTHS.get(funct3, "?")
    if opcode in _FUSED:
        return f"{_FUSED[opcode]}.{to}"
    if opcode != _OP_FP:
        return ""
    if funct5 in _MOVES:
        return _MOVES[funct5].format(to, of)
    names = _OPERATIONS.get(funct5, ("?",))
    return f"{names[funct3 % len(names)]}.{to}"
