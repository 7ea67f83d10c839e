"""Compute again what is cheaper to compute than to keep: every reader of such a value gets a copy of its own."""

from __future__ import annotations

from dataclasses import replace

from odl.graph import Graph, Node, fresh, present, verify
from odl.types import TensorType


def rematerialize(graph: Graph) -> Graph:
    """Give each reader of an operator that only moves bytes (`Operator.moves`) its own copy of the node.

    So a padded image or a transposed weight lives no longer than the call that reads it, and can be made tile by tile.
    The pieces of one weight's gradient share a copy.
    """
    consumers = graph.consumers()
    types, names = dict(graph.types), {node.name for node in graph.nodes}
    kept = {*graph.outputs, *graph.carries.values()}
    nodes: list[Node] = []
    movers: dict[str, Node] = {}
    shared: dict[tuple[str, str], str] = {}
    for node in graph.nodes:
        value = node.outputs[0]
        if node.op.moves and len(consumers[value]) > 1 and value not in kept:
            movers[value] = node
        else:
            inputs = {}
            near = node.op.is_piece(graph.types_of(node.inputs))
            for value in node.inputs:
                key = value, node.layer
                inputs[value] = shared[key] if near and key in shared else _copy(movers, value, types, names, nodes)
                shared[key] = inputs[value]
            nodes.append(replace(node, inputs=tuple(inputs[value] for value in node.inputs)))
    for value in movers:
        del types[value]
    result = replace(graph, nodes=tuple(nodes), types=types)
    verify(result)
    return result


def _copy(movers: dict[str, Node], value: str, types: dict[str, TensorType], names: set[str], nodes: list[Node]) -> str:
    """The value itself, or, if a mover makes it, that of a new copy of the mover."""
    if value not in movers:
        return value
    node = movers[value]
    inputs = tuple(_copy(movers, each, types, names, nodes) for each in node.inputs)
    copied = fresh(f"{value}.copy", types)
    types[copied] = types[value]
    name = fresh(node.name, names)
    names.add(name)
    nodes.append(replace(node, name=name, inputs=inputs, outputs=(copied,)))
    return copied


def gather(graph: Graph) -> Graph:
    """Move the nodes that only move bytes right before their only reader, where that leaves every input as it was.

    For a scheduled graph. An update that overwrites an input in between keeps the node where it is.
    """
    consumers = graph.consumers()
    nodes = list(graph.nodes)
    for node in reversed(graph.nodes):
        readers = consumers[node.outputs[0]]
        if not node.op.moves or len({reader.name for reader in readers}) != 1:
            continue
        at = next(i for i, each in enumerate(nodes) if each.name == node.name)
        to = next(i for i, each in enumerate(nodes) if each.name == readers[0].name)
        between = nodes[at + 1 : to]
        overwritten = {each.inputs[into] for each in between for _, into in present(each, each.op.overwrites)}
        if not overwritten.intersection(node.inputs):
            nodes[at:to] = [*between, nodes[at]]
    result = replace(graph, nodes=tuple(nodes))
    verify(result)
    return result
