"""A layout of tiles becomes statements: transfers, calls and barriers in the order in which every core meets them.

A slot begins with the transfers that start in it, goes on with its call, and ends with the waits for what leaves in it
and for what the next call needs, and a barrier. So a wait and the end of a call share a barrier, and a transfer has the
time of a call to hide in. Where there was no room for an operand any earlier, its transfer starts in the slot of the
call itself, which waits for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from odl.program import LOCAL, Barrier, Buffer, Call, Move, Statement, Wait
from odl.residency import Layout, Stay, Transfer
from odl.tiling import Piece, TileCall

MOST_TRANSFERS = 16  # that a DMA engine keeps apart (firmware/include/odl_dma.h)


def lower_tiles(layout: Layout, homes: Mapping[str, Buffer], held: Mapping[str, str]) -> tuple[Statement, ...]:
    """The statements of one entry. `homes`: where values lie beyond the local memory; `held`: see `Buffer`."""
    return tuple(_Tiles(layout, homes, held).statements())


class _Tiles:
    def __init__(self, layout: Layout, homes: Mapping[str, Buffer], held: Mapping[str, str]) -> None:
        self.layout, self.homes, self.held = layout, homes, held
        self.under_way: dict[int, Transfer] = {}
        self.number = 0
        self.heard = False  # whether one core has heard of a transfer's end and the others have not

    def statements(self) -> Iterator[Statement]:
        n_slots = len(self.layout.slots)
        for slot in range(n_slots + 1):
            yield from self._starts(slot)
            at_once = [n for n, it in self.under_way.items() if self._needed(it) == slot and it.inward]
            yield from self._waits(at_once)
            yield from self._barrier(self.heard)
            call = self.layout.slots[slot] if slot < n_slots else None
            if call:
                yield self._call(call, slot)
            due = [
                number for number, it in self.under_way.items()
                if (self._needed(it) == slot + 1 if it.inward else it.slot == slot)
            ]  # fmt: skip
            yield from self._waits(due)
            yield from self._barrier(bool(call) or self.heard)

    def _starts(self, slot: int) -> Iterator[Statement]:
        """Results go out before operands come in, and what comes in waits for what it is made of."""
        for it in sorted((t for t in self.layout.transfers if t.slot == slot), key=lambda t: t.inward):
            if it.inward:
                stay = self.layout.stays[it.stay]
                before = [
                    number for number, other in self.under_way.items()
                    if not other.inward and self.layout.stays[other.stay].root == stay.root
                ]  # fmt: skip
                yield from self._waits(before)
            if len(self.under_way) == MOST_TRANSFERS:
                yield from self._waits([min(self.under_way)])
            yield self._move(it)

    def _move(self, it: Transfer) -> Move:
        stay, self.number = self.layout.stays[it.stay], self.number + 1
        self.under_way[self.number] = it
        remote = self.homes[it.value]
        part = None if it.region.n_bytes == remote.type.n_bytes else it.region
        local = Buffer(it.value, remote.type, LOCAL, stay.offset, self.held.get(it.value, ""), part)
        return Move(self.number, local, remote, it.region, it.inward)

    def _waits(self, numbers: list[int]) -> Iterator[Wait]:
        for number in numbers:
            del self.under_way[number]
            self.heard = True
            yield Wait(number)

    def _barrier(self, wanted: bool) -> Iterator[Barrier]:
        if wanted:
            self.heard = False
            yield Barrier()

    def _needed(self, it: Transfer) -> int:
        """The slot whose call reads what comes in."""
        return self.layout.stays[it.stay].uses[0].slot

    def _call(self, call: TileCall, slot: int) -> Call:
        inputs = tuple(map(self._buffer, call.inputs, self.layout.inputs[slot]))
        outputs = tuple(map(self._buffer, call.outputs, self.layout.outputs[slot]))
        types = tuple(each.type for each in inputs), tuple(each.type for each in outputs)
        node = call.node
        name = f"{node.name}{call.cut or ''}"
        return Call(call.op, call.op.kernel(*types), inputs, outputs, name, node.layer, node.phase, call.macs, call.cut)

    def _buffer(self, piece: Piece, stay: Stay) -> Buffer:
        part = None if piece.is_whole else piece.region
        return Buffer(piece.value, piece.type, LOCAL, stay.offset, self.held.get(piece.value, ""), part, piece.whole)
