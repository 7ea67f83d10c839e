"""Where each layer stands under the roofs of a cluster: multiply-accumulates a cycle against multiply-accumulates a
byte that the DMA moves (the roofline model: Williams, Waterman and Patterson, CACM 52(4), 2009)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from odl.api import Compiled
from odl.tile_report import tiled_nodes
from odl.tiling import DMA_BYTES_PER_CYCLE
from odl.training import INFER

Result = dict[str, Any]


def roofline(compiled: Compiled, layers: Iterable[Mapping[str, Any]]) -> Result:
    """`roofs` of the target, and a point for each layer and phase that multiplies, if its cycles were counted.

    Bytes are those that transfers move for the calls of one training step, both ways. A phase that works on what lies
    in the local memory already moves none: its `mac_per_byte` is None.
    """
    target = compiled.target
    if not target.macs_per_cycle:
        return {"missing": f"no roofs are known of target {target.name}"}
    if not any("cycles" in layer for layer in layers):
        return {"missing": "cycles were not counted: only GVSoC does"}
    moved = _moved(compiled)
    points = []
    for layer in layers:
        for phase, cost in layer["phases"].items():
            if cost["macs"] and cost["cycles"]:
                n_bytes = moved[layer["layer"], phase]
                points.append({
                    "layer": layer["layer"], "phase": phase, "macs": cost["macs"], "dma_bytes": n_bytes,
                    "mac_per_byte": cost["macs"] / n_bytes if n_bytes else None,
                    "mac_per_cycle": cost["mac_per_cycle"],
                })  # fmt: skip
    return {"mac_per_cycle": target.macs_per_cycle, "dma_bytes_per_cycle": DMA_BYTES_PER_CYCLE, "points": points}


def _moved(compiled: Compiled) -> dict[tuple[str, str], int]:
    """(layer, phase) -> bytes of the transfers of one step."""
    moved: dict[tuple[str, str], int] = defaultdict(int)
    for graph in compiled.graphs:
        if graph.name == INFER:
            continue
        found = tiled_nodes(compiled.program.entries[graph.name])
        for node in graph.nodes:
            if tiled := found.get(node.name):
                moved[node.layer, node.phase.value] += tiled.dma_in_bytes + tiled.dma_out_bytes
    return moved
