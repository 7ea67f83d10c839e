"""`odl plan`."""

from __future__ import annotations

from pathlib import Path

from odl import api, render, results
from odl.commands.options import RecipeFlags, model_argument, ram_option, recipe_options, target_option
from odl.commands.verb import compile_from, verb
from odl.console import Console


@verb
@model_argument
@target_option
@ram_option
@recipe_options
def plan(console: Console, model: Path, target: str | None, ram: int | None, recipe: RecipeFlags) -> None:
    """Show in which order MODEL runs and where its tensors lie."""
    compiled = compile_from(console, model, recipe, target, ram, must_fit=False)
    console.answer(results.planned(compiled), render.plan)
    api.require_fit(compiled)
