"""`odl select`."""

from __future__ import annotations

from pathlib import Path

import click

from odl import render, results, selection
from odl.commands.options import (
    RecipeFlags,
    data_option,
    model_argument,
    on_option,
    out_option,
    ram_option,
    recipe_options,
    target_option,
    timeout_option,
)
from odl.commands.verb import verb
from odl.console import Console
from odl.project import MARKER, read_origins, sha256
from odl.recipe import Recipe
from odl.recipe_toml import recipe_toml
from odl.staging import write_whole
from odl.targets import DEFAULT, find_target, machine_for


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
    """Choose the layers and channels of MODEL that contribute most to learning, within RAM and time."""
    wanted, machine, fix_batch = recipe.over(Recipe()), target or DEFAULT.name, recipe.fix_batch
    if (model / MARKER).is_file():
        origins, _ = read_origins(model)
        model, wanted, machine = origins.model, recipe.over(origins.recipe), target or origins.target
        fix_batch |= origins.fix_batch
    found = selection.choose(
        model, data, wanted, machine, ram_bytes=ram, time=time, samples=samples, on=on or "",
        timeout_s=timeout, tell=console.note, fix_batch=fix_batch,
    )  # fmt: skip
    console.facts["model_sha256"] = sha256(model)
    simulator = machine_for(find_target(machine), on or "").simulator
    result = results.selected(found, machine, simulator, str(output or ""))
    if output:
        write_whole(output, recipe_toml(found.recipe, f"odl select, on {data.name}").encode())
    console.answer(result, render.selected)
