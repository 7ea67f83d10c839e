"""`odl export`."""

from __future__ import annotations

from pathlib import Path

import click

from odl import api, render, saved
from odl.commands.options import (
    PATH,
    RecipeFlags,
    model_argument,
    out_option,
    ram_option,
    recipe_options,
    target_option,
)
from odl.commands.verb import compile_from, require_no_recipe, verb
from odl.console import Console
from odl.project import read_origins


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
    """Write the original model with what was trained. MODEL is a run's folder, or that of a checkpoint."""
    if not image:
        read_origins(model)
        require_no_recipe(model, recipe)
    compiled = compile_from(console, model, recipe, target, ram)
    weights = saved.load_checkpoint(image, compiled) if image else saved.load_weights(model, compiled)
    api.export(compiled, weights, output)
    console.answer({"model": str(output), "trained": list(compiled.training.initializers)}, render.exported)
