"""What the commands take: arguments and flags that several of them share, and a flag for each field of a recipe."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from odl import api
from odl.console import Console
from odl.recipe import CHOICES, Recipe, read_recipe
from odl.sizes import size
from odl.targets import DEFAULT, TARGETS

Decorator = Callable[[Callable[..., None]], Callable[..., None]]

PATH = click.Path(path_type=Path)

SIMULATORS = list(dict.fromkeys(target.simulator for target in TARGETS.values()))


def _n_bytes(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """A size in bytes."""
    if value is None:
        return None
    n_bytes = size(value)
    if not n_bytes:
        raise click.BadParameter(f"{value!r} is no size such as 65536, 64K, 1.5M or 1G")
    return n_bytes


@dataclass(frozen=True)
class RecipeFlags:
    """A recipe file, what flags change, and whether a batch that the model leaves open is 1."""

    file: Path | None
    changes: Mapping[str, Any]
    fix_batch: bool = False

    def over(self, base: Recipe) -> Recipe:
        """The recipe: the file's or `base`, with the changes."""
        return (read_recipe(self.file) if self.file else base).with_changes(self.changes)

    @property
    def given(self) -> bool:
        return self.file is not None or any(value is not None for value in self.changes.values())


_RECIPE_HELP = {
    "loss": "Loss to minimise.",
    "optimizer": "Optimizer.",
    "lr": "Learning rate.",
    "momentum": "Momentum of sgd.",
    "nesterov": "Nesterov's momentum.",
    "beta1": "Adam's decay of the mean.",
    "beta2": "Adam's decay of the variance.",
    "epsilon": "Added to Adam's divisor.",
    "weight_decay": "Weight decay, added to the gradient; adamw: to the step.",
    "state": "Type of velocities, means and variances.",
    "master": "What remembers steps below a weight's last place.",
    "lr_schedule": "How the learning rate goes.",
    "warmup": "Updates in which it rises to --lr.",
    "lr_period": "Updates between two steps, or of the cosine.",
    "lr_gamma": "Factor of each step.",
    "lr_least": "Where the cosine ends.",
    "batch": "Samples per update.",
    "updates": "When weights change: each as soon as it can, or all at the end, after one decision.",
    "trainable": "ONNX names of the weights or nodes to train, with * and ?. May be repeated.",
    "last": "Train only the last so many layers of those; 0: all.",
    "parameters": "Which of their weights: all, only biases, or scale and shift of normalisations.",
    "channels": "Output channels to train: NAME=8:24, or NAME=0.25 for the first quarter. May be repeated.",
    "lora_rank": "Train low-rank adapters of so many rows instead of dense weights; 0: none.",
    "replay_layer": "ONNX node whose outputs are kept and trained on again; what is below is frozen.",
    "replay_slots": "How many are kept.",
    "replay_ratio": "How many are trained on before each new sample.",
    "replay_type": "How they are stored.",
    "replay_policy": "Which ones give way to new ones: any, or one of the largest class.",
    "accumulate": "Accumulator of sums of products.",
    "gradients": "Type of weight gradients.",
    "loss_scaling": "Whether the loss scale is 1, constant, or follows overflows.",
    "loss_scale": "Factor on the loss's gradient, divided out in the update; where a dynamic one begins.",
    "scale_growth": "Factor of a dynamic scale after sound updates.",
    "scale_backoff": "Its factor after an update that was not.",
    "scale_interval": "Sound updates in a row before it grows.",
    "scale_floor": "Where it gives up: training has diverged.",
    "clip_value": "Bound on each gradient; 0: none.",
    "clip_norm": "Bound on the norm of all gradients; 0: none.",
    "seed": "Seed of the sample order and of stochastic rounding.",
}


fix_batch_option = click.option("--fix-batch", is_flag=True, help="A batch dimension that MODEL leaves open is 1.")


def recipe_options(function: Callable[..., None]) -> Callable[..., None]:
    """-r, a flag a field of Recipe, and --fix-batch; the command gets them as `recipe`."""

    @functools.wraps(function)
    def run(console: Console, recipe_file: Path | None, fix_batch: bool, **arguments: Any) -> None:
        given = {field.name: arguments.pop(field.name) for field in fields(Recipe)}
        changes = {name: None if value == () else value for name, value in given.items()}
        function(console, recipe=RecipeFlags(recipe_file, changes, fix_batch), **arguments)

    for field in reversed(fields(Recipe)):
        many = isinstance(field.default, tuple)
        default = ", ".join(field.default) or "none" if many else field.default
        flag = field.name.replace("_", "-")
        click.option(
            f"--{flag}/--no-{flag}" if isinstance(field.default, bool) else f"--{flag}",
            field.name, default=None, multiple=many, metavar="PATTERN" if many else None,
            type=click.Choice(CHOICES[field.name]) if field.name in CHOICES else str if many else type(field.default),
            help=f"{_RECIPE_HELP.get(field.name, '')}  [{default}]",
        )(run)  # fmt: skip
    fix_batch_option(run)
    click.option("-r", "--recipe", "recipe_file", type=PATH, metavar="TOML", help="Recipe file; flags go over it.")(run)
    return run


model_argument = click.argument("model", type=PATH)
data_option = click.option("--data", required=True, type=PATH, metavar="NPZ", help="Arrays x (N, ...) and y.")
steps_option = click.option(
    "--steps", required=True, type=click.IntRange(min=1), help="Training steps, one sample each."
)
target_option = click.option(
    "-t", "--target", type=click.Choice(list(TARGETS)), help=f"[{DEFAULT.name}, or the folder's]"
)
on_option = click.option("--on", type=click.Choice(SIMULATORS), help="Where it runs.  [the target's simulator]")
on_any_option = click.option(
    "--on",
    type=click.Choice([api.NUMPY, *SIMULATORS]),
    help="Where it runs: a simulator, or numpy.  [the target's own]",
)
timeout_option = click.option(
    "--timeout", default=120.0, type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
    help="Longest silence of the target.  [120]",
)  # fmt: skip
ram_option = click.option(
    "--ram",
    callback=_n_bytes,
    metavar="BYTES",
    help="RAM of your chip, as 64K; where it is too little, values are computed again.  [the target's or folder's]",
)


def out_option(help_: str, *, required: bool = True) -> Decorator:
    return click.option("-o", "--output", type=PATH, required=required, help=help_)
