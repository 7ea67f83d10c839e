"""What a training step costs, to the instruction: counts and sizes stand in tests/pins and change on purpose alone.

    python -m pytest tests/test_pins.py --update-pins

writes the pins anew. They depend on the compiler, so each version has a folder of them; QEMU retires the same
instructions on every machine.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measure import ZIG, by_phase, compiler, section_bytes, step_cost
from benchmarks.models import SUBJECTS
from odl.errors import ToolError
from odl.targets import DEFAULT
from odl.toolchain import Toolchain, find_toolchain

PINS = Path(__file__).with_name("pins") / DEFAULT.name

UPDATE = "python -m pytest tests/test_pins.py --update-pins"

Pins = dict[str, Any]


def folder(tools: Toolchain) -> Path:
    """clang changes its code with the major version; zig, before its version 1, with the minor one."""
    version = tools.version[: 2 if tools.kind == "zig" else 1]
    return PINS / f"{tools.kind}-{'.'.join(map(str, version))}"


def measured(name: str, scratch: Path) -> Pins:
    """The second step of a run: by then every weight has changed once."""
    compiled = SUBJECTS[name].compile(DEFAULT.name)
    cost = step_cost(compiled, SUBJECTS[name].write_data(compiled, scratch))
    sizes = section_bytes(compiled, scratch / "project")
    return {
        "instructions": {"all": cost["per_step"]["instructions"], **by_phase(cost)},
        "arena_bytes": cost["arena_bytes"]["arena"],
        "text_bytes": sizes["text"],
    }


def changes(pinned: Pins, now: Pins, prefix: str = "") -> list[str]:
    """`what: before -> now (how much)` of each number that is not the same."""
    found = []
    for key in {**pinned, **now}:
        before, after = pinned.get(key, 0), now.get(key, 0)
        if isinstance(before, dict) and isinstance(after, dict):
            found += changes(before, after, f"{prefix}{key}, ")
        elif before != after:
            share = f" ({after / before - 1:+.2%})" if before else ""
            found.append(f"{prefix}{key}: {before:,} -> {after:,}{share}")
    return found


@pytest.mark.qemu
@pytest.mark.parametrize("kind", ["clang", "zig"])
@pytest.mark.parametrize("name", SUBJECTS)
def test_a_step_costs_what_it_did(name: str, kind: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    if not SUBJECTS[name].path.exists():
        pytest.skip("real models are not here: set ODL_REAL to a folder with models/")
    with compiler(ZIG if kind == "zig" else os.environ.get("ODL_CC", "")):
        tools = available(kind)
        path = folder(tools) / f"{name}.json"
        update = pytestconfig.getoption("--update-pins")
        if not (update or path.parent.is_dir()):
            pytest.skip(f"no pins for {path.parent.name}: make them by {UPDATE}")
        now = measured(name, tmp_path)
    if update:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(now, indent=2) + "\n")
        return
    pinned = json.loads(path.read_text()) if path.exists() else {}
    lines = "".join(f"\n  {line}" for line in changes(pinned, now))
    assert now == pinned, f"{name} with {path.parent.name} costs something else:{lines}\nif that is meant: {UPDATE}"


def available(kind: str) -> Toolchain:
    try:
        tools = find_toolchain(DEFAULT)
    except ToolError as error:
        pytest.skip(str(error))
    if tools.kind != kind:
        pytest.skip(f"{kind} is not the compiler here")
    return tools
