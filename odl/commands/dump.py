"""`odl dump`."""

from __future__ import annotations

from pathlib import Path

import click

from odl import results
from odl.commands.options import RecipeFlags, model_argument, ram_option, recipe_options, target_option
from odl.commands.verb import compile_from, verb
from odl.console import Console


@verb
@model_argument
@click.option("--stage", required=True, type=click.Choice(list(results.STAGES)), help="How far down.")
@target_option
@ram_option
@recipe_options
def dump(console: Console, model: Path, stage: str, target: str | None, ram: int | None, recipe: RecipeFlags) -> None:
    """Print any stage of MODEL on its way to C, as text."""
    text = results.STAGES[stage](compile_from(console, model, recipe, target, ram))
    console.answer({"stage": stage, "text": text}, lambda result: str(result["text"]).rstrip("\n"))
