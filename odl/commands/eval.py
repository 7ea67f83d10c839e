"""`odl eval`."""

from __future__ import annotations

from pathlib import Path

import click

from odl import api, render, saved
from odl.commands.options import (
    SIMULATORS,
    RecipeFlags,
    data_option,
    model_argument,
    ram_option,
    recipe_options,
    target_option,
    timeout_option,
)
from odl.commands.verb import compile_from, require_no_recipe, verb
from odl.console import Console
from odl.project import is_run


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
        require_no_recipe(model, recipe)
    compiled = compile_from(console, model, recipe, target, ram)
    weights = saved.load_weights(model, compiled) if trained else None
    with console.counting("sample") as advance:
        result = api.evaluate(compiled, data, weights, on, timeout, advance)
    console.answer({"on": on, **result}, render.evaluated)
