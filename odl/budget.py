"""A program that fits a budget of bytes: masks for nothing, then copies for multiplications, until the plan fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from odl.graph import Graph
from odl.lighten import STEP, Lighter, lighten, with_masks
from odl.memory import ARENA, Plan
from odl.residency import Layout
from odl.stages import stage

_TRIES = 4  # plans for one budget: a plan can need other bytes than live at once


@dataclass(frozen=True)
class Placed:
    """Scheduled graphs, the plan for their values, and, by graph name, layouts of their tiles where there are any."""

    graphs: tuple[Graph, ...]
    plan: Plan
    layouts: Mapping[str, Layout] = field(default_factory=dict)

    @property
    def arena_bytes(self) -> int:
        return self.plan.n_bytes[ARENA]


@dataclass(frozen=True)
class Saving:
    """What it takes to fit: the arena with everything kept, and by graph name the extra MACs and the values computed
    again, each as often as it is.
    """

    kept_bytes: int
    macs: Mapping[str, int]
    recomputed: Mapping[str, tuple[str, ...]]


Place = Callable[[Sequence[Graph]], Placed]


def fit(graphs: Sequence[Graph], budget: int, place: Place, fused: bool = False) -> tuple[Placed, Saving | None]:
    """The plan of least extra MACs that is found whose arena has `budget` bytes or fewer, else the least that is found.

    `graphs` are scheduled, `place` plans such. `fused` as in `lighten`. Masks are made wherever they lower the arena;
    nothing is computed again where the plan fits without. Deterministic.
    """
    placed = _masked(place(graphs), place)
    if placed.arena_bytes <= budget:
        return placed, None
    aim = budget - placed.plan.persistent_bytes
    for _ in range(_TRIES):
        goal = aim
        stage(f"finding what to compute again, to fit {budget:,} bytes")
        lighter = _lightened(placed.graphs, goal, fused)
        found = place([each.graph for each in lighter])
        if found.arena_bytes <= budget:
            return found, _saving(placed, lighter)
        peak = max(each.peak for each in lighter)
        if peak > goal:
            break
        aim = peak - (found.arena_bytes - budget)
    lighter = _least(placed.graphs, fused, lighter, goal)
    found = place([each.graph for each in lighter])
    return (found, _saving(placed, lighter)) if found.arena_bytes < placed.arena_bytes else (placed, None)


def _masked(placed: Placed, place: Place) -> Placed:
    lighter = [with_masks(graph) for graph in placed.graphs]
    if all(each.graph is graph for each, graph in zip(lighter, placed.graphs, strict=True)):
        return placed
    return min(placed, place([each.graph for each in lighter]), key=lambda each: each.arena_bytes)


def _lightened(graphs: Sequence[Graph], goal: int, fused: bool) -> list[Lighter]:
    return [lighten(graph, goal, fused) for graph in graphs]


def _least(graphs: Sequence[Graph], fused: bool, tried: Sequence[Lighter], goal: int) -> list[Lighter]:
    """Of each graph what the others let it be: the one that needs the most decides.

    It does not depend on the budget: what was `tried` for `goal`, in vain, went all the way of a search for less, but
    where the goal was the last on its way.
    """
    least = [
        each if each.peak > goal and goal <= int(STEP * each.peak) else lighten(graph, 0, fused)
        for graph, each in zip(graphs, tried, strict=True)
    ]  # fmt: skip
    goal = max(each.peak for each in least)
    relaxed = [
        lighten(graph, goal, fused) if each.peak < goal else each for graph, each in zip(graphs, least, strict=True)
    ]  # fmt: skip
    return [some if some.peak <= goal else each for some, each in zip(relaxed, least, strict=True)]


def _saving(placed: Placed, lighter: Sequence[Lighter]) -> Saving:
    macs = {
        each.graph.name: each.graph.macs() - graph.macs() for each, graph in zip(lighter, placed.graphs, strict=True)
    }
    return Saving(placed.arena_bytes, macs, {each.graph.name: each.recomputed for each in lighter})
