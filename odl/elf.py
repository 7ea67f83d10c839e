"""As much of an ELF file as the reports need: how large its sections are, and which function holds an address."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from odl.errors import ToolError

_SHT_SYMTAB, _SHT_NOBITS = 2, 8
_SHF_WRITE, _SHF_ALLOC = 1, 2
_STT_FUNC, _SHN_UNDEF = 2, 0


@dataclass(frozen=True)
class _Layout:
    """Where the fields lie in the two classes of ELF: (e_shoff, e_shentsize and e_shnum), section, symbol."""

    header: struct.Struct
    section: struct.Struct  # name, type, flags, address, offset, n_bytes, link, info, align, entry_bytes
    symbol: struct.Struct


_CLASSES = {
    1: _Layout(struct.Struct("<32xI10xHHH"), struct.Struct("<10I"), struct.Struct("<IIIBBH")),
    2: _Layout(struct.Struct("<40xQ10xHHH"), struct.Struct("<IIQQQQIIQQ"), struct.Struct("<IBBHQQ")),
}


@dataclass(frozen=True)
class Section:
    name: str
    kind: int
    flags: int
    offset: int
    n_bytes: int
    link: int


@dataclass(frozen=True)
class Symbol:
    name: str
    address: int
    n_bytes: int
    is_function: bool
    is_defined: bool


@dataclass(frozen=True)
class Elf:
    """A linked program or an object of one. `symbols` are sorted by address, and empty if the file was stripped."""

    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]

    @property
    def functions(self) -> tuple[Symbol, ...]:
        """The functions that lie in this file."""
        return tuple(symbol for symbol in self.symbols if symbol.is_function and symbol.is_defined and symbol.n_bytes)

    @property
    def text_bytes(self) -> int:
        """Code and constants: what stays in flash alone."""
        return self._sum(writable=False, in_file=True)

    @property
    def data_bytes(self) -> int:
        """Initialised variables: in flash, and in RAM once started."""
        return self._sum(writable=True, in_file=True)

    @property
    def bss_bytes(self) -> int:
        """What takes RAM alone: zeroed variables, the arena, the stack."""
        return self._sum(writable=True, in_file=False) + self._sum(writable=False, in_file=False)

    def _sum(self, *, writable: bool, in_file: bool) -> int:
        return sum(
            section.n_bytes
            for section in self.sections
            if section.flags & _SHF_ALLOC
            and bool(section.flags & _SHF_WRITE) == writable
            and (section.kind != _SHT_NOBITS) == in_file
        )

    def locate(self, address: int) -> str:
        """`name+0x12` of the function that holds `address`, or the bare address."""
        for function in self.functions:
            if function.address <= address < function.address + function.n_bytes:
                return f"{function.name}+0x{address - function.address:x}"
        return f"0x{address:08x}"


def read_elf(path: Path) -> Elf:
    """Reads a little-endian ELF file of either class. Raises ToolError `not-an-elf`."""
    image = path.read_bytes()
    if image[:4] != b"\x7fELF" or len(image) < 6 or image[4] not in _CLASSES or image[5] != 1:
        raise ToolError("not-an-elf", str(path), "the compiler did not make a little-endian ELF file")
    layout = _CLASSES[image[4]]
    try:
        sections = tuple(_sections(image, layout))
        symbols = tuple(_symbols(image, layout, sections))
    except (struct.error, IndexError, ValueError) as error:
        raise ToolError("not-an-elf", str(path), f"the file is damaged: {error}") from error
    return Elf(sections, tuple(sorted(symbols, key=lambda symbol: symbol.address)))


def _string(image: bytes, offset: int) -> str:
    return image[offset : image.index(0, offset)].decode(errors="replace")


def _sections(image: bytes, layout: _Layout) -> Iterator[Section]:
    table, entry_bytes, n_entries, names_index = layout.header.unpack_from(image)
    rows = [layout.section.unpack_from(image, table + i * entry_bytes) for i in range(n_entries)]
    names = rows[names_index][4]
    for name, kind, flags, _, offset, n_bytes, link, *_ in rows:
        yield Section(_string(image, names + name), kind, flags, offset, n_bytes, link)


def _symbols(image: bytes, layout: _Layout, sections: tuple[Section, ...]) -> Iterator[Symbol]:
    for table in (section for section in sections if section.kind == _SHT_SYMTAB):
        names = sections[table.link].offset
        for offset in range(table.offset, table.offset + table.n_bytes, layout.symbol.size):
            fields = layout.symbol.unpack_from(image, offset)
            if layout is _CLASSES[1]:
                name, address, n_bytes, info, _, section = fields
            else:
                name, info, _, section, address, n_bytes = fields
            is_function, is_defined = info & 15 == _STT_FUNC, section != _SHN_UNDEF
            yield Symbol(_string(image, names + name), address, n_bytes, is_function, is_defined)
