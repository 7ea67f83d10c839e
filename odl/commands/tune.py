"""`odl tune`."""

from __future__ import annotations

from pathlib import Path

import click

from odl import autotune, render, results
from odl.commands.options import PATH, RecipeFlags, model_argument, recipe_options
from odl.commands.verb import verb
from odl.console import Console
from odl.project import sha256
from odl.recipe import Recipe
from odl.targets import TARGETS
from odl.targets.pulp import PULP_OPEN


@verb
@model_argument
@click.option(
    "-t",
    "--target",
    default=PULP_OPEN.name,
    type=click.Choice(list(TARGETS)),
    help=f"One whose cycles can be counted.  [{PULP_OPEN.name}]",
)
@click.option(
    "-o", "--output", type=PATH, help="The file to keep it in.  [MODEL's name, .tune.json, where build looks]"
)
@click.option("-j", "--jobs", default=0, type=click.IntRange(min=0), help="Simulators at once.  [one a core]")
@click.option(
    "--timeout", default=900.0, type=click.FloatRange(min=0, min_open=True), help="Longest silence of one.  [900]"
)
@recipe_options
def tune(
    console: Console, model: Path, target: str, output: Path | None, jobs: int, timeout: float, recipe: RecipeFlags
) -> None:
    """Measure kernels and tiles of MODEL, an ONNX file, on the simulator; keep each layer's fastest. No bit changes."""

    def tell(number: int, of: int, name: str, cycles: int) -> None:
        console.note(f"{number} of {of}: {name}, {f'{cycles:,} cycles' if cycles >= 0 else 'does not fit'}")

    found = autotune.tune(
        model, recipe.over(Recipe()), target, out=output, jobs=jobs, timeout_s=timeout, progress=tell,
        fix_batch=recipe.fix_batch,
    )  # fmt: skip
    console.facts["model_sha256"] = sha256(model)
    path = output or autotune.cache_path(model)
    console.answer(results.tuned(found, target, str(path)), render.tuned)
