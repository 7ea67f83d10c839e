"""Cuts nodes into calls whose operands fit the memory next to the cores.

A call works on pieces of values: whole tensors, or slices of them. Nodes whose operands fit are one call; others are
cut along an axis of their output by the operator's own rule (`Operator.tile`), into as few tiles as fit twice, so that
the next tile can come in and the last one go out while one is computed; where not even the smallest do, as fit once.
Tiling decides nothing about bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from odl.errors import FitError
from odl.graph import Graph, Node, Operator, Slice, Tile
from odl.tuning import Tuning
from odl.types import Shape, TensorType

CHANNEL_QUANTUM = 8  # channels of a tile: two blocks of a micro-kernel, or one for each of two pixels
FEW_CHANNELS = (4, 2, 1)  # where there are no more, or those are too many
DMA_BYTES_PER_CYCLE = 8
TRANSFER_CYCLES = 100  # of a transfer, beside its bytes
# Of a call on eight cores: entering the kernel, its code, a barrier; and what products and operands take. Fitted to the
# calls of a step of ResNet8 in GVSoC; how well they fit stands in docs/PULP_BENCHMARKS.md.
CALL_CYCLES = 350
MACS_PER_CYCLE = 7.9
OPERAND_BYTES_PER_CYCLE = 10
MOST_TIMES = 256  # of L1, of a tensor: L2 has 30
UNTUNED = Tuning()

_SMALLER = "give this layer fewer channels or pixels, or put a pool before it"


@dataclass(frozen=True)
class Region:
    """Bytes of a tensor: `n_rows` rows of `row_bytes`, the first at `offset`, `stride_bytes` apart."""

    offset: int
    n_rows: int
    row_bytes: int
    stride_bytes: int

    @property
    def n_bytes(self) -> int:
        return self.n_rows * self.row_bytes

    @property
    def end(self) -> int:
        return self.offset + (self.n_rows - 1) * self.stride_bytes + self.row_bytes

    def __str__(self) -> str:
        rows = f"{self.n_rows}x" if self.n_rows > 1 else ""
        return f"{self.offset}+{rows}{self.row_bytes}" + (f"/{self.stride_bytes}" if rows else "")

    def places(self) -> npt.NDArray[np.int64]:
        """The bytes of the tensor, row by row."""
        rows = self.offset + np.arange(self.n_rows) * self.stride_bytes
        return (rows[:, None] + np.arange(self.row_bytes)).ravel()

    def meets(self, other: Region) -> bool:
        """Whether the two share a byte; may say yes for two patterns of different strides that do not."""
        if self.stride_bytes == other.stride_bytes and self.n_rows > 1:
            mine, theirs = self.offset % self.stride_bytes, other.offset % self.stride_bytes
            if mine + self.row_bytes <= theirs or theirs + other.row_bytes <= mine:
                return False
        return self.offset < other.end and other.offset < self.end


@dataclass(frozen=True)
class Piece:
    """What a call reads or writes of a value of type `whole`: the region of its bytes, and the type of that part."""

    value: str
    region: Region
    type: TensorType
    whole: TensorType

    @property
    def is_whole(self) -> bool:
        return self.region.offset == 0 and self.region.n_rows == 1 and self.region.row_bytes == self.region.stride_bytes


@dataclass(frozen=True)
class TileCall:
    """One call: an operator on pieces of a node's operands, `cut` of its output; None is all of it."""

    node: Node
    op: Operator
    inputs: tuple[Piece, ...]
    outputs: tuple[Piece, ...]
    macs: int
    cut: Slice | None = None

    @property
    def estimated_cycles(self) -> float:
        return call_cycles(self.macs, sum(each.region.n_bytes for each in (*self.inputs, *self.outputs)))


def region(type_: TensorType, cut: Slice | None) -> Region:
    """Where a slice of a tensor lies in it."""
    if cut is None or len(cut) == type_.shape[cut.axis]:
        return Region(0, 1, type_.n_bytes, type_.n_bytes)
    inner = prod(type_.shape[cut.axis + 1 :]) * type_.dtype.n_bytes
    n_rows, row = prod(type_.shape[: cut.axis]), len(cut) * inner
    stride = type_.shape[cut.axis] * inner
    return Region(cut.first * inner, n_rows, row, stride if n_rows > 1 else type_.n_bytes)


@dataclass(frozen=True)
class Chain:
    """Nodes whose tiles take turns, so that what one makes is still near when the next one reads it."""

    nodes: tuple[Node, ...]
    calls: tuple[TileCall, ...]


def tile_chains(graph: Graph, capacity: int, part: float = 1.0, tuning: Tuning = UNTUNED) -> tuple[Chain, ...]:
    """The calls of a scheduled graph, each of which works in `part` of `capacity` bytes, or, where it cannot, in all.

    Views need none. A chain is one node with what only moves bytes for it, and, where it has to be cut, the elementwise
    nodes behind it that can be cut alike. Raises FitError `tile-too-large` with the node's least need.
    """
    return tuple(_Tiling(graph, capacity, part, tuning).chains())


def storage(graph: Graph) -> dict[str, str]:
    """Value -> the value whose bytes it shows: itself, or what a view was made from."""
    found = {name: name for name in graph.types}
    for node in graph.nodes:
        if node.op.view:
            found[node.outputs[0]] = found[node.inputs[0]]
    return found


def _movers_for(node: Node, movers: Sequence[Node]) -> list[Node]:
    """Those of the nodes that make, at once or for each other, what a node reads."""
    wanted, found = set(node.inputs), list[Node]()
    for mover in reversed(movers):
        if wanted.intersection(mover.outputs):
            found.insert(0, mover)
            wanted.update(mover.inputs)
    return found


@dataclass(frozen=True)
class _Room:
    """What tiles may take: bytes, with the next tile's among them if `ahead`, and fewer channels than the quantum."""

    limit: int
    ahead: bool = True
    few_channels: bool = False

    def holds(self, tiles: Sequence[Sequence[TileCall]]) -> bool:
        return working_bytes(tiles, self.ahead) <= self.limit


class _Tiling:
    def __init__(self, graph: Graph, capacity: int, part: float, tuning: Tuning) -> None:
        self.graph, self.capacity, self.part, self.tuning = graph, capacity, part, tuning
        self.nodes = [node for node in graph.nodes if not node.op.view]
        self.sources = storage(graph)
        self.consumers = graph.consumers()

    def chains(self) -> Iterator[Chain]:
        movers: list[Node] = []
        done: set[str] = set()
        for at, node in enumerate(self.nodes):
            if node.name in done:
                continue
            if self._moves_for_next(at):
                movers.append(node)
                continue
            mine = _movers_for(node, movers)
            chain = self._chain(node, {each.outputs[0]: each for each in mine}, self.nodes[at + 1 :])
            done.update(each.name for each in chain.nodes)
            movers = [each for each in movers if each not in mine]
            yield chain

    def _moves_for_next(self, at: int) -> bool:
        """Whether the node only moves bytes, for the next node that does not."""
        node = self.nodes[at]
        reader = next((each for each in self.nodes[at + 1 :] if not each.op.moves), None)
        readers = self.consumers[node.outputs[0]]
        near = [each.name for each in self.nodes[at + 1 : at + 4]]
        return bool(
            node.op.moves and reader and readers and node.outputs[0] not in self.graph.outputs
            and all(each.name == reader.name or (each.op.moves and each.name in near) for each in readers)
        )  # fmt: skip

    def _chain(self, node: Node, movers: Mapping[str, Node], later: Sequence[Node]) -> Chain:
        everything = _Cut(self, [node], movers, None, 0).tiles()
        assert everything, f"{node.op.name} has no tile of everything"
        self._require_bounded(node, everything)
        for room in self._rooms(node):
            if room.holds(everything):
                return _as_chain([*movers.values(), node], everything)
            fitting = [tiles for tiles in self._cuts([node], movers, room) if tiles]
            if fitting:
                best = _as_chain([*movers.values(), node], min(fitting, key=_cost))
                return self._longer(best, node, movers, later)
        raise self._too_large(node, movers, everything)

    def _require_bounded(self, node: Node, everything: list[list[TileCall]]) -> None:
        """Refuse what no memory behind L1 has bytes for, before all ways to cut it are tried."""
        largest = _largest(everything)
        if largest.type.n_bytes > MOST_TIMES * self.capacity:
            why = f"is more than {MOST_TIMES} times the {self.capacity:,} bytes next to the cores"
            whose = f"{node.op.name}: {largest.value}, {largest.type}"
            raise FitError("tile-too-large", node.layer, f"{whose}, {why}", _SMALLER)

    def _rooms(self, node: Node) -> Iterator[_Room]:
        """What is wanted, then what there is; short rows of channels cost a transfer time, so they come later."""
        yield _Room(self._wanted(node))
        for ahead in (True, False):
            yield _Room(self.capacity, ahead)
            yield _Room(self.capacity, ahead, few_channels=True)

    def _longer(self, chain: Chain, node: Node, movers: Mapping[str, Node], later: Sequence[Node]) -> Chain:
        """The chain with as many of the elementwise nodes behind it as fit, all of them at one cut."""
        nodes = [node]
        for following in later:
            if following.op.moves or following.op.overwrites or not self._continues(nodes, following):
                break
            nodes.append(following)
            fitting = [tiles for tiles in self._cuts(nodes, movers, _Room(self._wanted(node))) if tiles]
            if not fitting:
                break
            chain = _as_chain([*movers.values(), *nodes], min(fitting, key=_cost))
        return chain

    def _wanted(self, node: Node) -> int:
        """Bytes that the operands of the node's calls may take."""
        return int(self.capacity * self.part * self.tuning.of(node).part)

    def _continues(self, nodes: Sequence[Node], node: Node) -> bool:
        """Whether an elementwise node reads what the chain makes, at the same places."""
        made = {value for each in nodes for value in each.outputs}
        size = self.graph.types[nodes[0].outputs[0]].shape
        read = [value for value in node.inputs if value in made]
        return bool(read) and bool(node.op.in_place) and self.graph.types[node.outputs[0]].shape == size

    def _cuts(self, nodes: Sequence[Node], movers: Mapping[str, Node], room: _Room) -> Iterator[list[list[TileCall]]]:
        """For each axis, or the one that was chosen, the coarsest cut that fits; empty where none does."""
        chosen = self.tuning.of(nodes[0]).axis if room.limit < self.capacity else -1
        shape = self.cut_shape(nodes[0])
        for axis in range(len(shape)):
            if chosen not in (-1, axis):
                continue
            cuts = (_Cut(self, nodes, movers, axis, step).tiles() for step in _steps(shape, axis, room.few_channels))
            yield next((tiles for tiles in cuts if tiles and room.holds(tiles)), [])

    def _too_large(self, node: Node, movers: Mapping[str, Node], everything: list[list[TileCall]]) -> FitError:
        shape = self.cut_shape(node)
        steps = [(axis, step) for axis in range(len(shape)) for step in _steps(shape, axis, few_channels=True)]
        cuts = [_Cut(self, [node], movers, axis, step).tiles() for axis, step in steps]
        least = min(working_bytes(tiles, ahead=False) for tiles in (everything, *cuts) if tiles)
        largest = _largest(everything)
        return FitError(
            "tile-too-large", node.layer,
            f"{node.op.name} needs {least:,} bytes next to the cores of {self.capacity:,}: "
            f"{least - self.capacity:,} are missing; its largest tensor is {largest.value}, {largest.type}",
            _SMALLER,
        )  # fmt: skip

    def cut_shape(self, node: Node) -> Shape:
        """What a node is cut along."""
        return node.op.cut_shape(*self.types(node))

    def call(self, node: Node, tile: Tile, cut: Slice | None) -> TileCall:
        inputs = tuple(self._piece(value, part) for value, part in zip(node.inputs, tile.inputs, strict=True))
        outputs = tuple(self._piece(value, part) for value, part in zip(node.outputs, tile.outputs, strict=True))
        types = tuple(each.type for each in inputs), tuple(each.type for each in outputs)
        return TileCall(node, tile.op, inputs, outputs, tile.op.macs(*types), cut)

    def _piece(self, value: str, cut: Slice | None) -> Piece:
        type_ = self.graph.types[value]
        return Piece(self.sources[value], region(type_, cut), cut.of(type_) if cut else type_, type_)

    def types(self, node: Node) -> tuple[tuple[TensorType, ...], tuple[TensorType, ...]]:
        return self.graph.types_of(node.inputs), self.graph.types_of(node.outputs)


@dataclass
class _Cut:
    """One way to cut nodes of a chain: `step` of `axis` of the first one's output a tile; no axis: all in one tile."""

    tiling: _Tiling
    nodes: Sequence[Node]
    movers: Mapping[str, Node]
    axis: int | None
    step: int

    def tiles(self) -> list[list[TileCall]]:
        """The calls of each tile; empty if an operator cannot be cut so."""
        made: set[tuple[str, Region]] = set()
        tiles: list[list[TileCall]] = []
        for cut in self._slices():
            tiles.append(self._tile(cut, made))
            if not tiles[-1]:
                return []
        return tiles

    def _slices(self) -> Iterator[Slice | None]:
        if self.axis is None:
            yield None
            return
        size = self.tiling.cut_shape(self.nodes[0])[self.axis]
        for first in range(0, size, self.step):
            yield Slice(self.axis, first, min(first + self.step, size))

    def _tile(self, cut: Slice | None, made: set[tuple[str, Region]]) -> list[TileCall]:
        calls: list[TileCall] = []
        for node in self.nodes:
            tile = node.op.tile(cut, *self.tiling.types(node))
            if not tile or not self._prepare(node, tile, made, calls):
                return []
            calls.append(self.tiling.call(node, tile, cut))
        return calls

    def _prepare(self, node: Node, tile: Tile, made: set[tuple[str, Region]], calls: list[TileCall]) -> bool:
        """Append the calls that make what a tile reads of the movers' outputs, unless an earlier tile did."""
        for value, part in zip(node.inputs, tile.inputs, strict=True):
            mover = self.movers.get(value)
            if not mover:
                continue
            moved = mover.op.tile(part, *self.tiling.types(mover))
            if not moved:
                return False
            call = self.tiling.call(mover, moved, part)
            key = call.outputs[0].value, call.outputs[0].region
            if key not in made:
                made.add(key)
                if not self._prepare(mover, moved, made, calls):
                    return False
                calls.append(call)
        return True


def _steps(shape: Shape, axis: int, few_channels: bool) -> list[int]:
    """How much of an axis a tile may take, most first: all that there is to choose, but of channels."""
    size, is_last = shape[axis], axis == len(shape) - 1
    if is_last and (few_channels or size <= CHANNEL_QUANTUM):
        return [n for n in FEW_CHANNELS if n < size]
    quantum = CHANNEL_QUANTUM if is_last else 1
    return sorted({-(-size // (n * quantum)) * quantum for n in range(2, size + 1)}, reverse=True)


def _largest(everything: list[list[TileCall]]) -> Piece:
    pieces = [piece for call in everything[0] for piece in (*call.inputs, *call.outputs)]
    return max(pieces, key=lambda piece: piece.type.n_bytes)


def _as_chain(nodes: Sequence[Node], tiles: Sequence[Sequence[TileCall]]) -> Chain:
    return Chain(tuple(nodes), tuple(call for tile in tiles for call in tile))


def working_bytes(tiles: Sequence[Sequence[TileCall]], ahead: bool = True) -> int:
    """The most that the calls of a chain need at once.

    Where there are several tiles, and not if `ahead` is false, what comes from elsewhere comes while calls before take
    as long as its transfer, and what is made is there one call longer.
    """
    calls = [call for tile in tiles for call in tile]
    longer = 1 if ahead and len(tiles) > 1 else 0
    spans: dict[tuple[str, Region], tuple[int, int, int]] = {}
    for at, call in enumerate(calls):
        made = {(each.value, each.region) for each in call.outputs}
        for key, n_bytes in _sizes(call).items():
            begin = spans[key][0] if key in spans else at
            if key not in spans and key not in made and longer:
                begin = _early(calls, at, n_bytes)
            spans[key] = begin, at + longer if key in made else at, n_bytes
    usage = [0] * (len(calls) + 2)
    for begin, end, n_bytes in spans.values():
        for at in range(max(begin, 0), end + 1):
            usage[at] += n_bytes
    return max(usage)


def _early(calls: Sequence[TileCall], at: int, n_bytes: int) -> int:
    """The call at which a transfer of so many bytes has to begin for call `at` to find them, by estimate."""
    missing, begin = transfer_cycles(n_bytes), at
    while missing > 0 and begin > 0:
        begin -= 1
        missing -= calls[begin].estimated_cycles
    return begin


def transfer_cycles(n_bytes: int) -> float:
    """The estimate of a transfer alone."""
    return TRANSFER_CYCLES + n_bytes / DMA_BYTES_PER_CYCLE


def call_cycles(macs: int, n_bytes: int) -> float:
    """The estimate of a call on eight cores with operands of so many bytes, all of them next to the cores."""
    return CALL_CYCLES + macs / MACS_PER_CYCLE + n_bytes / OPERAND_BYTES_PER_CYCLE


def _sizes(call: TileCall) -> dict[tuple[str, Region], int]:
    """Bytes next to the cores by piece; an output that overwrites an input has the input's."""
    overwritten = {out for out, _ in call.op.overwrites}
    pieces = [*call.inputs, *(each for out, each in enumerate(call.outputs) if out not in overwritten)]
    return {(each.value, each.region): -(-each.region.n_bytes // 8) * 8 for each in pieces}


def _cost(tiles: Sequence[Sequence[TileCall]]) -> float:
    """Cycles beyond the arithmetic: bytes that move, and calls."""
    calls = [call for tile in tiles for call in tile]
    moved = {key: n_bytes for call in calls for key, n_bytes in _sizes(call).items()}
    return sum(moved.values()) / DMA_BYTES_PER_CYCLE + CALL_CYCLES * len(calls)
