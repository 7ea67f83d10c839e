"""What may be chosen about kernels and tiles without changing a bit, and choices that were measured (`odl tune`).

A choice is made for a layer and a phase of training. Where there is none, the kernel is the usual one, and the cost
model of `tiling` decides alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

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
    """What `as_json` made. Raises ValueError, TypeError or AttributeError where it is no such thing."""
    choices = {str(key): Knobs(**knobs) for key, knobs in note.get("choices", {}).items()}
    wrong = next((f"{key}: {text}" for key, knobs in choices.items() if (text := knobs.problems())), "")
    gap = int(note.get("gap", Tuning.gap))
    if wrong or not 0 <= gap <= 1000:
        raise ValueError(wrong or f"gap {gap} is not within 0 and 1000")
    return Tuning(choices, measured_for, gap)


def read_tuning(path: Path) -> Tuning:
    """A file that `odl tune` wrote. Raises UsageError `bad-tuning`."""
    try:
        note: dict[str, Any] = json.loads(path.read_text())
        if note["schema_version"] != SCHEMA:
            raise ValueError(f"schema version {note['schema_version']} is not {SCHEMA}")
        about = {str(key): str(value) for key, value in note["for"].items()}
        return tuning_from_json(note["tuning"], about)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError("bad-tuning", str(path), f"is no tuning: {error}", "make it anew by odl tune") from error
