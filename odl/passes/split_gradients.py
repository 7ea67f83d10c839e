"""Cut a weight's gradient and update into pieces, so that the whole gradient never exists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from odl.graph import Graph, Node, fresh, verify
from odl.types import TensorType

PIECE_BYTES = 8192


def split_gradients(graph: Graph, limit: Callable[[Node], int] = lambda _: PIECE_BYTES) -> Graph:
    """Compute weight gradients of more than `limit(node)` bytes by runs of output channels, each consumed at once.

    Applies where one node makes the gradient, one node consumes it, and both can be cut along axis 0. A piece holds as
    many whole rows as fit, in multiples of four where there are that many. The arithmetic of an element does not
    change. ResNet8 at batch 1: the largest gradient, 147 KB in binary32, becomes 18 pieces.
    """
    consumers = graph.consumers()
    cut: dict[str, Node] = {}
    for node in graph.nodes:
        users = consumers[node.outputs[0]]
        large = graph.types[node.outputs[0]].n_bytes > limit(node)
        if large and node.op.split(0, 1) and len(users) == 1 and users[0].op.split(0, 1):
            cut[users[0].name] = node
    gone = {node.name for node in cut.values()}
    types, names = dict(graph.types), {node.name for node in graph.nodes}
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.name in cut:
            nodes += _named(_pieces(cut[node.name], node, types, limit(cut[node.name])), names)
        elif node.name not in gone:
            nodes.append(node)
    result = replace(graph, nodes=tuple(nodes), types=types)
    verify(result)
    return result


def _named(pieces: list[Node], names: set[str]) -> list[Node]:
    """The nodes under names of their own: the second update of a layer is called as a piece of the first might be."""
    found = []
    for node in pieces:
        found.append(replace(node, name=fresh(node.name, names)))
        names.add(found[-1].name)
    return found


def _pieces(make: Node, use: Node, types: dict[str, TensorType], piece_bytes: int) -> list[Node]:
    """The nodes that replace `make` (the gradient) and `use` (its consumer, which overwrites its other operands)."""
    gradient = types.pop(make.outputs[0])
    rows = gradient.shape[0]
    step = max(1, piece_bytes // (gradient.n_bytes // rows))
    step -= step % 4 if step > 4 else 0
    nodes: list[Node] = []
    current = dict(enumerate(use.inputs))
    for first in range(0, rows, step):
        count = min(step, rows - first)
        last = first + count == rows
        piece = fresh(f"{make.outputs[0]}.{first}", types)
        types[piece] = TensorType((count, *gradient.shape[1:]), gradient.dtype)
        op, update = make.op.split(first, count), use.op.split(first, count)
        assert op is not None
        assert update is not None
        nodes.append(replace(make, op=op, name=f"{make.name}.{first}", outputs=(piece,)))
        inputs = tuple(piece if value == make.outputs[0] else value for value in current.values())
        outputs = use.outputs if last else tuple(fresh(f"{value}.{first}", types) for value in use.outputs)
        types.update(zip(outputs, (types[value] for value in use.outputs), strict=True))
        nodes.append(replace(use, op=update, name=f"{use.name}.{first}", inputs=inputs, outputs=outputs))
        for out, into in use.op.overwrites:
            if out < len(outputs):
                current[into] = outputs[out]
    return nodes
