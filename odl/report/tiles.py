"""The tiles of one layer: how the outputs of its nodes are cut, and what of the local memory a tile takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from odl.api import Compiled
from odl.errors import UsageError
from odl.program import LOCAL, Call
from odl.tile_report import tiled_nodes
from odl.training import INFER

Result = dict[str, Any]


def tiles(compiled: Compiled, layers: Iterable[Mapping[str, Any]], wanted: str = "") -> Result:
    """The nodes of a layer in a training step, each with the shape of its output as it is stored, the axis along which
    it is cut and the ranges of it, in order; and the blocks of local memory in which its calls work. `wanted` is the
    layer; of "" that of most MACs. Raises UsageError `no-such-layer`."""
    costs = {layer["layer"]: layer["macs"] for layer in layers}
    if wanted and wanted not in costs:
        raise UsageError("no-such-layer", wanted, "the run has no such layer", f"one of: {', '.join(costs)}")
    if not compiled.program.has_team:
        return {"missing": f"target {compiled.target.name} has no local memory: every call is whole"}
    layer = wanted or max(costs, key=costs.__getitem__)
    nodes = [
        {
            "node": node.name, "operator": node.op.name, "phase": node.phase.value,
            "shape": list(graph.types[node.outputs[0]].shape), "axis": tiled.axis if tiled.axis >= 0 else None,
            "cuts": [list(cut) for cut in tiled.cuts], "l1_bytes": tiled.l1_bytes,
            "dma_in_bytes": tiled.dma_in_bytes, "dma_out_bytes": tiled.dma_out_bytes,
        }
        for graph in compiled.graphs if graph.name != INFER
        for found in [tiled_nodes(compiled.program.entries[graph.name])]
        for node in graph.nodes
        if node.layer == layer and (tiled := found.get(node.name))
    ]  # fmt: skip
    local = {"available": compiled.target.l1_bytes, "used": compiled.program.spaces[LOCAL]}
    calls = [call for _, entry, call in compiled.program.calls() if entry != INFER and call.layer == layer]
    return {"layer": layer, "l1_bytes": local, "nodes": nodes, "calls": len(calls), "blocks": _blocks(calls)}


_MOST_CALLS = 300  # of a picture


def _blocks(calls: Sequence[Call]) -> list[Result]:
    """What lies where in the local memory in the first _MOST_CALLS of some calls: each operand, from the `first` to the
    `last` call in a row that has it there."""
    found: list[Result] = []
    before: dict[tuple[str, int, int], Result] = {}
    for at, call in enumerate(calls[:_MOST_CALLS]):
        now: dict[tuple[str, int, int], Result] = {}
        for operand in (*call.inputs, *call.outputs):
            key = (operand.value, operand.offset, operand.type.n_bytes)
            if operand.space != LOCAL or key in now:
                continue
            block = before.get(key)
            if block is None:
                block = {
                    "value": operand.value, "offset": operand.offset, "bytes": operand.type.n_bytes, "first": at,
                    "made": operand in call.outputs, "phase": call.phase.value,
                }  # fmt: skip
                found.append(block)
            block["last"] = at
            now[key] = block
        before = now
    return found
