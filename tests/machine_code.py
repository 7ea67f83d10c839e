"""The floating-point instructions in RISC-V machine code, decoded without a disassembler.

RISC-V Instruction Set Manual, volume I: the RV32 opcode map, and the F, D, Zfh and C chapters. Zfinx and Zhinx use the
encodings of F and Zfh.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from odl.elf import read_elf

FUSED = {0x43: "fmadd", 0x47: "fmsub", 0x4B: "fnmsub", 0x4F: "fnmadd"}
_OP_FP, _LOAD_FP, _STORE_FP = 0x53, 0x07, 0x27
_FORMATS = "sdhq"
_WIDTHS = {1: "h", 2: "w", 3: "d", 4: "q"}
# (quadrant, funct3) of loads and stores of doubles; those of floats are F's own, and no contract forbids them.
_COMPRESSED_DOUBLES = {(0, 1): "c.fld", (0, 5): "c.fsd", (2, 1): "c.fldsp", (2, 5): "c.fsdsp"}

# funct5 of OP-FP; where funct3 tells several apart, in its order.
_OPERATIONS = {
    0x00: ("fadd",), 0x01: ("fsub",), 0x02: ("fmul",), 0x03: ("fdiv",), 0x0B: ("fsqrt",),
    0x04: ("fsgnj", "fsgnjn", "fsgnjx"), 0x05: ("fmin", "fmax"), 0x14: ("fle", "flt", "feq"), 0x1C: ("fmv.x", "fclass"),
}  # fmt: skip
_CONVERSIONS = {0x18: "fcvt.int.{0}", 0x1A: "fcvt.{0}.int", 0x1E: "fmv.{0}.x", 0x08: "fcvt.{0}.{1}"}


def float_instructions(elf: Path) -> Mapping[str, set[str]]:
    """Each floating-point instruction in executable sections: its name, and the functions that hold it."""
    image, program = elf.read_bytes(), read_elf(elf)
    found: defaultdict[str, set[str]] = defaultdict(set)
    for section in program.sections:
        if section.name.startswith(".text"):
            code = image[section.offset : section.offset + section.n_bytes]
            for offset, word in words(code):
                name = float_name(word)
                if name:
                    found[name].add(program.locate(section.address + offset).split("+")[0])
    return found


def words(code: bytes) -> Iterator[tuple[int, int]]:
    """(offset, encoding) of each instruction: of two bytes unless the lowest two bits are set."""
    offset = 0
    while offset < len(code):
        n_bytes = 4 if code[offset] & 3 == 3 else 2
        yield offset, int.from_bytes(code[offset : offset + n_bytes], "little")
        offset += n_bytes


def float_name(word: int) -> str:
    """`fadd.s`, as assembly has it up to the integer's type; empty for what does not compute with floats."""
    opcode, funct3, funct5 = word & 0x7F, word >> 12 & 7, word >> 27
    form, source = _FORMATS[word >> 25 & 3], _FORMATS[word >> 20 & 3]
    if opcode & 3 != 3:
        return _COMPRESSED_DOUBLES.get((word & 3, word >> 13 & 7), "")
    if opcode in (_LOAD_FP, _STORE_FP):
        return f"{'fl' if opcode == _LOAD_FP else 'fs'}{_WIDTHS.get(funct3, '?')}"
    if opcode in FUSED:
        return f"{FUSED[opcode]}.{form}"
    if opcode != _OP_FP:
        return ""
    if funct5 in _CONVERSIONS:
        return _CONVERSIONS[funct5].format(form, source)
    names = _OPERATIONS.get(funct5, ("?",))
    return f"{names[funct3 % len(names)]}.{form}"
