"""What a tiled program does with its nodes, as `odl plan` tells it: tiles, bytes next to the cores, bytes that move."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from odl.program import LOCAL, Buffer, Call, Move, Statement


@dataclass
class TiledNode:
    """`calls` of a node along `axis` of its output (-1: it is whole), the indices (first, behind the last) of each in
    `cuts`, the bytes that the largest of them has in local memory, and those that transfers bring for it and take away.
    """

    calls: int = 0
    axis: int = -1
    cuts: list[tuple[int, int]] = field(default_factory=list)
    l1_bytes: int = 0
    dma_in_bytes: int = 0
    dma_out_bytes: int = 0


def tiled_nodes(statements: Sequence[Statement]) -> dict[str, TiledNode]:
    """Of an entry of a tiled program, by the names of its graph's nodes; views, which have no calls, are left out.

    A transfer inward counts for the next call that reads what it brings, one outward for the last that wrote there.
    """
    found: dict[str, TiledNode] = {}
    coming: dict[int, int] = {}  # offset -> bytes on their way to it
    writer: dict[int, TiledNode] = {}  # offset -> who wrote there last
    for statement in statements:
        if isinstance(statement, Call):
            node = found.setdefault(statement.name.removesuffix(str(statement.cut)), TiledNode())
            node.calls, node.axis = node.calls + 1, statement.cut.axis if statement.cut else -1
            node.cuts += [(statement.cut.first, statement.cut.last)] if statement.cut else []
            node.l1_bytes = max(node.l1_bytes, sum(size for _, size in set(_operands(statement))))
            node.dma_in_bytes += sum(coming.pop(each.offset, 0) for each in statement.inputs)
            writer |= {each.offset: node for each in statement.outputs}
        elif isinstance(statement, Move) and statement.inward:
            coming[statement.local.offset] = statement.region.n_bytes
        elif isinstance(statement, Move):
            writer[statement.local.offset].dma_out_bytes += statement.region.n_bytes
    return found


def _operands(call: Call) -> Iterator[tuple[int, int]]:
    buffers: tuple[Buffer, ...] = (*call.inputs, *call.outputs)
    yield from ((each.offset, each.type.n_bytes) for each in buffers if each.space == LOCAL)
