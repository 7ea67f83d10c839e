"""Chooses what to train: the layers, and runs of their channels, that contribute most within a budget of RAM and time.

Training a layer makes every layer above it pass gradients down to it, and keep what these need. So for each layer that
may be the lowest, a greedy search fills the budget from it upwards, once by contribution per cost and once by
contribution alone, and the best of all is taken. Prices are estimates until a choice has been compiled and a step of it
measured; the search goes on, with estimates corrected by what was found, until what it finds has been confirmed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from odl import api
from odl.contribution import Contributions, analysed, contributions
from odl.data import load_data
from odl.errors import FitError, ModelError, UsageError
from odl.frontend import load_model
from odl.graph import Graph, Phase, Role
from odl.memory import ARENA
from odl.options import Offers, Option, offered, recipe_for
from odl.recipe import Recipe
from odl.savings import costs
from odl.schedule import promptly
from odl.step_time import Bench, StepTimes, measure
from odl.targets import DEFAULT, find_target
from odl.training import Training, build_training

Chosen = tuple[Option, ...]  # at most one a layer, in the layers' order

_ANY_BYTES = 1 << 40


@dataclass(frozen=True)
class Price:
    """`ram_bytes` of arena and stack, and the `time` of a step; where that has no bound it is 0, and its bound inf."""

    ram_bytes: float
    time: float = 0.0

    def within(self, bound: Price) -> bool:
        return self.ram_bytes <= bound.ram_bytes and self.time <= bound.time


@dataclass(frozen=True)
class Selection:
    """What to train: the `recipe` that says so, the options that it is made of, and all that were offered.

    `bound` is what was asked for, `price` what the recipe takes, as it was compiled and measured, `estimate` what its
    step was thought to take. `layer_bytes` of RAM hold the weights and states of each chosen layer, `layer_time` is the
    estimate of its gradients and updates. Times are in `unit`.
    """

    recipe: Recipe
    chosen: Chosen
    offers: Offers
    contributions: Contributions
    bound: Price
    price: Price
    estimate: float
    unit: str
    layer_bytes: Mapping[str, int]
    layer_time: Mapping[str, float]

    @property
    def share(self) -> float:
        """Of the contribution of everything that could be trained, between 0 and 1."""
        return _gain(self.chosen) / self.contributions.total


def choose(
    path: str | Path, data: str | Path, recipe: Recipe, target: str = DEFAULT.name, *,
    ram_bytes: int | None = None, time: int | None = None, samples: int = 64, on: str = "", timeout_s: float = 120.0,
    tell: Callable[[str], None] = lambda _: None, fix_batch: bool = False,
) -> Selection:  # fmt: skip
    """The best choice, of what `recipe` may train, that takes at most `ram_bytes` (default: what the target has) of
    RAM and `time` a step (default: any), in what the simulator counts, or MACs where it counts nothing. Deterministic.

    `samples` are drawn from `data` as a run would draw them. `channels` of the recipe are chosen anew. Raises FitError
    `does-not-fit` with the least that could, UsageError `recipe-value` for adapters, ModelError `no-gradients`, and
    what loading, compiling and running raise.
    """
    if recipe.lora_rank:
        why = "must be 0: adapters have no channels to choose from"
        raise UsageError("recipe-value", "lora_rank", why, "choose weights by select, or adapt by lora_rank")
    machine = find_target(target)
    model = load_model(Path(path), keeps_norms=recipe.parameters == "norms", fix_batch=fix_batch)
    training = build_training(model.graph, analysed(recipe))
    loaded = load_data(Path(data), training)
    found = contributions(training, loaded.steps(min(samples, len(loaded)), recipe.seed))
    offers: Offers = offered(model.graph, recipe, found.rows)
    if not offers:
        raise ModelError("nothing-to-train", "", "every weight shares its name with a node of other weights")

    def heard(name: str, measured: float) -> None:
        tell(f"{name}: {measured:,.0f} {bench.unit} a step")

    bench = Bench(model.path, model.graph, machine, on, Path(data), timeout_s, heard, fix_batch)
    times = measure(bench, recipe, offers) if time is not None else None
    offers = {layer: options for layer, options in offers.items() if times is None or layer in times.trained}
    prices = _Prices(bench, recipe, offers, times)
    bound = Price(machine.ram_bytes if ram_bytes is None else ram_bytes, inf if time is None else time)
    chosen = _search(offers, prices, bound)
    layer_bytes = _held(build_training(model.graph, recipe_for(recipe, chosen)))
    layer_time = {option.layer: times.training(option) for option in chosen} if times else {}
    return Selection(
        recipe_for(recipe, chosen), chosen, offers, found, bound, prices.known[chosen], prices.estimate(chosen).time,
        bench.unit, {option.layer: layer_bytes.get(option.layer, 0) for option in chosen}, layer_time,
    )  # fmt: skip


def _gain(chosen: Sequence[Option]) -> float:
    return sum(option.gain for option in chosen)


def _held(training: Training) -> dict[str, int]:
    """Layer -> bytes that outlive a step, of its weights and of what its updates keep beside them."""
    held: dict[str, dict[str, int]] = {}
    shared = {training.control.progress, training.control.loss_scale}
    for graph in training.graphs.values():
        for node in graph.nodes:
            own = (set(node.inputs) & set(graph.carries)) - shared if node.phase is not Phase.FORWARD else set()
            if own and any(node.inputs[into] in own for _, into in node.op.overwrites if into < len(node.inputs)):
                held.setdefault(node.layer, {}).update({name: graph.types[name].n_bytes for name in own})
    return {layer: sum(each.values()) for layer, each in held.items()}


# --- what it costs ----------------------------------------------------------------------------------------------------


class _Prices:
    """Prices of choices: what is `known`, and for all others estimates times the worst factor that was found."""

    def __init__(self, bench: Bench, recipe: Recipe, offers: Offers, times: StepTimes | None) -> None:
        self.bench, self.recipe, self.offers, self.times = bench, recipe, offers, times
        self.known: dict[Chosen, Price] = {}
        self._estimates: dict[Chosen, tuple[int, Graph]] = {}
        self.state_bytes = _state_bytes(build_training(bench.model, recipe_for(recipe, _whole(offers))))

    def __call__(self, chosen: Chosen) -> Price:
        if chosen in self.known:
            return self.known[chosen]
        guess = self.estimate(chosen)
        pairs = [(price, self.estimate(each)) for each, price in self.known.items() if price.ram_bytes < inf]
        ram = max((price.ram_bytes / near.ram_bytes for price, near in pairs), default=1.0)
        time = max((price.time / near.time for price, near in pairs if near.time), default=1.0)
        return Price(guess.ram_bytes * ram, guess.time * time)

    def estimate(self, chosen: Chosen) -> Price:
        """On the graphs, for a flat memory and an order that is found at once."""
        ram_bytes, step = self._graphs(chosen)
        return Price(ram_bytes, self.times.of(chosen, step) if self.times else 0.0)

    def _graphs(self, chosen: Chosen) -> tuple[int, Graph]:
        """Without states, how long a run is changes nothing in RAM: then one estimate, of whole kernels, serves all."""
        if not self.state_bytes:
            chosen = tuple(self.offers[each.layer][-1] if each.share else each for each in chosen)
        if chosen not in self._estimates:
            training = build_training(self.bench.model, recipe_for(self.recipe, chosen))
            ram_bytes = costs(training, promptly).ram_bytes + self.bench.target.stack_bytes
            self._estimates[chosen] = ram_bytes, training.step
        return self._estimates[chosen]

    def confirm(self, chosen: Chosen) -> Price:
        """Compile a choice, and measure a step of it where time counts."""
        try:
            self.known[chosen] = self.exactly(chosen)
        except FitError:  # in the memory next to the cores, or in that of the simulator
            self.known[chosen] = Price(inf, inf)
        return self.known[chosen]

    def exactly(self, chosen: Chosen) -> Price:
        recipe = recipe_for(self.recipe, chosen)
        roomy = self.bench.target.resized(ram_bytes=_ANY_BYTES)
        planned = api.compile_model(self.bench.path, recipe, roomy, fix_batch=self.bench.fix_batch)
        ram_bytes = planned.program.spaces[ARENA] + roomy.stack_bytes
        return Price(ram_bytes, sum(self.bench.step(recipe, "a choice").values()) if self.times else 0.0)


def _whole(offers: Offers) -> Chosen:
    return tuple(options[-1] for options in offers.values())


def _state_bytes(training: Training) -> float:
    """What lies in RAM beside each element that is trained."""
    beside = (Role.STATE, Role.MASTER, Role.GRADIENT)
    held = {each.name: each for graph in training.graphs.values() for each in graph.persistent.values()}
    n_bytes = sum(each.type.n_bytes for each in held.values() if each.role in beside)
    kept = 4 if training.recipe.keeps_gradients and training.recipe.batch == 1 else 0
    return kept + n_bytes / sum(map(training.trained_elements, training.trainable))


# --- the search -------------------------------------------------------------------------------------------------------


def _search(offers: Offers, prices: _Prices, bound: Price) -> Chosen:
    """The best choice that is confirmed to fit. Raises FitError `does-not-fit` with the least that could."""
    while True:
        found = _best(offers, prices, bound) or _least(offers, prices, bound)
        if found in prices.known:
            fitting = [each for each, price in prices.known.items() if price.within(bound)]
            return max(fitting, key=_gain)
        prices.confirm(found)


def _best(offers: Offers, prices: _Prices, bound: Price) -> Chosen:
    """The best choice by the prices as far as they are known; nothing where none fits."""
    best: Chosen = ()
    layers = list(offers)
    for lowest in range(len(layers)):
        above = {layer: offers[layer] for layer in layers[lowest:]}
        if _gain(_whole(above)) <= _gain(best):
            break
        for found in _filled(above, prices, bound):
            best = found if _gain(found) > _gain(best) else best
    return best


def _filled(offers: Offers, prices: _Prices, bound: Price) -> Iterator[Chosen]:
    """Two greedy choices from `offers`, of which the first layer is the lowest."""
    first = next(iter(offers.values()))[0]
    price = prices((first,))
    if not price.within(bound):
        return
    spare = Price(bound.ram_bytes - price.ram_bytes + 1, bound.time - price.time + 1)

    def cost(option: Option) -> float:
        """The share of what is to spare that it takes, as far as that adds up."""
        n_bytes = option.weight_bytes + option.saved_bytes + prices.state_bytes * option.elements
        return n_bytes / spare.ram_bytes + (prices.times.training(option) / spare.time if prices.times else 0.0)

    yield _greedy(offers, prices, bound, lambda old, new: _per_cost(new, cost(new), old, cost(old) if old else 0.0))
    yield _greedy(offers, prices, bound, lambda old, new: new.gain - (old.gain if old else 0.0))


def _per_cost(new: Option, cost: float, old: Option | None, old_cost: float) -> float:
    return (new.gain - (old.gain if old else 0.0)) / max(cost - old_cost, 1e-9)


def _greedy(offers: Offers, prices: _Prices, bound: Price, worth: Callable[[Option | None, Option], float]) -> Chosen:
    """Take what is worth most, again and again, as long as all fits together; a layer may grow by another option."""
    chosen: dict[str, Option] = {}
    waiting = {layer: list(options) for layer, options in offers.items()}

    def with_(option: Option) -> Chosen:
        grown = {**chosen, option.layer: option}
        return tuple(grown[layer] for layer in offers if layer in grown)

    while True:
        for layer, option in chosen.items():
            waiting[layer] = [each for each in waiting[layer] if each.gain > option.gain]
        candidates = [option for options in waiting.values() for option in options if option.gain > 0]
        if not candidates:
            return tuple(chosen[layer] for layer in offers if layer in chosen)
        option = max(candidates, key=lambda each: worth(chosen.get(each.layer), each))
        if prices(with_(option)).within(bound):
            chosen[option.layer] = option
        else:
            waiting[option.layer] = [each for each in waiting[option.layer] if each.share < option.share]


def _least(offers: Offers, prices: _Prices, bound: Price) -> Chosen:
    """The smallest choices, confirmed one after the other, since estimates may be too high; else the refusal."""
    single = [(options[0],) for options in offers.values()]
    least_ram = min(single, key=lambda each: prices(each).ram_bytes)
    least_time = min(single, key=lambda each: prices(each).time)
    for found in (least_ram, least_time):
        if found not in prices.known or prices.known[found].within(bound):
            return found
    if prices.known[least_ram].ram_bytes == inf:
        prices.exactly(least_ram)  # which tells why
    raise FitError("does-not-fit", prices.bench.target.name, *_refusal(least_ram, least_time, prices, bound))


def _refusal(least_ram: Chosen, least_time: Chosen, prices: _Prices, bound: Price) -> tuple[str, str]:
    ram, time = prices.known[least_ram], prices.known[least_time]
    unit = prices.bench.unit
    parts = [f"training anything needs {ram.ram_bytes:,} bytes of RAM at least ({least_ram[0].layer})"]
    if prices.times:
        parts.append(f"{time.time:,.0f} {unit} a step at least ({least_time[0].layer})")
    asked = f"{bound.ram_bytes:,} bytes" + (f" and {bound.time:,} {unit}" if prices.times else "")
    return f"{' and '.join(parts)}; {asked} are allowed", "allow more, or let more layers be chosen from"
