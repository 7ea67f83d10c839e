"""`odl report`."""

from __future__ import annotations

from pathlib import Path

import click

from odl.commands.options import PATH, out_option, timeout_option
from odl.commands.verb import verb
from odl.console import Console
from odl.errors import BitsDifferError, UsageError
from odl.project import read_origins
from odl.report.facts import Wishes, facts
from odl.report.page import page
from odl.report.text import equal
from odl.report.text import report as report_text
from odl.staging import write_whole


@verb
@click.argument("runs", nargs=-1, required=True, type=PATH)
@click.option("--data", type=PATH, metavar="NPZ", help="What the runs learned from.  [the file that they noted]")
@click.option("--test", type=PATH, metavar="NPZ", help="What accuracy is measured on.  [what they learned from]")
@click.option("--steps", default=2, type=click.IntRange(min=0), help="Steps to verify, tensor by tensor.  [2]")
@click.option("--layer", default="", metavar="NAME", help="Whose tiles to draw.  [the one of most MACs]")
@click.option(
    "--clock", default=100.0, type=click.FloatRange(min=0, min_open=True), metavar="MHZ", help="The chip's.  [100]"
)
@out_option("The page, HTML in one file.", required=False)
@timeout_option
def report(
    console: Console, runs: tuple[Path, ...], data: Path | None, test: Path | None, steps: int, layer: str,
    clock: float, output: Path | None, timeout: float,
) -> None:  # fmt: skip
    """Tell all about RUNS, folders that `odl run -o` wrote; several are compared. Runs them again in NumPy."""
    wishes = Wishes(data, test, steps, layer, clock * 1e6, timeout)
    for run in runs:
        read_origins(run)
    if output and not output.absolute().parent.is_dir():
        raise UsageError("file-unwritable", str(output), "there is no such folder", "choose another file")
    result = {"runs": [facts(run, wishes, console.note) for run in runs]}
    if output:
        write_whole(output, page(result).encode())
    console.answer(result, report_text)
    different = [run["name"] for run in result["runs"] if equal(run) is False]
    if different:
        raise BitsDifferError("bits-differ", ", ".join(different), "it did not compute what NumPy computes")
