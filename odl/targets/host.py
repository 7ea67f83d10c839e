"""The machine odl runs on: the same C, compiled by its own compiler. Nothing is counted and no stack is measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from odl.errors import UsageError
from odl.log import Log
from odl.targets.base import Memory, Simulator, Target, ignore
from odl.targets.simulate import simulate
from odl.wire import Job, Record

HOST = Target(
    name="host",
    summary="this machine, for tests and for looking",
    port="host",
    isa="",
    abi="",
    memories=(Memory("ram", 1 << 30),),
    stack_bytes=0,
    simulator="host",
    counter="",
    ram_is_open=True,
)


class Host(Simulator):
    """Runs a host program as a child process."""

    def run(
        self,
        elf: Path,
        job: Job,
        *,
        workdir: Path | None = None,
        timeout_s: float = 60.0,
        on_record: Callable[[Record], None] = ignore,
    ) -> Log:
        if job.profile:
            raise UsageError("no-counter", "host", "the host does not count instructions", "profile on QEMU")
        return simulate([str(elf.resolve())], elf, job, workdir, timeout_s, on_record)
