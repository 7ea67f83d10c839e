"""All that a run said, of the records of its log.

Error code: `log-incomplete`, for a log that is sound but does not hold what the job asked for.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from odl.errors import TargetError
from odl.types import Array
from odl.wire import (
    LOG_FILE,
    Boot,
    Count,
    Counters,
    Hashes,
    Job,
    Loss,
    Output,
    Profile,
    Record,
    Resume,
    Save,
    Stack,
    Tensor,
    Weight,
)


@dataclass(frozen=True)
class Log:
    """All that a finished run said.

    `losses` (n_steps,) binary32 of a training job, `outputs` (n_steps, n_outputs) binary16 of an inference job,
    `hashes` (n_steps, n_traced) and `profile` (n_steps, n_calls, n_counters) uint32; each is empty where the job did
    not ask. `counters` are the names of what the profile counts. `counts` (n_steps,) uint32: what the first of them
    says of each whole step, with all the looking between kernel calls if the program traces. A job that went on from a
    checkpoint has done its `first` steps before, and nothing here is of them; `resume` is None without flash, and
    `saves` are what became of its checkpoints.
    """

    boot: Boot
    losses: npt.NDArray[np.float32]
    outputs: npt.NDArray[np.float16]
    hashes: npt.NDArray[np.uint32]
    counts: npt.NDArray[np.uint32]
    counters: tuple[str, ...]
    profile: npt.NDArray[np.uint32]
    weights: tuple[bytes, ...]
    tensor: bytes | None
    stack_bytes: int
    resume: Resume | None = None
    saves: tuple[Save, ...] = ()

    @property
    def first(self) -> int:
        return self.resume.position if self.resume else 0


class LogBuilder:
    """Collects the records of one run of `job`: `add` each as it comes, `finish` for all of them.

    Raises `log-incomplete` where a sound log does not hold exactly what the job asked for.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._rows: defaultdict[type[Record], list[Any]] = defaultdict(list)

    def add(self, record: Record) -> None:
        rows = self._rows[type(record)]
        match record:
            case Loss() | Output() | Hashes() | Count() | Profile():
                position, limit = record.step - self._first, self._job.n_steps - self._first
            case Save():
                position, limit = len(rows), len(rows) + 1
            case Weight():
                position, limit = record.index, record.index + 1
            case Tensor():
                position, limit = len(rows), len(rows) + 1  # its call may run several times in a step
            case _:
                position, limit = 0, 1
        if position >= limit:
            raise _incomplete(f"{type(record).__name__} {position} comes after the last step")
        if position != len(rows):
            kind = type(record).__name__
            raise _incomplete(f"{kind} {position} comes where {kind} {len(rows)} should")
        rows.append(record)

    @property
    def _first(self) -> int:
        """The step that the job went on with."""
        return min(self._rows[Resume][0].position, self._job.n_steps) if self._rows[Resume] else 0

    def _take(self, kind: type[Record], n_expected: int) -> list[Any]:
        rows = self._rows[kind]
        if len(rows) != n_expected:
            raise _incomplete(f"the log holds {len(rows)} {kind.__name__} records and should hold {n_expected}")
        return rows

    def finish(self) -> Log:
        job, n_steps, trains = self._job, self._job.n_steps - self._first, self._job.targets is not None
        boot: Boot = self._take(Boot, 1)[0]
        counters = next((c.names for c in self._take(Counters, int(job.profile))), ())
        if job.profile and len(counters) != boot.n_counters:
            raise _incomplete(f"the log names {len(counters)} counters and should name {boot.n_counters}")
        return Log(
            boot=boot,
            losses=np.array([loss.value for loss in self._take(Loss, n_steps * trains)], np.float32),
            outputs=_table(
                [o.values for o in self._take(Output, n_steps * (not trains))], "<f2", boot.output_bytes // 2
            ),
            hashes=_table([h.values for h in self._take(Hashes, n_steps * job.hashes)], "<u4", boot.n_traced),
            counts=np.array([count.value for count in self._take(Count, n_steps)], np.uint32),
            counters=counters,
            profile=_table(
                [p.counts for p in self._take(Profile, n_steps * job.profile)], "<u4", boot.n_calls, boot.n_counters
            ),
            weights=tuple(weight.data for weight in self._take(Weight, boot.n_weights * job.weights)),
            tensor=b"".join(tensor.data for tensor in self._rows[Tensor]) if self._rows[Tensor] else None,
            stack_bytes=self._take(Stack, 1)[0].n_bytes,
            resume=next(iter(self._take(Resume, int(job.flash.n_bytes > 0))), None),
            saves=tuple(self._rows[Save]),
        )


def _incomplete(why: str) -> TargetError:
    return TargetError("log-incomplete", LOG_FILE, why, "run it again; if it repeats, report it")


def _table(rows: list[Array], dtype: str, *shape: int) -> npt.NDArray[Any]:
    return np.array(rows, dtype).reshape(len(rows), *shape)
