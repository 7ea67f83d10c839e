"""`odl build`."""

from __future__ import annotations

from pathlib import Path

import click

from odl import api, render, results
from odl.commands.options import RecipeFlags, model_argument, out_option, ram_option, recipe_options, target_option
from odl.commands.verb import compile_from, verb
from odl.console import Console
from odl.packages import PACKAGES, find_package
from odl.project import is_run
from odl.targets import DEFAULT, find_target


@verb
@model_argument
@target_option
@ram_option
@click.option(
    "--package",
    metavar="NAME",
    help=f"Instead of a project with a runner, a module for somebody else's build: {', '.join(PACKAGES)}.",
)
@out_option("Folder for the C project or the package.")
@recipe_options
def build(
    console: Console,
    model: Path,
    target: str | None,
    ram: int | None,
    package: str | None,
    output: Path,
    recipe: RecipeFlags,
) -> None:
    """Write a C project that trains MODEL, and compile it."""
    if package is not None:
        find_package(package, find_target(target or DEFAULT.name))  # before the work is done
    compiled = compile_from(console, model, recipe, target, ram)
    if is_run(model):
        console.note(f"{model}: built with the weights it began with; to build what it trained, odl export it first")
    if package is None:
        console.answer(results.built(compiled, str(output), api.build(compiled, output)), render.built)
    else:
        api.package(compiled, output, package)
        console.answer(results.packaged(compiled, str(output), package), render.packaged)
