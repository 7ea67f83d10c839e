"""Sizes as people write them, 65536, 64K, 1.5M, 64KiB, and as they read them."""

from __future__ import annotations

import re
from fractions import Fraction

_SIZE = re.compile(r"([0-9]{1,30}|[0-9]{1,30}\.[0-9]{1,30}(?=[kmg]))(?:([kmg])(?:i?b)?)?", re.IGNORECASE)


def size(text: str) -> int:
    """The number of bytes, of a fraction of a byte the whole ones; 0 where the text is no size."""
    match = _SIZE.fullmatch(text)
    return int(Fraction(match[1]) * 1024 ** " kmg".index((match[2] or " ").lower())) if match else 0


def size_text(n_bytes: int) -> str:
    """A size to read: 96 bytes, 176.8 KiB, 1.5 MiB; exact where it is below a KiB."""
    if n_bytes < 1024:
        return f"{n_bytes:,} byte{'' if n_bytes == 1 else 's'}"
    kib = round(n_bytes / 1024, 1)
    scaled, unit = (kib, "KiB") if kib < 1024 else (round(n_bytes / 1024**2, 1), "MiB")
    return f"{scaled:,.0f} {unit}" if scaled.is_integer() else f"{scaled:,.1f} {unit}"
