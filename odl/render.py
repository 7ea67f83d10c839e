"""Results as text: tables and a few lines, of what `odl.results` says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from odl.api import Compiled
from odl.graph import Phase
from odl.results import Result, planned

_NUMBER = re.compile(r"[-+]?[\d,.]+( %)?|-?inf|nan|")
_LONGEST_CELL = 44
_MAP_WIDTH = 48


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns two spaces apart, numbers to the right. Whole numbers get separators; long words are cut."""
    body = [[_cell(value) for value in row] for row in rows]
    columns = list(zip(header, *body, strict=True))
    right = [all(_NUMBER.fullmatch(cell) for cell in column[1:]) for column in columns]
    widths = [max(map(len, column)) for column in columns]
    lines = (
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True))
        for row in (header, *body)
    )
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    text = str(value).replace("\n", "\\n")
    return text if len(text) <= _LONGEST_CELL else f"{text[: _LONGEST_CELL - 3]}..."


def _facts(rows: Iterable[tuple[str, str]]) -> str:
    """Words and what they are, one a line."""
    kept = list(rows)
    width = max(len(word) for word, _ in kept)
    return "\n".join(f"{word.ljust(width)}  {text}" for word, text in kept)


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def loss_text(loss: float) -> str:
    """The shortest decimal that reads back as the same binary32 number."""
    return str(np.float32(loss))


# --- without a model --------------------------------------------------------------------------------------------------


def operators(result: Result) -> str:
    """`odl ops`."""
    rows = [(o["operator"], o["gradient"], ", ".join(o["targets"]), o["limits"]) for o in result["operators"]]
    widest = max(len(limits) for *_, limits in rows)
    lines = table(("operator", "gradient", "targets"), [row[:3] for row in rows]).splitlines()
    width = max(map(len, lines))
    limits = ("limits", *(row[3] for row in rows))
    assert widest >= 0
    return "\n".join(f"{line.ljust(width)}  {text}".rstrip() for line, text in zip(lines, limits, strict=True))


def tools(result: Result) -> str:
    """`odl doctor`."""
    rows = [
        (tool["name"], "found" if tool["found"] else "missing", tool["version"], tool["path"])
        for tool in result["tools"]
    ]
    hints = [f"{tool['name']}: {tool['hint']}" for tool in result["tools"] if tool["hint"]]
    verdict = "compiles and runs here" if result["usable"] else "cannot be compiled or run here"
    parts = [table(("tool", "", "version", "path"), rows), "\n".join(hints), f"target {result['target']} {verdict}"]
    return "\n\n".join(part for part in parts if part)
