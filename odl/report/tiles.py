"""The tiles of one layer: how the outputs of its nodes are cut, and what of the local memory a tile takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from odl.api import Compiled
from odl.errors import UsageError
from odl.program import LOCAL
from odl.tile_report import tiled_nodes
from odl.training import INFER

Result = dict[str, Any]


def tiles(compiled: Compiled, layers: Iterable[Mapping[str, Any]], wanted: str = "") -> Result:
    """The nodes of a layer in a training step, each with the shape of its output as it is stored, the axis along which
    it is cut and the ranges of it, in order. `wanted` is the layer; of "" that of most MACs. Raises UsageError
    `no-such-layer`."""
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
    return {"layer": layer, "l1_bytes": local, "nodes": nodes}
