"""A PULP cluster: eight RV32 cores with packed binary16, 64 KiB of shared L1 memory, a DMA engine, and L2 behind it.

GVSoC simulates it with its clock cycles. It is the user's own: `$ODL_GVSOC` or `gvrun`/`gvsoc` on PATH. QEMU runs the
same kernels without time: one core plays the team, and a trap handler emulates the instructions that QEMU lacks.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from odl.errors import ToolError
from odl.log import Log
from odl.staging import scratch
from odl.targets.base import Memory, Simulator, Target, ignore
from odl.targets.simulate import Dialect, simulate
from odl.wire import Job, Record

HOW_TO_INSTALL = "build github.com/gvsoc/gvsoc for pulp-open, and set ODL_GVSOC to its folder or its gvrun"
WITHOUT = "or --on qemu: the same bits, without cycles, which tune needs"

_CORES = 8
_L1_BYTES = 52 << 10  # of 64 KiB: eight stacks take 8, constants and the runner's variables the rest

PULP_QEMU = Target(
    name="pulp-open-qemu",
    summary="the same, played by one core in QEMU",
    port="pulp_qemu",
    port_base="qemu",
    isa="rv32imc_zfinx_zhinx",
    abi="ilp32",
    memories=(Memory("l2", 1536 << 10), Memory("l1", _L1_BYTES)),
    stack_bytes=8 << 10,
    simulator="qemu",
    counter="instructions",  # those of a translation where it stands for one of the cluster (firmware/port/pulp_qemu)
    cores=_CORES,
    defines=(("ODL_SIMD", 1), ("ODL_HARDWARE_LOOPS", 0), ("ODL_CORES", _CORES), ("ODL_PLAYED_TEAM", 1)),
)

PULP_OPEN = replace(
    PULP_QEMU,
    name="pulp-open",
    summary="eight RV32 cores with packed FP16 and 64 KiB of L1, in GVSoC",
    port="pulp",
    stack_bytes=1072,
    simulator="gvsoc",
    counter="cycles",
    defines=(("ODL_SIMD", 1), ("ODL_HARDWARE_LOOPS", 1), ("ODL_CORES", _CORES)),
    elsewhere=(PULP_QEMU,),
    macs_per_cycle=8.0,  # four FPUs of two lanes, each a fused multiply-add a cycle
)

# The simulator's own description lets any number of accesses into a bank at once. A target of ours that changes that,
# written beside the job: banks of 1 << 2 bytes a cycle.
_BANKS_MODULE = "odl_pulp_open_banks"
_BANKS = """\
import importlib

from memory.memory import Memory
from pulp.chips.pulp_open import l1_subsystem


class Bank(Memory):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, width_log2=2, **options)


l1_subsystem.Memory = Bank


class Target(importlib.import_module("pulp-open").Target):
    pass
"""

# gvrun exits with 1 whatever the program's status was. An access to nowhere is a warning.
_DIALECT = Dialect(
    exit_status=re.compile(r"Platform returned an error \(exitcode: (\d+)\)"),
    invalid_access=re.compile(r"Invalid access \(pc: 0x([0-9a-f]+), offset: 0x([0-9a-f]+), .*is_write: ([01])\)"),
)


def find_gvsoc() -> Path | None:
    """gvrun: from `$ODL_GVSOC`, a program or a folder that has one, else from PATH. A `gvsoc` has gvrun beside it."""
    chosen = os.environ.get("ODL_GVSOC")
    if chosen and Path(chosen).is_dir():
        names = [str(Path(chosen, *parts, "gvrun")) for parts in (("bin",), ("install", "bin"), ())]
    else:
        names = [chosen] if chosen else ["gvrun", "gvsoc"]
    found = next((path for path in map(shutil.which, names) if path), None)
    if not found:
        return None
    path = Path(found).absolute()
    beside = path.resolve().with_name("gvrun")
    return beside if path.name == "gvsoc" and beside.exists() else path


def why_no_gvsoc() -> str:
    """What `find_gvsoc` looked at in vain."""
    chosen = os.environ.get("ODL_GVSOC")
    if not chosen:
        return "GVSoC is neither in ODL_GVSOC nor on PATH"
    return f"ODL_GVSOC is {chosen}, {'where there is no gvrun' if Path(chosen).is_dir() else 'which is no program'}"


def banks_are_modelled() -> bool:
    """`$ODL_GVSOC_BANKS`: 1 makes accesses of several cores to one L1 bank wait for each other."""
    return os.environ.get("ODL_GVSOC_BANKS", "0") not in ("", "0")


@dataclass(frozen=True)
class Gvsoc(Simulator):
    """Runs programs of the cluster. `bank_conflicts`: whether an L1 bank serves one access a cycle, or all."""

    target: Target
    bank_conflicts: bool = False

    def command(self, elf: Path, workdir: Path) -> list[str]:
        """The command line; writes what it needs into `workdir`. Raises ToolError `simulator-missing`."""
        program = find_gvsoc()
        if not program:
            raise ToolError("simulator-missing", "gvrun", why_no_gvsoc(), f"{HOW_TO_INSTALL}; {WITHOUT}")
        target = ["--target=pulp-open"]
        if self.bank_conflicts:
            (workdir / f"{_BANKS_MODULE}.py").write_text(_BANKS)
            target = [f"--target={_BANKS_MODULE}", f"--target-dir={workdir}"]
        binary = f"--parameter=chip/soc/binary={elf.resolve()}"
        return [str(program), *target, binary, f"--work-dir={workdir}", "run"]

    def run(
        self,
        elf: Path,
        job: Job,
        *,
        workdir: Path | None = None,
        timeout_s: float = 60.0,
        on_record: Callable[[Record], None] = ignore,
    ) -> Log:
        if workdir is None:
            with scratch() as folder:
                return self.run(elf, job, workdir=folder, timeout_s=timeout_s, on_record=on_record)
        workdir = workdir.resolve()
        workdir.mkdir(parents=True, exist_ok=True)
        argv = self.command(elf, workdir)
        return simulate(argv, elf, job, workdir, timeout_s, on_record, _DIALECT)
