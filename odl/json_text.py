"""JSON that every reader can read: no NaN and no infinities, which JSON does not have; and JSON that anyone wrote."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def dumps(value: Any) -> str:
    """Indented JSON; numbers that are not finite become the strings "NaN", "Infinity" and "-Infinity"."""
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def loads(text: str) -> Any:
    """What JSON says. Raises ValueError where it is none, or nests more deeply than can be read."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it nests too deeply") from error


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
