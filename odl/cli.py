"""The command line: what is asked, in words; the answers come from `odl.api`, `odl.results` and `odl.render`."""

from __future__ import annotations

import functools
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from math import isfinite
from pathlib import Path
from typing import Any

import click

from odl import api, autotune, render, results, selection
from odl.console import Console
from odl.errors import BitsDifferError, ExitCode, ToolError, UsageError
from odl.project import MARKER, is_run, read_origins, sha256, walked
from odl.recipe import CHOICES, Recipe, read_recipe
from odl.recipe_toml import recipe_toml
from odl.staging import write_whole
from odl.targets import DEFAULT, TARGETS, find_target, machine_for
from odl.targets.pulp import PULP_OPEN
from odl.toolchain import doctor as look_around
from odl.tuning import Tuning
from odl.version import VERSION

_CODES = ", ".join(f"{code.value} {code.name.lower().replace('_', ' ')}" for code in ExitCode)
_EPILOG = f"""\b
MODEL is an ONNX file, or a folder that `odl build` or `odl run -o` wrote.
Exit codes: {_CODES}.
Shell completion: eval "$(_ODL_COMPLETE=bash_source odl)", or zsh_source, fish_source."""

_SIMULATORS = list(dict.fromkeys(target.simulator for target in TARGETS.values()))

Decorator = Callable[[Callable[..., None]], Callable[..., None]]


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(VERSION, prog_name="odl", message="%(prog)s %(version)s")
def cli() -> None:
    """Compile ONNX models to C that trains them on RISC-V microcontrollers, bit for bit equal to NumPy."""


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """A command named as `function`, which gets a Console; it takes --json, -v and -q, and ends as `ExitCode` says."""

    @functools.wraps(function)
    def run(as_json: bool, verbose: bool, quiet: bool, **arguments: Any) -> None:
        console = Console(as_json, -1 if quiet else int(verbose))
        with console.errors():
            function(console, **arguments)

    command = cli.command(function.__name__.strip("_"))(run)
    command.params += [
        click.Option(["--json", "as_json"], is_flag=True, help="Print the result as JSON."),
        click.Option(["-v", "--verbose"], is_flag=True, help="Say what is done; trace errors of odl itself."),
        click.Option(["-q", "--quiet"], is_flag=True, help="Show no progress, no notes."),
    ]
    return function


# --- what commands take -----------------------------------------------------------------------------------------------


def _n_bytes(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """A size in bytes: 65536, 64K, 1.5M, 64KiB; of a fraction of a byte, the whole ones."""
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]+|[0-9]+\.[0-9]+(?=[kmg]))(?:([kmg])(?:i?b)?)?", value, re.IGNORECASE)
    n_bytes = int(Fraction(match[1]) * 1024 ** " kmg".index((match[2] or " ").lower())) if match else 0
    if not n_bytes:
        raise click.BadParameter(f"{value!r} is no size such as 65536, 64K, 1.5M or 1G")
    return n_bytes


@dataclass(frozen=True)
class RecipeFlags:
    """A recipe file, and what flags change."""

    file: Path | None
    changes: Mapping[str, Any]

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


def recipe_options(function: Callable[..., None]) -> Callable[..., None]:
    """-r, and a flag a field of Recipe; the command gets them as `recipe`."""

    @functools.wraps(function)
    def run(console: Console, recipe_file: Path | None, **arguments: Any) -> None:
        given = {field.name: arguments.pop(field.name) for field in fields(Recipe)}
        changes = {name: None if value == () else value for name, value in given.items()}
        function(console, recipe=RecipeFlags(recipe_file, changes), **arguments)

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
    path = click.Path(path_type=Path)
    click.option("-r", "--recipe", "recipe_file", type=path, metavar="TOML", help="Recipe file; flags go over it.")(run)
    return run


_path = click.Path(path_type=Path)
_model = click.argument("model", type=_path)
_run_folder = click.argument("run_folder", metavar="RUN", type=_path)
_data = click.option("--data", required=True, type=_path, metavar="NPZ", help="Arrays x (N, ...) and y.")
_steps = click.option("--steps", required=True, type=click.IntRange(min=1), help="Training steps, one sample each.")
_target = click.option("-t", "--target", type=click.Choice(list(TARGETS)), help=f"[{DEFAULT.name}, or the folder's]")
_on = click.option("--on", type=click.Choice(_SIMULATORS), help="Where it runs.  [the target's simulator]")
_on_any = click.option(
    "--on",
    type=click.Choice([api.NUMPY, *_SIMULATORS]),
    help="Where it runs: a simulator, or numpy.  [the target's own]",
)
_timeout = click.option(
    "--timeout", default=120.0, type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
    help="Longest silence of the target.  [120]",
)  # fmt: skip
_ram = click.option(
    "--ram",
    callback=_n_bytes,
    metavar="BYTES",
    help="RAM of your chip, as 64K; where it is too little, values are computed again.  [the target's or folder's]",
)


def _out(help_: str, *, required: bool = True) -> Decorator:
    return click.option("-o", "--output", type=_path, required=required, help=help_)


def _compile(
    console: Console, path: Path, recipe: RecipeFlags, target: str | None, ram: int | None = None, must_fit: bool = True
) -> api.Compiled:
    """From an ONNX file, or again from what a folder of ours was made from; notes the model's hash."""
    started = time.monotonic()
    if (path / MARKER).is_file():
        origins, note = read_origins(path)
        wanted, machine = recipe.over(origins.recipe), target or origins.target
        tuning, like = origins.tuning, autotune.shape_of(wanted) == autotune.shape_of(origins.recipe)
        if not tuning.is_empty and not (like and machine == origins.target):
            console.note(f"{path}: its tuning is not used, it was measured for another recipe or target")
            tuning = Tuning()
        budget = ram or (origins.ram_bytes if machine == origins.target else 0)
        compiled = api.compile_model(origins.model, wanted, machine, tuning, budget, must_fit)
        console.facts["model_sha256"] = str(note.get("model_sha256", ""))
    else:
        wanted, machine = recipe.over(Recipe()), target or DEFAULT.name
        tuning = autotune.tuning_for(path, wanted, machine, console.note)
        compiled = api.compile_model(path, wanted, machine, tuning, ram or 0, must_fit)
        console.facts["model_sha256"] = sha256(path)
    took = time.monotonic() - started
    console.log(f"{path}: {compiled.recipe} for {compiled.target.name}, compiled in {took:.1f} s")
    return compiled


def _require_no_recipe(run_folder: Path, recipe: RecipeFlags) -> None:
    if recipe.given:
        raise UsageError("recipe-fixed", str(run_folder), "a run has its own recipe", "leave out -r and its flags")


# --- verbs ------------------------------------------------------------------------------------------------------------


@verb
def doctor(console: Console) -> None:
    """Tell which compilers and simulators are here."""
    found = results.tools(look_around(TARGETS))
    console.answer(found, render.tools)
    if not found["usable"]:
        raise ToolError("target-unusable", DEFAULT.name, "it cannot be compiled and run here", "see the table's hints")


@verb
def ops(console: Console) -> None:
    """List the supported ONNX operators and their limits."""
    console.answer(results.supported(), render.supported)


@verb
@_model
@recipe_options
def check(console: Console, model: Path, recipe: RecipeFlags) -> None:
    """Accept MODEL and list its layers, or say all that is wrong."""
    console.answer(results.checked(_compile(console, model, recipe, None)), render.checked)


@verb
@_model
@_target
@_ram
@recipe_options
def plan(console: Console, model: Path, target: str | None, ram: int | None, recipe: RecipeFlags) -> None:
    """Show in which order MODEL runs and where its tensors lie."""
    compiled = _compile(console, model, recipe, target, ram, must_fit=False)
    console.answer(results.planned(compiled), render.plan)
    api.require_fit(compiled)


@verb
@_model
@_target
@_ram
@_out("Folder for the C project.")
@recipe_options
def build(
    console: Console, model: Path, target: str | None, ram: int | None, output: Path, recipe: RecipeFlags
) -> None:
    """Write a C project that trains MODEL, and compile it."""
    compiled = _compile(console, model, recipe, target, ram)
    if is_run(model):
        console.note(f"{model}: built with the weights it began with; to build what it trained, odl export it first")
    console.answer(results.built(compiled, str(output), api.build(compiled, output)), render.built)


@verb
@_model
@_target
@_ram
@_on_any
@_data
@_steps
@_out("Folder for the trained weights and the figures.", required=False)
@click.option("--continue", "goes_on", is_flag=True, help="MODEL is a run: go on where it ended, not from its start.")
@_timeout
@recipe_options
def run(
    console: Console, model: Path, target: str | None, ram: int | None, on: str | None, data: Path, steps: int,
    output: Path | None, goes_on: bool, timeout: float, recipe: RecipeFlags,
) -> None:  # fmt: skip
    """Train MODEL, printing each step's loss as it comes."""
    if goes_on:
        _require_no_recipe(model, recipe)
    compiled = _compile(console, model, recipe, target, ram)
    weights = api.load_weights(model, compiled) if goes_on else None
    first = walked(model, data) if goes_on else 0
    if output:
        api.require_writable(output)
    with console.progress(steps, streams=True) as advance:

        def listen(step: int, loss: float) -> None:
            console.stream(f"{step} {render.loss_text(loss)}")
            advance(step, loss)

        trained = api.train(compiled, data, steps, on or "", listen, timeout, weights, first)
    result = results.ran(trained)
    if output:
        further = {key: value for key, value in result.items() if key not in _SAVED_ANYWAY}
        walk = {"data_sha256": sha256(data), "walked": first + steps}
        api.save_run(trained, output, **walk, **console.facts, **further)
    console.answer(result, render.ran)
    if not trained.updates.tried:
        console.note(f"no batch of {compiled.recipe.batch} was full: nothing was updated")
    if not isfinite(trained.loss[-1]):
        console.note("the last loss is not finite: a lower --lr may help, or --loss-scaling dynamic")
    api.require_convergence(trained)


_SAVED_ANYWAY = ("target", "on", "loss")


@verb
@_model
@_target
@_ram
@_on
@_data
@_steps
@_timeout
@recipe_options
def verify(
    console: Console, model: Path, target: str | None, ram: int | None, on: str | None, data: Path, steps: int,
    timeout: float, recipe: RecipeFlags,
) -> None:  # fmt: skip
    """Compare every tensor of every step with NumPy, in bits."""
    compiled = _compile(console, model, recipe, target, ram)
    with console.progress(steps) as advance:
        verdict = api.verify(compiled, data, steps, on or "", advance, timeout)
    result = results.verified(compiled, machine_for(compiled.target, on or "").simulator, verdict)
    console.answer(result, render.verified)
    found = verdict.first_difference
    if found:
        raise BitsDifferError("bits-differ", found.layer, f"'{found.tensor}' differs in step {found.step}")


@verb
@_model
@_target
@_ram
@click.option("--on", default=api.NUMPY, type=click.Choice([api.NUMPY, *_SIMULATORS]), help="Where it runs.  [numpy]")
@_data
@_timeout
@recipe_options
def eval_(
    console: Console,
    model: Path,
    target: str | None,
    ram: int | None,
    on: str,
    data: Path,
    timeout: float,
    recipe: RecipeFlags,
) -> None:
    """Tell how well MODEL, or what a run made of it, does on data."""
    trained = is_run(model)
    if trained:
        _require_no_recipe(model, recipe)
    compiled = _compile(console, model, recipe, target, ram)
    weights = api.load_weights(model, compiled) if trained else None
    with console.counting("sample") as advance:
        result = api.evaluate(compiled, data, weights, on, timeout, advance)
    console.answer({"on": on, **result}, render.evaluated)


@verb
@_run_folder
@_out("The ONNX file.")
def export(console: Console, run_folder: Path, output: Path) -> None:
    """Write the original model with the weights of RUN."""
    read_origins(run_folder)
    compiled = _compile(console, run_folder, RecipeFlags(None, {}), None)
    api.export(compiled, api.load_weights(run_folder, compiled), output)
    console.answer({"model": str(output), "trained": list(compiled.training.initializers)}, render.exported)


@verb
@_model
@click.option(
    "-t",
    "--target",
    default=PULP_OPEN.name,
    type=click.Choice(list(TARGETS)),
    help=f"One whose cycles can be counted.  [{PULP_OPEN.name}]",
)
@click.option(
    "-o", "--output", type=_path, help="The file to keep it in.  [MODEL's name, .tune.json, where build looks]"
)
@click.option("-j", "--jobs", default=0, type=click.IntRange(min=0), help="Simulators at once.  [one a core]")
@click.option(
    "--timeout", default=900.0, type=click.FloatRange(min=0, min_open=True), help="Longest silence of one.  [900]"
)
@recipe_options
def tune(
    console: Console, model: Path, target: str, output: Path | None, jobs: int, timeout: float, recipe: RecipeFlags
) -> None:
    """Measure kernels and tiles of MODEL, an ONNX file, on the simulator; keep each layer's fastest. No bit changes."""

    def tell(number: int, of: int, name: str, cycles: int) -> None:
        console.note(f"{number} of {of}: {name}, {f'{cycles:,} cycles' if cycles >= 0 else 'does not fit'}")

    found = autotune.tune(model, recipe.over(Recipe()), target, out=output, jobs=jobs, timeout_s=timeout, progress=tell)
    console.facts["model_sha256"] = sha256(model)
    path = output or autotune.cache_path(model)
    console.answer(results.tuned(found, target, str(path)), render.tuned)


@verb
@_model
@_target
@_on
@_data
@_ram
@click.option(
    "--time",
    type=click.IntRange(min=1),
    metavar="COUNT",
    help="Most that a step may take, in what the target counts: instructions, cycles or MACs.  [any]",
)
@click.option("--samples", default=64, type=click.IntRange(min=1), help="Calibration samples to look at.  [64]")
@_out("Recipe file to write.", required=False)
@_timeout
@recipe_options
def select(
    console: Console, model: Path, target: str | None, on: str | None, data: Path, ram: int | None, time: int | None,
    samples: int, output: Path | None, timeout: float, recipe: RecipeFlags,
) -> None:  # fmt: skip
    """Choose the layers and channels of MODEL that contribute most to learning from data, within RAM and time."""
    wanted, machine = recipe.over(Recipe()), target or DEFAULT.name
    if (model / MARKER).is_file():
        origins, _ = read_origins(model)
        model, wanted, machine = origins.model, recipe.over(origins.recipe), target or origins.target
    found = selection.choose(
        model, data, wanted, machine, ram_bytes=ram, time=time, samples=samples, on=on or "",
        timeout_s=timeout, tell=console.note,
    )  # fmt: skip
    console.facts["model_sha256"] = sha256(model)
    simulator = machine_for(find_target(machine), on or "").simulator
    result = results.selected(found, machine, simulator, str(output or ""))
    if output:
        write_whole(output, recipe_toml(found.recipe, f"odl select, on {data.name}").encode())
    console.answer(result, render.selected)


@verb
@_model
@click.option("--stage", required=True, type=click.Choice(list(results.STAGES)), help="How far down.")
@_target
@_ram
@recipe_options
def dump(console: Console, model: Path, stage: str, target: str | None, ram: int | None, recipe: RecipeFlags) -> None:
    """Print any stage of MODEL on its way to C, as text."""
    text = results.STAGES[stage](_compile(console, model, recipe, target, ram))
    console.answer({"stage": stage, "text": text}, lambda result: str(result["text"]).rstrip("\n"))


def main() -> None:
    """The entry point. A SIGTERM unwinds as Ctrl-C does, so that no child outlives us."""

    def terminate(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, terminate)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    cli(prog_name="odl")
