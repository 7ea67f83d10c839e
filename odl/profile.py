"""What a training step costs, by layer and by phase: the counts of kernel calls, added up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from odl.graph import Phase
from odl.program import Program
from odl.training import INFER
from odl.types import Array


@dataclass(frozen=True)
class Cost:
    """`macs` of one training step; `count` of all steps of a run together, 0 where nothing counts."""

    macs: int = 0
    count: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.macs + other.macs, self.count + other.count)


Profile = Mapping[str, Mapping[Phase, Cost]]


def profile(program: Program, counts: Array) -> Profile:
    """Layer -> phase -> cost, in the order of the program, of a run with `counts` (steps, kernel calls) or (0, 0).

    The row of a batch's last step holds the batch's update, which is elementwise and has no MACs. Inference is no part
    of training.
    """
    sums = [int(count) for count in counts.sum(axis=0)]
    layers: dict[str, dict[Phase, Cost]] = {}
    for number, entry, call in program.calls():
        if entry != INFER:
            phases = layers.setdefault(call.layer, {})
            phases[call.phase] = phases.get(call.phase, Cost()) + Cost(call.macs, sums[number] if sums else 0)
    return layers


def total(costs: Iterable[Cost]) -> Cost:
    return sum(costs, Cost())
