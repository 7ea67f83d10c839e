"""QEMU's `virt` machine with one RV32 core that computes in binary16.

Semihosting is the file system, the UART the console, the test finisher the exit status. One instruction takes one
nanosecond of virtual time (`-icount shift=0`), which makes `minstret` exact and runs repeatable.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from odl import subprocesses
from odl.errors import ToolError
from odl.log import Log
from odl.targets.base import Memory, Simulator, Target, ignore
from odl.targets.simulate import simulate
from odl.wire import Job, Record

PROGRAM = "qemu-system-riscv32"
OLDEST = (7, 2)
HOW_TO_INSTALL = f"apt-get install qemu-system-riscv32, or set ODL_QEMU to a {PROGRAM}"

# firmware/port/qemu/link.ld divides the machine's 128 MiB the same way.
_MEMORIES = (Memory("flash", 16 << 20), Memory("ram", 112 << 20))
_STACK_BYTES = 8 << 10  # the deepest stack seen is under 600 bytes for models, under 4 KiB with every kernel there is

QEMU_ZHINX = Target(
    name="qemu-zhinx",
    summary="RV32 with FP16 in the integer registers, in QEMU",
    port="qemu",
    isa="rv32imc_zfinx_zhinx",
    abi="ilp32",
    memories=_MEMORIES,
    stack_bytes=_STACK_BYTES,
    simulator="qemu",
    counter="instructions",
    ram_is_open=True,
)

QEMU_ZFH = Target(
    name="qemu-zfh",
    summary="RV32 with FP16 in the floating-point registers, in QEMU",
    port="qemu",
    isa="rv32imafc_zfh",
    abi="ilp32f",
    memories=_MEMORIES,
    stack_bytes=_STACK_BYTES,
    simulator="qemu",
    counter="instructions",
    ram_is_open=True,
)


def find_qemu() -> Path | None:
    """`$ODL_QEMU`, else QEMU on PATH."""
    found = shutil.which(os.environ.get("ODL_QEMU") or PROGRAM)
    return Path(found) if found else None


@cache
def qemu_version(program: Path) -> tuple[int, ...]:
    """Of a QEMU that starts; empty if it does not say."""
    try:
        output = subprocesses.run([str(program), "--version"], timeout_s=20).output
    except (OSError, TimeoutError):
        return ()
    match = re.search(r"version (\d+)\.(\d+)\.(\d+)", output)
    return tuple(int(number) for number in match.groups()) if match else ()


def cpu(target: Target, version: tuple[int, ...]) -> str:
    """The `-cpu` argument that gives the target's ISA.

    QEMU 8.1 brought Zfa, on by default and refused without F; 8.2 spelled the names of extensions in lower case.
    """
    lower = version >= (8, 2)
    if "zhinx" not in target.isa:
        return f"rv32,{'zfh' if lower else 'Zfh'}=on"
    zfa = f",{'zfa' if lower else 'Zfa'}=off" if version >= (8, 1) else ""
    return f"rv32,zfinx=on,zhinx=on,f=off,d=off{zfa}"


@dataclass(frozen=True)
class Qemu(Simulator):
    """Runs programs of one QEMU target."""

    target: Target

    def command(self, elf: Path) -> list[str]:
        """The command line. Raises ToolError `simulator-missing` or `simulator-too-old`."""
        program = find_qemu()
        version = qemu_version(program) if program else ()
        if not program or not version:
            raise ToolError("simulator-missing", PROGRAM, "QEMU is not on PATH or does not start", HOW_TO_INSTALL)
        if version < OLDEST:
            why = f"version {'.'.join(map(str, version))}; {'.'.join(map(str, OLDEST))} is the oldest known to do"
            raise ToolError("simulator-too-old", str(program), why, HOW_TO_INSTALL)
        # fmt: off
        return [
            str(program),
            "-machine", "virt", "-cpu", cpu(self.target, version), "-m", "128M", "-bios", "none",
            "-icount", "shift=0",
            "-display", "none", "-monitor", "none", "-serial", "stdio",
            "-semihosting-config", "enable=on,target=native",
            "-kernel", str(elf.resolve()),
        ]
        # fmt: on

    def run(
        self,
        elf: Path,
        job: Job,
        *,
        workdir: Path | None = None,
        timeout_s: float = 60.0,
        on_record: Callable[[Record], None] = ignore,
    ) -> Log:
        return simulate(self.command(elf), elf, job, workdir, timeout_s, on_record)
