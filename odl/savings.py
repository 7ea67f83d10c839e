"""What a recipe saves by training less than everything: the same model and recipe, with all weights trained, beside it.

Counted on the graphs, for a flat memory: no plan, no tiles. `ram_bytes` is what no arena goes below in the best order
that was found, which is what plans of a flat memory come within a few bytes of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from odl.frontend import Model, load_model
from odl.graph import Graph
from odl.memory import live_bytes
from odl.passes.split_gradients import split_gradients
from odl.recipe import Recipe
from odl.schedule import schedule
from odl.stages import stage
from odl.training import Training, build_training

_CHOICES = ("trainable", "last", "parameters", "channels", "lora_rank", "replay_layer", "replay_slots")


@dataclass(frozen=True)
class Costs:
    """`persistent_bytes` of RAM outlive a step: trained weights, sums, the optimizer's state; `transient_bytes` live at
    once besides. A step computes `macs`, and an update may change `updated_elements`."""

    persistent_bytes: int
    transient_bytes: int
    macs: int
    updated_elements: int

    @property
    def ram_bytes(self) -> int:
        return self.persistent_bytes + self.transient_bytes


@dataclass(frozen=True)
class Savings:
    """Costs of the recipe, and of the same recipe if it trained everything."""

    chosen: Costs
    everything: Costs


def savings(model: Model, training: Training) -> Savings | None:
    """None where the recipe trains everything."""
    recipe = training.recipe
    whole = with_everything(recipe)
    if recipe == whole:
        return None
    stage("comparing with training everything")
    if recipe.parameters == "norms":  # then the model was imported without folding them
        model = load_model(model.path, fix_batch=model.fix_batch)
    return Savings(costs(training), costs(build_training(model.graph, whole)))


def with_everything(recipe: Recipe) -> Recipe:
    """The recipe, but training all weights whole, and on new samples alone: with replay, what is below is frozen."""
    return replace(recipe, **{word: getattr(Recipe(), word) for word in _CHOICES})


def costs(training: Training, order: Callable[[Graph], Graph] = schedule) -> Costs:
    """What a training costs, its nodes in this order."""
    graphs = list(training.graphs.values())
    held = {name: graph.persistent[name].type.n_bytes for graph in graphs for name in graph.carries}
    elements = sum(map(training.trained_elements, training.trainable))
    most_live = max(max(live_bytes(order(split_gradients(graph))), default=0) for graph in graphs)
    return Costs(sum(held.values()), most_live, training.macs, elements)
