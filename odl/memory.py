"""Where every value lies: which values share bytes, how long these live, and at which offset.

A block is a set of values in the same bytes. A view and an operator that overwrites must share; an operator that may
work in place shares where its input dies. Blocks that live at the same time must not overlap. Offsets of the least
total height are dynamic storage allocation, which is NP-hard (Garey and Johnson 1979, SR2): greedy orders and a seeded
local search compete, and the bytes that live at once say how far the best of them can be from the optimum.

There are three kinds of space:

- one for each graph input, under the input's name: the caller's, read-only;
- `flash`, read-only: the persistent tensors that no graph carries;
- `arena`: the carried persistent tensors at the bottom, at the same offsets for every graph, all else above them.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from odl.errors import ModelError
from odl.graph import Graph, Node, Persistent, present

ARENA = "arena"
FLASH = "flash"
ALIGNMENT = 8

_MANY_BLOCKS = 2000  # beyond this, two greedy packings and no search: the time grows as the square
_SEARCH_ROUNDS = 6  # descents from each greedy packing
_SEARCH_WORK = 10_000_000  # pairs of boxes that the search may look at

_Box = tuple[int, int, int]  # first node, last node, size in granules of the alignment
_Span = tuple[int, int]  # where a box begins and ends, in granules


@dataclass(frozen=True)
class Place:
    """A space and the offset of a value's first byte in it."""

    space: str
    offset: int


@dataclass(frozen=True)
class Plan:
    """The place of every value, by graph name and value name, and the size of every space in bytes.

    `persistent_bytes` is the part of the arena that outlives a graph, padding included; transient values lie above it.
    `lower_bound` is what no arena for these graphs, in this order, can go below: the persistent bytes and the most
    transient bytes that live there at once, both without padding. `chains`, by graph name, are the nodes that run at
    once.
    """

    places: Mapping[str, Mapping[str, Place]]
    n_bytes: Mapping[str, int]
    lower_bound: int
    persistent_bytes: int
    chains: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """Values in the same `n_bytes` bytes, in order of definition, which live from node `first` through node `last`."""

    values: tuple[str, ...]
    first: int
    last: int
    n_bytes: int


@dataclass(frozen=True)
class Tiled:
    """What tiling asks of a plan: the values that need a place at all, and the nodes that run at once, by name."""

    homes: frozenset[str]
    chains: Sequence[Sequence[str]]


def plan(graphs: Sequence[Graph], tiled: Mapping[str, Tiled] | None = None) -> Plan:
    """Places for the values of scheduled graphs that run one at a time, so that their transient values may overlap.

    With `tiled`, by graph name, only values that leave the local memory have places; a graph without an entry has all
    of its values in the arena.
    """
    tiled = tiled or {}
    assert len({graph.name for graph in graphs}) == len(graphs), "two graphs have the same name"
    require_free_names(graphs)
    held, n_bytes = _hold(graphs)
    persistent_bytes = n_bytes[ARENA]
    chains = {name: each.chains for name, each in tiled.items()}
    blocks_of = {graph.name: blocks(graph, chains.get(graph.name, ())) for graph in graphs}
    transient = [
        [block for block in blocks_of[graph.name] if _is_transient(graph, block) and _has_home(block, tiled, graph)]
        for graph in graphs
    ]
    goal = max(map(_most_live_granules, transient), default=0)
    places = {}
    for graph, moving in zip(graphs, transient, strict=True):
        place = {name: Place(name, 0) for name in graph.inputs} | {name: held[name] for name in graph.persistent}
        for block, offset in zip(moving, pack(moving, goal), strict=True):
            place[block.values[0]] = Place(ARENA, persistent_bytes + offset)
            n_bytes[ARENA] = max(n_bytes[ARENA], persistent_bytes + _aligned(offset + block.n_bytes))
        places[graph.name] = {
            value: place[block.values[0]]
            for block in blocks_of[graph.name] if block.values[0] in place for value in block.values
        }  # fmt: skip
    unpadded = sum(t.type.n_bytes for name, t in _persistent(graphs).items() if held[name].space == ARENA)
    most_live = max((most for moving in transient for most in _live(moving)), default=0)
    return Plan(places, n_bytes, unpadded + most_live, persistent_bytes, chains)


def require_free_names(graphs: Iterable[Graph]) -> None:
    """Raises ModelError `reserved-name` for an input, which is a memory of its own, that is named like another one."""
    for name in (name for graph in graphs for name in graph.inputs):
        if name in (ARENA, FLASH):
            raise ModelError("reserved-name", name, "a memory has this name", "rename the model's input")


def timeline(graph: Graph, planned: Plan) -> tuple[tuple[Block, Place], ...]:
    """The memory map of a planned graph over time: its blocks that have a place, in order of definition."""
    places = planned.places[graph.name]
    found = blocks(graph, planned.chains.get(graph.name, ()))
    return tuple((block, places[block.values[0]]) for block in found if block.values[0] in places)


def live_bytes(graph: Graph, planned: Plan | None = None) -> list[int]:
    """For each node of a scheduled graph, the transient bytes that live while it runs, without padding.

    With a plan, those of values that have a place in it.
    """
    found = [block for block, _ in timeline(graph, planned)] if planned else blocks(graph)
    live = _live([block for block in found if _is_transient(graph, block)])
    return live + [0] * (len(graph.nodes) - len(live))


def _live(transient: Sequence[Block]) -> list[int]:
    """For each node up to the last that has some, the bytes of blocks that live while it runs."""
    change = [0] * (max((block.last for block in transient), default=-1) + 2)
    for block in transient:
        change[block.first] += block.n_bytes
        change[block.last + 1] -= block.n_bytes
    return list(accumulate(change))[:-1]


def blocks(graph: Graph, chains: Sequence[Sequence[str]] = ()) -> tuple[Block, ...]:
    """The blocks of a scheduled graph in order of definition. The nodes of a chain, by name, run at once.

    A block lives from the node that defines it through the last node that reads it, so that a node's outputs do not
    overlap its inputs unless its operator says so. Those of inputs, persistent tensors and outputs live to the end.
    """
    root = roots(graph)
    block_of = {name: name for name in (*graph.inputs, *graph.persistent)}
    first = dict.fromkeys(block_of, 0)
    last = _last_uses(graph, root)
    together = {name: index for index, chain in enumerate(chains) if len(chain) > 1 for name in chain}
    for position, node in enumerate(graph.nodes):
        for value in node.outputs:
            block_of[value] = value if root[value] == value else block_of[root[value]]
            first.setdefault(block_of[value], position)
        alone = node.name not in together
        dying = {block_of[value] for value in node.inputs if last[block_of[value]] == position and alone}
        for value, block in taken(offers(graph, node, block_of), dying.__contains__).items():
            block_of[value] = block
            last[block] = last[value]
    strays = [name for name, value in graph.carries.items() if block_of[value] != name]
    assert not strays, f"{strays} are carried by values in other bytes"
    members: dict[str, list[str]] = {}
    for value, name in block_of.items():
        assert graph.types[value].n_bytes == graph.types[name].n_bytes, f"{value} does not fit the bytes of {name}"
        members.setdefault(name, []).append(value)
    end = max(len(graph.nodes) - 1, 0)
    begin_of, end_of = _spans(graph, together)
    return tuple(
        Block(tuple(values), begin_of[first[name]], end_of[min(last[name], end)], graph.types[name].n_bytes)
        for name, values in members.items()
    )


def _spans(graph: Graph, together: Mapping[str, int]) -> tuple[list[int], list[int]]:
    """Node position -> the first and the last position of the chain that the node is in."""
    places: dict[int, list[int]] = {}
    for position, node in enumerate(graph.nodes):
        places.setdefault(together.get(node.name, -1 - position), []).append(position)
    begin, end = [0] * max(len(graph.nodes), 1), [0] * max(len(graph.nodes), 1)
    for positions in places.values():
        for position in positions:
            begin[position], end[position] = positions[0], positions[-1]
    return begin, end


def roots(graph: Graph) -> dict[str, str]:
    """Value -> the first of the values whose bytes it must share, by views and operators that overwrite."""
    root = {name: name for name in (*graph.inputs, *graph.persistent)}
    for node in graph.nodes:
        missing = [value for value in node.inputs if value not in root]
        assert not missing, f"{node.name} reads {missing} before definition"
        must = dict(present(node, ((0, 0),) if node.op.view else node.op.overwrites))
        for index, value in enumerate(node.outputs):
            root[value] = root[node.inputs[must[index]]] if index in must else value
    return root


def offers(graph: Graph, node: Node, block_of: Mapping[str, str]) -> list[tuple[str, str]]:
    """The (output, block) pairs such that the output may take over the block's bytes, should the block die at `node`.

    In the order of `in_place`. The output must begin a block of its own, of the same size; no output may lie in the
    other block, nor may the node read that through an input that `in_place` does not declare.
    """
    busy = {block_of[value] for value in node.outputs}
    found = []
    for at, source in present(node, node.op.in_place):
        output, block = node.outputs[at], block_of[node.inputs[source]]
        readers = [index for index, value in enumerate(node.inputs) if block_of[value] == block]
        declared = all((at, index) in node.op.in_place for index in readers)
        same_size = graph.types[output].n_bytes == graph.types[block].n_bytes
        if block_of[output] == output and block not in busy and declared and same_size:
            found.append((output, block))
    return found


def taken(offered: Sequence[tuple[str, str]], dies: Callable[[str], bool]) -> dict[str, str]:
    """Output -> the dying block that it takes over: the first offers that do not contend for either."""
    found: dict[str, str] = {}
    for output, block in offered:
        if output not in found and block not in found.values() and dies(block):
            found[output] = block
    return found


def _last_uses(graph: Graph, root: Mapping[str, str]) -> dict[str, int]:
    """Root -> the last node that defines or reads a value of it, or one beyond the end where it outlives the graph."""
    beyond = len(graph.nodes)
    last = {root[value]: at for at, node in enumerate(graph.nodes) for value in (*node.outputs, *node.inputs)}
    return last | dict.fromkeys((root[v] for v in (*graph.inputs, *graph.persistent, *graph.outputs)), beyond)


def _has_home(block: Block, tiled: Mapping[str, Tiled], graph: Graph) -> bool:
    return graph.name not in tiled or not tiled[graph.name].homes.isdisjoint(block.values)


def _is_transient(graph: Graph, block: Block) -> bool:
    return block.values[0] not in graph.inputs and block.values[0] not in graph.persistent


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


def _persistent(graphs: Sequence[Graph]) -> dict[str, Persistent]:
    """The persistent tensors of all graphs, in order of appearance."""
    found: dict[str, Persistent] = {}
    for graph in graphs:
        for name, tensor in graph.persistent.items():
            assert found.setdefault(name, tensor).type == tensor.type, f"{name} has two types"
    return found


def _hold(graphs: Sequence[Graph]) -> tuple[dict[str, Place], dict[str, int]]:
    """Places of the persistent tensors, and the sizes of all spaces as far as these and the inputs fill them."""
    carried = {name for graph in graphs for name in graph.carries}
    places: dict[str, Place] = {}
    n_bytes = {ARENA: 0, FLASH: 0}
    for name, tensor in _persistent(graphs).items():
        space = ARENA if name in carried else FLASH
        places[name] = Place(space, n_bytes[space])
        n_bytes[space] += _aligned(tensor.type.n_bytes)
    for name, type_ in (item for graph in graphs for item in graph.inputs.items()):
        n_bytes[name] = max(n_bytes.get(name, 0), type_.n_bytes)
    return places, n_bytes


def _most_live_granules(moving: Sequence[Block]) -> int:
    """The most aligned bytes that live at once, in units of the alignment: what no packing goes below."""
    change: dict[int, int] = {}
    for block in moving:
        granules = _aligned(block.n_bytes) // ALIGNMENT
        change[block.first] = change.get(block.first, 0) + granules
        change[block.last + 1] = change.get(block.last + 1, 0) - granules
    return max(accumulate(change[at] for at in sorted(change)), default=0)


# The orders of the greedy packings by a box's (first, last, size), those that do best on large graphs first: by area,
# by size, by lifetime, by the first node, by the last node.
_RANKS: tuple[Callable[[int, int, int], tuple[int, ...]], ...] = (
    lambda first, last, size: (-size * (last - first + 1), first),
    lambda first, last, size: (-size, first - last, first),
    lambda first, last, size: (first - last, -size, first),
    lambda first, last, size: (first, -size, last),
    lambda first, last, size: (-last, -size, first),
)


@dataclass(frozen=True)
class _Packing:
    """Boxes laid one after another in an order: where each begins and ends, and the height of all, in granules."""

    order: Sequence[int]
    spans: Sequence[_Span]
    height: int


def pack(moving: Sequence[Block], goal: int) -> list[int]:
    """Offsets in bytes at which no block overlaps another that lives at the same time.

    The lowest of the greedy packings, or what the search makes of them; the first that needs `goal` granules (of
    ALIGNMENT bytes) or less.
    """
    boxes = [(block.first, block.last, _aligned(block.n_bytes) // ALIGNMENT) for block in moving]
    few = len(boxes) <= _MANY_BLOCKS
    packings: list[_Packing] = []
    for rank in _RANKS if few else _RANKS[:2]:
        keys = [rank(*box) for box in boxes]
        packings.append(_lay(boxes, sorted(range(len(boxes)), key=keys.__getitem__)))
        if packings[-1].height <= goal:
            break
    best = min(packings, key=_height)
    if few and best.height > goal:
        best = _search(boxes, packings, goal)
    return [begin * ALIGNMENT for begin, _ in best.spans]


def _height(packing: _Packing) -> int:
    return packing.height


def _lay(boxes: Sequence[_Box], order: Sequence[int]) -> _Packing:
    """Lay boxes in `order`, each at the least offset that is free throughout its lifetime."""
    spans = [(0, 0)] * len(boxes)
    laid = np.zeros((4, len(boxes)), np.int64)  # begin, end, first, last of the boxes laid so far, by begin
    for count, box in enumerate(order):
        first, last, size = boxes[box]
        begin, end = laid[:2, :count][:, (laid[2, :count] <= last) & (laid[3, :count] >= first)]
        floor = np.maximum.accumulate(np.append(0, end))
        room = np.append(begin, sys.maxsize) - floor
        offset = int(floor[np.argmax(room >= size)])
        spans[box] = offset, offset + size
        at = np.searchsorted(laid[0, :count], offset)
        laid[:, at + 1 : count + 1] = laid[:, at:count].copy()
        laid[:, at] = offset, offset + size, first, last
    return _Packing(order, spans, int(laid[1].max(initial=0)))


def _relay(
    boxes: Sequence[_Box], meets: Sequence[set[int]], before: _Packing, turn: int, to: int, goal: int
) -> _Packing | None:
    """`_lay`, where `before` is all of it but for one box: that of `turn`, whose turn now is `to`.

    `meets` holds for each box those that live when it does. A box is laid again only where one that it meets was laid
    elsewhere, or has come to be laid before or behind it: of ResNet8's 921 in L1 eight a move, not 542, and its layout
    takes 0.6 s instead of 2.7. None where the whole stands out more above `goal`.
    """
    order, same = list(before.order), min(turn, to)
    order.insert(to, order.pop(turn))
    box = order[to]
    stale = {box, *meets[box].intersection(order[same : max(turn, to) + 1])}
    spans: list[_Span | None] = [None] * len(boxes)
    for box in order[:same]:
        spans[box] = before.spans[box]
    more = 0
    for box in order[same:]:
        span = was = before.spans[box]
        if box in stale:
            size, begin = boxes[box][2], 0
            for other, top in sorted([it for it in [spans[near] for near in meets[box]] if it]):
                if other - begin >= size:
                    break
                if top > begin:
                    begin = top
            span = begin, begin + size
            if span != was:
                stale |= meets[box]
                more += max(0, span[1] - goal) - max(0, was[1] - goal)
        spans[box] = span
    if more > 0:
        return None
    whole = [span for span in spans if span]
    return _Packing(order, whole, max([top for _, top in whole]))


def _search(boxes: Sequence[_Box], packings: Sequence[_Packing], goal: int) -> _Packing:
    """The lowest packing found by descents from each of `packings` in turn."""
    meets = [
        {other for other, it in enumerate(boxes) if other != box and it[0] <= last and first <= it[1]}
        for box, (first, last, _) in enumerate(boxes)
    ]
    starts = [*packings] * _SEARCH_ROUNDS
    steps = _SEARCH_WORK // len(starts) // sum(map(len, meets))
    chance = random.Random(0).random  # the one sequence that Python promises to keep
    best = min(packings, key=_height)
    for start in starts:
        if best.height > goal:
            best = min(best, _descend(boxes, meets, start, goal, steps, chance), key=_height)
    return best


def _descend(
    boxes: Sequence[_Box],
    meets: Sequence[set[int]],
    start: _Packing,
    goal: int,
    steps: int,
    chance: Callable[[], float],
) -> _Packing:
    """Lay one box sooner or later than before, again and again, and return the lowest packing.

    A step counts if no more stands out above the goal, summed over the boxes; the height alone would hardly ever tell.
    """
    now = lowest = start
    for _ in range(steps):
        if lowest.height <= goal:
            break
        turns = _high(now, goal) if chance() < 0.5 else range(len(boxes))
        turn = turns[int(chance() * len(turns))]
        to = int(chance() * (turn if chance() < 0.5 else len(boxes)))
        moved = _relay(boxes, meets, now, turn, to, goal)
        if moved:
            now, lowest = moved, min(lowest, moved, key=_height)
    return lowest


def _high(packing: _Packing, goal: int) -> Sequence[int]:
    """The turns of boxes that stand out above the goal."""
    return [turn for turn, box in enumerate(packing.order) if packing.spans[box][1] > goal]
