"""Harm that chance does to bytes and to words: what every kind of hostile input is made of."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from random import Random

# Numbers at which sizes, offsets and counters go over.
NUMBERS = (
    0, 1, -1, 2, 3, 4, 7, 8, 16, 31, 63, 64, 127, 128, 255, 256, 1000, 4096, 2**15 - 1, 2**15, 2**16 - 1, 2**16, 2**20,
    2**24 + 1, 2**29, 2**29 + 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**33, 2**62, 2**63 - 1, -2, -7, -128, -(2**15),
    -(2**31), -(2**31) - 1, -(2**63),
)  # fmt: skip

FLOATS = (
    0.0, -0.0, 1.0, -1.0, 0.5, 1e-8, 6e-8, 65504.0, 65520.0, -65520.0, 1e-45, 1e30, 3.4e38, 1e39, 1e308, math.inf,
    -math.inf, math.nan,
)  # fmt: skip

# What a name can try: to end a comment, a string, a line; to name a file, a keyword, a format; to steer a terminal.
TEXTS = (
    "", " ", ".", "..", "/", "*/", "/*", "*/ int x = ; /*", "//", "*\\\n/", "*??/\n/", "??/", "\\", "a\\", "\\\n", "\n",
    "\r\n#include </etc/passwd>\n", "#define odl_half int", '"', "'", '";}', "\0", "a\0b", "\x1b[31m",
    "\x1b]0;title\x07",
    "\x7f", "\x85", "\u2028", "\u202egnp.exe", "\ufeff", "\ufffd", "😀", "größe", "e\u0301", "%s%n%n", "{{ x }}",
    "{% raw %}", "{#", "$(rm -rf .)", "`id`", "$(shell id)", "../../up", "/etc/passwd", "C:\\x", "~", "-o", "a" * 200,
    "n" * 100_000, "*/" * 5_000, "while", "int", "return", "main", "NULL", "arena", "flash", "sample", "loss",
    "odl_init",
    "uint32_t", "0", "1e5", "0x10", "x", "y", "w", "w1", "a.b", "a_b", "a/b",
)  # fmt: skip

Edit = Callable[[Random, bytearray], None]


def _place(chance: Random, content: bytearray) -> int:
    """Somewhere; at the ends, where headers and directories are, more often than elsewhere."""
    near = min(len(content), 64)
    ends = chance.randrange(near + 1), len(content) - chance.randrange(near + 1)
    return chance.choice((*ends, *[chance.randrange(len(content) + 1)] * 4))


def _flip(chance: Random, content: bytearray) -> None:
    at = _place(chance, content)
    content[at : at + 1] = bytes(byte ^ 1 << chance.randrange(8) for byte in content[at : at + 1])


def _set(chance: Random, content: bytearray) -> None:
    at = _place(chance, content)
    content[at : at + 1] = bytes([chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))])


def _cut(chance: Random, content: bytearray) -> None:
    del content[_place(chance, content) :]


def _remove(chance: Random, content: bytearray) -> None:
    at = _place(chance, content)
    del content[at : at + 1 + chance.randrange(64)]


def _repeat(chance: Random, content: bytearray) -> None:
    at, size = _place(chance, content), 1 + chance.randrange(64)
    content[at:at] = content[at : at + size] * chance.choice((1, 1, 2, 100))


def _splice(chance: Random, content: bytearray) -> None:
    """A piece of it, somewhere else, over what is there or between."""
    start, at, size = _place(chance, content), _place(chance, content), 1 + chance.randrange(64)
    content[at : at + size * chance.randrange(2)] = content[start : start + size]


def _garbage(chance: Random, content: bytearray) -> None:
    at = _place(chance, content)
    content[at:at] = chance.randbytes(1 + chance.randrange(32))


def _text(chance: Random, content: bytearray) -> None:
    at = _place(chance, content)
    content[at:at] = chance.choice(TEXTS).encode()[:1000]


def _word(chance: Random, content: bytearray) -> None:
    at, size = _place(chance, content), chance.choice((2, 4, 8))
    content[at : at + size] = (chance.choice(NUMBERS) % 2 ** (8 * size)).to_bytes(size, "little")


EDITS: Sequence[Edit] = (_flip, _flip, _set, _set, _cut, _remove, _repeat, _splice, _garbage, _text, _word)


def mangled(chance: Random, content: bytes) -> bytes:
    """A few edits, most often one."""
    made = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        chance.choice(EDITS)(chance, made)
    return bytes(made)


def word(chance: Random) -> int:
    """32 bits: those at which something goes over, or any."""
    return chance.choice((*NUMBERS, chance.getrandbits(32), chance.randrange(64))) % 2**32


def changed_words(chance: Random, content: bytes, n: int = 0) -> bytes:
    """The bytes with one to `n` of their 32-bit words replaced."""
    made = bytearray(content)
    for _ in range(chance.randint(1, n or 2)):
        struct.pack_into("<I", made, 4 * chance.randrange(len(made) // 4), word(chance))
    return bytes(made)
