"""What the library's functions give back: a compiled model, and a training run of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from odl.budget import Saving
from odl.frontend import Model
from odl.graph import Graph
from odl.memory import Plan
from odl.ops.finish_step import DIVERGED, SKIPPED, TRIED
from odl.program import ARENA, Program
from odl.recipe import Recipe
from odl.shown import Shown
from odl.targets import Target
from odl.tiling import UNTUNED
from odl.training import Training
from odl.tuning import Tuning
from odl.types import Array


@dataclass(frozen=True)
class Accepted:
    """A model that can be trained by one recipe: imported, with its gradients and updates, but in no order or place."""

    model: Model
    recipe: Recipe
    training: Training

    @property
    def title(self) -> str:
        """What comments call the model."""
        return self.model.proto.graph.name or self.model.path.stem


@dataclass(frozen=True)
class Compiled(Accepted, Shown):
    """A model on its way down: every stage of it, for one recipe and one target.

    `ram_bytes` is the budget where one was given, else 0; `saving` what it takes to keep to it, None if nothing.
    """

    target: Target
    graphs: tuple[Graph, ...]
    plan: Plan
    program: Program
    tuning: Tuning = UNTUNED
    ram_bytes: int = 0
    saving: Saving | None = None

    @property
    def missing_bytes(self) -> int:
        """What arena and stack need beyond the target's RAM; 0 or less where they fit."""
        return self.plan.n_bytes[ARENA] + self.target.stack_bytes - self.target.ram_bytes

    @property
    def ram_bytes_needed(self) -> int:
        """RAM that arena and stack need together."""
        return self.target.ram_bytes + self.missing_bytes

    def __repr__(self) -> str:
        n_trained, fits = len(self.training.trainable), "" if self.missing_bytes <= 0 else ", which it has not"
        return (
            f"<odl.Compiled {self.title!r} for {self.target.name}: {n_trained:,} tensors trained, "
            f"{self.ram_bytes_needed:,} bytes of RAM{fits}>"
        )


@dataclass(frozen=True)
class Updates:
    """How many updates were tried, and in how many something was skipped since it was not finite; whether training has
    diverged, and the loss scale at the end; for each weight how many elements, in all updates, were to move and stayed,
    modulo 2^32."""

    tried: int
    skipped: int
    diverged: bool
    loss_scale: float
    lost: Mapping[str, int]


@dataclass(frozen=True)
class Run(Shown):
    """A training run `on` a simulator: losses by step, the weights at its end by name (binary16), what was counted.

    `counters` are the names of what it counts, empty where that is nothing. `counts` is (profiled steps, kernel calls,
    counters), `whole` (steps,) what the first counter said of each step. Looking at the counters takes cycles of its
    own: `whole` is then of a program that does not look, and the profile that of the first steps, up to a batch, of
    another that does; with latent replay one more, since the first step has no old samples. A run that went on from a
    checkpoint had its `first` steps done, and tells nothing of them; `saves` are what the device said of checkpoints.
    """

    compiled: Compiled
    on: str
    loss: tuple[float, ...]
    weights: Mapping[str, Array]
    counts: Array
    counters: tuple[str, ...]
    whole: Array
    stack_bytes: int
    first: int = 0
    saves: tuple[int, ...] = ()

    def __repr__(self) -> str:
        ends = f", loss {self.loss[0]:.4g} at first, {self.loss[-1]:.4g} at last" if self.loss else ""
        return f"<odl.Run of {self.compiled.title!r} on {self.on}: {len(self.loss):,} steps{ends}>"

    @property
    def counter(self) -> str:
        """The unit of costs."""
        return self.counters[0] if self.counters else ""

    @property
    def updates(self) -> Updates:
        """How its updates went."""
        control = self.compiled.training.control
        progress = self.weights[control.progress]
        scale = self.weights[control.loss_scale] if control.loss_scale else [self.compiled.recipe.loss_scale]
        lost = {name: int(self.weights[count][0]) & 0xFFFFFFFF for name, count in control.lost.items()}
        return Updates(int(progress[TRIED]), int(progress[SKIPPED]), bool(progress[DIVERGED]), float(scale[0]), lost)
