"""Graphs and a memory plan become a Program, in one memory or, with layouts, through a local one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from odl.graph import Graph, Node
from odl.lower_tiles import lower_tiles
from odl.memory import Plan
from odl.program import LOCAL, Barrier, Buffer, Call, Program, Resident, Statement
from odl.residency import Layout
from odl.tiling import storage


def lower(graphs: Sequence[Graph], plan: Plan, layouts: Mapping[str, Layout] | None = None) -> Program:
    """The Program of scheduled `graphs`, whose names become its entries, with every value where `plan` puts it.

    With `layouts`, by graph name, calls work in a local memory and statements move tensors there and back; the calls of
    a graph without a layout work in the arena, one after another.
    """
    buffers = {graph.name: _buffers(graph, plan) for graph in graphs}
    residents: dict[str, Resident] = {}
    for graph in graphs:
        for name, tensor in graph.persistent.items():
            residents.setdefault(name, Resident(tensor, buffers[graph.name][name]))
    return Program(
        entries={graph.name: _entry(graph, buffers[graph.name], layouts) for graph in graphs},
        residents=tuple(residents.values()),
        inputs={name: type_ for graph in graphs for name, type_ in graph.inputs.items()},
        results={graph.name: _results(graph, buffers[graph.name], layouts) for graph in graphs},
        spaces={**plan.n_bytes, **({LOCAL: max(each.n_bytes for each in layouts.values())} if layouts else {})},
        lower_bound=plan.lower_bound,
        persistent_bytes=plan.persistent_bytes,
    )


def _entry(graph: Graph, buffers: Mapping[str, Buffer], layouts: Mapping[str, Layout] | None) -> tuple[Statement, ...]:
    if layouts and graph.name in layouts:
        return lower_tiles(layouts[graph.name], buffers, _states(graph))
    calls = [_call(graph, node, buffers) for node in graph.nodes]
    behind: tuple[Statement, ...] = (Barrier(),) if layouts else ()
    return tuple(statement for call in calls for statement in (call, *behind))


def _results(graph: Graph, buffers: Mapping[str, Buffer], layouts: Mapping[str, Layout] | None) -> tuple[Buffer, ...]:
    """The outputs; among tiles a view is what it shows, since no call of its own makes it."""
    shown = storage(graph) if layouts and graph.name in layouts else {}
    return tuple(replace(buffers[value], value=shown.get(value, value)) for value in graph.outputs)


def _buffers(graph: Graph, plan: Plan) -> dict[str, Buffer]:
    places = plan.places[graph.name]
    held = _states(graph)
    return {
        name: Buffer(name, type_, places[name].space, places[name].offset, held.get(name, ""))
        for name, type_ in graph.types.items() if name in places
    }  # fmt: skip


def _states(graph: Graph) -> dict[str, str]:
    """Value -> the persistent tensor that it is a state of."""
    held = {name: name for name in graph.persistent}
    for node in graph.nodes:
        for out, into in ((0, 0),) if node.op.view else node.op.overwrites:
            if out < len(node.outputs) and node.inputs[into] in held:
                held[node.outputs[out]] = held[node.inputs[into]]
    return held


def _call(graph: Graph, node: Node, buffers: Mapping[str, Buffer]) -> Call:
    inputs, outputs = graph.types_of(node.inputs), graph.types_of(node.outputs)
    return Call(
        op=node.op,
        kernel=None if node.op.view else node.op.kernel(inputs, outputs),
        inputs=tuple(buffers[value] for value in node.inputs),
        outputs=tuple(buffers[value] for value in node.outputs),
        name=node.name,
        layer=node.layer,
        phase=node.phase,
        macs=graph.node_macs(node),
    )
