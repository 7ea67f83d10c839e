"""What a training step costs, by layer and by phase: the counts of kernel calls, added up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from odl.graph import Phase
from odl.program import Program
from odl.training import INFER, Training
from odl.types import Array


@dataclass(frozen=True)
class Cost:
    """`macs` of one training step; `counts` by counter, of all steps of a run together."""

    macs: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.macs + other.macs, Counter(self.counts) + Counter(other.counts))


Profile = Mapping[str, Mapping[Phase, Cost]]


def profile(program: Program, training: Training, counts: Array, counters: Sequence[str]) -> Profile:
    """Layer -> phase -> cost, in the order of `training`, of a run with `counts` (steps, kernel calls, counters).

    `counters` are the counts' names, empty where nothing counts. MACs are those of the graphs as they were
    differentiated, as often as each runs: what a program multiplies on top, channels of padding or a layer computed
    again, is no work done. The row of a batch's last step holds the batch's update, which is elementwise and has no
    MACs. Inference is no part of training.
    """
    graphs = [(often, training.graphs[name]) for name, often in training.often.items()]
    layers: dict[str, dict[Phase, Cost]] = {node.layer: {} for _, graph in graphs for node in graph.nodes}

    def add(layer: str, phase: Phase, cost: Cost) -> None:
        phases = layers.setdefault(layer, {})
        phases[phase] = phases.get(phase, Cost()) + cost

    for number, entry, call in program.calls():
        if entry != INFER:
            sums = counts[:, number].sum(axis=0).tolist() if counters else []
            add(call.layer, call.phase, Cost(0, dict(zip(counters, sums, strict=True))))
    for often, graph in graphs:
        for node in graph.nodes:
            if macs := graph.node_macs(node):
                add(node.layer, node.phase, Cost(round(often * macs)))
    found = ((layer, phases) for layer, phases in layers.items() if phases)
    return {layer: {phase: phases[phase] for phase in Phase if phase in phases} for layer, phases in found}


def total(costs: Iterable[Cost]) -> Cost:
    return sum(costs, Cost())
