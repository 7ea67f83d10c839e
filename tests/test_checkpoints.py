"""Checkpoints: a run that was cut off ends with the bits of one that was not, whatever happened to its flash."""

from __future__ import annotations

import json
import re
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.models import ROOT
from benchmarks.pages import between
from campaigns import powercut, powercut_report
from campaigns.powercut import STEPS, Outcome, Subject, difference
from campaigns.powercut_report import GEOMETRIES
from campaigns.subjects import data, on_flash, tiny
from odl import checkpoint
from odl.api import Compiled
from odl.checkpoint import Slot, Status, is_later, read_image
from odl.compare import Reference
from odl.data import Data
from odl.errors import TargetError
from odl.log import Log
from odl.share import share
from odl.wire import FLASH_FILE, Cut, Flash

HOST = "host"
PLACES = {"host": (HOST, ""), "qemu-zhinx": ("qemu-zhinx", ""), "qemu-zfh": ("qemu-zfh", ""),
          "pulp-open in QEMU": ("pulp-open", "qemu")}  # fmt: skip


@pytest.fixture(scope="module")
def host() -> Iterator[tuple[Compiled, Subject]]:
    with tiny(HOST) as built:
        yield built


@pytest.fixture(scope="module")
def subject(host: tuple[Compiled, Subject]) -> Subject:
    return host[1]


@pytest.fixture(scope="module")
def uncut(subject: Subject) -> Log:
    return subject.uncut()


def after(subject: Subject, steps: int, workdir: Path) -> Path:
    """The image of a run that was stopped after `steps`."""
    job = replace(subject.job, samples=subject.job.samples[:steps], targets=subject.job.targets[:steps])  # type: ignore[index]
    replace(subject, job=job).run(workdir)
    return workdir / FLASH_FILE


def written(slot: Slot, version: int = checkpoint.VERSION, magic: int = checkpoint.MAGIC) -> bytes:
    """A slot's first bytes as the firmware would write them, in words of 4 bytes."""
    words = (magic, version, slot.model_id, slot.sequence, slot.position, slot.source, len(slot.payload))
    header = struct.pack("<8I", *words, zlib.crc32(slot.payload))
    return header + struct.pack("<I", zlib.crc32(header)) + slot.payload


def put(image: Path, *slots: bytes | None) -> None:
    """Replaces the slots of an image that are given."""
    content = bytearray(image.read_bytes())
    half = len(content) // 2
    for at, slot in enumerate(slots):
        if slot is not None:
            content[at * half : (at + 1) * half] = slot.ljust(half, b"\xff")
    image.write_bytes(content)


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(project: Path) -> None:
        path = project / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return change


# --- what is computed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_what_goes_on_ends_as_what_never_stopped(place: str, tmp_path: Path) -> None:
    with tiny(*PLACES[place]) as (compiled, subject):
        uncut = subject.uncut()
        reference = Reference(compiled.program, compiled.training)
        losses = reference.steps(Data(*data()))
        assert (uncut.losses == losses).all()
        for held, weight in zip(compiled.program.held, uncut.weights, strict=True):
            assert reference.executor.persistent(held.tensor.name).tobytes() == weight
        for steps in (7, 12):  # inside of a batch, then at its end
            after(subject, steps, tmp_path)
        log = subject.run(tmp_path)
        assert (log.first, log.resume and log.resume.status, len(log.losses)) == (12, Status.OK, STEPS - 12)
        assert not difference(log, uncut)
        done = subject.run(tmp_path)
        assert (done.first, len(done.losses), done.weights) == (STEPS, 0, uncut.weights)


def test_a_checkpoint_is_the_reference_s_state(host: tuple[Compiled, Subject], tmp_path: Path) -> None:
    compiled, subject = host
    reference = Reference(compiled.program, compiled.training)
    reference.steps(Data(*data()).first(7))
    newest = checkpoint.newest(read_image(after(subject, 7, tmp_path)), subject.job.model_id, 192)
    held = compiled.program.held
    assert newest.payload == b"".join(reference.executor.persistent(each.tensor.name).tobytes() for each in held)
    assert (newest.sequence, newest.position) == (6, 7)


def test_checkpoints_are_as_far_apart_as_asked(subject: Subject, tmp_path: Path) -> None:
    saves = subject.run(tmp_path, every=6).saves
    assert [(save.step, save.status) for save in saves] == [(6, 0), (12, 0), (18, 0), (STEPS, 0)]


# What a caller may have done to the machine: rounding towards zero, and flush to zero where there is such a thing.
CARELESS = """
#ifdef __riscv
    uint32_t mode;
    __asm__ volatile("csrwi frm, 1");
    {call}
    __asm__ volatile("csrrwi %0, frm, 0" : "=r"(mode));
#else
    __builtin_ia32_ldmxcsr(0xffc0u);
    {call}
    const uint32_t mode = __builtin_ia32_stmxcsr() == 0xffc0u;
    __builtin_ia32_ldmxcsr(0x1f80u);
#endif
    if (mode != 1u) {{
        odl_port_exit(99);
    }}
"""


@pytest.mark.parametrize("place", PLACES)
def test_the_caller_s_rounding_mode_does_not_matter_and_stays(place: str) -> None:
    call = "mine.has_class = odl_subject_train(&mine.loss);"
    careless = edit("runner/runner.c", call, CARELESS.format(call=call))
    with tiny(*PLACES[place]) as (_, subject), tiny(*PLACES[place], careless) as (_, other):
        assert not difference(other.uncut(), subject.uncut())


@pytest.mark.parametrize("place", list(PLACES)[1:])
def test_a_fault_tells_the_layer(place: str) -> None:
    """The update of the last layer, in the fourth step, which ends a batch."""
    fault = edit(
        "src/kernels/sgd.c", "{\n", '{\n    if (odl_now_step == 3u) { __asm__ volatile(".word 0xffffffff"); }\n'
    )

    def change(project: Path) -> None:
        path = project / "src/kernels/sgd.c"
        path.write_text(f'#include "progress.h"\n{path.read_text()}')
        fault(project)

    with tiny(*PLACES[place], change) as (_, subject), pytest.raises(TargetError) as caught:
        subject.uncut()
    problem = caught.value.problems[0]
    assert problem.code == "target-trap"
    assert re.match(r"step 3, layer \w+, \w+.* \(call \d+\)$", problem.where), problem.where
    assert "illegal instruction in odl_" in problem.why


def test_a_watchdog_s_reset_costs_only_the_steps_since_the_checkpoint(uncut: Log, tmp_path: Path) -> None:
    call = "mine.has_class = odl_subject_train("
    hang = edit("runner/runner.c", call, f'for (; odl_now_step == 13u;) {{ __asm__ volatile(""); }} {call}')
    quick = edit("runner/port.h", "ODL_WATCHDOG_MS 10000", "ODL_WATCHDOG_MS 50")

    def change(project: Path) -> None:
        hang(project)
        quick(project)

    with tiny(HOST, change=change) as (_, subject), pytest.raises(TargetError) as caught:
        subject.run(tmp_path)
    assert (caught.value.code, caught.value.step) == ("target-watchdog", 13)
    with tiny(HOST) as (_, subject):
        log = subject.run(tmp_path)
    assert log.first == 13
    assert not difference(log, uncut)


# --- power ------------------------------------------------------------------------------------------------------------


def sound(outcome: Outcome, tried: int) -> None:
    assert outcome.lost == []
    assert outcome.tried == tried


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_power_cuts_on_the_host(host: tuple[Compiled, Subject], geometry: str) -> None:
    compiled, subject = host
    subject = on_flash(subject, compiled, GEOMETRIES[geometry])
    last = powercut.last_operation(subject)
    # All of the first three saves: the first slot's, the second's, and the first that erases a checkpoint.
    operations = range(1, 3 * (last // STEPS) + 2)
    outcome = powercut.every_cut(subject, (Cut.PREFIX, Cut.NOISE), operations)
    sound(outcome, 2 * len(operations))
    assert set(outcome.resumed) == {0, 1, 2, 3}


@pytest.mark.parametrize("place", list(PLACES)[1:])
def test_power_cuts_in_qemu(place: str) -> None:
    with tiny(*PLACES[place]) as (_, subject):
        last = powercut.last_operation(subject)
        operations = [1, last // STEPS - 1, last // STEPS, last // STEPS + 1, last // 2, last]
        sound(powercut.every_cut(subject, (Cut.PREFIX, Cut.NOISE), operations), 12)


def test_storms(subject: Subject) -> None:
    outcome = powercut.storms(subject, 3)
    sound(outcome, 3)
    assert min(outcome.resumed) > 5  # that many cuts in one run, at least


def test_flipped_bits(subject: Subject) -> None:
    slot_bits = 4 * subject.job.flash.n_bytes
    used = 8 * (36 + 192)
    bits = [at + slot for slot in (0, slot_bits) for at in (*range(0, 8 * 36, 5), *range(8 * 36, used, 97))]
    outcome = powercut.flipped_bits(subject, bits)
    sound(outcome, len(bits))
    assert set(outcome.resumed) == {STEPS // 2 - 1, STEPS // 2}
    sound(powercut.flipped_bits(subject, [used + 3, slot_bits + used]), 2)  # behind what is kept


def test_worn_sectors(host: tuple[Compiled, Subject]) -> None:
    compiled, subject = host
    subject = on_flash(subject, compiled, Flash(0, 128, 4))
    outcome = powercut.worn_sectors(subject)
    sound(outcome, 8)
    assert set(outcome.resumed) <= {1, 2, 3}  # one save is kept, and those that failed were told


BROKEN = {
    "the newest slot is written over": ("keep != &slots[i] &&", "(keep == NULL || keep == &slots[i]) &&"),
    "what a slot holds is not summed": ("if (crc == header->crc) {", "if (crc != header->crc + 1u) {"),
    "the header is not summed": ("header->header_crc != odl_crc32(0, header, n_headed)", "n_headed == 0u"),
    "slots are not compared by age": ("is_later(&slots[i], found)", "is_later(found, &slots[i])"),
    "a sector is not erased": ("if (!odl_flash_erase(", "if (done > 0u && !odl_flash_erase("),
    "the step is not kept": (".position = cursor.position,", ".position = cursor.position - 1u,"),
    "other tensors are kept": ("put(&writer, odl_state_data(arena, i),", "put(&writer, odl_state_data(arena, 0),"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", BROKEN)
def test_the_campaign_sees_mistakes(mistake: str) -> None:
    """Cuts, or bits that flip, find each of these."""
    found: list[str] = []
    with tiny(HOST, change=edit("checkpoint/odl_checkpoint.c", *BROKEN[mistake])) as (_, subject):
        try:
            found += powercut.every_cut(subject, (Cut.PREFIX, Cut.NOISE), range(1, 180, 3)).lost
            found += powercut.flipped_bits(subject, range(2048, 2048 + 8 * 228, 31)).lost  # of the newest
        except TargetError as error:
            found.append(error.code)
    assert found


# --- what the firmware refuses ----------------------------------------------------------------------------------------


def status(subject: Subject, workdir: Path, **flash: int) -> tuple[str, int]:
    """Code and status of a run that cannot go on."""
    records: list[object] = []
    job = replace(subject.job, flash=replace(subject.job.flash, **flash))
    with pytest.raises(TargetError) as caught:
        subject.device.run(job, records.append, workdir)
    return caught.value.code, next((record.status for record in records if hasattr(record, "source")), -1)


def test_a_checkpoint_of_another_program_is_refused_and_kept(subject: Subject, tmp_path: Path) -> None:
    image = after(subject, 3, tmp_path)
    slots = [replace(slot, model_id=slot.model_id ^ 1) for slot in read_image(image)]
    put(image, *map(written, slots))
    before = image.read_bytes()
    assert status(subject, tmp_path) == ("target-checkpoint", Status.FOREIGN)
    assert image.read_bytes() == before
    put(image, b"", written(slots[1]))
    assert status(subject, tmp_path) == ("target-checkpoint", Status.FOREIGN)


def test_a_checkpoint_of_a_later_format_is_refused(subject: Subject, tmp_path: Path) -> None:
    image = after(subject, 1, tmp_path)
    slot, _ = read_image(image)
    put(image, written(slot, version=2))
    assert read_image(image)[0].state == "newer"
    assert status(subject, tmp_path) == ("target-checkpoint", Status.NEWER)


def test_one_of_ours_beside_a_foreign_one_is_taken_and_never_erased(
    subject: Subject, uncut: Log, tmp_path: Path
) -> None:
    image = after(subject, 3, tmp_path)
    older, newer = sorted(read_image(image), key=lambda slot: slot.sequence)
    put(image, written(newer), written(replace(older, model_id=7, sequence=newer.sequence + 5)))
    assert subject.cut(tmp_path, cut_at=20, cut_kind=Cut.NOISE) == 3  # within the first save
    log = subject.run(tmp_path)
    assert log.first == 3
    assert not difference(log, uncut)


def test_damage_to_both_slots_begins_anew_and_is_told(subject: Subject, uncut: Log, tmp_path: Path) -> None:
    image = after(subject, 3, tmp_path)
    content = bytearray(image.read_bytes())
    for at in (100, len(content) // 2 + 8):
        content[at] ^= 16
    image.write_bytes(content)
    log = subject.run(tmp_path)
    assert log.resume == (log.resume and replace(log.resume, status=Status.DAMAGED, position=0))
    assert not difference(log, uncut)


def test_numbers_of_saves_wrap_around(subject: Subject, uncut: Log, tmp_path: Path) -> None:
    image = after(subject, 3, tmp_path)
    older, newer = sorted(read_image(image), key=lambda slot: slot.sequence)
    put(image, written(replace(newer, sequence=0)), written(replace(older, sequence=2**32 - 1)))
    log = subject.run(tmp_path)
    assert log.first == 3
    assert not difference(log, uncut)
    put(image, written(replace(older, sequence=2**32 - 2)), written(replace(newer, sequence=2**32 - 1)))
    log = subject.run(tmp_path)
    assert log.first == 3
    assert {slot.sequence for slot in read_image(image)} == {STEPS - 3 - 1, STEPS - 3 - 2}


@pytest.mark.parametrize(
    "flash",
    [
        {"n_bytes": 2 * 128},
        {"n_bytes": 3 * 256},
        {"program_bytes": 2},
        {"program_bytes": 12},
        {"program_bytes": 512, "erase_bytes": 512, "n_bytes": 2048},
        {"erase_bytes": 130},
        {"erase_bytes": 2},
    ],
    ids=str,
)
def test_a_flash_that_will_not_do_is_told(subject: Subject, flash: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / FLASH_FILE).write_bytes(b"\xff" * 4096)
    assert status(subject, tmp_path, **flash) == ("target-checkpoint", Status.SIZE)


def test_data_and_steps_of_another_job_are_refused(subject: Subject, tmp_path: Path) -> None:
    after(subject, 5, tmp_path)
    assert status(subject, tmp_path, source=1) == ("target-checkpoint", Status.OK)
    fewer = replace(subject.job, samples=subject.job.samples[:4], targets=subject.job.targets[:4])  # type: ignore[index]
    assert status(replace(subject, job=fewer), tmp_path)[0] == "target-checkpoint"


def test_the_model_of_a_flash_has_a_flash_s_rules() -> None:
    rules = {
        "not erased": ("if (!odl_flash_erase(offset + done)) {", "if (offset + done == n_bytes) {"),
        "not whole units": (".unit = flash->program_bytes,", ".unit = flash->program_bytes + 1u,"),
        "not aligned": (
            "writer->offset, writer->buffer, writer->unit",
            "writer->offset, writer->buffer + 1, writer->unit",
        ),
        "a read leaves it": ("odl_flash_read(offset, buffer, n)", "odl_flash_read(offset + 9999u, buffer, n)"),
        "no sector": ("odl_flash_erase(offset + done)", "odl_flash_erase(offset + done + 4u)"),
    }
    for rule, (old, new) in rules.items():
        with tiny(HOST, change=edit("checkpoint/odl_checkpoint.c", old, new)) as (_, subject):
            with pytest.raises(TargetError, match=rule) as caught:
                subject.uncut()
            assert caught.value.code == "target-flash"


def test_a_file_that_is_too_short_is_no_flash(subject: Subject, tmp_path: Path) -> None:
    (tmp_path / FLASH_FILE).write_bytes(b"\xff" * 300)
    assert status(subject, tmp_path)[0] == "target-flash"


def test_the_page_is_what_the_campaign_found() -> None:
    measured = json.loads((ROOT / "campaigns/powercut.json").read_text())["results"]
    assert between((ROOT / "docs/RELIABILITY.md").read_text(), "power cuts") == powercut_report.page(measured)
    assert [result["lost"] for result in measured] == [[]] * len(measured)
    cuts = [result for result in measured if result["harm"] == "every cut"]
    assert [result["tried"] for result in cuts] == [len(Cut) * result["operations"] for result in cuts]


# --- the other end ----------------------------------------------------------------------------------------------------


def test_both_ends_have_the_same_constants() -> None:
    header = (share("firmware") / "checkpoint/odl_checkpoint.h").read_text()
    in_c = {name: int(value, 0) for name, value in re.findall(r"^#define ODL_CHECKPOINT_(\w+) (\w+)u", header, re.M)}
    assert in_c == {"MAGIC": checkpoint.MAGIC, "VERSION": checkpoint.VERSION}
    statuses = dict(re.findall(r"ODL_CHECKPOINT_(\w+) = (\d)", header))
    assert statuses == {each.name: str(each.value) for each in Status}
    most = re.search(r"MOST_PROGRAM_BYTES (\d+)u", (share("firmware") / "checkpoint/odl_flash.h").read_text())
    assert most
    assert int(most[1]) == checkpoint.MOST_UNIT


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_images_of_every_flash_are_read(host: tuple[Compiled, Subject], geometry: str, tmp_path: Path) -> None:
    compiled, subject = host
    image = after(on_flash(subject, compiled, GEOMETRIES[geometry]), 2, tmp_path)
    first, second = read_image(image)
    assert [(slot.state, slot.position, slot.sequence) for slot in (first, second)] == [
        ("whole", 1, 0),
        ("whole", 2, 1),
    ]
    assert len(first.payload) == len(second.payload) == 192


def test_both_ends_choose_the_same_slot(subject: Subject, tmp_path: Path) -> None:
    """Of images that chance has damaged, the host reads what the device goes on from."""
    random = np.random.default_rng(3)
    image = after(subject, 4, tmp_path)
    good = image.read_bytes()
    chosen = set()
    for _ in range(60):
        content = bytearray(good)
        for bit in random.integers(0, 8 * len(good), random.integers(0, 3)):
            content[bit // 8] ^= 1 << bit % 8
        image.write_bytes(content)
        slots = read_image(image)
        with tempfile.TemporaryDirectory() as scratch:
            Path(scratch, FLASH_FILE).write_bytes(content)
            first = subject.run(Path(scratch)).first
        if all(slot.state == "damaged" for slot in slots):
            assert first == 0
        else:
            assert first == checkpoint.newest(slots, subject.job.model_id, 192).position
        chosen.add(first)
    assert {3, 4} <= chosen


def test_the_later_of_two() -> None:
    numbers = (0, 1, 2**31 - 1, 2**31, 2**32 - 1)
    assert [[is_later(Slot("whole", sequence=a), Slot("whole", sequence=b)) for b in numbers] for a in numbers] == [
        [False, False, False, False, True],
        [True, False, False, False, True],
        [True, True, False, False, False],
        [False, True, True, False, False],
        [False, False, False, True, False],
    ]
