"""Cuts nodes into calls whose operands fit the memory next to the cores.

A call works on pieces of values: whole tensors, or slices of them. Nodes whose operands fit are one call; others are cut
along an axis of their output by the operator's own rule (`Operator.tile`), into as few tiles as fit twice, so that the
next tile can come in and the last one go out while one is computed. Tiling decides nothing about bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from odl.errors import FitError
from odl.graph import Graph, Node, Operator, Slice, Tile
from odl.types import TensorType

CHANNEL_QUANTUM = 8  # channels of a tile: two blocks of a micro-kernel, or one for each of two pixels
CALL_CYCLES = 300  # what one call more costs: programming the DMA, entering the kernel, a barrier
DMA_BYTES_PER_CYCLE = 8


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

    def meets(self, other: Region) -> bool:
        """Whether the two share a byte; may say yes for two patterns of different strides that do not."""
        if self.stride_bytes == other.stride_bytes and self.n_rows > 1:
            mine, theirs = self.offset % self.stride_bytes, other.offset % self.stride_bytes
            if mine + self.row_bytes <= theirs or theirs + other.row_bytes <= mine:
                return False
        return self.offset < other.end and other.offset < self.end


@dataclass(frozen=True)
class Piece:
    """What a call reads or writes of a value: the region of its bytes, and the type that the operator sees."""

    value: str
    region: Region
    type: TensorType

    @property
    def is_whole(self) -> bool:
        return self.region.offset == 0 and self.region.n_rows == 1 and self.region.row_bytes == self.region.stride_bytes


@dataclass(frozen=True)
class TileCall:
    """One call: an operator on pieces of a node's operands. `tile` says which, for people."""

    node: Node
    op: Operator
    inputs: tuple[Piece, ...]
    outputs: tuple[Piece, ...]
    macs: int
    tile: str = ""


def region(type_: TensorType, cut: Slice | None) -> Region:
    """Where a slice of a tensor lies in it."""
    if cut is None or len(cut) == type_.shape[cut.axis]:
        return Region(0, 1, type_.n_bytes, type_.n_bytes)
    inner = prod(type_.shape[cut.axis + 1 :]) * type_.dtype.n_bytes
    n_rows, row = prod(type_.shape[: cut.axis]), len(cut) * inner
    stride = type_.shape[cut.axis] * inner
    return Region(cut.first * inner, n_rows, row, stride if n_rows > 1 else type_.n_bytes)


def tile_calls(graph: Graph, capacity: int) -> tuple[TileCall, ...]:
    """The calls of a scheduled graph, each of which works in `capacity` bytes. Views need none.

    Raises FitError `tile-too-large` with the node's least need.
    """
    calls: list[TileCall] = []
    for node in graph.nodes:
        if not node.op.view:
            calls += _calls_of(graph, node, capacity)
    return tuple(calls)


def storage(graph: Graph) -> dict[str, str]:
    """Value -> the value whose bytes it shows: itself, or what a view was made from."""
    found = {name: name for name in graph.types}
    for node in graph.nodes:
        if node.op.view:
            found[node.outputs[0]] = found[node.inputs[0]]
    return found


def _calls_of(graph: Graph, node: Node, capacity: int) -> list[TileCall]:
    inputs, outputs = graph.types_of(node.inputs), graph.types_of(node.outputs)
    whole = node.op.tile(None, inputs, outputs)
    assert whole, f"{node.op.name} has no tile of everything"
    everything = [_call(graph, node, whole, "")]
    if working_bytes(everything) <= capacity:
        return everything
    fitting = [calls for calls in _cuts(graph, node, capacity) if calls]
    if not fitting:
        least = min((working_bytes(calls) for calls in _finest(graph, node)), default=working_bytes(everything))
        largest = max((*whole.op.infer(inputs), *inputs) if not node.op.overwrites else inputs, key=lambda t: t.n_bytes)
        raise FitError(
            "tile-too-large", node.layer,
            f"{node.op.name} needs {least:,} bytes next to the cores of {capacity:,}: {least - capacity:,} are missing; "
            f"its largest tensor is {largest}, {largest.n_bytes:,} bytes",
            "choose a target with more local memory",
        )  # fmt: skip
    return min(fitting, key=_cost)


def _cuts(graph: Graph, node: Node, capacity: int) -> Iterator[list[TileCall]]:
    """For each axis, the coarsest cut that fits; empty where none does."""
    for axis, size in enumerate(graph.types[node.outputs[0]].shape):
        yield next((calls for n in range(2, size + 1) if (calls := cut_along(graph, node, axis, n))
                    and working_bytes(calls) <= capacity), [])  # fmt: skip


def _finest(graph: Graph, node: Node) -> Iterator[list[TileCall]]:
    for axis, size in enumerate(graph.types[node.outputs[0]].shape):
        calls = cut_along(graph, node, axis, size) if size > 1 else []
        if calls:
            yield calls


def cut_along(graph: Graph, node: Node, axis: int, n_tiles: int) -> list[TileCall]:
    """The node in about `n_tiles` tiles of equal size along an axis of its first output; empty if it cannot be."""
    inputs, outputs = graph.types_of(node.inputs), graph.types_of(node.outputs)
    shape = outputs[0].shape
    quantum = CHANNEL_QUANTUM if axis == len(shape) - 1 and shape[axis] > CHANNEL_QUANTUM else 1
    step = -(-shape[axis] // (n_tiles * quantum)) * quantum
    cuts = [Slice(axis, first, min(first + step, shape[axis])) for first in range(0, shape[axis], step)]
    tiles = [node.op.tile(cut, inputs, outputs) for cut in cuts]
    return [_call(graph, node, tile, str(cut)) for cut, tile in zip(cuts, tiles, strict=True) if tile] \
        if all(tiles) else []  # fmt: skip


def _call(graph: Graph, node: Node, tile: Tile, name: str) -> TileCall:
    sources = storage(graph)

    def piece(value: str, cut: Slice | None) -> Piece:
        type_ = graph.types[value]
        return Piece(sources[value], region(type_, cut), cut.of(type_) if cut else type_)

    inputs = tuple(piece(value, cut) for value, cut in zip(node.inputs, tile.inputs, strict=True))
    outputs = tuple(piece(value, cut) for value, cut in zip(node.outputs, tile.outputs, strict=True))
    types = tuple(each.type for each in inputs), tuple(each.type for each in outputs)
    return TileCall(node, tile.op, inputs, outputs, tile.op.macs(*types), name)


def working_bytes(calls: Sequence[TileCall]) -> int:
    """What the calls of one node need at once: two tiles of what changes from call to call, one of what does not."""
    sizes = [_sizes(call) for call in calls]
    common = set(sizes[0]).intersection(*sizes[1:]) if len(sizes) > 1 else set(sizes[0])
    constant = sum(sizes[0][key] for key in common)
    changing = [sum(n_bytes for key, n_bytes in each.items() if key not in common) for each in sizes]
    return constant + max(a + b for a, b in zip(changing, [*changing[1:], 0], strict=True))


def _sizes(call: TileCall) -> dict[tuple[str, Region], int]:
    """Bytes next to the cores by piece; an output that overwrites an input has the input's."""
    overwritten = {out for out, _ in call.op.overwrites}
    pieces = [*call.inputs, *(each for out, each in enumerate(call.outputs) if out not in overwritten)]
    return {(each.value, each.region): -(-each.region.n_bytes // 8) * 8 for each in pieces}


def _cost(calls: Sequence[TileCall]) -> float:
    """Cycles beyond the arithmetic: bytes that move, and calls."""
    moved = {key: n_bytes for call in calls for key, n_bytes in _sizes(call).items()}
    return sum(moved.values()) / DMA_BYTES_PER_CYCLE + CALL_CYCLES * len(calls)
