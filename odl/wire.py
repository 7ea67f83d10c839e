"""The two files of a run: the job that goes to the device and the log that comes back.

The C end is `firmware/runner/wire.h`, which also gives the layout; a test compares the constants. Everything is
little endian. The reader is strict: what is not exactly a log is a `TargetError`, never a shorter result.

Error codes: `log-garbled` (a record that cannot be), `log-truncated` (the file ends early), `log-incomplete` (sound,
but not what the job asked for).
"""

from __future__ import annotations

import struct
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from odl.errors import ModelError, TargetError
from odl.types import Array

VERSION = 2
JOB_MAGIC = 0x4A4C444F
JOB_FILE = "job.bin"
LOG_FILE = "log.bin"

_JOB = struct.Struct("<10I")
_RECORD = struct.Struct("<4I")
_WORD = struct.Struct("<I")


class Flag(IntFlag):
    """What a job asks for."""

    TRAIN = 0x01
    HASHES = 0x02
    PROFILE = 0x04
    WEIGHTS = 0x08
    DUMP = 0x10


TRACING = Flag.HASHES | Flag.PROFILE | Flag.DUMP

END_OK = 0
END_BAD_JOB = 64
END_OTHER_MODEL = 65
END_NO_TRACE = 66
END_BAD_LABEL = 67
END_ARITHMETIC = 68
END_STACK = 69
END_IO = 70
END_TRAP = 71

TAG_BOOT, TAG_LOSS, TAG_HASHES, TAG_OUTPUT, TAG_TENSOR, TAG_WEIGHT, TAG_STACK, TAG_END = (
    int.from_bytes(word, "little") for word in (b"BOOT", b"LOSS", b"HASH", b"OUTP", b"TENS", b"WGHT", b"STAK", b"END ")
)
TAG_COUNT, TAG_COUNTERS, TAG_PROFILE = (int.from_bytes(word, "little") for word in (b"COUN", b"NAME", b"PROF"))


def _padded(n_bytes: int) -> int:
    return (n_bytes + 3) & ~3


@dataclass(frozen=True)
class Job:
    """What one run does.

    `samples` is (n, ...) of binary16; `targets` is (n,) of integer labels or (n, ...) of binary16, or None to infer
    instead of train. `hashes`, `profile` and `dump` need a program built with tracing; `dump` is (step, index into
    odl_traced). `initial` replaces the weights of the program's own start, one byte string per weight.
    """

    model_id: int
    samples: Array
    targets: Array | None = None
    hashes: bool = False
    profile: bool = False
    weights: bool = False
    dump: tuple[int, int] | None = None
    initial: Sequence[bytes] = ()

    @property
    def n_steps(self) -> int:
        return len(self.samples)

    @property
    def flags(self) -> Flag:
        wishes = {
            Flag.TRAIN: self.targets is not None,
            Flag.HASHES: self.hashes,
            Flag.PROFILE: self.profile,
            Flag.WEIGHTS: self.weights,
            Flag.DUMP: self.dump is not None,
        }
        return Flag(sum(flag for flag, wanted in wishes.items() if wanted))


def _rows(values: Array, dtype: npt.DTypeLike) -> npt.NDArray[np.uint8]:
    """One row of bytes an item, padded with zeros to whole words."""
    flat = np.ascontiguousarray(values, dtype=dtype).reshape(len(values), -1)
    raw = flat.view(np.uint8)
    return np.pad(raw, ((0, 0), (0, _padded(raw.shape[1]) - raw.shape[1])))


def _target_rows(job: Job) -> npt.NDArray[np.uint8]:
    if job.targets is None:
        return np.zeros((job.n_steps, 0), np.uint8)
    if len(job.targets) != job.n_steps:
        why = f"{job.n_steps} samples and {len(job.targets)} targets"
        raise ModelError("data-count-mismatch", "targets", why)
    is_label = np.issubdtype(job.targets.dtype, np.integer)
    return _rows(job.targets, "<i4" if is_label else "<f2")


def write_job(path: Path, job: Job) -> None:
    """Writes `job` as the file the device reads."""
    if job.n_steps == 0:
        raise ModelError("data-empty", "samples", "a job needs at least one sample")
    samples = _rows(job.samples, "<f2")
    targets = _target_rows(job)
    weights = b"".join(job.initial)
    blob = weights.ljust(_padded(len(weights)), b"\0")
    dump_step, dump_traced = job.dump or (0, 0)
    header = _JOB.pack(
        JOB_MAGIC,
        VERSION,
        job.model_id,
        job.flags,
        job.n_steps,
        samples.shape[1],
        targets.shape[1],
        len(weights),
        dump_step,
        dump_traced,
    )
    body = np.concatenate((samples, targets), axis=1).tobytes()
    crc = zlib.crc32(body, zlib.crc32(blob))
    path.write_bytes(header + _WORD.pack(zlib.crc32(header)) + blob + body + _WORD.pack(crc))


@dataclass(frozen=True)
class Boot:
    """The program has started; `failed_check` is the self-test's verdict, 0 for sound arithmetic."""

    model_id: int
    arena_bytes: int
    n_traced: int
    n_calls: int
    n_counters: int
    n_weights: int
    output_bytes: int
    failed_check: int


@dataclass(frozen=True)
class Loss:
    step: int
    value: np.float32


@dataclass(frozen=True)
class Hashes:
    """(n_traced,) CRC-32 of each traced tensor, NaNs canonical; 0 where its kernel call did not run in this step."""

    step: int
    values: npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Output:
    """(n_outputs,) binary16, NaNs canonical."""

    step: int
    values: npt.NDArray[np.float16]


@dataclass(frozen=True)
class Tensor:
    """A whole traced tensor, little endian, NaNs canonical."""

    step: int
    index: int
    data: bytes


@dataclass(frozen=True)
class Weight:
    """A weight as it lies in the device's memory."""

    index: int
    data: bytes


@dataclass(frozen=True)
class Count:
    """What the first counter says of the whole step; 0 where the machine counts nothing."""

    step: int
    value: int


@dataclass(frozen=True)
class Counters:
    """Names of what a profile counts."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Profile:
    """(n_calls, n_counters) counts of each kernel call in this step."""

    step: int
    counts: npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Stack:
    """Deepest stack in bytes; 0 where the machine does not measure it."""

    n_bytes: int


@dataclass(frozen=True)
class End:
    """The run is over, at `step`, with an END_ status."""

    status: int
    step: int


Record = Boot | Loss | Hashes | Output | Tensor | Weight | Count | Counters | Profile | Stack | End


def _garbled(offset: int, why: str) -> TargetError:
    return TargetError("log-garbled", f"{LOG_FILE}, byte {offset}", why, "run it again; if it repeats, report it")


class LogReader:
    """Turns the bytes of a growing log into records: `feed` what has come, `close` when no more will.

    `boot` and `end` are the BOOT and the END record once they have come.
    """

    def __init__(self) -> None:
        self._pending = bytearray()
        self._offset = 0
        self.boot: Boot | None = None
        self.end: End | None = None

    def feed(self, data: bytes) -> Iterator[Record]:
        """Every record that `data` completes. Raises `log-garbled`."""
        self._pending += data
        while (record := self._next()) is not None:
            yield record

    def close(self) -> None:
        """Raises `log-truncated` unless the log ended with END."""
        if self._pending or not self.end:
            why = "the log stops inside a record" if self._pending else "the log has no END record"
            raise TargetError("log-truncated", f"{LOG_FILE}, byte {self._offset}", why)

    def _next(self) -> Record | None:
        if len(self._pending) < _RECORD.size:
            return None
        tag, step, index, n_bytes = _RECORD.unpack_from(self._pending)
        self._check_header(tag, n_bytes)
        end = _RECORD.size + n_bytes
        if len(self._pending) < end + _WORD.size:
            return None
        (crc,) = _WORD.unpack_from(self._pending, end)
        if crc != zlib.crc32(self._pending[:end]):
            raise _garbled(self._offset, "the checksum of a record is wrong")
        record = _FORMS[tag].decode(step, index, bytes(self._pending[_RECORD.size : end]))
        self._accept(record)
        del self._pending[: end + _WORD.size]
        self._offset += end + _WORD.size
        return record

    def _check_header(self, tag: int, n_bytes: int) -> None:
        """Refuses a bad length at once: waiting for the rest of it would look like a device that hangs."""
        if self.end:
            raise _garbled(self._offset, "there is something after END")
        if tag not in _FORMS:
            raise _garbled(self._offset, f"there is no record with tag 0x{tag:08x}")
        if (tag == TAG_BOOT) != (self.boot is None):
            raise _garbled(self._offset, "the first record, and only the first, must be BOOT")
        boot = self.boot or Boot(0, 0, 0, 0, 0, 0, 0, 0)
        low, high = _FORMS[tag].n_bytes(boot)
        if not low <= n_bytes <= high:
            raise _garbled(self._offset, f"record 0x{tag:08x} cannot have {n_bytes} bytes")

    def _accept(self, record: Record) -> None:
        if isinstance(record, Boot):
            self.boot = record
        elif isinstance(record, End):
            self.end = record


def _decode_boot(_step: int, failed_check: int, payload: bytes) -> Boot:
    version, model_id, *numbers = struct.unpack("<8I", payload)
    arena_bytes, n_traced, n_calls, n_counters, n_weights, output_bytes = numbers
    if version != VERSION:
        raise _garbled(0, f"the log has format {version} and this reader knows {VERSION}")
    return Boot(model_id, arena_bytes, n_traced, n_calls, n_counters, n_weights, output_bytes, failed_check)


def _word(payload: bytes) -> int:
    return int.from_bytes(payload, "little")


def _names(payload: bytes) -> tuple[str, ...]:
    return tuple(name.decode("ascii", "replace") for name in payload.removesuffix(b"\0").split(b"\0"))


@dataclass(frozen=True)
class _Form:
    """How a record looks: its least and greatest payload, given BOOT, and what (step, index, payload) mean."""

    n_bytes: Callable[[Boot], tuple[int, int]]
    decode: Callable[[int, int, bytes], Record]


def _exactly(n_bytes: Callable[[Boot], int]) -> Callable[[Boot], tuple[int, int]]:
    return lambda boot: (n_bytes(boot), n_bytes(boot))


def _some(boot: Boot) -> tuple[int, int]:
    return (1, boot.arena_bytes)


_ONE_WORD = _exactly(lambda _: 4)
_MOST_NAME_BYTES = 256

_FORMS = {
    TAG_BOOT: _Form(_exactly(lambda _: 32), _decode_boot),
    TAG_LOSS: _Form(_ONE_WORD, lambda step, _, data: Loss(step, np.frombuffer(data, "<f4")[0])),
    TAG_HASHES: _Form(
        _exactly(lambda boot: 4 * boot.n_traced),
        lambda step, _, data: Hashes(step, np.frombuffer(data, "<u4")),
    ),
    TAG_OUTPUT: _Form(
        _exactly(lambda boot: boot.output_bytes),
        lambda step, _, data: Output(step, np.frombuffer(data, "<f2")),
    ),
    TAG_TENSOR: _Form(_some, Tensor),
    TAG_WEIGHT: _Form(_some, lambda _, index, data: Weight(index, data)),
    TAG_COUNT: _Form(_ONE_WORD, lambda step, _, data: Count(step, _word(data))),
    TAG_COUNTERS: _Form(lambda _: (1, _MOST_NAME_BYTES), lambda *fields: Counters(_names(fields[-1]))),
    TAG_PROFILE: _Form(
        _exactly(lambda boot: 4 * boot.n_calls * boot.n_counters),
        lambda step, _, data: Profile(step, np.frombuffer(data, "<u4")),
    ),
    TAG_STACK: _Form(_ONE_WORD, lambda *fields: Stack(_word(fields[-1]))),
    TAG_END: _Form(_ONE_WORD, lambda step, _, data: End(_word(data), step)),
}


def read_log(path: Path) -> Iterator[Record]:
    """Every record of a finished log. Raises `log-garbled` and `log-truncated`."""
    reader = LogReader()
    yield from reader.feed(path.read_bytes())
    reader.close()


@dataclass(frozen=True)
class Log:
    """All that a finished run said.

    `losses` (n_steps,) binary32 of a training job, `outputs` (n_steps, n_outputs) binary16 of an inference job,
    `hashes` (n_steps, n_traced) and `profile` (n_steps, n_calls, n_counters) uint32; each is empty where the job did
    not ask. `counters` are the names of what the profile counts. `counts` (n_steps,) uint32: what the first of them
    says of each whole step, with all the looking between kernel calls if the program traces.
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
                position, limit = record.step, self._job.n_steps
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

    def _take(self, kind: type[Record], n_expected: int) -> list[Any]:
        rows = self._rows[kind]
        if len(rows) != n_expected:
            raise _incomplete(f"the log holds {len(rows)} {kind.__name__} records and should hold {n_expected}")
        return rows

    def finish(self) -> Log:
        job, n_steps, trains = self._job, self._job.n_steps, self._job.targets is not None
        boot: Boot = self._take(Boot, 1)[0]
        return Log(
            boot=boot,
            losses=np.array([loss.value for loss in self._take(Loss, n_steps * trains)], np.float32),
            outputs=_table(
                [o.values for o in self._take(Output, n_steps * (not trains))], "<f2", boot.output_bytes // 2
            ),
            hashes=_table([h.values for h in self._take(Hashes, n_steps * job.hashes)], "<u4", boot.n_traced),
            counts=np.array([count.value for count in self._take(Count, n_steps)], np.uint32),
            counters=next((c.names for c in self._take(Counters, int(job.profile))), ()),
            profile=_table(
                [p.counts for p in self._take(Profile, n_steps * job.profile)], "<u4", boot.n_calls, boot.n_counters
            ),
            weights=tuple(weight.data for weight in self._take(Weight, boot.n_weights * job.weights)),
            tensor=b"".join(tensor.data for tensor in self._rows[Tensor]) if self._rows[Tensor] else None,
            stack_bytes=self._take(Stack, 1)[0].n_bytes,
        )


def _incomplete(why: str) -> TargetError:
    return TargetError("log-incomplete", LOG_FILE, why, "run it again; if it repeats, report it")


def _table(rows: list[Array], dtype: str, *shape: int) -> npt.NDArray[Any]:
    return np.array(rows, dtype).reshape(len(rows), *shape)
