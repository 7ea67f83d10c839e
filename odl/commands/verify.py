"""`odl verify`."""

from __future__ import annotations

from pathlib import Path

from odl import api, render, results
from odl.commands.options import (
    RecipeFlags,
    data_option,
    model_argument,
    on_option,
    ram_option,
    recipe_options,
    steps_option,
    target_option,
    timeout_option,
)
from odl.commands.verb import compile_from, verb
from odl.console import Console
from odl.errors import BitsDifferError
from odl.targets import machine_for


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
    compiled = compile_from(console, model, recipe, target, ram)
    with console.progress(steps) as advance:
        verdict = api.verify(compiled, data, steps, on or "", advance, timeout)
    result = results.verified(compiled, machine_for(compiled.target, on or "").simulator, verdict)
    console.answer(result, render.verified)
    found = verdict.first_difference
    if found:
        raise BitsDifferError("bits-differ", found.layer, f"'{found.tensor}' differs in step {found.step}")
