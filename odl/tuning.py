"""What may be chosen about tiles without changing a bit, and choices that were measured (`odl tune`).

A choice is made for a layer and a phase of training. Where there is none, the cost model of `tiling` decides alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from odl.errors import UsageError
from odl.graph import Node

SCHEMA = 1


@dataclass(frozen=True)
class Knobs:
    """`part`: how much of the local memory the operands of a call may take. `axis`: along which its output is cut, or -1
    for the cheapest. `pieces`: a piece of a weight's gradient takes at most one over that of the local memory."""

    part: float = 1.0
    axis: int = -1
    pieces: int = 3

    def problems(self) -> str:
        """What is out of range; empty where nothing is."""
        if not 0.1 <= self.part <= 1.0:
            return f"part {self.part} is not within 0.1 and 1"
        if not -1 <= self.axis <= 4:
            return f"axis {self.axis} is none"
        return "" if 1 <= self.pieces <= 64 else f"pieces {self.pieces} is not within 1 and 64"


@dataclass(frozen=True)
class Tuning:
    """Choices by "layer/phase", and what they were measured for: SHA-256 of the model, target and recipe as text."""

    choices: Mapping[str, Knobs] = field(default_factory=dict)
    measured_for: Mapping[str, str] = field(default_factory=dict)

    def of(self, node: Node) -> Knobs:
        return self.choices.get(f"{node.layer}/{node.phase.value}", Knobs())

    def text(self) -> str:
        choices = {key: asdict(knobs) for key, knobs in sorted(self.choices.items())}
        return (
            json.dumps({"schema_version": SCHEMA, "for": dict(self.measured_for), "choices": choices}, indent=1) + "\n"
        )


def read_tuning(path: Path) -> Tuning:
    """A file that `odl tune` wrote. Raises UsageError `bad-tuning`."""
    try:
        note: dict[str, Any] = json.loads(path.read_text())
        if note["schema_version"] != SCHEMA:
            raise ValueError(f"schema version {note['schema_version']} is not {SCHEMA}")
        choices = {str(key): Knobs(**knobs) for key, knobs in note["choices"].items()}
        wrong = next((f"{key}: {text}" for key, knobs in choices.items() if (text := knobs.problems())), "")
        if wrong:
            raise ValueError(wrong)
        return Tuning(choices, {str(key): str(value) for key, value in note["for"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError("bad-tuning", str(path), f"is no tuning: {error}", "make it anew by odl tune") from error
