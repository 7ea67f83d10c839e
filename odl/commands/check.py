"""`odl check`."""

from __future__ import annotations

from pathlib import Path

from odl import render, results
from odl.commands.options import RecipeFlags, model_argument, recipe_options
from odl.commands.verb import accept_from, verb
from odl.console import Console


@verb
@model_argument
@recipe_options
def check(console: Console, model: Path, recipe: RecipeFlags) -> None:
    """Accept MODEL and list its layers, or say all that is wrong."""
    console.answer(results.checked(accept_from(console, model, recipe)), render.checked)
