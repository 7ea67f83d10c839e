"""What a sweep tries: the file of a grid, and the points that it makes.

A key is a word of a recipe, `target` or `ram`. A value is fixed, a list of values is an axis; of a word that is a list
itself, an axis is a list of lists. The points are the product of all axes, the last one's values in turn first.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from math import prod
from pathlib import Path
from typing import Any

from odl.errors import Problem, UsageError
from odl.recipe import Recipe, checked, shown
from odl.sizes import size
from odl.targets import DEFAULT, TARGETS

MOST_POINTS = 500  # a page has a row and two dots for each of them
TARGET, RAM = "target", "ram"
_MOST_RAM = 1 << 40
_MOST_NAME = 35  # with a hash behind it, what a table shows of it whole
_LISTS = frozenset(f.name for f in fields(Recipe) if isinstance(f.default, tuple))
_KNOWN = sorted([TARGET, RAM, *(f.name for f in fields(Recipe))])

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """One combination: `recipe` has every word, each sound by itself, and perhaps not together. `ram_bytes` is a
    budget, 0 for what the target has. `chosen` are the values of the axes alone, in the order of the file."""

    target: str
    ram_bytes: int
    recipe: Settings
    chosen: Settings

    @property
    def words(self) -> str:
        """What tells it from the others, as part of a file's name."""
        words = "-".join(_word(axis, value) for axis, value in self.chosen.items())
        return re.sub(r"[^A-Za-z0-9.+-]+", "_", words)[:_MOST_NAME].strip("-_.+") or "point"


def read_grid(path: Path, base: Recipe) -> tuple[bytes, list[Point]]:
    """What stands in the file of a grid, and its points, over a `base` recipe. Raises UsageError `grid-unreadable`,
    `grid-syntax`, or with all that is wrong: see `points_of`."""
    try:
        content = path.read_bytes()
        table = tomllib.loads(content.decode())
    except OSError as error:
        raise UsageError("grid-unreadable", str(path), error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:  # also for a number too long for Python, or brackets in brackets
        why = "it nests too deeply" if isinstance(error, RecursionError) else str(error)
        raise UsageError("grid-syntax", str(path), why) from error
    return content, points_of(table, str(path), base)


def points_of(table: Settings, where: str, base: Recipe) -> list[Point]:
    """The points of a grid. Raises UsageError with all that is wrong: `grid-word`, `grid-empty`, `grid-duplicate`,
    `grid-ram`, `too-many-points`, `unknown-target`, and of a recipe's words `recipe-type` and `recipe-value`."""
    problems: list[Problem] = []
    axes: dict[str, list[Any]] = {}
    fixed: dict[str, Any] = {}
    for key, given in table.items():
        if _is_table(given) or key not in _KNOWN:
            problems.append(_stranger(key, given))
            continue
        values, wrong = _values(key, given)
        problems += wrong
        if _is_axis(key, given):
            axes[key] = values
        else:
            fixed[key] = values[0] if values else None
    n_points = prod(len(values) for values in axes.values())
    if n_points > MOST_POINTS:
        why = f"its axes make {n_points:,} points, and a sweep has no more than {MOST_POINTS}"
        problems.append(Problem("too-many-points", "", why, "leave out some values, or make several sweeps"))
    if problems:
        raise UsageError.of(
            Problem(p.code, f"{where}: {p.where}" if p.where else where, p.why, p.hint) for p in problems
        )
    return [
        _point(base, fixed, dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())
    ]  # fmt: skip


def _point(base: Recipe, fixed: Settings, chosen: Settings) -> Point:
    settings = {TARGET: DEFAULT.name, RAM: 0, **asdict(base), **fixed, **chosen}
    target, ram_bytes = settings.pop(TARGET), settings.pop(RAM)
    return Point(target, ram_bytes, settings, chosen)


def _is_axis(key: str, given: object) -> bool:
    if not isinstance(given, list):
        return False
    return key not in _LISTS or any(isinstance(value, list) for value in given)


def _values(key: str, given: Any) -> tuple[list[Any], list[Problem]]:
    """The sound values of a key, one where it is no axis, and what is wrong with others."""
    if not _is_axis(key, given):
        value, wrong = _checked(key, given)
        return [] if wrong else [value], wrong
    if not given:
        return [], [Problem("grid-empty", key, "is a list without a value", "leave the key out, or give it values")]
    values: list[Any] = []
    problems: list[Problem] = []
    for each in given:
        value, wrong = _checked(key, each)
        problems += wrong
        if not wrong and value in values:
            problems.append(Problem("grid-duplicate", key, f"{shown(each)} stands in its list more than once"))
        elif not wrong:
            values.append(value)
    return values, problems


def _checked(key: str, given: Any) -> tuple[Any, list[Problem]]:
    """A value as a point has it, and what is wrong with it."""
    if key == TARGET:
        if isinstance(given, str) and given in TARGETS:
            return given, []
        hint = f"one of: {', '.join(TARGETS)}"
        return None, [Problem("unknown-target", key, f"there is no target {shown(given)}", hint)]
    if key == RAM:
        n_bytes = size(given) if isinstance(given, str) else given
        if isinstance(n_bytes, int) and not isinstance(n_bytes, bool) and 0 < n_bytes <= _MOST_RAM:
            return n_bytes, []
        return None, [Problem("grid-ram", key, f'{shown(given)} is no size such as 65536, "64K", "1.5M" or "1G"')]
    return checked(key, given)


def _is_table(value: object) -> bool:
    """Also a list of tables, which is what TOML's double brackets make."""
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value))


def _stranger(key: str, given: object) -> Problem:
    if _is_table(given):
        return Problem("grid-word", key, "a grid has no tables: keys stand at the top", f"leave out [{key}]")
    near = get_close_matches(key.lower(), _KNOWN)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(_KNOWN)}"
    return Problem("grid-word", key, "is no word of a recipe, nor target or ram", hint)


def _word(axis: str, value: Any) -> str:
    """A value as a name has it: words speak for themselves, numbers and lists do not."""
    if isinstance(value, bool):
        return axis if value else f"no-{axis}"
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return f"{axis}-{'+'.join(value)}"
    return f"{axis}{value:g}" if isinstance(value, float) else f"{axis}{value}"
