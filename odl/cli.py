"""The command line: what is asked, in words; the answers come from `odl.api`, `odl.results` and `odl.render`."""

from __future__ import annotations

import functools
import signal
import sys
import time
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

import click

from odl import api, autotune, render, results, saved, selection
from odl.checkpoint import Checkpoints, Status, read_image
from odl.cli_options import (
    PATH,
    SIMULATORS,
    RecipeFlags,
    data_option,
    model_argument,
    on_any_option,
    on_option,
    out_option,
    ram_option,
    recipe_options,
    steps_option,
    target_option,
    timeout_option,
)  # fmt: skip
from odl.console import Console
from odl.errors import BitsDifferError, ExitCode, ToolError, UsageError
from odl.project import MARKER, is_run, read_origins, sha256, walked
from odl.recipe import Recipe
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


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(VERSION, prog_name="odl", message="%(prog)s %(version)s")
def cli() -> None:
    """Compile ONNX models to C that trains them on RISC-V microcontrollers, bit for bit equal to NumPy."""


def verb(function: Callable[..., None], group: click.Group = cli) -> Callable[..., None]:
    """A command named as `function`, which gets a Console; it takes --json, -v and -q, and ends as `ExitCode` says."""

    @functools.wraps(function)
    def run(as_json: bool, verbose: bool, quiet: bool, **arguments: Any) -> None:
        console = Console(as_json, -1 if quiet else int(verbose))
        with console.errors():
            function(console, **arguments)

    command = group.command(function.__name__.strip("_"))(run)
    command.params += [
        click.Option(["--json", "as_json"], is_flag=True, help="Print the result as JSON."),
        click.Option(["-v", "--verbose"], is_flag=True, help="Say what is done; trace errors of odl itself."),
        click.Option(["-q", "--quiet"], is_flag=True, help="Show no progress, no notes."),
    ]
    return function


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
@model_argument
@recipe_options
def check(console: Console, model: Path, recipe: RecipeFlags) -> None:
    """Accept MODEL and list its layers, or say all that is wrong."""
    console.answer(results.checked(_compile(console, model, recipe, None)), render.checked)


@verb
@model_argument
@target_option
@ram_option
@recipe_options
def plan(console: Console, model: Path, target: str | None, ram: int | None, recipe: RecipeFlags) -> None:
    """Show in which order MODEL runs and where its tensors lie."""
    compiled = _compile(console, model, recipe, target, ram, must_fit=False)
    console.answer(results.planned(compiled), render.plan)
    api.require_fit(compiled)


@verb
@model_argument
@target_option
@ram_option
@out_option("Folder for the C project.")
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
@model_argument
@target_option
@ram_option
@on_any_option
@data_option
@steps_option
@out_option("Folder for the trained weights and the figures.", required=False)
@click.option("--continue", "goes_on", is_flag=True, help="MODEL is a run: go on where it ended, not from its start.")
@click.option(
    "--checkpoint",
    "image",
    type=PATH,
    metavar="IMAGE",
    help="The target's flash, in a file: checkpoints go there, and a run that was cut off goes on from there.",
)
@click.option(
    "--checkpoint-every",
    "every",
    type=click.IntRange(min=1),
    default=10,
    metavar="STEPS",
    help="Steps between two checkpoints.  [10]",
)
@timeout_option
@recipe_options
def run(
    console: Console,
    model: Path,
    target: str | None,
    ram: int | None,
    on: str | None,
    data: Path,
    steps: int,
    output: Path | None,
    goes_on: bool,
    image: Path | None,
    every: int,
    timeout: float,
    recipe: RecipeFlags,
) -> None:
    """Train MODEL, printing each step's loss as it comes."""
    if goes_on:
        _require_no_recipe(model, recipe)
    compiled = _compile(console, model, recipe, target, ram)
    weights = saved.load_weights(model, compiled) if goes_on else None
    first = walked(model, data) if goes_on else 0
    checkpoints = Checkpoints(image, every) if image else None
    if output:
        saved.require_writable(output)
    with console.progress(steps, streams=True) as advance:

        def listen(step: int, loss: float) -> None:
            console.stream(f"{step} {render.loss_text(loss)}")
            advance(step, loss)

        trained = api.train(compiled, data, steps, on or "", listen, timeout, weights, first, checkpoints)
    result = results.ran(trained)
    if output:
        further = {key: value for key, value in result.items() if key not in _SAVED_ANYWAY}
        walk = {"data_sha256": sha256(data), "walked": first + steps}
        saved.save_run(trained, output, **walk, **console.facts, **further)
    console.answer(result, render.ran)
    if not trained.updates.tried:
        console.note(f"no batch of {compiled.recipe.batch} was full: nothing was updated")
    if any(trained.saves):
        failed = sum(status != Status.OK for status in trained.saves)
        console.note(f"{image}: {failed} of {len(trained.saves)} checkpoints could not be saved")
    if trained.loss and not isfinite(trained.loss[-1]):
        console.note("the last loss is not finite: a lower --lr may help, or --loss-scaling dynamic")
    api.require_convergence(trained)


_SAVED_ANYWAY = ("target", "on", "loss")


@verb
@model_argument
@target_option
@ram_option
@on_option
@data_option
@steps_option
@timeout_option
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
@model_argument
@target_option
@ram_option
@click.option("--on", default=api.NUMPY, type=click.Choice([api.NUMPY, *SIMULATORS]), help="Where it runs.  [numpy]")
@data_option
@timeout_option
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
    weights = saved.load_weights(model, compiled) if trained else None
    with console.counting("sample") as advance:
        result = api.evaluate(compiled, data, weights, on, timeout, advance)
    console.answer({"on": on, **result}, render.evaluated)


@verb
@model_argument
@click.option("--checkpoint", "image", type=PATH, metavar="IMAGE", help="Take the weights from a device's flash.")
@target_option
@ram_option
@out_option("The ONNX file.")
@recipe_options
def export(
    console: Console,
    model: Path,
    image: Path | None,
    target: str | None,
    ram: int | None,
    output: Path,
    recipe: RecipeFlags,
) -> None:
    """Write the original model with what was trained: of MODEL, a run's folder, or of a checkpoint of MODEL."""
    if not image:
        read_origins(model)
        _require_no_recipe(model, recipe)
    compiled = _compile(console, model, recipe, target, ram)
    weights = saved.load_checkpoint(image, compiled) if image else saved.load_weights(model, compiled)
    api.export(compiled, weights, output)
    console.answer({"model": str(output), "trained": list(compiled.training.initializers)}, render.exported)


@cli.group()
def checkpoint() -> None:
    """What a device's flash holds."""


@functools.partial(verb, group=checkpoint)
@click.argument("image", type=PATH)
@click.option("--model", type=PATH, help="What it should be of: an ONNX file, or a folder of ours.")
@target_option
@ram_option
@recipe_options
def inspect(
    console: Console, image: Path, model: Path | None, target: str | None, ram: int | None, recipe: RecipeFlags
) -> None:
    """Tell what the two slots of IMAGE hold; with --model, which tensors, and how many of their elements training
    changed."""
    slots = read_image(image)
    compiled = _compile(console, model, recipe, target, ram) if model else None
    weights = saved.load_checkpoint(image, compiled) if compiled else {}
    console.answer(results.inspected(str(image), slots, compiled, weights), render.inspected)


@verb
@model_argument
@click.option(
    "-t",
    "--target",
    default=PULP_OPEN.name,
    type=click.Choice(list(TARGETS)),
    help=f"One whose cycles can be counted.  [{PULP_OPEN.name}]",
)
@click.option(
    "-o", "--output", type=PATH, help="The file to keep it in.  [MODEL's name, .tune.json, where build looks]"
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
@model_argument
@target_option
@on_option
@data_option
@ram_option
@click.option(
    "--time",
    type=click.IntRange(min=1),
    metavar="COUNT",
    help="Most that a step may take, in what the target counts: instructions, cycles or MACs.  [any]",
)
@click.option("--samples", default=64, type=click.IntRange(min=1), help="Calibration samples to look at.  [64]")
@out_option("Recipe file to write.", required=False)
@timeout_option
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
@model_argument
@click.option("--stage", required=True, type=click.Choice(list(results.STAGES)), help="How far down.")
@target_option
@ram_option
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
