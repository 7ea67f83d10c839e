"""`odl checkpoint`."""

from __future__ import annotations

from pathlib import Path

import click

from odl import render, results, saved
from odl.checkpoint import read_image, require_image
from odl.commands.options import PATH, RecipeFlags, ram_option, recipe_options, target_option
from odl.commands.verb import compile_from, verb
from odl.console import Console


@click.group()
def checkpoint() -> None:
    """What a device's flash holds."""


@verb
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
    require_image(slots, str(image))
    compiled = compile_from(console, model, recipe, target, ram) if model else None
    weights = saved.load_checkpoint(image, compiled) if compiled else {}
    console.answer(results.inspected(str(image), slots, compiled, weights), render.inspected)


checkpoint.add_command(inspect)
