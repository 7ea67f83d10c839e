"""One run of one program, whatever executes it: write the job, start the child, follow the log, judge the end."""

from __future__ import annotations

import fcntl
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from odl import wire
from odl.elf import read_elf
from odl.errors import TargetError, UsageError
from odl.log import Log, LogBuilder
from odl.stages import stage
from odl.staging import scratch
from odl.subprocesses import Child, bound
from odl.wire import Flash, Job, LogReader, Record

CONSOLE_FILE = "console.txt"

_POLL_S = 0.02
_LOCK_S = 2.0  # what another thread of ours starts holds our lock until it has become another program
_CONSOLE_TAIL = 12

FAULTS = {
    wire.END_BAD_JOB: ("target-bad-job", "the device cannot read the job file"),
    wire.END_OTHER_MODEL: ("target-other-model", "the job was written for another program than the one that runs"),
    wire.END_NO_TRACE: ("target-no-trace", "the job wants tracing and the program was built without it"),
    wire.END_BAD_LABEL: ("bad-label", "the label is not a class of the model"),
    wire.END_ARITHMETIC: ("target-arithmetic", "the boot self-test found arithmetic outside the numerics contract"),
    wire.END_STACK: ("target-stack-overflow", "the stack ran out"),
    wire.END_IO: ("target-io", "the device could not write its log"),
    wire.END_TRAP: ("target-trap", "the core trapped"),
    wire.END_WATCHDOG: ("target-watchdog", "a kernel call took too long, and the watchdog ended it"),
    wire.END_ARENA: ("target-arena-overrun", "something was written next to the arena"),
    wire.END_POWER_CUT: ("target-power-cut", "the job cut the power"),
    wire.END_FLASH: ("target-flash", "the flash is missing, or was used against its rules"),
    wire.END_CHECKPOINT: ("target-checkpoint", "the device cannot go on from its checkpoint"),
}

_HINTS = {
    wire.END_OTHER_MODEL: "build the project again",
    wire.END_NO_TRACE: "build the project with tracing",
    wire.END_ARITHMETIC: "build without -ffast-math and with -ffp-contract=off",
    wire.END_STACK: "build with a larger ODL_STACK_BYTES",
}

_TRAP = re.compile(
    r"^odl: (?:trap|stack overflow) cause=([0-9a-f]{8}) pc=([0-9a-f]{8}) value=([0-9a-f]{8}) sp=([0-9a-f]{8})", re.M
)
_AT = re.compile(r"^odl: .* step=([0-9a-f]{8}) call=([0-9a-f]{8})$", re.M)

# RISC-V Instruction Set Manual, volume II, table of mcause.
_CAUSES = (
    "instruction address misaligned",
    "instruction access fault",
    "illegal instruction",
    "breakpoint",
    "load address misaligned",
    "load access fault",
    "store address misaligned",
    "store access fault",
)
_ILLEGAL_INSTRUCTION, _LOAD_ACCESS_FAULT, _STORE_ACCESS_FAULT = 2, 5, 7


@dataclass(frozen=True)
class Dialect:
    """How a simulator says on the console what others say otherwise; None where it does not.

    `exit_status` has one group, the program's exit status in decimal, for a simulator that exits with a status of its
    own. `invalid_access` has three: pc and address in hexadecimal, and 1 for a store; for one that goes on after an
    access to nowhere, which ends the run here.
    """

    exit_status: re.Pattern[str] | None = None
    invalid_access: re.Pattern[str] | None = None


PLAIN = Dialect()


@dataclass(frozen=True)
class _Run:
    """A run under way."""

    elf: Path
    workdir: Path
    timeout_s: float
    dialect: Dialect

    def console(self) -> str:
        return (self.workdir / CONSOLE_FILE).read_text(errors="replace")

    def fault(self, code: str, why: str, hint: str = "") -> TargetError:
        """A TargetError that quotes the end of the console."""
        tail = self.console().splitlines()[-_CONSOLE_TAIL:]
        quoted = "".join(f"\n  | {line}" for line in tail)
        error = TargetError(code, self.elf.name, f"{why}{quoted}", hint)
        place = _AT.search(self.console())
        error.step, error.call = (int(place[1], 16), int(place[2], 16)) if place else (-1, -1)
        return error

    def records(self, child: Child) -> Iterator[Record]:
        """Records as they come, until the child has ended and the log is read to its end."""
        reader, path, n_read = LogReader(), self.workdir / wire.LOG_FILE, 0
        last_heard = time.monotonic()
        while True:
            status = child.wait(_POLL_S)  # asked before reading: a child that ended has written everything
            data = _read_from(path, n_read)
            if data:
                n_read += len(data)
                yield from reader.feed(data)
                last_heard = time.monotonic()
            self._require_sound_accesses()
            if status is not None:
                break
            if time.monotonic() - last_heard > self.timeout_s:
                raise self.fault("target-timeout", f"no new record for {self.timeout_s:g} s")
        self._judge(status, reader)
        reader.close()

    def _judge(self, status: int, reader: LogReader) -> None:
        end, boot = reader.end, reader.boot
        verdict = self._status_of_program(status) or (end.status if end else wire.END_OK)
        if verdict == wire.END_OK:
            return
        if verdict not in FAULTS:
            raise self.fault("target-crashed", f"the program ended with {_status_text(verdict)}")
        code, why = FAULTS[verdict]
        trap = _TRAP.search(self.console())
        if trap:
            why = f"{why}: {self._explain(trap)}"
        elif verdict == wire.END_ARITHMETIC and boot:
            why = f"{why} (check {boot.failed_check} of self_test.c)"
        elif end:
            why = f"{why} (step {end.step})"
        raise self.fault(code, why, _HINTS.get(verdict, ""))

    def _status_of_program(self, status: int) -> int:
        told = self.dialect.exit_status.search(self.console()) if self.dialect.exit_status else None
        return int(told[1]) if told else status

    def _require_sound_accesses(self) -> None:
        pattern = self.dialect.invalid_access
        found = pattern.search(self.console()) if pattern else None
        if found:
            pc, address, is_store = int(found[1], 16), int(found[2], 16), found[3] == "1"
            why = self._place(_STORE_ACCESS_FAULT if is_store else _LOAD_ACCESS_FAULT, pc, address)
            raise self.fault("target-trap", f"the core went on after a {why}")

    def _explain(self, trap: re.Match[str]) -> str:
        cause, pc, value, sp = (int(word, 16) for word in trap.groups())
        return f"{self._place(cause, pc, value)}, sp 0x{sp:08x}"

    def _place(self, cause: int, pc: int, value: int) -> str:
        name = _CAUSES[cause] if cause < len(_CAUSES) else f"cause {cause}"
        what = "instruction" if cause == _ILLEGAL_INSTRUCTION else "address"
        return f"{name} in {read_elf(self.elf).locate(pc)} (pc 0x{pc:08x}), {what} 0x{value:08x}"


def _read_from(path: Path, offset: int) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as log:
        log.seek(offset)
        return log.read()


def _status_text(status: int) -> str:
    return f"exit status {status}" if status >= 0 else signal.Signals(-status).name


def _start(argv: Sequence[str], elf: Path, console: IO[bytes], workdir: Path, inherits: Sequence[int]) -> Child:
    try:
        return Child(bound(argv), output=console, cwd=workdir, inherits=inherits)
    except OSError as error:
        raise TargetError("target-crashed", elf.name, f"it cannot be started: {error}") from error


def _flash(path: Path, flash: Flash) -> IO[bytes]:
    """The flash, made where there is none, and locked as long as it is open here or in a child that outlives us."""
    if not path.exists():
        path.write_bytes(b"\xff" * flash.n_bytes)
    file, patience = path.open("rb"), time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except OSError as error:
            if time.monotonic() > patience:
                file.close()
                where, hint = str(path.resolve()), "wait for it, or end it"
                raise UsageError("checkpoint-in-use", where, "another run writes to it", hint) from error
            time.sleep(_POLL_S)


def simulate(
    argv: Sequence[str],
    elf: Path,
    job: Job,
    workdir: Path | None,
    timeout_s: float,
    on_record: Callable[[Record], None],
    dialect: Dialect = PLAIN,
) -> Log:
    """Runs `argv` in `workdir` on `job`; see `Simulator.run`."""
    with ExitStack() as stack:
        if workdir is None:
            workdir = stack.enter_context(scratch())
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / wire.LOG_FILE).unlink(missing_ok=True)
        wire.write_job(workdir / wire.JOB_FILE, job)
        held = [stack.enter_context(_flash(workdir / wire.FLASH_FILE, job.flash)).fileno()] if job.flash.n_bytes else []
        console = stack.enter_context((workdir / CONSOLE_FILE).open("wb"))
        stage(f"running {Path(argv[0]).name}")
        child = stack.enter_context(_start(argv, elf, console, workdir, held))
        builder = LogBuilder(job)
        for record in _Run(elf, workdir, timeout_s, dialect).records(child):
            builder.add(record)
            on_record(record)
        return builder.finish()
