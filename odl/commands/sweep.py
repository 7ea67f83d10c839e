"""`odl sweep`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from odl import json_text
from odl.commands.options import (
    PATH,
    data_option,
    fix_batch_option,
    on_any_option,
    out_option,
    steps_option,
    timeout_option,
)
from odl.commands.verb import verb
from odl.console import SCHEMA, Console
from odl.errors import ExitCode, OdlError, Problem
from odl.recipe import Recipe, read_recipe
from odl.staging import claim, write_whole
from odl.sweep import cluster, pool, sweeping
from odl.sweep.grid import read_grid
from odl.sweep.jobs import Inputs, Job, Outcome
from odl.sweep.page import page
from odl.sweep.text import finished, swept
from odl.version import VERSION

_GRID, _JSON, _PAGE = "grid.toml", "sweep.json", "sweep.html"


@verb
@click.argument("model", type=PATH)
@data_option
@click.option("--test", required=True, type=PATH, metavar="NPZ", help="What accuracy is measured on.")
@steps_option
@click.option("--grid", required=True, type=PATH, metavar="TOML", help="What is tried: recipe words, target, ram.")
@click.option("-r", "--recipe", "recipe_file", type=PATH, metavar="TOML", help="Recipe file; the grid goes over it.")
@fix_batch_option
@on_any_option
@out_option("Folder for the points' run folders and the report.")
@click.option("-j", "--jobs", type=click.IntRange(min=1), metavar="N", help="Processes at once.  [one a core]")
@click.option("--scheduler", default="", metavar="ADDRESS", help="Run on the Dask cluster of this scheduler.")
@timeout_option
def sweep(
    console: Console, model: Path, data: Path, test: Path, steps: int, grid: Path, recipe_file: Path | None,
    fix_batch: bool, on: str | None, output: Path, jobs: int | None, scheduler: str, timeout: float,
) -> None:  # fmt: skip
    """Train MODEL by each recipe of a grid for each target, and compare accuracy, RAM and cycles. MODEL is an ONNX
    file. What is there already, from the same inputs, is not done again."""
    if scheduler:
        cluster.require_dask()
    content, points = read_grid(grid, read_recipe(recipe_file) if recipe_file else Recipe())
    said = set[str]()

    def once(text: str) -> None:
        if text not in said:
            said.add(text)
            console.note(text)

    wanted = sweeping.plan(model, data, test, points, steps, on or "", timeout, once, fix_batch)
    claim(output, _GRID, content)

    def runner(inputs: Inputs, missing: Sequence[Job]) -> Iterator[Outcome]:
        if scheduler:
            return cluster.on_cluster(inputs, missing, scheduler)
        return pool.in_pool(inputs, missing, jobs or 0)

    def listen(number: int, of: int, row: dict[str, Any], was_there: bool) -> None:
        console.note(f"{number}/{of} {finished(row)}{', done before' if was_there else ''}")

    result = sweeping.sweep(wanted, output, runner, listen)
    note = {"schema_version": SCHEMA, "odl_version": VERSION, **result}
    write_whole(output / _JSON, f"{json_text.dumps(note)}\n".encode())
    write_whole(output / _PAGE, page(result).encode())
    console.answer(result, swept)
    _require_one(result["points"])


def _require_one(rows: Sequence[dict[str, Any]]) -> None:
    """Where every point was refused, the sweep is, as the first of them was."""
    if all(row["refused"] for row in rows):
        first = rows[0]["refused"]
        kinds = {kind.exit_code: kind for kind in OdlError.__subclasses__()}
        raise kinds[ExitCode(first["exit_code"])].of(Problem(**problem) for problem in first["problems"])
