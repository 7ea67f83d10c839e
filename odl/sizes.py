"""Sizes as people write them: 65536, 64K, 1.5M, 64KiB."""

from __future__ import annotations

import re
from fractions import Fraction

_SIZE = re.compile(r"([0-9]{1,30}|[0-9]{1,30}\.[0-9]{1,30}(?=[kmg]))(?:([kmg])(?:i?b)?)?", re.IGNORECASE)


def size(text: str) -> int:
    """The number of bytes, of a fraction of a byte the whole ones; 0 where the text is no size."""
    match = _SIZE.fullmatch(text)
    return int(Fraction(match[1]) * 1024 ** " kmg".index((match[2] or " ").lower())) if match else 0
