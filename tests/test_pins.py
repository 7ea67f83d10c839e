"""What a training step costs, to the instruction: counts and sizes stand in tests/pins and change on purpose alone.

    python -m pytest tests/test_pins.py --update-pins

writes the pins anew. They depend on the compiler, so each version has a folder of them; QEMU retires the same
instructions on every machine.

Those of the PULP cluster are of its SIMD build as one core plays it in QEMU, where an instruction that QEMU lacks
counts as the scalar ones that its translation takes (firmware/port/pulp_qemu). That is no time, and no count of the
cluster's own instructions; but it grows by a fixed number for each of them, so that a regression of a kernel is seen
without GVSoC. Translating is over when a second step begins that runs the same code.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measure import ZIG, by_phase, compiler, section_bytes
from benchmarks.models import SUBJECTS
from odl import Compiled, Run, train
from odl.errors import ToolError
from odl.results import ran
from odl.targets import DEFAULT, Target
from odl.targets.pulp import PULP_OPEN
from odl.toolchain import Toolchain, find_toolchain

PINS = Path(__file__).with_name("pins")

UPDATE = "python -m pytest tests/test_pins.py --update-pins"

Pins = dict[str, Any]

# Of the cluster not all: the two DS-CNNs are the same but for their numbers.
PULP_SUBJECTS = ("resnet8_cifar10", "digits_resnet8", "words_dscnn")
SUBJECTS_BY_TARGET = [
    pytest.param(name, target, id=f"{name}-{target.name}")
    for target, names in ((DEFAULT, SUBJECTS), (PULP_OPEN, PULP_SUBJECTS))
    for name in names
]


def folder(target: Target, tools: Toolchain) -> Path:
    """clang changes its code with the major version; zig, before its version 1, with the minor one."""
    version = tools.version[: 2 if tools.kind == "zig" else 1]
    return PINS / target.name / f"{tools.kind}-{'.'.join(map(str, version))}"


def second_step(compiled: Compiled, data: Path) -> Run:
    """By then every weight has changed once, in QEMU."""
    run = train(compiled, data, 2, on="qemu")
    return replace(run, loss=run.loss[-1:], counts=run.counts[-1:], whole=run.whole[-1:])


def measured(name: str, target: Target, scratch: Path) -> Pins:
    compiled = SUBJECTS[name].compile(target.name)
    cost = ran(second_step(compiled, SUBJECTS[name].write_data(compiled, scratch)))
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
@pytest.mark.parametrize(("name", "target"), SUBJECTS_BY_TARGET)
def test_a_step_costs_what_it_did(
    name: str, target: Target, kind: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    if not SUBJECTS[name].path.exists():
        pytest.skip("real models are not here: set ODL_REAL to a folder with models/")
    with compiler(ZIG if kind == "zig" else os.environ.get("ODL_CC", "")):
        tools = available(kind, target)
        path = folder(target, tools) / f"{name}.json"
        update = pytestconfig.getoption("--update-pins")
        if not (update or path.parent.is_dir()):
            pytest.skip(f"no pins for {target.name} by {path.parent.name}: make them by {UPDATE}")
        now = measured(name, target, tmp_path)
    if update:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(now, indent=2) + "\n")
        return
    pinned = json.loads(path.read_text()) if path.exists() else {}
    lines = "".join(f"\n  {line}" for line in changes(pinned, now))
    assert now == pinned, (
        f"{name} on {target.name} with {path.parent.name} costs something else:{lines}\nif that is meant: {UPDATE}"
    )


def available(kind: str, target: Target) -> Toolchain:
    try:
        tools = find_toolchain(target)
    except ToolError as error:
        pytest.skip(str(error))
    if tools.kind != kind:
        pytest.skip(f"{kind} is not the compiler here")
    return tools
