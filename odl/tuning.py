"""What may be chosen about kernels and tiles without changing a bit, and choices that were measured (`odl tune`).

A choice is made for a layer and a phase of training. Where there is none, the kernel is the usual one, and the cost
model of `tiling` decides alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from odl import json_text
from odl.errors import UsageError
from odl.graph import Node
from odl.passes.for_cluster import DIRECT, REARRANGED

SCHEMA = 2


@dataclass(frozen=True)
class Knobs:
    """`part`: how much of the local memory the operands of a call may take. `axis`: along which its output is cut, or
    -1 for the cheapest. `pieces`: a piece of a weight's gradient takes at most one over that of the local memory.
    `kernel`: the form of a gradient (`passes.for_cluster.forms`), or empty for the usual one.
    """

    part: float = 1.0
    axis: int = -1
    pieces: int = 3
    kernel: str = ""

    def problems(self) -> str:
        """What is out of range; empty where nothing is."""
        if not 0.1 <= self.part <= 1.0:
            return f"part {self.part} is not within 0.1 and 1"
        if not -1 <= self.axis <= 4:
            return f"axis {self.axis} is none"
        if not 1 <= self.pieces <= 64:
            return f"pieces {self.pieces} is not within 1 and 64"
        return "" if self.kernel in ("", DIRECT, REARRANGED) else f"kernel {self.kernel!r} is none"


@dataclass(frozen=True)
class Tuning:
    """Choices by "layer/phase", and what they were measured for, in words (`autotune.measured_for`).

    `gap`: what a later call reads again within so many calls stays in the local memory before anything comes early.
    """

    choices: Mapping[str, Knobs] = field(default_factory=dict)
    measured_for: Mapping[str, str] = field(default_factory=dict)
    gap: int = 4

    def of(self, node: Node) -> Knobs:
        return self.choices.get(f"{node.layer}/{node.phase.value}", Knobs())

    @property
    def is_empty(self) -> bool:
        return not self.choices and self.gap == Tuning.gap

    def as_json(self) -> dict[str, Any]:
        """`gap` and `choices`; nothing where nothing is chosen."""
        choices = {key: asdict(knobs) for key, knobs in sorted(self.choices.items())}
        return {} if self.is_empty else {"gap": self.gap, "choices": choices}

    def text(self) -> str:
        """The file that `read_tuning` reads."""
        note = {"schema_version": SCHEMA, "for": dict(self.measured_for), "tuning": self.as_json()}
        return json.dumps(note, indent=1) + "\n"


def tuning_from_json(note: Mapping[str, Any], measured_for: Mapping[str, str]) -> Tuning:
    """What `as_json` made. Raises ValueError, in words for who wrote it, where it is no such thing."""
    _fields(note, "tuning", {"gap": int, "choices": dict})
    choices = {key: _knobs(key, knobs) for key, knobs in note.get("choices", {}).items()}
    gap = note.get("gap", Tuning.gap)
    if not 0 <= gap <= 1000:
        raise ValueError(f"gap {gap} is not within 0 and 1000")
    return Tuning(choices, measured_for, gap)


def _knobs(key: str, note: Any) -> Knobs:
    knobs = Knobs(**_fields(note, key, {each.name: type(each.default) for each in fields(Knobs)}))
    if problem := knobs.problems():
        raise ValueError(f"{key}: {problem}")
    return knobs


_KINDS = {int: "a whole number", float: "a number", str: "a text", dict: "an object"}


def _fields(note: Any, where: str, kinds: Mapping[str, type], needed: Sequence[str] = ()) -> Mapping[str, Any]:
    """`note`, an object with no other fields than `kinds` and of these types. Raises ValueError."""
    if not isinstance(note, dict):
        raise ValueError(f"{where} is no object")
    for name in needed:
        if name not in note:
            raise ValueError(f"{where} lacks {name}")
    for name, value in note.items():
        if name not in kinds:
            raise ValueError(f"{where} has an unknown word {name!r}; known: {', '.join(kinds)}")
        allowed = (int, float) if kinds[name] is float else kinds[name]
        if not isinstance(value, allowed) or isinstance(value, bool):
            raise ValueError(f"{where}: {name} is {value!r}, not {_KINDS[kinds[name]]}")
    return note


def read_tuning(path: Path) -> Tuning:
    """A file that `odl tune` wrote. Raises UsageError `bad-tuning`."""
    try:
        kinds = {"schema_version": int, "for": dict, "tuning": dict, "measured": dict}
        note = _fields(json_text.loads(path.read_text()), "it", kinds, ("schema_version", "for", "tuning"))
        if note["schema_version"] != SCHEMA:
            raise ValueError(f"its schema_version is {note['schema_version']}, not {SCHEMA}")
        return tuning_from_json(note["tuning"], _fields(note["for"], "for", dict.fromkeys(note["for"], str)))
    except OSError as error:
        raise UsageError("bad-tuning", str(path), f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        why = "it is no JSON" if isinstance(error, json.JSONDecodeError | UnicodeDecodeError) else str(error)
        raise UsageError("bad-tuning", str(path), f"is no tuning: {why}", "make it anew by odl tune") from error
