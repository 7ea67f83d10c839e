"""Evaluates a Graph without any memory: every value is an array of its own.

Where this and the executor of the lowered Program disagree, the planner or the lowering is wrong, not a kernel.
"""

from __future__ import annotations

from collections.abc import Mapping

from odl.graph import Graph
from odl.types import Array


def interpret(
    graph: Graph, feeds: Mapping[str, Array], persistent: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """Every value of `graph` by name. `persistent` replaces first values of persistent tensors."""
    values: dict[str, Array] = {name: tensor.initial for name, tensor in graph.persistent.items()}
    values.update(persistent or {})
    values.update(feeds)
    for node in graph.nodes:
        values.update(zip(node.outputs, node.op.evaluate([values[name] for name in node.inputs]), strict=True))
    return values
