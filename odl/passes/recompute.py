"""Values that are computed again: some of their readers read a copy, made from what lives anyway."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from odl.graph import Graph, Node, fresh, prune, verify


def recompute(graph: Graph, chain: Sequence[str], readers: Collection[str]) -> tuple[Graph, dict[str, str]]:
    """Run the nodes named in `chain` again, in order, right before the first of `readers` that reads what they make.

    The readers, by name, read the copies from then on; so do the nodes of the chain where one reads another's output.
    What moves bytes for a node of the chain alone (`Operator.moves`) has to be in the chain as well. The copies keep
    layer and phase. Returns the graph, and for each copy the value that it equals. No bit changes.
    """
    types, names = dict(graph.types), {node.name for node in graph.nodes}
    copy_of: dict[str, str] = {}
    copies: list[Node] = []
    by_name = {node.name: node for node in graph.nodes}
    for each in chain:
        node = by_name[each]
        inputs = tuple(copy_of.get(value, value) for value in node.inputs)
        outputs = []
        for value in node.outputs:
            outputs.append(fresh(f"{value}.again", types))
            types[outputs[-1]] = types[value]
        copy_of.update(zip(node.outputs, outputs, strict=True))
        copies.append(replace(node, name=fresh(f"{node.name}.again", names), inputs=inputs, outputs=tuple(outputs)))
        names.add(copies[-1].name)
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.name in readers and not copy_of.keys().isdisjoint(node.inputs):
            nodes += copies
            copies = []
            node = replace(node, inputs=tuple(copy_of.get(value, value) for value in node.inputs))
        nodes.append(node)
    result = prune(replace(graph, nodes=tuple(nodes), types=types))
    verify(result)
    return result, {copy: value for value, copy in copy_of.items()}


def keep(graph: Graph, copies: Mapping[str, str]) -> Graph:
    """Undo it for some copies: their readers read the values that they equal, where these are still made."""
    made = {value for node in graph.nodes for value in node.outputs}
    copies = {copy: value for copy, value in copies.items() if value in made}

    def original(value: str) -> str:
        while value in copies:
            value = copies[value]
        return value

    nodes = [replace(node, inputs=tuple(map(original, node.inputs))) for node in graph.nodes]
    result = prune(replace(graph, nodes=_defined_first(nodes)))
    verify(result)
    return result


def _defined_first(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes in their order, but that those which make what one reads come before it."""
    producer = {value: node for node in nodes for value in node.outputs}
    placed: dict[str, Node] = {}
    for node in nodes:
        waiting = [node]
        while waiting:
            makers = [producer[value] for value in waiting[-1].inputs if value in producer]
            missing = [maker for maker in makers if maker.name not in placed]
            if missing:
                waiting += missing
            else:
                last = waiting.pop()
                placed[last.name] = last
    return tuple(placed.values())
