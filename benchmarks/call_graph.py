"""How much code a function of a linked RISC-V program can run: its own bytes and those of all that it calls.

RISC-V Instruction Set Manual, volume I: JAL, AUIPC with JALR, and their 16-bit forms C.JAL and C.J.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from odl.elf import Symbol, read_elf


def reached(path: Path, entry: str = "_start") -> dict[str, dict[str, int]]:
    """Function -> the functions that it can reach, itself among them, with their bytes.

    `entry` is the function that lies at the start of `.text`. Calls through pointers are not seen.
    """
    elf, image = read_elf(path), path.read_bytes()
    text = next(section for section in elf.sections if section.name == ".text")
    origin = next(symbol.address for symbol in elf.symbols if symbol.name == entry)
    by_address = {function.address: function for function in elf.functions}
    calls: dict[str, set[str]] = {}
    for function in elf.functions:
        at = text.offset + function.address - origin
        code = image[at : at + function.n_bytes] if 0 <= at < text.offset + text.n_bytes else b""
        targets = (by_address.get(target) for target in _targets(code, function.address))
        calls[function.name] = {target.name for target in targets if target}
    return {name: _closure(name, calls, {f.name: f for f in elf.functions}) for name in calls}


def _closure(name: str, calls: Mapping[str, set[str]], functions: Mapping[str, Symbol]) -> dict[str, int]:
    found, waiting = dict[str, int](), [name]
    while waiting:
        function = waiting.pop()
        if function not in found:
            found[function] = functions[function].n_bytes
            waiting += calls[function]
    return found


def _targets(code: bytes, address: int) -> Iterator[int]:
    """Where the jumps of `code`, which lies at `address`, lead."""
    at, upper = 0, dict[int, int]()  # upper: register -> what AUIPC put there
    while at + 2 <= len(code):
        (half,) = struct.unpack_from("<H", code, at)
        if half & 3 != 3:
            if half & 3 == 1 and half >> 13 in (1, 5):
                yield address + at + _compressed_jump(half)
            at += 2
            continue
        (word,) = struct.unpack_from("<I", code.ljust(at + 4, b"\0"), at)
        opcode, rd = word & 0x7F, word >> 7 & 31
        if opcode == 0x6F:
            yield address + at + _jump(word)
        elif opcode == 0x17:
            upper[rd] = address + at + (word & 0xFFFFF000)
        elif opcode == 0x67 and word >> 15 & 31 in upper:
            yield upper[word >> 15 & 31] + _signed(word >> 20, 12) & 0xFFFFFFFF
        at += 4


def _signed(value: int, n_bits: int) -> int:
    return value - (1 << n_bits) if value >> n_bits - 1 else value


def _jump(word: int) -> int:
    offset = (word >> 31) << 20 | (word >> 12 & 0xFF) << 12 | (word >> 20 & 1) << 11 | (word >> 21 & 0x3FF) << 1
    return _signed(offset, 21)


def _compressed_jump(half: int) -> int:
    """imm[11|4|9:8|10|6|7|3:1|5] in bits 12 to 2."""
    places = (5, 1, 2, 3, 7, 6, 10, 8, 9, 4, 11)
    return _signed(sum((half >> 2 + i & 1) << place for i, place in enumerate(places)), 12)
