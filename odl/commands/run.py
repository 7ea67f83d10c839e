"""`odl run`."""

from __future__ import annotations

from math import isfinite
from pathlib import Path

import click

from odl import api, render, results, saved
from odl.checkpoint import Checkpoints, Status, read_image, why_lost
from odl.commands.options import (
    PATH,
    RecipeFlags,
    data_option,
    model_argument,
    on_any_option,
    out_option,
    ram_option,
    recipe_options,
    steps_option,
    target_option,
    timeout_option,
)
from odl.commands.verb import compile_from, require_no_recipe, verb
from odl.console import Console
from odl.project import is_run, walked


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
        require_no_recipe(model, recipe)
    compiled = compile_from(console, model, recipe, target, ram)
    weights = saved.load_weights(model, compiled) if goes_on else None
    first = walked(model, data) if goes_on else 0
    checkpoints = Checkpoints(image, every) if image else None
    if image and image.exists() and (why := why_lost(read_image(image))):
        console.note(f"{image}: begins anew, since {why}")
    if output:
        saved.require_room(output)
    with console.progress(steps, streams=True) as advance:

        def listen(step: int, loss: float) -> None:
            console.stream(f"{step} {render.loss_text(loss)}")
            advance(step, loss)

        trained = api.train(compiled, data, steps, on or "", listen, timeout, weights, first, checkpoints)
    result = results.ran(trained)
    if output and not trained.loss and is_run(output):
        console.note(f"{output}: stays as it is, since no step was left to do")
    elif output:
        saved.save_run(trained, output, data, walked=first + steps, continued=goes_on, **console.facts)
    console.answer(result, render.ran)
    if not trained.updates.tried:
        console.note(f"no batch of {compiled.recipe.batch} was full: nothing was updated")
    if any(trained.saves):
        failed = sum(status != Status.OK for status in trained.saves)
        console.note(f"{image}: {failed} of {len(trained.saves)} checkpoints could not be saved")
    if trained.loss and not isfinite(trained.loss[-1]):
        console.note("the last loss is not finite: a lower --lr may help, or --loss-scaling dynamic")
    api.require_convergence(trained)
