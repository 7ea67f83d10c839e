"""What every command is: a function that gets a Console, and ends as `ExitCode` says."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from odl import api, autotune
from odl.commands.options import RecipeFlags
from odl.console import Console
from odl.errors import UsageError
from odl.project import MARKER, read_origins, sha256
from odl.recipe import Recipe
from odl.stages import told
from odl.targets import DEFAULT, find_target
from odl.tuning import Tuning


def verb(function: Callable[..., None]) -> click.Command:
    """A command named as `function`, which gets a Console; it takes --json, -v and -q, and ends as `ExitCode` says."""

    @functools.wraps(function)
    def run(as_json: bool, verbose: bool, quiet: bool, **arguments: Any) -> None:
        console = Console(as_json, -1 if quiet else int(verbose))
        with console.errors(), told(console.stage):
            function(console, **arguments)

    command = click.command(function.__name__.strip("_"))(run)
    command.params += [
        click.Option(["--json", "as_json"], is_flag=True, help="Print the result as JSON."),
        click.Option(["-v", "--verbose"], is_flag=True, help="Say what is done; trace errors of odl itself."),
        click.Option(["-q", "--quiet"], is_flag=True, help="Show no progress, no notes."),
    ]
    return command


def accept_from(console: Console, path: Path, recipe: RecipeFlags) -> api.Accepted:
    """From an ONNX file, or again from what a folder of ours was made from, as far as no target matters."""
    if (path / MARKER).is_file():
        origins, note = read_origins(path)
        find_target(origins.target)
        fix_batch = origins.fix_batch or recipe.fix_batch
        accepted = api.accept(origins.model, recipe.over(origins.recipe), fix_batch)
        console.facts["model_sha256"] = str(note.get("model_sha256", ""))
    else:
        accepted = api.accept(path, recipe.over(Recipe()), recipe.fix_batch)
        console.facts["model_sha256"] = sha256(path)
    return accepted


def compile_from(
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
        fix_batch = origins.fix_batch or recipe.fix_batch
        compiled = api.compile_model(origins.model, wanted, machine, tuning, budget, must_fit, fix_batch)
        console.facts["model_sha256"] = str(note.get("model_sha256", ""))
    else:
        wanted, machine = recipe.over(Recipe()), target or DEFAULT.name
        tuning = autotune.tuning_for(path, wanted, machine, console.note)
        compiled = api.compile_model(path, wanted, machine, tuning, ram or 0, must_fit, recipe.fix_batch)
        console.facts["model_sha256"] = sha256(path)
    took = time.monotonic() - started
    console.log(f"{path}: {compiled.recipe} for {compiled.target.name}, compiled in {took:.1f} s")
    return compiled


def require_no_recipe(run_folder: Path, recipe: RecipeFlags) -> None:
    if recipe.given:
        raise UsageError("recipe-fixed", str(run_folder), "a run has its own recipe", "leave out -r and its flags")
