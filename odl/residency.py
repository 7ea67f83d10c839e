"""When each piece of a tensor stays in the memory next to the cores, at which offset, and when it moves.

Time is counted in slots: a slot is one call, or idle, and ends with a barrier. A piece stays from the slot in which its
transfer starts, or in which it is written, through the slot of its last use, or, if it is written back, one slot more.
Between two uses it remains where there is room (shortest gaps first, which is what Belady's rule does for a cache), and
transfers start as early as room allows and the estimated work of the slots between needs, so that they hide.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from odl.errors import FitError
from odl.graph import Graph
from odl.memory import ALIGNMENT, Block, first_fit, roots
from odl.tiling import DMA_BYTES_PER_CYCLE, Region, TileCall, tile_calls

_SETUP_CYCLES = 100  # of a transfer and of a call, for the estimate of what hides what
_MACS_PER_CYCLE = 6
_BUDGETS = (1.0, 0.97, 0.94, 0.9, 0.85, 0.8)  # parts of the memory to fill, since offsets may leave holes
_TILE_BUDGETS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)  # parts of the memory that the operands of a call may take


@dataclass(frozen=True)
class Transfer:
    """A region of a value that moves between its home and its stay. It starts in slot `slot`."""

    value: str
    region: Region
    stay: int
    slot: int
    inward: bool


@dataclass
class Stay:
    """A region of a tensor in local memory from slot `first` through slot `last`; `root` owns the bytes."""

    root: str
    region: Region
    first: int
    last: int
    uses: list[_Use] = field(default_factory=list)
    offset: int = -1

    @property
    def n_bytes(self) -> int:
        return _aligned(self.region.n_bytes)


@dataclass(frozen=True)
class Layout:
    """The calls by slot (None: idle), the stays, the transfers, and the stay of each operand of each call.

    `homes` are the roots that need bytes in a memory farther away. `n_bytes` is the height of the local memory used.
    """

    slots: tuple[TileCall | None, ...]
    stays: tuple[Stay, ...]
    transfers: tuple[Transfer, ...]
    inputs: Mapping[int, tuple[Stay, ...]]
    outputs: Mapping[int, tuple[Stay, ...]]
    homes: frozenset[str]
    n_bytes: int


@dataclass(frozen=True)
class _Use:
    """What a call does with a region in its slot: the value that it reads, and the one that it leaves."""

    slot: int
    read: str = ""
    written: str = ""


_Key = tuple[str, Region]


def layout(graph: Graph, capacity: int) -> Layout:
    """Tiles, stays and transfers of a scheduled graph in `capacity` bytes of local memory.

    Raises FitError `tile-too-large` or `local-memory-full`.
    """
    for part in _TILE_BUDGETS:
        calls = tile_calls(graph, int(capacity * part))
        for budget in _BUDGETS:
            found = _Residency(graph, calls, int(capacity * budget)).result()
            if found and found.n_bytes <= capacity:
                return found
    raise FitError("local-memory-full", graph.name, f"no layout of its tiles in {capacity:,} bytes", "make tiles smaller")


class _Residency:
    def __init__(self, graph: Graph, calls: Sequence[TileCall], budget: int) -> None:
        self.graph, self.budget = graph, budget
        self.root = roots(graph)
        self.slots = self._with_idle_slots(calls)
        self.uses = self._uses()
        self.writes: dict[str, list[tuple[int, Region]]] = defaultdict(list)
        self.reads: dict[str, list[tuple[int, Region]]] = defaultdict(list)
        for (root, region), uses in self.uses.items():
            self.writes[root] += [(use.slot, region) for use in uses if use.written]
            self.reads[root] += [(use.slot, region) for use in uses if use.read]
        self.usage = np.zeros(len(self.slots) + 1, np.int64)
        self.wanted = {*graph.outputs, *graph.carries.values()}

    def result(self) -> Layout | None:
        """None where what must be there at once does not fit the budget."""
        for key, uses in self.uses.items():
            for use in uses:
                self._occupy(key, use.slot, use.slot)
            for use, later in zip(uses, [*uses[1:], None], strict=True):
                if use.written and not (later and later.slot == use.slot + 1):
                    self._occupy(key, use.slot + 1, use.slot + 1)
        if (self.usage > self.budget).any():
            return None
        stays = self._stays()
        transfers = [each for number, stay in enumerate(stays) for each in self._transfers(number, stay)]
        height = _place(stays)
        inputs, outputs = self._operands(stays)
        homes = frozenset(self.root[each.value] for each in transfers)
        return Layout(tuple(self.slots), tuple(stays), tuple(transfers), inputs, outputs, homes, height)

    def _with_idle_slots(self, calls: Sequence[TileCall]) -> list[TileCall | None]:
        """An idle slot lets results go out where they and the next call's operands do not fit together."""
        slots: list[TileCall | None] = []
        before: dict[_Key, int] = {}
        for call in calls:
            pieces = {self._key(each.value, each.region): _aligned(each.region.n_bytes)
                      for each in (*call.inputs, *call.outputs)}  # fmt: skip
            leaving = sum(n_bytes for key, n_bytes in before.items() if key not in pieces)
            if sum(pieces.values()) + leaving > self.budget:
                slots.append(None)
            slots.append(call)
            before = {self._key(each.value, each.region): _aligned(each.region.n_bytes) for each in call.outputs}
        return slots

    def _key(self, value: str, region: Region) -> _Key:
        return self.root[value], region

    def _uses(self) -> dict[_Key, list[_Use]]:
        found: dict[_Key, list[_Use]] = defaultdict(list)
        for slot, call in enumerate(self.slots):
            if call:
                read = {self._key(each.value, each.region): each.value for each in call.inputs}
                written = {self._key(each.value, each.region): each.value for each in call.outputs}
                for key in dict.fromkeys((*read, *written)):
                    found[key].append(_Use(slot, read.get(key, ""), written.get(key, "")))
        return found

    # Room

    def _occupy(self, key: _Key, first: int, last: int) -> None:
        self.usage[first : last + 1] += _aligned(key[1].n_bytes)

    def _fits(self, key: _Key, first: int, last: int) -> bool:
        return bool((self.usage[first : last + 1] + _aligned(key[1].n_bytes) <= self.budget).all())

    # Which uses share a stay

    def _stays(self) -> list[Stay]:
        joined = self._joined()
        stays: list[Stay] = []
        for key, uses in self.uses.items():
            for at, use in enumerate(uses):
                if at and (key, at) in joined:
                    stays[-1].uses.append(use)
                else:
                    stays.append(Stay(*key, use.slot, use.slot, [use]))
                stays[-1].last = max(use.slot, stays[-1].last)
        for stay in stays:
            if stay.uses[-1].written and self._leaves(stay, len(stay.uses) - 1):
                stay.last += 1
        for stay in sorted(stays, key=lambda each: each.first):
            if stay.uses[0].read:
                self._start_early(stay)
        return stays

    def _joined(self) -> set[tuple[_Key, int]]:
        """(key, index) of the uses that find the region where the use before left it."""
        gaps = []
        for key, uses in self.uses.items():
            for at in range(1, len(uses)):
                before, after = uses[at - 1], uses[at]
                first = before.slot + (2 if before.written and after.slot > before.slot + 1 else 1)
                if after.read and not self._changed_elsewhere(key, before.slot, after.slot):
                    gaps.append((max(after.slot - first, 0), -key[1].n_bytes, first, after.slot - 1, key, at))
        joined = set()
        for _, _, first, last, key, at in sorted(gaps, key=lambda gap: (gap[:4], gap[4][0], gap[5])):
            if first > last or self._fits(key, first, last):
                self._occupy(key, first, last)
                joined.add((key, at))
        return joined

    def _changed_elsewhere(self, key: _Key, after: int, until: int) -> bool:
        """Whether another region that shares bytes with this one is written in between."""
        root, own = key
        return any(after < slot <= until and region != own and region.meets(own) for slot, region in self.writes[root])

    def _start_early(self, stay: Stay) -> None:
        """Begin the transfer so early that the estimated work of the slots before hides it, if there is room."""
        written = [slot for slot, region in self.writes[stay.root] if slot < stay.first and region.meets(stay.region)]
        earliest = max(written, default=-2) + 2
        missing = stay.n_bytes / DMA_BYTES_PER_CYCLE + _SETUP_CYCLES
        key = stay.root, stay.region
        while missing > 0 and stay.first > max(earliest, 0) and self._fits(key, stay.first - 1, stay.first - 1):
            stay.first -= 1
            self._occupy(key, stay.first, stay.first)
            missing -= _estimate(self.slots[stay.first])

    # What moves

    def _leaves(self, stay: Stay, at: int) -> bool:
        """Whether what use `at` wrote is wanted elsewhere: by a reader of another stay, or when the graph has run."""
        use, slots = stay.uses[at], {each.slot for each in stay.uses}
        until = next((each.slot for each in stay.uses[at + 1 :] if each.written), None)
        elsewhere = any(
            use.slot < slot and (until is None or slot <= until) and slot not in slots and region.meets(stay.region)
            or (slot in slots and region != stay.region and region.meets(stay.region) and slot > use.slot)
            for slot, region in self.reads[stay.root]
        )  # fmt: skip
        return elsewhere or (until is None and self._is_wanted(stay.root, use.slot, stay.region))

    def _is_wanted(self, root: str, slot: int, own: Region) -> bool:
        """Whether the graph's end wants the bytes of `root` and no later call writes these."""
        if not any(self.root[value] == root for value in self.wanted):
            return False
        return not any(later > slot and region == own for later, region in self.writes[root])

    def _transfers(self, number: int, stay: Stay) -> list[Transfer]:
        first = stay.uses[0]
        moves = [Transfer(first.read, stay.region, number, stay.first, inward=True)] if first.read else []
        for at, use in enumerate(stay.uses):
            if use.written and self._leaves(stay, at):
                moves.append(Transfer(use.written, stay.region, number, use.slot + 1, inward=False))
        return moves

    def _operands(
        self, stays: Sequence[Stay]
    ) -> tuple[dict[int, tuple[Stay, ...]], dict[int, tuple[Stay, ...]]]:
        at = {(stay.root, stay.region, use.slot): stay for stay in stays for use in stay.uses}
        inputs, outputs = {}, {}
        for slot, call in enumerate(self.slots):
            if call:
                inputs[slot] = tuple(at[*self._key(each.value, each.region), slot] for each in call.inputs)
                outputs[slot] = tuple(at[*self._key(each.value, each.region), slot] for each in call.outputs)
        return inputs, outputs


def _place(stays: Sequence[Stay]) -> int:
    """Give every stay an offset; returns the height of all."""
    blocks = [Block((stay.root,), stay.first, stay.last, stay.n_bytes) for stay in stays]
    for stay, offset in zip(stays, first_fit(blocks), strict=True):
        stay.offset = offset
    return max((stay.offset + stay.n_bytes for stay in stays), default=0)


def _estimate(call: TileCall | None) -> float:
    """Cycles of a call on eight cores, roughly."""
    if call is None:
        return 0.0
    n_bytes = sum(each.region.n_bytes for each in (*call.inputs, *call.outputs))
    return call.macs / _MACS_PER_CYCLE + n_bytes / 16 + _SETUP_CYCLES


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT
