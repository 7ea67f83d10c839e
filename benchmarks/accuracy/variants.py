"""What is compared: ways to train a task in binary16. The binary32 twin of each is the same recipe without them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.accuracy.task import Changes, Task
from odl import Compiled, Recipe, compile_model
from odl.frontend import load_model
from odl.program import ARENA

KNOWN = frozenset(f.name for f in fields(Recipe))


@dataclass(frozen=True)
class Variant:
    """`changes` to the task's recipe; `last` > 0: no more than the last so many layers that have weights are trained.

    `share` > 1: the most layers, from the last on, that train in the RAM that all would take, over `share`; of several
    `ways` to need less RAM the first that is enough.
    """

    key: str
    title: str
    changes: Changes = field(default_factory=dict)
    last: int = 0
    share: float = 1
    ways: tuple[Changes, ...] = ({},)


# The sums of a batch's gradients in half as many bytes.
SMALLER: tuple[Changes, ...] = ({}, {"gradients": "fp16"})

VARIANTS = (
    Variant("fp32", "binary32 copies of the weights", {"master": "fp32"}),
    Variant("kahan", "the rest of each weight", {"master": "kahan"}),
    Variant("stochastic", "stochastic rounding", {"master": "stochastic"}),
    Variant("none", "nothing beside the weights", {"master": "none"}),
    Variant("lean", "stochastic, sample by sample", {"master": "stochastic", "batch": 1, "momentum": 0.0}),
    Variant("last", "last layer only", {"master": "stochastic"}, last=1),
    Variant("quarter", "a quarter of the RAM", {"master": "stochastic"}, share=4, ways=SMALLER),
)


@dataclass(frozen=True)
class Plan:
    """A variant of a task as it is run: the changes to `Recipe()` without the seed, and why it is not run, if so."""

    variant: Variant
    changes: Changes
    skipped: str = ""

    def recipe(self, seed: int) -> Recipe:
        return Recipe(**self.changes, seed=seed)


def plans(task: Task, model: Path, steps: int) -> Iterator[Plan]:
    """Every variant of a task whose cases all have the layers of `model`."""
    for variant in VARIANTS:
        changes = with_period({**task.recipe, **variant.changes, **task.changes.get(variant.key, {})}, steps)
        unknown = sorted(changes.keys() - KNOWN)
        if unknown:
            yield Plan(variant, changes, f"Recipe does not know {', '.join(unknown)}")
        elif variant.share > 1:
            yield _largest(variant, task, changes, model)
        else:
            yield Plan(variant, {**changes, **_last(model, variant.last)})


def with_period(changes: Changes, steps: int) -> dict[str, Any]:
    """A cosine ends where the training does, unless it says when."""
    ends = {"lr_period": steps // changes.get("batch", 1)} if changes.get("lr_schedule") == "cosine" else {}
    return {**ends, **changes}


@cache
def weighted_layers(model: Path) -> tuple[str, ...]:
    """The names of the nodes that have weights, in order."""
    graph = load_model(model).graph
    weights = {name for name, tensor in graph.persistent.items() if tensor.origin is not None}
    return tuple(dict.fromkeys(node.layer for node in graph.nodes if weights.intersection(node.inputs)))


def _last(model: Path, n_layers: int) -> dict[str, Any]:
    """The recipe's word for the last so many layers; 0 is all of them."""
    return {"trainable": weighted_layers(model)[-n_layers:]} if n_layers else {}


def _largest(variant: Variant, task: Task, changes: Changes, model: Path) -> Plan:
    """All is trained by the task's own recipe, `changes` are the variant's."""
    limit = arena(compile_model(model, Recipe(**task.recipe))) / variant.share
    for n_layers in range(len(weighted_layers(model)) - 1, 0, -1):
        for way in variant.ways:
            tried = {**changes, **way, **_last(model, n_layers)}
            if arena(compile_model(model, Recipe(**tried))) <= limit:
                return Plan(variant, tried)
    return Plan(variant, changes, f"not even the last layer trains in {limit:,.0f} bytes")


def arena(compiled: Compiled) -> int:
    return compiled.program.spaces[ARENA]


def persistent(compiled: Compiled) -> int:
    """The bytes of the arena that outlive a step: weights that are trained, and what is kept beside them."""
    return compiled.program.persistent_bytes
