"""An If whose condition is a constant is the branch that it takes."""

from __future__ import annotations

import onnx
from onnx import helper

from odl.graph import fresh


def branch(node: onnx.NodeProto, condition: bool, taken: set[str]) -> list[onnx.NodeProto]:
    """The nodes of the branch of an If, and an Identity for each of its outputs.

    What is computed inside gets new names, which are added to `taken`; what comes from outside keeps its own.
    """
    graphs = {attribute.name: attribute.g for attribute in node.attribute}
    graph = graphs.get("then_branch" if condition else "else_branch")
    if graph is None or len(graph.output) != len(node.output):
        return [node]
    inner: dict[str, str] = {}

    def named(name: str) -> str:
        inner[name] = fresh(name, taken)
        taken.add(inner[name])
        return inner[name]

    found = []
    for tensor in graph.initializer:
        found.append(helper.make_node("Constant", [], [named(tensor.name)], value=tensor))
    for each in graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(each)
        del copy.input[:], copy.output[:]
        copy.input.extend(inner.get(name, name) for name in each.input)
        _rename(copy, inner)
        copy.output.extend(named(name) if name else "" for name in each.output)
        copy.name = fresh(each.name or f"{node.name}.{each.op_type}", taken)
        taken.add(copy.name)
        found.append(copy)
    for result, output in zip(graph.output, node.output, strict=True):
        found.append(helper.make_node("Identity", [inner.get(result.name, result.name)], [output]))
    return found


def _rename(node: onnx.NodeProto, names: dict[str, str]) -> None:
    """Give what the graphs inside a node read of the branch its new names."""
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
            for each in graph.node:
                inputs = [names.get(name, name) for name in each.input]
                del each.input[:]
                each.input.extend(inputs)
                _rename(each, names)
