"""A graph rebuilt node by node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from odl.graph import Graph, Node, Operator, Phase, fresh, verify


class Rewriter:
    """Collects the nodes of the graph that takes the place of `graph`; names stay unique.

    What is made on the way is made once for each `scope`: a second request for the same operator on the same values
    yields the first one's output.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.types = dict(graph.types)
        self.nodes: list[Node] = []
        self._names = {node.name for node in graph.nodes}
        self._made: dict[tuple[Operator, tuple[str, ...], str], str] = {}

    def make(self, op: Operator, inputs: Sequence[str], name: str, user: Node, scope: str = "") -> str:
        """The output of a new node, or of the same one made before, on behalf of the node `user`."""
        key = (op, tuple(inputs), scope)
        if key not in self._made:
            self._made[key] = self._append(op, inputs, name, user, user.phase)
        return self._made[key]

    def put(self, node: Node, op: Operator, inputs: Sequence[str]) -> None:
        """Append `node` with another operator and other inputs, under its old names."""
        self.nodes.append(replace(node, op=op, inputs=tuple(inputs)))
        self.types.update(zip(node.outputs, op.infer([self.types[value] for value in inputs]), strict=True))

    def graph_of(self) -> Graph:
        """The new graph, verified. A node that the old one had for a value must have been appended again."""
        result = replace(self.graph, nodes=tuple(self.nodes), types=self.types)
        verify(result)
        return result

    def _append(self, op: Operator, inputs: Sequence[str], name: str, user: Node, phase: Phase) -> str:
        (type_,) = op.infer([self.types[value] for value in inputs])
        output = fresh(name, self.types)
        self.types[output] = type_
        self.nodes.append(Node(op, self._fresh(f"{user.layer}.{op.name}"), tuple(inputs), (output,), user.layer, phase))
        return output

    def _fresh(self, name: str) -> str:
        unique = fresh(name, self._names)
        self._names.add(unique)
        return unique
