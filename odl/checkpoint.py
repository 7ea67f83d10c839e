"""Checkpoint images: what `firmware/checkpoint` leaves in a flash, read on the host.

Two slots of half the image each; `odl_checkpoint.h` gives the layout of one, and a test compares the constants. A slot
holds the persistent tensors of one program, in the order of its `odl_state`: only that program can say which.

Error codes (ModelError): `not-an-image`, `checkpoint-none`, `checkpoint-damaged`, `checkpoint-foreign`,
`checkpoint-newer`, `checkpoint-size`, `checkpoint-other-data`, `checkpoint-ahead`.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

from odl.errors import ModelError
from odl.staging import write_whole
from odl.wire import Flash

MAGIC = 0x434C444F
VERSION = 1
LEAST_UNIT, MOST_UNIT = 4, 256  # of programming, in bytes: what the firmware knows

_HEADER = struct.Struct("<9I")
_MAGIC = MAGIC.to_bytes(4, "little")
_ERASED = b"\xff"
_HINT = "give the image of a run with --checkpoint, or what was read from a device's flash"


class Status(IntEnum):
    """What the firmware says of a checkpoint: enum odl_checkpoint_status."""

    OK = 0
    NONE = 1
    DAMAGED = 2
    FOREIGN = 3
    NEWER = 4
    FLASH = 5
    SIZE = 6


@dataclass(frozen=True)
class Slot:
    """One of two. `state` is erased, damaged, whole or newer (of a later format); the rest is 0 where nothing is whole.
    `position` and `source` are the cursor: how far in which data. `why` says of a damaged one what of it is; `begins`
    is false where its first bytes are neither a checkpoint's nor erased flash."""

    state: str
    model_id: int = 0
    sequence: int = 0
    position: int = 0
    source: int = 0
    payload: bytes = b""
    why: str = ""
    begins: bool = True

    @property
    def is_whole(self) -> bool:
        return self.state == "whole"


@dataclass(frozen=True)
class Checkpoints:
    """Where a run keeps its checkpoints, and after how many steps each."""

    image: Path
    every: int


def read_image(path: Path) -> tuple[Slot, Slot]:
    """Both slots. Raises ModelError: `file-missing`, `not-a-file`, `file-unreadable`, or `checkpoint-size` and
    `not-an-image` for what cannot be two."""
    try:
        image = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError("file-missing", str(path), "there is no such file", _HINT) from error
    except IsADirectoryError as error:
        raise ModelError("not-a-file", str(path), "this is a folder", _HINT) from error
    except OSError as error:
        raise ModelError("file-unreadable", str(path), error.strerror or "cannot be read", _HINT) from error
    half, least = len(image) // 2, 2 * _HEADER.size
    if len(image) % 2 or half < _HEADER.size:
        why = "it is empty" if not image else f"{len(image):,} bytes are not two slots of one size, {least} at least"
        if image and not image.startswith((_MAGIC, _ERASED * len(_MAGIC))):
            raise ModelError("not-an-image", str(path), f"it holds no checkpoint: {why}", _HINT)
        raise ModelError("checkpoint-size", str(path), why, _HINT)
    slots = _slot(image[:half]), _slot(image[half:])
    return slots if all(slot.begins for slot in slots) else _told_where(slots, image)


def _slot(content: bytes) -> Slot:
    header = content[: _HEADER.size]
    if header == _ERASED * _HEADER.size:
        return Slot("erased")
    if not header.startswith(_MAGIC):
        return Slot("damaged", why="it does not begin with a header", begins=False)
    if not _is_sound(header):
        return Slot("damaged", why="its header is damaged")
    _, version, model_id, sequence, position, source, n_bytes, crc, _ = _HEADER.unpack(header)
    room = len(content) - _HEADER.size
    if n_bytes > room:
        return Slot("damaged", why=f"its {n_bytes:,} bytes are cut off: half of this file has room for {room:,}")
    unit = LEAST_UNIT
    while unit <= MOST_UNIT:  # the header does not say where the next unit of programming begins, but the sum does
        begin = _up(_HEADER.size, unit)
        payload = content[begin : begin + n_bytes]
        if len(payload) == n_bytes and zlib.crc32(payload) == crc:
            state = "newer" if version > VERSION else "whole"
            return Slot(state, model_id, sequence, position, source, payload)
        unit *= 2
    return Slot("damaged", why="its tensors are damaged")


def _is_sound(header: bytes) -> bool:
    return len(header) == _HEADER.size and zlib.crc32(header[:-4]) == int.from_bytes(header[-4:], "little")


def _told_where(slots: tuple[Slot, Slot], image: bytes) -> tuple[Slot, Slot]:
    """The slots, of which one at least begins with no header; where the file has a sound one in another place, they say
    so: then it is not the region of the flash, but more or less of it."""
    found = (match.start() for match in re.finditer(re.escape(_MAGIC), image))
    halves = (0, len(image) // 2)
    stray = next((at for at in found if at not in halves and _is_sound(image[at : at + _HEADER.size])), None)
    where = (
        "" if stray is None else f", but one lies at byte {stray:,}: this is more or less than the region of a flash"
    )
    first, second = (slot if slot.begins else replace(slot, why=slot.why + where) for slot in slots)
    return first, second


def why_lost(slots: Sequence[Slot]) -> str:
    """Why nothing can be gone on from, though something was saved; empty where that is not so."""
    damaged = [f"slot {at}: {slot.why}" for at, slot in enumerate(slots) if slot.why]
    none = all(slot.state in ("damaged", "erased") for slot in slots)
    return "; ".join(damaged) if none and any(slot.begins for slot in slots) else ""


def require_image(slots: Sequence[Slot], where: str) -> None:
    """Raises ModelError `not-an-image` where no slot begins with a checkpoint, or erased: this is some other file."""
    if not any(slot.begins for slot in slots):
        why = f"it holds no checkpoint, and neither of its halves is erased flash: slot 0: {slots[0].why}"
        raise ModelError("not-an-image", where, why, _HINT)


def _up(n_bytes: int, unit: int) -> int:
    return -(-n_bytes // unit) * unit


def sized(flash: Flash, payload_bytes: int) -> Flash:
    """The same flash, just as large as two slots of whole sectors for a header and `payload_bytes` are."""
    return replace(flash, n_bytes=2 * _up(_up(_HEADER.size, flash.program_bytes) + payload_bytes, flash.erase_bytes))


def is_later(slot: Slot, other: Slot) -> bool:
    """Whether `slot` was saved after `other`: sequence numbers wrap around."""
    return 0 < (slot.sequence - other.sequence) % 2**32 < 2**31


def newest(slots: Sequence[Slot], model_id: int, n_bytes: int, where: str = "") -> Slot:
    """What the firmware of program `model_id`, which keeps `n_bytes`, would go on from. Raises ModelError:
    `checkpoint-none`, `-damaged`, `-foreign` or `-newer`, `not-an-image`."""
    ours = [slot for slot in slots if slot.is_whole and slot.model_id == model_id and len(slot.payload) == n_bytes]
    if ours:
        first, *rest = ours
        return rest[0] if rest and is_later(rest[0], first) else first
    newer = any(slot.state == "newer" for slot in slots)
    if newer:
        raise ModelError("checkpoint-newer", where, "it was written by a later version of odl", "use that version")
    if any(slot.is_whole for slot in slots):
        raise ModelError(
            "checkpoint-foreign", where, "it is of another program: another model, recipe, RAM or target",
            "give the folder or the model with the flags that it was made with, or another image",
        )  # fmt: skip
    if all(slot.state == "erased" for slot in slots):
        raise ModelError("checkpoint-none", where, "nothing was ever saved in it", _HINT)
    require_image(slots, where)
    why = f"neither of its slots is whole: {why_lost(slots)}"
    raise ModelError("checkpoint-damaged", where, why, "remove it to begin anew")


def prepare_image(checkpoints: Checkpoints, source: int, model_id: int, payload_bytes: int, steps: int) -> Flash:
    """The flash of a run over `steps` samples of data `source`, its image erased if there is none yet.

    Raises ModelError where the run could not go on from what is there, for a reason that no restart would mend: as
    `read_image` and `newest`, `checkpoint-size` where a slot is too small, `checkpoint-other-data`,
    `checkpoint-ahead`; UsageError `file-unwritable`. A damaged image, as of a first save that was cut off, is one to
    begin anew on; a file that is no image is not written over.
    """
    path, least = checkpoints.image, sized(Flash(0), payload_bytes)
    sector = least.erase_bytes
    if not path.exists():
        write_whole(path, _ERASED * least.n_bytes)
    slots = read_image(path)
    n_bytes = path.stat().st_size
    if n_bytes < least.n_bytes or n_bytes % (2 * sector):
        why = f"{n_bytes:,} bytes are not two slots of whole sectors of {sector:,} for {payload_bytes:,} each"
        raise ModelError("checkpoint-size", str(path), why, "give a file that is not there yet")
    try:
        _require_same_data(newest(slots, model_id, payload_bytes, str(path)), source, steps, str(path))
    except ModelError as error:
        if error.code not in ("checkpoint-none", "checkpoint-damaged"):
            raise
    return replace(least, n_bytes=n_bytes, every=checkpoints.every, source=source)


def _require_same_data(slot: Slot, source: int, steps: int, where: str) -> None:
    if slot.source != source:
        raise ModelError(
            "checkpoint-other-data", where, "it was saved on other data, in another order, or from other weights",
            "give the --data and --seed of then, or another image; odl export --checkpoint keeps what was learned",
        )  # fmt: skip
    if slot.position > steps:
        why = f"it was saved after {slot.position:,} steps, and the run has {steps:,}"
        raise ModelError("checkpoint-ahead", where, why, "ask for more --steps, or give another image")
