"""When each piece of a tensor stays in the memory next to the cores, at which offset, and when it moves.

Time is counted in slots: a slot is one call, or idle, and ends with a barrier. A piece stays from the slot in which its
transfer starts, or in which it is written, through the slot of its last use, or, if it is written back, one slot more.
Between two uses it remains where there is room (shortest gaps first, which is what Belady's rule does for a cache), and
transfers start as early as room allows and the estimated work of the slots between needs, so that they hide.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from odl.errors import FitError
from odl.graph import Graph
from odl.memory import ALIGNMENT, Block, Tiled, pack, roots
from odl.tiling import UNTUNED, Chain, Region, TileCall, tile_chains, transfer_cycles
from odl.tuning import Tuning

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
    uses: list[_Use]
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
    chains: tuple[Chain, ...]
    n_bytes: int

    def tiled(self) -> Tiled:
        """What a plan of the memories farther away must know."""
        return Tiled(self.homes, [[node.name for node in chain.nodes] for chain in self.chains])


@dataclass(frozen=True)
class _Use:
    """What a call does with a region in its slot: the value that it reads, and the one that it leaves."""

    slot: int
    read: str = ""
    written: str = ""


_Key = tuple[str, Region]


def layout(graph: Graph, capacity: int, tuning: Tuning = UNTUNED) -> Layout:
    """Tiles, stays and transfers of a scheduled graph in `capacity` bytes of local memory.

    Raises FitError `tile-too-large` or `local-memory-full`.
    """
    for part in _TILE_BUDGETS:
        chains = tile_chains(graph, capacity, part, tuning)
        found = _Residency(graph, chains, capacity).result(tuning.gap)
        if found:
            return found
    raise FitError(
        "local-memory-full", graph.name, f"no layout of its tiles in {capacity:,} bytes",
        "make its widest layers narrower, keep gradients in binary16 (--gradients fp16), or choose a target with more "
        "local memory",
    )  # fmt: skip


class _Residency:
    def __init__(self, graph: Graph, chains: Sequence[Chain], capacity: int) -> None:
        self.graph, self.chains, self.capacity = graph, chains, capacity
        self.root = roots(graph)
        self.slots = self._with_idle_slots([call for chain in chains for call in chain.calls])
        self.uses = self._uses()
        self.writes: dict[str, list[tuple[int, Region]]] = defaultdict(list)
        self.arrivals: Mapping[str, Sequence[tuple[int, Region]]] = {}
        for (root, region), uses in self.uses.items():
            self.writes[root] += [(use.slot, region) for use in uses if use.written]
        self.wanted = {*graph.outputs, *graph.carries.values()}

    def result(self, short_gap: int) -> Layout | None:
        """None where what must be there at once finds no place.

        What comes back after a short gap stays; then operands come early; then stays what comes back later.
        """
        stays = self._least()
        room = _Room(stays, self.capacity)
        if not room.place_all():
            return None
        stays = self._join(stays, room, short_gap)
        self.arrivals = _arrivals(stays)
        for stay in stays:
            if stay.uses[-1].written and not self._leaves(stay, len(stay.uses) - 1):
                room.shorten(stay, stay.uses[-1].slot)
        for stay in sorted(stays, key=lambda each: (each.first, each.offset)):
            if stay.uses[0].read:
                self._start_early(stay, room)
        stays = self._join(stays, room, len(self.slots))
        self.arrivals = _arrivals(stays)
        transfers = [each for number, stay in enumerate(stays) for each in self._transfers(number, stay)]
        inputs, outputs = self._operands(stays)
        homes = frozenset(self.root[each.value] for each in transfers)
        height = max((stay.offset + stay.n_bytes for stay in stays), default=0)
        return Layout(
            tuple(self.slots), tuple(stays), tuple(transfers), inputs, outputs, homes, tuple(self.chains), height
        )

    def _with_idle_slots(self, calls: Sequence[TileCall]) -> list[TileCall | None]:
        """An idle slot lets results go out where they and the next call's operands do not fit together."""
        slots: list[TileCall | None] = []
        before: dict[_Key, int] = {}
        for call in calls:
            pieces = {self._key(each.value, each.region): _aligned(each.region.n_bytes)
                      for each in (*call.inputs, *call.outputs)}  # fmt: skip
            leaving = sum(n_bytes for key, n_bytes in before.items() if key not in pieces)
            if sum(pieces.values()) + leaving > self.capacity:
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

    # Which uses share a stay

    def _least(self) -> list[Stay]:
        """The shortest stays: of one use, or of uses in neighbouring slots."""
        stays: list[Stay] = []
        for key, uses in self.uses.items():
            for use in uses:
                last = use.slot + 1 if use.written else use.slot
                before = stays[-1] if stays and (stays[-1].root, stays[-1].region) == key else None
                if before and use.slot == before.uses[-1].slot + 1 and self._joins(before, use):
                    before.uses.append(use)
                    before.last = last
                else:
                    stays.append(Stay(*key, use.slot, last, [use]))
        return stays

    def _joins(self, before: Stay, use: _Use) -> bool:
        """Whether a use would find in a stay before it what it reads."""
        key = before.root, before.region
        return bool(use.read) and not self._changed_elsewhere(key, before.uses[-1].slot, use.slot)

    def _join(self, stays: Sequence[Stay], room: _Room, longest: int) -> list[Stay]:
        """Let regions stay between uses up to `longest` slots apart where there is room, the shortest gaps first."""
        following = {
            number: number + 1 for number, (stay, later) in enumerate(pairwise(stays))
            if (stay.root, stay.region) == (later.root, later.region) and self._joins(stay, later.uses[0])
            and later.uses[0].slot - stay.uses[-1].slot <= longest
        }  # fmt: skip
        gaps = sorted(
            (stays[later].first - stays[number].last, -stays[number].n_bytes, number)
            for number, later in following.items()
        )
        merged = list(range(len(stays)))  # where the uses of a stay have gone
        for _, _, number in gaps:
            into, later = merged[number], stays[number + 1]
            first = stays[into]
            if room.merge(first, later):
                first.uses += later.uses
                merged = [into if each == merged[number + 1] else each for each in merged]
        return [stay for number, stay in enumerate(stays) if merged[number] == number]

    def _changed_elsewhere(self, key: _Key, after: int, until: int) -> bool:
        """Whether another region that shares bytes with this one is written in between."""
        root, own = key
        return any(after < slot <= until and region != own and region.meets(own) for slot, region in self.writes[root])

    def _start_early(self, stay: Stay, room: _Room) -> None:
        """Begin the transfer so early that the estimated work of the slots before hides it, if there is room."""
        written = [slot for slot, region in self.writes[stay.root] if slot < stay.first and region.meets(stay.region)]
        earliest = max(max(written, default=-2) + 2, 0)
        missing = transfer_cycles(stay.n_bytes)
        while missing > 0 and stay.first > earliest and room.lengthen(stay, stay.first - 1):
            call = self.slots[stay.first]
            missing -= call.estimated_cycles if call else 0

    # What moves

    def _leaves(self, stay: Stay, at: int) -> bool:
        """Whether what use `at` wrote is wanted elsewhere: by a stay that begins later, or when the graph has run."""
        use = stay.uses[at]
        until = next((each.slot for each in stay.uses[at + 1 :] if each.written), None)
        elsewhere = any(
            use.slot < slot and (until is None or slot <= until) and region.meets(stay.region)
            for slot, region in self.arrivals[stay.root]
        )
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

    def _operands(self, stays: Sequence[Stay]) -> tuple[dict[int, tuple[Stay, ...]], dict[int, tuple[Stay, ...]]]:
        at = {(stay.root, stay.region, use.slot): stay for stay in stays for use in stay.uses}
        inputs, outputs = {}, {}
        for slot, call in enumerate(self.slots):
            if call:
                inputs[slot] = tuple(at[*self._key(each.value, each.region), slot] for each in call.inputs)
                outputs[slot] = tuple(at[*self._key(each.value, each.region), slot] for each in call.outputs)
        return inputs, outputs


class _Room:
    """The local memory over time: every stay is a box in it, slots by bytes, and no two boxes overlap."""

    def __init__(self, stays: Sequence[Stay], capacity: int) -> None:
        self.stays, self.capacity = stays, capacity
        self.boxes = np.zeros((4, len(stays)), np.int64)  # first, last, begin, end; a box that is gone has last < first
        self.at = {id(stay): number for number, stay in enumerate(stays)}

    def place_all(self) -> bool:
        """Give every stay an offset, if there is a packing."""
        blocks = [Block((stay.root,), stay.first, stay.last, stay.n_bytes) for stay in self.stays]
        for stay, offset in zip(self.stays, pack(blocks, self.capacity // ALIGNMENT), strict=True):
            self._put(stay, stay.first, stay.last, offset)
        return int(self.boxes[3].max(initial=0)) <= self.capacity

    def merge(self, stay: Stay, later: Stay) -> bool:
        """Let `stay` last through all of `later`, which vanishes; False, and no change, where there is no room."""
        saved = self.boxes[:, self.at[id(later)]].copy()
        self._remove(later)
        if self._move(stay, stay.first, later.last):
            return True
        self.boxes[:, self.at[id(later)]] = saved
        return False

    def lengthen(self, stay: Stay, first: int) -> bool:
        """Let `stay` begin in slot `first`."""
        return self._move(stay, first, stay.last)

    def shorten(self, stay: Stay, last: int) -> None:
        self._put(stay, stay.first, last, stay.offset)

    def _move(self, stay: Stay, first: int, last: int) -> bool:
        """Another time for a stay: at its offset if that is free, else at the lowest that is."""
        saved = self.boxes[:, self.at[id(stay)]].copy()
        self._remove(stay)
        busy = self.boxes[2:, (self.boxes[0] <= last) & (self.boxes[1] >= first)]
        begin, end = busy[:, np.argsort(busy[0], kind="stable")]
        floor = np.maximum.accumulate(np.append(0, end))
        free = np.append(begin, self.capacity) - floor >= stay.n_bytes
        here = not ((begin < stay.offset + stay.n_bytes) & (end > stay.offset)).any()
        if here or free.any():
            self._put(stay, first, last, stay.offset if here else int(floor[np.argmax(free)]))
            return True
        self.boxes[:, self.at[id(stay)]] = saved
        return False

    def _put(self, stay: Stay, first: int, last: int, offset: int) -> None:
        stay.first, stay.last, stay.offset = first, last, offset
        self.boxes[:, self.at[id(stay)]] = first, last, offset, offset + stay.n_bytes

    def _remove(self, stay: Stay) -> None:
        self.boxes[:, self.at[id(stay)]] = 0, -1, 0, 0


def _arrivals(stays: Sequence[Stay]) -> Mapping[str, Sequence[tuple[int, Region]]]:
    """By root, the slot and region of each first use that reads: what must come from farther away by then."""
    found: dict[str, list[tuple[int, Region]]] = defaultdict(list)
    for stay in stays:
        if stay.uses[0].read:
            found[stay.root].append((stay.uses[0].slot, stay.region))
    return found


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT
