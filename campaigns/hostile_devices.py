"""Hostile words between host and device: logs, jobs, and what lies in a flash."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from random import Random

from campaigns.mutations import changed_words, mangled, word
from odl import wire
from odl.checkpoint import MAGIC, VERSION
from odl.wire import Flash

_HEADER = struct.Struct("<20I")

# --- logs -------------------------------------------------------------------------------------------------------------

Said = tuple[int, int, int, bytes]  # tag, step, index, payload

_TAGS = (
    wire.TAG_BOOT, wire.TAG_LOSS, wire.TAG_HASHES, wire.TAG_OUTPUT, wire.TAG_TENSOR, wire.TAG_WEIGHT, wire.TAG_COUNT,
    wire.TAG_COUNTERS, wire.TAG_PROFILE, wire.TAG_STACK, wire.TAG_RESUME, wire.TAG_SAVE, wire.TAG_END,
)  # fmt: skip


def written(said: Sequence[Said]) -> bytes:
    """Records, each with its sum."""
    found = []
    for tag, step, index, payload in said:
        record = struct.pack("<4I", tag, step, index, len(payload)) + payload
        found.append(record + struct.pack("<I", zlib.crc32(record)))
    return b"".join(found)


def log(chance: Random, said: Sequence[Said]) -> bytes:
    """What a device said, with records lost, twice, exchanged, or of other words under a sound sum; or damaged."""
    records = list(said)
    for _ in range(chance.choice((0, 1, 1, 2, 4))):
        at, what = chance.randrange(len(records)), chance.randrange(6)
        tag, step, index, payload = records[at]
        if what == 0 and len(records) > 1:
            del records[at]
        elif what == 1:
            records.insert(chance.randrange(len(records) + 1), records[at])
        elif what == 2 and len(payload) >= 4:
            records[at] = tag, step, index, changed_words(chance, payload)
        elif what == 3:
            records[at] = tag, word(chance), word(chance), payload
        elif what == 4:
            records[at] = chance.choice(_TAGS), step, index, payload
        else:
            records[at] = tag, step, index, mangled(chance, payload)
    content = written(records)
    return mangled(chance, content) if chance.random() < 0.4 else content


# --- jobs -------------------------------------------------------------------------------------------------------------


def job(chance: Random, sound: bytes, weight_bytes: int) -> bytes:
    """A job of which words of the header, or first weights, are others, all sums sound; or damaged."""
    head, body = bytearray(sound[: _HEADER.size]), bytearray(sound[_HEADER.size + 4 : -4])
    what = chance.random()
    if what < 0.5:
        for _ in range(chance.randint(1, 3)):
            struct.pack_into("<I", head, 4 * chance.randrange(3 if chance.random() < 0.9 else 0, 20), word(chance))
    if what > 0.3 and weight_bytes:
        for _ in range(chance.randint(1, 3)):
            struct.pack_into("<I", body, 4 * chance.randrange(weight_bytes // 4), word(chance))
    elif chance.random() < 0.3:
        body = bytearray(mangled(chance, bytes(body)))
    content = bytes(head) + struct.pack("<I", zlib.crc32(head)) + bytes(body) + struct.pack("<I", zlib.crc32(body))
    return mangled(chance, content) if chance.random() < 0.2 else content


def renumbered(content: bytes, at: int, n_words: int, number: int) -> bytes:
    """A header of `n_words`, and their sum behind, in which word `at` was 0; anything else as it is."""
    size = 4 * n_words
    if len(content) < size + 4 or struct.unpack_from("<I", content, 4 * at) != (0,):
        return content
    head = content[: 4 * at] + struct.pack("<I", number) + content[4 * at + 4 : size]
    return head + struct.pack("<I", zlib.crc32(head)) + content[size + 4 :]


# --- flash ------------------------------------------------------------------------------------------------------------


def slot(
    chance: Random, flash: Flash, model_id: int, payload: bytes, sequence: int, position: int, source: int
) -> bytes:
    """One slot, sound, or of words that its sums do not betray."""
    fields = [MAGIC, VERSION, model_id, sequence, position, source, len(payload), 0]
    if chance.random() < 0.6 and payload:
        payload = changed_words(chance, payload, 4)
    fields[7] = zlib.crc32(payload)
    if chance.random() < 0.4:
        fields[chance.randrange(8)] = chance.choice((word(chance), len(payload) + chance.randrange(-4, 5)))
    head = struct.pack("<8I", *fields)
    whole = head + struct.pack("<I", zlib.crc32(head))
    unit = flash.program_bytes
    content = whole.ljust(-(-len(whole) // unit) * unit, b"\xff") + payload
    return content.ljust(flash.n_bytes // 2, b"\xff")[: flash.n_bytes // 2]


def image(chance: Random, flash: Flash, model_id: int, payload: bytes) -> bytes:
    """Both slots, or one; of one length or another; or damaged."""
    erased = b"\xff" * (flash.n_bytes // 2)
    first = chance.choice((0, 1, 2, 2**31 - 1, 2**31, 2**32 - 1, word(chance)))
    both = [
        slot(chance, flash, model_id, payload, (first + at) % 2**32, chance.choice((0, 1, 2, 3, 3, 20)), flash.source)
        if chance.random() < 0.85 else erased for at in range(2)
    ]  # fmt: skip
    content = b"".join(both)
    return mangled(chance, content) if chance.random() < 0.3 else content
