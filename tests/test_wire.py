"""The job and log files: layout, strictness, and one meaning at both ends."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from odl import wire
from odl.errors import ModelError, TargetError
from odl.log import Log, LogBuilder
from odl.share import share
from odl.wire import Boot, End, Flash, Job, LogReader, Loss, Record, Stack, Tensor, Weight

MODEL = 0xABCD0123
HEADER_BYTES = 4 * 21


def record(tag: int, payload: bytes, step: int = 0, index: int = 0) -> bytes:
    head = struct.pack("<4I", tag, step, index, len(payload)) + payload
    return head + struct.pack("<I", zlib.crc32(head))


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


BOOT = record(wire.TAG_BOOT, words(wire.VERSION, MODEL, 64, 2, 3, 2, 1, 6))
STACK = record(wire.TAG_STACK, words(384))
END = record(wire.TAG_END, words(wire.END_OK), step=2)
LOSSES = [record(wire.TAG_LOSS, struct.pack("<f", value), step=step) for step, value in enumerate((1.5, 0.25))]
COUNTS = [record(wire.TAG_COUNT, words(900 + step), step=step) for step in range(2)]
NAMES = record(wire.TAG_COUNTERS, b"cycles\0fpu\0")
PROFILES = [record(wire.TAG_PROFILE, words(*range(10 * step, 10 * step + 6)), step=step) for step in range(2)]
HASHES = [record(wire.TAG_HASHES, words(7, 9), step=step) for step in range(2)]
TENSOR = record(wire.TAG_TENSOR, b"abcdef", step=1, index=1)
WEIGHT = record(wire.TAG_WEIGHT, b"wxyz")
LOG = b"".join([BOOT, COUNTS[0], LOSSES[0], HASHES[0], TENSOR, COUNTS[1], LOSSES[1], HASHES[1], WEIGHT, STACK, END])

JOB = Job(
    MODEL,
    samples=np.zeros((2, 3), np.float16),
    targets=np.zeros(2, np.int32),
    hashes=True,
    weights=True,
    dump=(1, 1),
)


def read(data: bytes, chunk: int = 1 << 20) -> list[Record]:
    reader = LogReader()
    records = [r for at in range(0, len(data), chunk) for r in reader.feed(data[at : at + chunk])]
    reader.close()
    return records


def refusal(data: bytes) -> str:
    with pytest.raises(TargetError) as caught:
        read(data)
    return caught.value.code


def collect(*parts: bytes, job: Job = JOB) -> Log:
    builder = LogBuilder(job)
    for item in read(b"".join(parts)):
        builder.add(item)
    return builder.finish()


def test_both_ends_have_the_same_constants() -> None:
    header = (share("firmware") / "runner" / "wire.h").read_text()
    in_c = {name: int(value, 0) for name, value in re.findall(r"^#define ODL_(\w+) (\w+?)u\b", header, re.M)}
    in_c |= dict(re.findall(r'^#define ODL_(\w+_FILE) "(.*)"', header, re.M))
    flags = {f"JOB_{flag.name}": flag.value for flag in wire.Flag} | {"JOB_FLAGS": sum(wire.Flag)}
    kinds = {f"{kind.__name__.upper()}_{word.name}": word.value for kind in (wire.Cut, wire.Worn) for word in kind}
    in_python = {name: value for name, value in vars(wire).items() if re.match(r"END_|TAG_|JOB_MAGIC|\w+_FILE", name)}
    assert in_c == in_python | flags | kinds | {"WIRE_VERSION": wire.VERSION}


def test_a_job_is_header_weights_items_checksum(tmp_path: Path) -> None:
    samples = np.array([[1, 2, 3], [4, 5, 6]], np.float16)
    job = Job(MODEL, samples, np.array([1, -1]), profile=True, dump=(5, 6), initial=(b"abc", b"defg"),
              flash=Flash(*range(8192, 8202)))  # fmt: skip
    wire.write_job(tmp_path / "job", job)
    header = words(0x4A4C444F, wire.VERSION, MODEL, 0x01 | 0x04 | 0x10, 2, 8, 4, 7, 5, 6, *range(8192, 8202))
    items = struct.pack("<3e2xi3e2xi", 1, 2, 3, 1, 4, 5, 6, -1)
    body = b"abcdefg\0" + items
    assert (tmp_path / "job").read_bytes() == header + words(zlib.crc32(header)) + body + words(zlib.crc32(body))


def test_a_job_takes_real_targets_and_none(tmp_path: Path) -> None:
    samples = np.array([[1, 2]], np.float32)
    wire.write_job(tmp_path / "job", Job(MODEL, samples, np.array([[0.5, 1, 2]], np.float16)))
    assert (tmp_path / "job").read_bytes()[HEADER_BYTES:-4] == struct.pack("<2e3e2x", 1, 2, 0.5, 1, 2)
    wire.write_job(tmp_path / "job", Job(MODEL, samples))
    data = (tmp_path / "job").read_bytes()
    assert data[HEADER_BYTES:-4] == struct.pack("<2e", 1, 2)
    assert struct.unpack("<I", data[12:16]) == (0,)


@pytest.mark.parametrize(("n_samples", "n_targets", "code"), [(0, 0, "data-empty"), (2, 3, "data-count-mismatch")])
def test_a_job_without_matching_items_is_refused(n_samples: int, n_targets: int, code: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        wire.write_job(tmp_path / "job", Job(MODEL, np.zeros((n_samples, 3)), np.zeros(n_targets, int)))
    assert caught.value.code == code


def test_a_log_says_what_was_written() -> None:
    log = collect(LOG)
    assert log.boot == Boot(MODEL, 64, 2, 3, 2, 1, 6, 0)
    assert log.losses.tolist() == [1.5, 0.25]
    assert log.hashes.tolist() == [[7, 9], [7, 9]]
    assert (log.outputs.shape, log.profile.shape) == ((0, 3), (0, 3, 2))
    assert (log.counts.tolist(), log.counters) == ([900, 901], ())
    assert (log.weights, log.tensor, log.stack_bytes) == ((b"wxyz",), b"abcdef", 384)


def test_a_profile_is_a_table_with_names() -> None:
    plain = replace(JOB, hashes=False, profile=True)
    log = collect(BOOT, NAMES, *COUNTS, *LOSSES, *PROFILES, WEIGHT, STACK, END, job=plain)
    assert log.counters == ("cycles", "fpu")
    assert log.profile.tolist() == [[[0, 1], [2, 3], [4, 5]], [[10, 11], [12, 13], [14, 15]]]
    with pytest.raises(TargetError, match="Counters"):
        collect(BOOT, *COUNTS, *LOSSES, *PROFILES, WEIGHT, STACK, END, job=plain)


def test_a_log_reads_the_same_byte_by_byte(tmp_path: Path) -> None:
    simple = BOOT + LOSSES[0] + TENSOR + WEIGHT + STACK + END
    expected = [
        Boot(MODEL, 64, 2, 3, 2, 1, 6, 0),
        Loss(0, np.float32(1.5)),
        Tensor(1, 1, b"abcdef"),
        Weight(0, b"wxyz"),
        Stack(384),
        End(0, 2),
    ]
    assert read(simple, chunk=1) == expected
    (tmp_path / "log").write_bytes(simple)
    assert list(wire.read_log(tmp_path / "log")) == expected


def test_every_flipped_bit_is_noticed() -> None:
    for bit in range(8 * len(LOG)):
        damaged = bytearray(LOG)
        damaged[bit // 8] ^= 1 << bit % 8
        assert refusal(bytes(damaged)) in ("log-garbled", "log-truncated"), bit


def test_every_cut_is_noticed() -> None:
    for length in range(len(LOG)):
        assert refusal(LOG[:length]) == "log-truncated", length


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(LOSSES[0] + END, id="no BOOT"),
        pytest.param(BOOT + BOOT + END, id="two BOOTs"),
        pytest.param(LOG + b"\0" * 16, id="something after END"),
        pytest.param(BOOT + record(0x12345678, b"") + END, id="unknown tag"),
        pytest.param(BOOT + record(wire.TAG_LOSS, b"\0" * 8) + END, id="a loss of 8 bytes"),
        pytest.param(BOOT + record(wire.TAG_HASHES, words(1)) + END, id="a hash too few"),
        pytest.param(BOOT + record(wire.TAG_TENSOR, bytes(65)) + END, id="a tensor larger than the arena"),
        pytest.param(record(wire.TAG_BOOT, words(99, MODEL, 64, 2, 3, 2, 1, 6)) + END, id="another version"),
        pytest.param(LOG.replace(b"abcdef", b"abcdeF"), id="changed payload"),
    ],
)
def test_what_is_no_log_is_garbled(data: bytes) -> None:
    assert refusal(data) == "log-garbled"


@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_are_refused(data: bytes, after_boot: bool) -> None:
    assert refusal(BOOT + data if after_boot else data) in ("log-garbled", "log-truncated")


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([*COUNTS, LOSSES[0], *HASHES, WEIGHT, STACK], id="a loss too few"),
        pytest.param([*COUNTS, LOSSES[1], LOSSES[0], *HASHES, WEIGHT, STACK], id="losses out of order"),
        pytest.param([*COUNTS, LOSSES[0], LOSSES[0], *HASHES, WEIGHT, STACK], id="a loss twice"),
        pytest.param([*COUNTS, *LOSSES, HASHES[0], WEIGHT, STACK], id="hashes missing"),
        pytest.param([*COUNTS, *LOSSES, *HASHES, STACK], id="no weight"),
        pytest.param([COUNTS[0], *LOSSES, *HASHES, WEIGHT, STACK], id="a count too few"),
        pytest.param([*COUNTS, *LOSSES, *HASHES, WEIGHT, WEIGHT, STACK], id="a weight twice"),
        pytest.param([*COUNTS, *LOSSES, *HASHES, WEIGHT], id="no STACK"),
    ],
)
def test_a_sound_log_that_is_not_the_jobs_is_incomplete(parts: list[bytes]) -> None:
    with pytest.raises(TargetError) as caught:
        collect(BOOT, *parts, END)
    assert caught.value.code == "log-incomplete"


def test_a_device_that_never_stops_is_stopped_at_its_first_step_too_many() -> None:
    builder = LogBuilder(JOB)
    for item in read(b"".join([BOOT, *LOSSES, END])):
        builder.add(item)
    with pytest.raises(TargetError) as caught:
        builder.add(Loss(2, np.float32(0)))
    assert caught.value.code == "log-incomplete"
