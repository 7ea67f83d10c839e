"""Compute a weight gradient in several goes over the pixels, where its operands and the sums are too large."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from odl.graph import Graph, Node, Operator, Slice, fresh, verify
from odl.types import TensorType


def split_reductions(graph: Graph, capacity: int) -> Graph:
    """Compute in goes (`Operator.goes`) what can be, where its operands do not fit `capacity` bytes.

    Into as few goes as let two of them lie in memory at once, beside the sums, or as many as there can be. The order of
    a sum does not change, so no bit does.
    """
    types = dict(graph.types)
    names = {node.name for node in graph.nodes}
    nodes: list[Node] = []
    movers = {node.outputs[0]: node for node in graph.nodes if node.op.moves}
    for node in graph.nodes:
        goes = _goes(graph, movers, node, capacity)
        nodes += _chained(node, goes, types, names) if goes else [node]
    result = replace(graph, nodes=tuple(nodes), types=types)
    verify(result)
    return result


def _goes(graph: Graph, movers: Mapping[str, Node], node: Node, capacity: int) -> Sequence[Operator]:
    """The operators that take the node's place; none where everything fits or nothing helps."""
    inputs = graph.types_of(node.inputs)
    room = capacity - graph.types[node.outputs[0]].n_elems * 4
    most = len(node.op.goes(inputs, inputs[0].n_elems))
    if not most or _bytes_at_once(graph, movers, node) <= room:
        return ()
    goes: Sequence[Operator] = ()
    for n_goes in range(2, most + 1):
        wanted = node.op.goes(inputs, n_goes)
        if all(_can_be_made(graph, movers, node, go) for go in wanted):
            goes = wanted
            if 2 * _bytes_of(graph, node, goes[0]) <= room:
                return goes
    return goes


def _bytes_at_once(graph: Graph, movers: Mapping[str, Node], node: Node) -> int:
    """What a node's operands take, or those of them that are made for it and what one of these is made from."""
    types = graph.types_of(node.inputs)
    made = [(type_, movers[value]) for value, type_ in zip(node.inputs, types, strict=True) if value in movers]
    sources = (graph.types[mover.inputs[0]].n_bytes for _, mover in made)
    return max(sum(type_.n_bytes for type_ in types), sum(type_.n_bytes for type_, _ in made) + max(sources, default=0))


def _can_be_made(graph: Graph, movers: Mapping[str, Node], node: Node, go: Operator) -> bool:
    """Whether the slices that a go reads can be made for it alone: not those of a border alone."""
    for value, cut in _slices(graph, node, go):
        mover = movers.get(value)
        if mover and not mover.op.tile(cut, graph.types_of(mover.inputs), graph.types_of((value,))):
            return False
    return True


def _bytes_of(graph: Graph, node: Node, go: Operator) -> int:
    """What a go reads of the node's operands."""
    types = ((graph.types[value], cut) for value, cut in _slices(graph, node, go))
    return sum((cut.of(type_) if cut else type_).n_bytes for type_, cut in types)


def _slices(graph: Graph, node: Node, go: Operator) -> list[tuple[str, Slice | None]]:
    tile = go.tile(None, graph.types_of(node.inputs), ())
    assert tile, f"{go.name} has no tile of everything"
    return list(zip(node.inputs, tile.inputs, strict=True))


def _chained(node: Node, goes: Sequence[Operator], types: dict[str, TensorType], names: set[str]) -> list[Node]:
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
