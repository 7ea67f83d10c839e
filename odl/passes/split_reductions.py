"""Compute a weight gradient in several goes over the pixels, where its operands and the sums are too large."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from odl.graph import Graph, Node, Operator, Slice, fresh, verify
from odl.ops.paired_gradient import PairedGradient
from odl.types import TensorType


def split_reductions(graph: Graph, capacity: int) -> Graph:
    """Cut every `PairedGradient` whose operands do not fit `capacity` bytes by output rows, or by a single row's pairs.

    Into as few goes as let two of them lie in memory at once, beside the sums. The order of a sum does not change, so
    no bit does.
    """
    types = dict(graph.types)
    names = {node.name for node in graph.nodes}
    nodes: list[Node] = []
    movers = {node.outputs[0]: node for node in graph.nodes if node.op.moves}
    for node in graph.nodes:
        goes = _goes(graph, movers, node, capacity) if type(node.op) is PairedGradient else []
        nodes += _chained(node, goes, types, names) if goes else [node]
    result = replace(graph, nodes=tuple(nodes), types=types)
    verify(result)
    return result


def _goes(graph: Graph, movers: Mapping[str, Node], node: Node, capacity: int) -> list[Operator]:
    """The operators that take the node's place, or [] where everything fits or nothing helps."""
    op = node.op
    assert isinstance(op, PairedGradient)
    inputs = graph.types_of(node.inputs)
    dy = inputs[0]
    sums = graph.types[node.outputs[0]].n_elems * 4
    if _bytes(graph, movers, node, (None, None)) + sums <= capacity:
        return []
    most = max(dy.shape[0], dy.shape[1])
    for n_goes in range(2, most + 1):
        goes = op.goes(inputs, n_goes)
        tile = goes[0].tile(None, inputs, ()) if goes else None
        if tile and _bytes(graph, movers, node, tile.inputs) + sums <= capacity:
            return goes
    return op.goes(inputs, most)


def _bytes(graph: Graph, movers: Mapping[str, Node], node: Node, cuts: Sequence[Slice | None]) -> int:
    """What slices of a node's operands take, and beside them the next ones, or all that they are made from."""
    own, sources = 0, 0
    for value, cut in zip(node.inputs, cuts, strict=True):
        type_ = graph.types[value]
        own += (cut.of(type_) if cut else type_).n_bytes
        mover = movers.get(value)
        tile = mover and mover.op.tile(cut, graph.types_of(mover.inputs), (type_,))
        if mover and tile:
            source = graph.types[mover.inputs[0]]
            sources = max(sources, (tile.inputs[0].of(source) if tile.inputs[0] else source).n_bytes)
    return own + (own if any(cuts) else sources)


def _chained(node: Node, goes: list[Operator], types: dict[str, TensorType], names: set[str]) -> list[Node]:
    """The goes as nodes; the last one makes what `node` made."""
    made: list[Node] = []
    for number, go in enumerate(goes):
        inputs = (*node.inputs, *(each.outputs[0] for each in made[-1:]))
        output = node.outputs[0] if go is goes[-1] else fresh(f"{node.outputs[0]}.go{number}", types)
        types[output] = go.infer([types[value] for value in inputs])[0]
        name = fresh(f"{node.name}.go{number}", names)
        names.add(name)
        made.append(replace(node, op=go, name=name, inputs=inputs, outputs=(output,)))
    return made
