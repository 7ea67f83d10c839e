"""The two files of a run: the job that goes to the device and the log that comes back.

The C end is `firmware/runner/wire.h`, which also gives the layout; a test compares the constants. Everything is
little endian. The reader is strict: what is not exactly a log is a `TargetError`, never a shorter result.

Error codes: `log-garbled` (a record that cannot be), `log-truncated` (the file ends early).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from enum import IntEnum, IntFlag
from pathlib import Path

import numpy as np
import numpy.typing as npt

from odl.errors import ModelError, TargetError
from odl.types import Array

VERSION = 3
JOB_MAGIC = 0x4A4C444F
JOB_FILE = "job.bin"
LOG_FILE = "log.bin"
FLASH_FILE = "flash.bin"

_JOB = struct.Struct("<20I")
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
END_POWER_CUT = 72
END_FLASH = 73
END_CHECKPOINT = 74
END_WATCHDOG = 75
END_ARENA = 76

TAG_BOOT, TAG_LOSS, TAG_HASHES, TAG_OUTPUT, TAG_TENSOR, TAG_WEIGHT, TAG_STACK, TAG_END = (
    int.from_bytes(word, "little") for word in (b"BOOT", b"LOSS", b"HASH", b"OUTP", b"TENS", b"WGHT", b"STAK", b"END ")
)
TAG_COUNT, TAG_COUNTERS, TAG_PROFILE = (int.from_bytes(word, "little") for word in (b"COUN", b"NAME", b"PROF"))
TAG_RESUME, TAG_SAVE = (int.from_bytes(word, "little") for word in (b"RESU", b"SAVE"))


def _padded(n_bytes: int) -> int:
    return (n_bytes + 3) & ~3


class Cut(IntEnum):
    """What a power cut leaves of the flash operation that it meets."""

    BEFORE = 0
    PREFIX = 1
    NOISE = 2
    AFTER = 3


class Worn(IntEnum):
    """How a worn-out sector behaves: it refuses, or some of its bits cannot be erased and nobody is told."""

    REFUSES = 0
    KEEPS = 1


@dataclass(frozen=True)
class Flash:
    """The flash that a job saves checkpoints to: FLASH_FILE in its folder, all 0xff when new, with a flash's rules.

    `every`: steps between checkpoints; `source`: a number for the data that the job's items are. For tests, power fails
    in operation `cut_at` (from 1; 0: never), a sector erased or a unit programmed; and sector `worn_sector` (from 1;
    0: none) is worn out.
    """

    n_bytes: int
    erase_bytes: int = 4096
    program_bytes: int = 256
    every: int = 1
    source: int = 0
    cut_at: int = 0
    cut_kind: Cut = Cut.BEFORE
    seed: int = 0
    worn_sector: int = 0
    worn_kind: Worn = Worn.REFUSES


NO_FLASH = Flash(0, 0, 0, 0)


@dataclass(frozen=True)
class Job:
    """What one run does.

    `samples` is (n, ...) of binary16; `targets` is (n,) of integer labels or (n, ...) of binary16, or None to infer
    instead of train. `hashes`, `profile` and `dump` need a program built with tracing; `dump` is (step, index into
    odl_traced). `initial` replaces the weights of the program's own start, one byte string per weight. With `flash` it
    goes on from the checkpoint there, if there is one.
    """

    model_id: int
    samples: Array
    targets: Array | None = None
    hashes: bool = False
    profile: bool = False
    weights: bool = False
    dump: tuple[int, int] | None = None
    initial: Sequence[bytes] = ()
    flash: Flash = NO_FLASH

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
        *astuple(job.flash),
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
class Resume:
    """What odl_checkpoint_load said, and where the job goes on."""

    status: int
    position: int
    source: int


@dataclass(frozen=True)
class Save:
    """What odl_checkpoint_save said after `step` steps."""

    step: int
    status: int


@dataclass(frozen=True)
class End:
    """The run is over, at `step`, with an END_ status."""

    status: int
    step: int


Record = Boot | Loss | Hashes | Output | Tensor | Weight | Count | Counters | Profile | Stack | Resume | Save | End


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
    if max(4 * n_traced, 4 * n_calls * n_counters) >= 2**32:
        raise _garbled(0, f"{n_traced} tensors, or {n_calls} calls and {n_counters} counters, fit no record")
    if output_bytes % 2:
        raise _garbled(0, f"{output_bytes} bytes of output are no binary16 numbers")
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
    TAG_RESUME: _Form(_exactly(lambda _: 8), lambda _, status, data: Resume(status, *struct.unpack("<2I", data))),
    TAG_SAVE: _Form(_ONE_WORD, lambda step, _, data: Save(step, _word(data))),
    TAG_END: _Form(_ONE_WORD, lambda step, _, data: End(_word(data), step)),
}


def read_log(path: Path) -> Iterator[Record]:
    """Every record of a finished log. Raises `log-garbled` and `log-truncated`."""
    reader = LogReader()
    yield from reader.feed(path.read_bytes())
    reader.close()
