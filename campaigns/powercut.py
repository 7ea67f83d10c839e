"""Cut the power at every flash operation of a run, and see what becomes of it.

A run of 20 steps saves a checkpoint after each. It is begun anew for each operation of its flash, a sector erased or a
unit programmed, and power fails there: before it, after it, in the middle of a byte, or with every bit undecided. What
is left is started again and must end with the weights and losses of the run that nobody cut. All of it is run by
`campaigns.powercut_report`.
"""

from __future__ import annotations

import itertools
import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from odl.checkpoint import Status
from odl.compare import Device
from odl.errors import TargetError
from odl.log import Log
from odl.targets.base import ignore
from odl.wire import FLASH_FILE, Cut, Job, Record, Resume, Save, Worn

STEPS = 20


@dataclass
class Outcome:
    """What was tried: `cuts`, or other harm; of them, how many runs went on from which checkpoint (`resumed`, by how
    many steps were done) and how many ended otherwise than the uncut one (`lost`, a sentence each)."""

    tried: int = 0
    operations: int = 0
    resumed: Counter[int] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)

    def add(self, resumed: int, problem: str) -> None:
        self.tried += 1
        self.resumed[resumed] += 1
        if problem:
            self.lost.append(problem)


@dataclass(frozen=True)
class Subject:
    """A device, and the job that it does: with all weights at the end, and with a flash."""

    device: Device
    job: Job

    def run(self, workdir: Path, listen: Callable[[Record], None] = ignore, **harm: int) -> Log:
        """One run of the job, on the flash in `workdir`, to which `harm` is done (fields of Flash)."""
        return self.device.run(replace(self.job, flash=replace(self.job.flash, **harm)), listen, workdir)

    def uncut(self) -> Log:
        with tempfile.TemporaryDirectory(prefix="odl-") as scratch:
            return self.run(Path(scratch))

    def cut(self, workdir: Path, **harm: int) -> Log | int:
        """One run; where the power was cut, the steps of the last checkpoint that it was told is saved."""
        saved = [0]

        def listen(record: Record) -> None:
            if isinstance(record, Save) and record.status == Status.OK:
                saved.append(record.step)
            elif isinstance(record, Resume):
                saved.append(record.position)

        try:
            return self.run(workdir, listen, **harm)
        except TargetError as error:
            if error.code != "target-power-cut":
                raise
            return saved[-1]


def difference(log: Log, uncut: Log, saved: int = 0) -> str:
    """What is wrong with a run that went on, though `saved` steps were saved: other bits than those of one that was not
    cut, or steps done again. Nothing where all is well."""
    if log.first < saved:
        return f"went on from {log.first} steps, and {saved} were saved"
    if log.weights != uncut.weights:
        return "other weights"
    return "" if (log.losses == uncut.losses[log.first :]).all() else "other losses"


def cut_once(subject: Subject, uncut: Log, at: int, kind: Cut, seed: int = 0) -> tuple[int, str] | None:
    """Cut in operation `at`, start again: after how many steps it went on, and what is wrong. None: there is no such
    operation any more."""
    with tempfile.TemporaryDirectory(prefix="odl-") as scratch:
        workdir = Path(scratch)
        saved = subject.cut(workdir, cut_at=at, cut_kind=kind, seed=seed)
        if isinstance(saved, Log):
            return None
        try:
            log = subject.run(workdir)
        except TargetError as error:
            return 0, f"operation {at}, {kind.name.lower()}: {error}"
        found = difference(log, uncut, saved)
        return log.first, f"operation {at}, {kind.name.lower()}: {found}" if found else ""


def every_cut(subject: Subject, kinds: Iterable[Cut] = Cut, operations: Iterable[int] = ()) -> Outcome:
    """Cut at each of `operations`, by default at all there are, in each of these ways."""
    outcome, uncut = Outcome(), subject.uncut()
    last = last_operation(subject)
    outcome.operations = last
    chosen = list(operations) or range(1, last + 1)

    def try_one(case: tuple[int, Cut]) -> tuple[int, str] | None:
        return cut_once(subject, uncut, *case, seed=case[0])

    for found in _at_once(try_one, itertools.product(chosen, kinds)):
        if found:
            outcome.add(*found)
    return outcome


def last_operation(subject: Subject) -> int:
    """How many operations an uncut run has: found by cutting before the last one of ever smaller ranges."""

    def exists(at: int) -> bool:
        with tempfile.TemporaryDirectory(prefix="odl-") as scratch:
            return not isinstance(subject.cut(Path(scratch), cut_at=at), Log)

    low, high = 0, 1
    while exists(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if exists(middle) else (low, middle)
    return low


def storms(subject: Subject, n: int) -> Outcome:
    """Power that fails again and again, after as many operations as chance says, of up to two saves, until the run is
    done. `resumed` counts by how often power failed."""
    outcome, uncut = Outcome(), subject.uncut()
    most = 2 * last_operation(subject) // STEPS

    def storm(seed: int) -> tuple[int, str]:
        chance, n_cuts, saved = random.Random(seed), 0, 0
        with tempfile.TemporaryDirectory(prefix="odl-") as scratch:
            while n_cuts < 50 * STEPS:
                at, kind, noise = chance.randint(1, most), chance.choice(list(Cut)), chance.getrandbits(32)
                log = subject.cut(Path(scratch), cut_at=at, cut_kind=kind, seed=noise)
                if isinstance(log, Log):
                    found = difference(log, uncut, saved)
                    return n_cuts, f"storm {seed}: {found}" if found else ""
                if log < saved:
                    return n_cuts, f"storm {seed}: went on before {log} steps, and {saved} were saved"
                saved = log
                n_cuts += 1
        return n_cuts, f"storm {seed}: not done after {n_cuts} cuts"

    for found in _at_once(storm, range(n)):
        outcome.add(*found)
    return outcome


def flipped_bits(subject: Subject, bits: Iterable[int] = ()) -> Outcome:
    """Stop the run after half of its steps, flip one bit of the flash, go on."""
    outcome, uncut = Outcome(), subject.uncut()
    half = replace(subject, job=_first(subject.job, STEPS // 2))
    with tempfile.TemporaryDirectory(prefix="odl-") as scratch:
        half.run(Path(scratch))
        image = Path(scratch, FLASH_FILE).read_bytes()

    def flip(bit: int) -> tuple[int, str]:
        with tempfile.TemporaryDirectory(prefix="odl-") as scratch:
            changed = bytearray(image)
            changed[bit // 8] ^= 1 << bit % 8
            Path(scratch, FLASH_FILE).write_bytes(changed)
            log = subject.run(Path(scratch))
        found = difference(log, uncut, STEPS // 2 - 1)
        return log.first, f"bit {bit}: {found}" if found else ""

    for found in _at_once(flip, list(bits) or range(8 * len(image))):
        outcome.add(*found)
    return outcome


def worn_sectors(subject: Subject) -> Outcome:
    """Each sector worn out in either way: no bit may be wrong, and what could not be saved must have been told."""
    outcome, uncut = Outcome(), subject.uncut()
    flash = subject.job.flash
    for sector, kind in itertools.product(range(1, flash.n_bytes // flash.erase_bytes + 1), Worn):
        with tempfile.TemporaryDirectory(prefix="odl-") as scratch:
            workdir, harm = Path(scratch), {"worn_sector": sector, "worn_kind": kind, "seed": 7 * sector}
            first = subject.run(workdir, **harm)
            again = subject.run(workdir, **harm)
        saved = max((save.step for save in first.saves if save.status == Status.OK), default=0)
        found = difference(first, uncut) or difference(again, uncut)
        found = found or ("" if again.first == saved else f"went on from {again.first}, not from {saved}")
        outcome.add(again.first, f"sector {sector}, {kind.name.lower()}: {found}" if found else "")
    return outcome


def _first(job: Job, n: int) -> Job:
    return replace(job, samples=job.samples[:n], targets=None if job.targets is None else job.targets[:n])


def _at_once(do: Callable[[Any], Any], cases: Iterable[Any]) -> Iterator[Any]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(do, cases)
