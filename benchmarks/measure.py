"""Measurements. Counts and sizes are exact and repeatable; seconds are medians, and the machine's."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import REQUIRED, Subject
from odl import Compiled, build, train
from odl.compare import Reference
from odl.data import load_data
from odl.elf import read_elf
from odl.graph import Phase
from odl.project import sha256
from odl.results import arena, ran
from odl.targets import DEFAULT, TARGETS
from odl.targets.pulp import PULP_OPEN
from odl.targets.qemu import find_qemu, qemu_version
from odl.toolchain import Toolchain, find_toolchain
from odl.version import VERSION

Result = dict[str, Any]

# Of one core; benchmarks/gvsoc.py measures the cluster.
DEVICES = tuple(target.name for target in TARGETS.values() if target.is_riscv and not target.l1_bytes)
ZIG = f"{sys.executable} -m ziglang cc"

_N_STEPS, _N_BUILDS = 7, 3


def made_on() -> dict[str, str]:
    """What the seconds depend on, and the compilers that the counts depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.M) if cpuinfo.exists() else None
    qemu = find_qemu()
    return {
        "odl": VERSION,
        "compilers": ", ".join(compilers()),
        "QEMU": ".".join(map(str, qemu_version(qemu))) if qemu else "",
        "processor": f"{found[1] if found else platform.machine()}, {os.cpu_count()} cores",
        "Python": f"{platform.python_version()}, NumPy {np.__version__}",
    }


def measured(name: str, subject: Subject) -> Result:
    """All that is measured of one model, and whether it meets what is required."""
    with tempfile.TemporaryDirectory(prefix="odl-") as folder:
        scratch = Path(folder)
        compiled = subject.compile(DEFAULT.name)
        data = subject.write_data(compiled, scratch)
        result = {
            "model": name,
            "title": subject.title,
            "sha256": sha256(subject.path),
            "macs": compiled.training.step.macs(),
            **arena(compiled),
            "executor_s": executor_seconds(compiled, data),
            "tiled_executor_s": executor_seconds(subject.compile(PULP_OPEN.name), data),
            "build_s": {label: build_seconds(subject, command, scratch) for label, command in compilers().items()},
            "targets": {target: on_device(subject.compile(target), data, scratch / target) for target in DEVICES},
        }
    limits = {**REQUIRED, **subject.required}
    met = {key: all(value <= limit for value in values(result, key)) for key, limit in limits.items()}
    return {**result, "required": {key: {"limit": limits[key], "met": met[key]} for key in limits}}


def values(result: Mapping[str, Any], key: str) -> list[float]:
    """A measurement; several where it depends on the compiler or the target."""
    if key not in result:
        return [device[key] for device in result["targets"].values()]
    return list(result[key].values()) if isinstance(result[key], dict) else [result[key]]


# --- counts and sizes -------------------------------------------------------------------------------------------------


def on_device(compiled: Compiled, data: Path, folder: Path) -> Result:
    """What a step costs on the device, and the bytes of the program; `folder` receives the project."""
    heard: list[float] = []
    result = step_cost(compiled, data, _N_STEPS, lambda *_: heard.append(time.perf_counter()))
    sizes = section_bytes(compiled, folder)
    variables = sizes["data"] + sizes["bss"]
    return {
        "step_s": statistics.median(after - before for before, after in pairwise(heard)),
        "instructions": result["per_step"]["instructions"],
        **by_phase(result),
        "instructions_per_mac": result["per_step"]["instructions"] / result["per_step"]["macs"],
        "stack_bytes": result["stack_bytes"],
        "variable_bytes": variables,
        "ram_bytes": sizes["arena"] + variables + result["stack_bytes"],
        "linked_ram_bytes": sizes["arena"] + variables + sizes["stack"],
        "flash_bytes": sizes["text"] + sizes["rodata"] + sizes["data"],
        **{f"{name}_bytes": sizes[name] for name in ("text", "model_text", "rodata", "data")},
        "layers": result["layers"],
    }


def step_cost(
    compiled: Compiled, data: Path, steps: int = 2, progress: Callable[[int, float], None] = lambda *_: None
) -> Result:
    """What `odl run` says of the last of `steps` steps: the first ones warm up."""
    run = train(compiled, data, steps, progress=progress)
    return ran(replace(run, loss=run.loss[-1:], counts=run.counts[-1:], whole=run.whole[-1:]))


def by_phase(result: Result) -> dict[str, int]:
    """Instructions of a step by phase, all layers together."""
    sums = {phase.value: 0 for phase in Phase}
    for layer in result["layers"]:
        for phase, cost in layer["phases"].items():
            sums[phase] += cost["instructions"]
    return sums


def section_bytes(compiled: Compiled, folder: Path) -> dict[str, int]:
    """Sections of the runner; `model_text` is the code of the model's own objects."""
    elf = read_elf(build(compiled, folder).elf)
    sizes = {section.name.removeprefix("."): section.n_bytes for section in elf.sections}
    objects = [read_elf(path) for path in (folder / "build/objects/src").rglob("*.o")]
    code = (section for found in objects for section in found.sections if section.name.startswith(".text"))
    return {**sizes, "model_text": sum(section.n_bytes for section in code)}


# --- seconds ----------------------------------------------------------------------------------------------------------


def executor_seconds(compiled: Compiled, data: Path) -> float:
    """A training step in NumPy."""
    reference = Reference(compiled.program, compiled.training)
    steps = load_data(data, compiled.training).steps(_N_STEPS + 1, 0)
    taken = [_seconds(partial(reference.step, sample, target, lambda *_: None)) for sample, target in steps]
    return statistics.median(taken[1:])


def build_seconds(subject: Subject, command: str, scratch: Path) -> float:
    """`odl build`, from the shell's prompt to the next."""
    arguments = [sys.executable, "-m", "odl", "build", str(subject.path), "-o", str(scratch / "build"), "-q"]

    def run() -> None:
        with compiler(command):
            subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)

    return statistics.median(_seconds(run) for _ in range(_N_BUILDS))


def _seconds(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


# --- compilers --------------------------------------------------------------------------------------------------------


@contextmanager
def compiler(command: str) -> Iterator[None]:
    """`$ODL_CC` for a while; an empty command leaves the choice to odl."""
    before = os.environ.pop("ODL_CC", "")
    os.environ |= {"ODL_CC": command} if command else {}
    try:
        yield
    finally:
        os.environ.pop("ODL_CC", None)
        os.environ |= {"ODL_CC": before} if before else {}


def compilers() -> dict[str, str]:
    """Commands by the compiler's name: what odl chooses here, and zig, which everyone can have."""
    found: dict[str, str] = {}
    for command in (os.environ.get("ODL_CC", ""), *([ZIG] if find_spec("ziglang") else [])):
        with compiler(command):
            found.setdefault(title(find_toolchain(DEFAULT)), command)
    return found


def title(toolchain: Toolchain) -> str:
    return f"{toolchain.kind} {'.'.join(map(str, toolchain.version))}"
