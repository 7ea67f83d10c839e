"""What a training step takes, by layer, so that any choice of what is trained can be estimated: measured, or MACs.

Three recipes are measured: all that may be trained, about a quarter of every kernel that can be cut, and vectors alone.
What does not depend on the choice is taken from the first: the forward pass, and the input gradient of each layer, paid
by every choice that trains something below. A layer's weight gradients and updates are a line in the share of its
kernels, through the first two; its vectors alone are the third. On a device that counts nothing, time is MACs, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from odl import api
from odl.errors import FitError
from odl.graph import Graph, Phase
from odl.options import Offers, Option, recipe_for
from odl.recipe import Recipe
from odl.replay import ENCODE, RECALL, REMEMBER
from odl.targets import Target, machine_for
from odl.training import APPLY, STEP, build_training

MACS = "MACs"

Parts = Mapping[tuple[str, Phase], float]


@dataclass(frozen=True)
class Bench:
    """Measures steps of recipes for `model`, the file at `path`, on samples of `data`; `unit` is what it counts."""

    path: Path
    model: Graph
    target: Target
    on: str
    data: Path
    timeout_s: float
    tell: Callable[[str, float], None] = lambda *_: None
    fix_batch: bool = False

    @property
    def unit(self) -> str:
        return machine_for(self.target, self.on).counter or MACS

    def step(self, recipe: Recipe, name: str) -> dict[tuple[str, Phase], float]:
        """The time of a step by layer and phase, as a mean over a batch; their sum is what `odl run` calls a step.

        Raises what compiling and running raise, FitError among them.
        """
        parts = self._macs(recipe) if self.unit == MACS else self._run(recipe)
        self.tell(name, sum(parts.values()))
        return parts

    def _macs(self, recipe: Recipe) -> dict[tuple[str, Phase], float]:
        training, parts = build_training(self.model, recipe), dict[tuple[str, Phase], float]()
        for name, often in training.often.items():
            graph = training.graphs[name]
            for node in graph.nodes:
                parts[node.layer, node.phase] = parts.get((node.layer, node.phase), 0) + often * graph.node_macs(node)
        return parts

    def _run(self, recipe: Recipe) -> dict[tuple[str, Phase], float]:
        """One step, or two where the second has what the first lacks: the end of a batch, and old samples."""
        n_steps = 2 if recipe.batch > 1 or recipe.replay_layer else 1
        compiled = api.compile_model(
            self.path, replace(recipe, batch=min(recipe.batch, 2)), self.target, fix_batch=self.fix_batch
        )
        run = api.train(compiled, self.data, n_steps, self.on, timeout_s=self.timeout_s)
        olds = recipe.replay_ratio * (n_steps - 1) if recipe.replay_layer else 0
        ran = {ENCODE: n_steps, RECALL: olds, STEP: n_steps + olds, APPLY: (n_steps + olds) // 2, REMEMBER: n_steps}
        often = replace(compiled.training, recipe=recipe).often
        parts: dict[tuple[str, Phase], float] = {}
        looked = 0
        for number, entry, call in compiled.program.calls():
            if entry in often:
                count = int(run.counts[:, number, 0].sum())
                parts[call.layer, call.phase] = (
                    parts.get((call.layer, call.phase), 0) + count * often[entry] / ran[entry]
                )
                looked += count
        # Looking at a counter takes cycles too, which the whole step does not have.
        factor = int(run.whole.sum()) / looked if run.counter == "cycles" else 1
        return {key: count * factor for key, count in parts.items()}


@dataclass(frozen=True)
class StepTimes:
    """`constant` is paid by every step, `input_gradients` by layer, `trained` by layer: points (share, time)."""

    unit: str
    constant: float
    input_gradients: Mapping[str, float]
    trained: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)

    def of(self, chosen: Sequence[Option], step: Graph) -> float:
        """A step that trains what is chosen, whose graph is `step`, which says what has an input gradient."""
        layers = {node.layer for node in step.nodes if node.phase is Phase.INPUT_GRADIENT}
        passed = sum(time for layer, time in self.input_gradients.items() if layer in layers)
        return self.constant + passed + sum(map(self.training, chosen))

    def training(self, option: Option) -> float:
        """The weight gradients and updates of an option."""
        points = self.trained[option.layer]
        if not option.share or len(points) == 1:
            return points[0][1]
        (share, time), (end, whole) = points[-2:]
        if not share:  # vectors or everything
            return whole
        return whole - (whole - time) / (end - share) * (end - option.share)


def measure(bench: Bench, recipe: Recipe, offers: Offers) -> StepTimes:
    """The times of all options, from a few steps. Layers that do not fit together are measured apart; those that do not
    fit alone are left out of `trained`."""
    found = list(_measured(bench, recipe, offers))
    if not found:
        raise FitError(
            "does-not-fit", bench.target.name, "no layer can be trained here, whatever the bound", "use another target"
        )
    first = found[0]
    input_gradients = {layer: time for each in reversed(found) for layer, time in each.input_gradients.items()}
    trained = {layer: points for each in found for layer, points in each.trained.items()}
    return replace(first, input_gradients=input_gradients, trained=trained)


def _measured(bench: Bench, recipe: Recipe, offers: Offers) -> Iterator[StepTimes]:
    layers = list(offers)
    try:
        yield _together(bench, recipe, offers)
    except FitError:
        half = len(layers) // 2
        for part in (layers[:half], layers[half:]) if half else ():
            yield from _measured(bench, recipe, {layer: offers[layer] for layer in part})


def _together(bench: Bench, recipe: Recipe, offers: Offers) -> StepTimes:
    """Largest first: where that fits, the others do."""
    whole = [options[-1] for options in offers.values()]
    quarter = [
        next(each for each in options if each.share >= 0.25 or each is options[-1]) for options in offers.values()
    ]
    vectors = [options[0] for options in offers.values() if not options[0].share]
    points: dict[str, dict[float, float]] = {layer: {} for layer in offers}
    first: dict[tuple[str, Phase], float] = {}
    for name, chosen in (("everything", whole), ("a quarter", quarter), ("vectors", vectors)):
        if not chosen or (chosen == whole and first):
            continue
        parts = bench.step(recipe_for(recipe, chosen), name)
        first = first or parts
        for option in chosen:
            points[option.layer].setdefault(option.share, _trained(parts, option.layer))
    passed = {layer: time for (layer, phase), time in first.items() if phase is Phase.INPUT_GRADIENT}
    constant = sum(first.values()) - sum(passed.values()) - sum(_trained(first, layer) for layer in offers)
    return StepTimes(bench.unit, constant, passed, {layer: sorted(each.items()) for layer, each in points.items()})


def _trained(parts: Parts, layer: str) -> float:
    return parts.get((layer, Phase.WEIGHT_GRADIENT), 0) + parts.get((layer, Phase.UPDATE), 0)
