"""What a tiled program does with its nodes, as `odl plan` tells it: tiles, bytes next to the cores, bytes that move."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from odl.program import LOCAL, Buffer, Call, Move, Statement

_TILE = re.compile(r"\[((?::, )*)\d+:\d+\]$")  # behind a node's name in that of a call


@dataclass
class TiledNode:
    """`calls` of a node along `axis` of its output (-1: it is whole), the bytes that the largest of them has in local
    memory, and those that transfers bring for it and take away."""

    calls: int = 0
    axis: int = -1
    l1_bytes: int = 0
    dma_in_bytes: int = 0
    dma_out_bytes: int = 0
    _lying: set[tuple[int, int]] = field(default_factory=set)


def tiled_nodes(statements: Sequence[Statement], names: Collection[str]) -> dict[str, TiledNode]:
    """Of an entry of a tiled program, by the names of its graph's nodes; views, which have no calls, are left out.

    A transfer inward counts for the next call that reads what it brings, one outward for the last that wrote there.
    """
    found: dict[str, TiledNode] = {}
    coming: dict[int, int] = {}  # offset -> bytes on their way to it
    writer: dict[int, TiledNode] = {}  # offset -> who wrote there last
    for statement in statements:
        if isinstance(statement, Call):
            name, axis = _node_of(statement, names)
            node = found.setdefault(name, TiledNode())
            node.calls, node.axis = node.calls + 1, axis
            node.l1_bytes = max(node.l1_bytes, sum(size for _, size in set(_operands(statement))))
            node.dma_in_bytes += sum(coming.pop(each.offset, 0) for each in statement.inputs)
            writer |= {each.offset: node for each in statement.outputs}
        elif isinstance(statement, Move) and statement.inward:
            coming[statement.local.offset] = statement.region.n_bytes
        elif isinstance(statement, Move):
            writer[statement.local.offset].dma_out_bytes += statement.region.n_bytes
    return found


def _node_of(call: Call, names: Collection[str]) -> tuple[str, int]:
    """The node that a call is a tile of, and the axis along which it is cut, -1 for none."""
    tile = None if call.name in names else _TILE.search(call.name)
    return (call.name[: tile.start()], tile[1].count(":")) if tile else (call.name, -1)


def _operands(call: Call) -> Iterator[tuple[int, int]]:
    buffers: tuple[Buffer, ...] = (*call.inputs, *call.outputs)
    yield from ((each.offset, each.type.n_bytes) for each in buffers if each.space == LOCAL)
