"""From gradients to updated weights: what the recipe's optimizer adds to a training graph.

Gradients that are `kept` decide together whether the step is sound; an immediate update is guarded by what its own
gradient is made of, so that the gradient itself need never exist as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from odl.graph import Builder, Node, Persistent, Phase, Role, Slice, fresh
from odl.masters import Master, salt
from odl.ops._updates import Update
from odl.ops.accumulate import AddSums
from odl.ops.adam import AdamUpdate
from odl.ops.finish_step import N_PROGRESS, FinishStep
from odl.ops.rates import LearningRate, Rates
from odl.ops.sgd import SgdUpdate
from odl.ops.square_sums import SquareSums
from odl.recipe import Recipe
from odl.types import Array, DType, TensorType

LARGEST_SCALE = 2.0**16


@dataclass(frozen=True)
class Control:
    """The persistent tensors that steer training, by name: how many updates were tried and skipped, the dynamic loss
    scale, which is "" where it is constant, and for each weight how many of its updates were lost."""

    progress: str
    loss_scale: str = ""
    lost: Mapping[str, str] = field(default_factory=dict)


def hold(build: Builder, name: str, values: Array, role: Role) -> str:
    """A new persistent tensor with these first values; returns its name."""
    type_ = TensorType(values.shape, DType.of(values))
    return build.hold(Persistent(fresh(name, build.types), type_, values, role))


def hold_zeros(build: Builder, name: str, type_: TensorType, role: Role) -> str:
    """A new persistent tensor of zeros; returns its name."""
    return hold(build, name, np.zeros(type_.shape, type_.dtype.numpy), role)


def hold_loss_scale(build: Builder, recipe: Recipe) -> str:
    """The loss scale as a tensor, where training changes it; else ""."""
    if recipe.loss_scaling != "dynamic":
        return ""
    return hold(build, "loss_scale", np.array([recipe.loss_scale], np.float32), Role.COUNTER)


@dataclass
class Updater:
    """Appends the updates of one step to `build`, which has all the gradients; `loss_scale` is `hold_loss_scale`'s.

    `layers` says which layer a weight is reported with. Of weights in `channels`, the gradient, and with it what lies
    beside the weight, has those rows alone.
    """

    build: Builder
    recipe: Recipe
    layers: Mapping[str, str]
    loss_scale: str
    channels: Mapping[str, Slice] = field(default_factory=dict)
    carries: dict[str, str] = field(default_factory=dict)

    def append(self, gradients: Mapping[str, str]) -> Control:
        """One update a weight; `carries` then says what every changed persistent tensor is afterwards."""
        build = self.build
        build.phase, build.layer = Phase.UPDATE, "step"
        progress = hold(build, "progress", np.zeros(N_PROGRESS, np.int32), Role.COUNTER)
        guards, squares = self._kept(gradients) if self.recipe.keeps_gradients else self._immediate(gradients)
        build.layer = "step"
        rates = self._rates(progress, squares)
        lost = {}
        for number, (name, gradient) in enumerate(gradients.items()):
            build.layer = self.layers[name]
            lost[name] = self._update(number, name, gradient, [rates, guards[name], progress])
        build.layer = "step"
        held = [progress, *([self.loss_scale] if self.loss_scale else [])]
        self._carry(held, build.add_many(self._finish(), (*held, squares), [f"{name}.new" for name in held]))
        return Control(progress, self.loss_scale, lost)

    # Guards: sums of squares, by weight, and those of everything.

    def _kept(self, gradients: Mapping[str, str]) -> tuple[dict[str, str], str]:
        squares = ""
        for name, gradient in gradients.items():
            self.build.layer = self.layers[name]
            squares = self._squares(gradient, squares)
        return dict.fromkeys(gradients, squares), squares

    def _immediate(self, gradients: Mapping[str, str]) -> tuple[dict[str, str], str]:
        guards: dict[tuple[str, ...], str] = {}
        found: dict[str, str] = {}
        everything, seen = "", set[str]()
        producer = {value: node for node in self.build.nodes for value in node.outputs}
        for name, gradient in gradients.items():
            self.build.layer = self.layers[name]
            sources = self._sources(gradient, producer)
            for at, source in enumerate(sources):
                if sources[: at + 1] not in guards:
                    guards[sources[: at + 1]] = self._squares(source, guards.get(sources[:at], ""))
            found[name] = guards[sources]
        for sources in sorted(guards, key=len, reverse=True):
            if not seen.issuperset(sources):
                seen.update(sources)
                guard = guards[sources]
                everything = self.build.add(AddSums(), (everything, guard), "squares") if everything else guard
        return found, everything

    def _squares(self, value: str, so_far: str) -> str:
        return self.build.add(SquareSums(), (value, so_far) if so_far else (value,), f"{value}.squares")

    def _sources(self, gradient: str, producer: Mapping[str, Node]) -> tuple[str, ...]:
        """What is finite if and only if the gradient is: what it is made of, unless roundings on the way may overflow.

        A product of binary16 numbers is far from the end of binary32, and a sum of products is not finite if one of
        its factors is not, taps on padding included.
        """
        if (self.recipe.accumulate, self.recipe.gradients) != ("fp32", "fp32"):
            return (gradient,)
        found: dict[str, None] = {}
        waiting = [gradient]
        while waiting:
            node = producer.get(value := waiting.pop())
            if node is None or node.phase is not Phase.WEIGHT_GRADIENT:
                found[value] = None
            else:
                waiting += reversed(node.inputs)
        return tuple(found)

    # The step's own operators.

    def _rates(self, progress: str, squares: str) -> str:
        recipe = self.recipe
        rule = LearningRate(
            recipe.lr, recipe.lr_schedule, recipe.warmup, recipe.lr_period, recipe.lr_gamma, recipe.lr_least
        )
        betas = (recipe.beta1, recipe.beta2) if recipe.optimizer != "sgd" else ()
        needs_squares = recipe.keeps_gradients and bool(betas or recipe.clip_norm)
        op = Rates(rule, recipe.batch, recipe.loss_scale, bool(self.loss_scale), needs_squares, recipe.clip_norm, betas)
        if op.is_constant:
            (values,) = op.evaluate([np.zeros(N_PROGRESS, np.int32)])
            return hold(self.build, "rates", values, Role.RATES)
        powers = [hold(self.build, "beta_powers", np.ones(2, np.float32), Role.COUNTER)] if betas else []
        others = [self.loss_scale] if self.loss_scale else []
        others += [squares] if needs_squares else []
        rates, *new = self.build.add_many(op, (*powers, progress, *others), ["rates", *(f"{p}.new" for p in powers)])
        self._carry(powers, new)
        return rates

    def _finish(self) -> FinishStep:
        recipe = self.recipe
        if not self.loss_scale:
            return FinishStep()
        rule = (recipe.scale_growth, recipe.scale_backoff, recipe.scale_interval, recipe.scale_floor)
        return FinishStep(True, *rule, LARGEST_SCALE)

    def _update(self, number: int, name: str, gradient: str, steering: list[str]) -> str:
        """Append the update of one weight; returns the name of its count of lost updates."""
        build, weight = self.build, self.build.persistent[name]
        rows = self.channels.get(name, Slice(0, 0, weight.type.shape[0]))
        op = replace(self._rule(number), row=rows.first, index=rows.first)  # draws are those of the whole weight
        trained = weight.initial[rows.first : rows.last]
        state = np.float16 if self.recipe.state == "fp16" else np.float32
        held = [hold(build, f"{name}.{word}", np.zeros(trained.shape, state), Role.STATE) for word in self._states()]
        if op.master.memory:
            held.append(hold(build, f"{name}.{op.master.value}", op.master.begin(trained), Role.MASTER))
        lost = hold(build, f"{name}.lost", np.zeros(1, np.int32), Role.COUNTER)
        changed = [name, *held, lost]
        steering = steering if op.master is Master.STOCHASTIC else steering[:-1]
        self._carry(changed, build.add_many(op, [*changed, gradient, *steering], [f"{each}.new" for each in changed]))
        return lost

    def _states(self) -> tuple[str, ...]:
        """What the optimizer keeps of each weight."""
        if self.recipe.optimizer == "sgd":
            return ("velocity",) if self.recipe.momentum else ()
        return ("mean", "deviation" if self.recipe.state == "fp16" else "variance")

    def _rule(self, number: int) -> Update:
        """The operator that updates weight `number`."""
        recipe, master = self.recipe, Master(self.recipe.master)
        rule: Update = SgdUpdate(momentum=recipe.momentum, nesterov=recipe.nesterov)
        if recipe.optimizer != "sgd":
            decoupled = recipe.optimizer == "adamw"
            rule = AdamUpdate(beta1=recipe.beta1, beta2=recipe.beta2, epsilon=recipe.epsilon, decoupled=decoupled)
        drawn = salt(0, number, recipe.seed) if master is Master.STOCHASTIC else 0
        return replace(rule, master=master, decay=recipe.weight_decay, clip=recipe.clip_value, salt=drawn)

    def _carry(self, held: Sequence[str], new: Sequence[str]) -> None:
        self.carries.update(zip(held, new, strict=True))
