"""What only moves bytes, seen as part of who reads it: for orders in which it runs right before its reader."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from odl.graph import Graph, Node


def movers_of(graph: Graph) -> dict[str, Node]:
    """Value -> the node that only arranges bytes anew to make it, where others need it for no longer than they run.

    Not where a view shows it or an operator overwrites it.
    """
    bound = {*graph.outputs, *graph.carries.values()}
    for node in graph.nodes:
        kept = ((0, 0),) if node.op.view else node.op.overwrites
        bound.update(node.inputs[into] for _, into in kept if into < len(node.inputs))
    return {node.outputs[0]: node for node in graph.nodes if node.op.moves and bound.isdisjoint(node.outputs)}


def with_movers(graph: Graph, names: Collection[str]) -> set[str]:
    """The nodes, and those that move bytes for them."""
    movers, found = movers_of(graph), set(names)
    for node in reversed(graph.nodes):
        if node.name in found:
            found.update(movers[value].name for value in node.inputs if value in movers)
    return found


def fuse_movers(graph: Graph) -> Graph:
    """The graph in which who reads what a mover makes reads instead what the mover reads.

    For orders and lifetimes alone: such a node has more inputs than its operator knows, and lies in place of none.
    """
    movers = movers_of(graph)
    sources: dict[str, tuple[str, ...]] = {}
    nodes = []
    for node in graph.nodes:
        more = tuple(source for value in node.inputs for source in sources.get(value, ()))
        if node.outputs[0] in movers:
            sources[node.outputs[0]] = (*more, *(value for value in node.inputs if value not in sources))
        else:
            inputs = tuple(sources[value][0] if value in sources else value for value in node.inputs)
            nodes.append(replace(node, inputs=(*inputs, *more)))
    return replace(graph, nodes=tuple(nodes))


def apart(ordered: Graph, graph: Graph) -> Graph:
    """The nodes of `graph` in the order of its fused form, movers right before the first who reads what they make."""
    movers, by_name = movers_of(graph), {node.name: node for node in graph.nodes}
    nodes: dict[str, Node] = {}
    for each in ordered.nodes:
        wanted = _behind_movers(movers, by_name[each.name])
        nodes.update({node.name: node for node in wanted if node.name not in nodes})
    return replace(graph, nodes=tuple(nodes.values()))


def _behind_movers(movers: Mapping[str, Node], node: Node) -> list[Node]:
    """The node behind those that move bytes for it."""
    found = [node]
    for each in found:
        found += [movers[value] for value in each.inputs if value in movers]
    return found[::-1]
