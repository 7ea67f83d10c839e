"""The page: facts and pictures through the templates of templates/report, into one file that asks for nothing else.

Names in a model are anyone's: everything is escaped, and a policy in the page forbids any request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from odl.console import printable
from odl.graph import Phase
from odl.program import ARENA, LOCAL
from odl.report import pictures
from odl.report.confusion import PAIR, confusion
from odl.report.text import diverged, equal, headline
from odl.share import share
from odl.training import STEP

Result = Mapping[str, Any]
PHASES = [phase.value for phase in Phase]
UNITS = ("cycles", "instructions", "macs")
_TILES = (pictures.tiles, pictures.local_map)


def page(result: Result) -> str:
    """HTML of a report: `result` is what `odl report --json` prints, of one run or of several."""
    runs = result["runs"]
    names = [run["name"] for run in runs]
    sizes = [run["memory"]["arena_bytes"] for run in runs]
    tops = {space: max(of.get(space, 0) for of in sizes) for space in (ARENA, LOCAL)}
    return rendered(
        "page.html.j2",
        title=f"{runs[0]['model']}: {' and '.join(names)}",
        runs=runs,
        verdicts=[equal(run) for run in runs],
        diverged=[diverged(run) for run in runs],
        headline=headline(runs),
        loss=_losses(runs),
        confusions=[confusion(run) for run in runs],
        pair=PAIR,
        maps=[[(run["name"], each) for each in maps(run["memory"], tops)] for run in runs],
        layers=layers(runs),
        unit=unit(runs),
        phases=PHASES,
        roofs=[None if "missing" in run["roofline"] else pictures.roofline(run["roofline"]) for run in runs],
        tiles=[[] if "missing" in run["tiles"] else [draw(run["tiles"]) for draw in _TILES] for run in runs],
    )  # fmt: skip


def rendered(template: str, **values: Any) -> str:
    """A template of templates/report with values in it, all of them escaped."""
    return _environment(share("templates") / "report").get_template(template).render(**values)


def _losses(runs: Sequence[Result]) -> pictures.Chart:
    """One run is drawn with its reference, several with each other."""
    curves = [(run["name"], f"run{at}", list(map(float, run["loss"]))) for at, run in enumerate(runs)]
    if len(runs) == 1 and "loss" in runs[0]["reference"]:
        curves = [(f"on {runs[0]['on']}", "run0", curves[0][2]), ("NumPy", "reference", runs[0]["reference"]["loss"])]
    return pictures.losses(curves)


def maps(memory: Result, tops: Mapping[str, int] | None = None) -> Iterator[pictures.Chart]:
    """The memories of a training step, of what `odl plan` tells; `tops` are where their axes end, else each where the
    memory does."""
    found = {block["space"] for entry in memory["entries"] if entry["entry"] == STEP for block in entry["blocks"]}
    for space in (ARENA, LOCAL):
        if space in memory["arena_bytes"] and space in found:
            yield pictures.memory_map(memory, STEP, space, (tops or {}).get(space, 0))


def unit(runs: Sequence[Result]) -> str:
    """What layers are measured in: the best that all runs counted."""
    return next(word for word in UNITS if all(word in layer for run in runs for layer in run["layers"]))


def layers(runs: Sequence[Result]) -> list[Result]:
    """A row for each layer of any run: its costs by run and phase, and what share of the dearest layer each is."""
    word = unit(runs)
    costs = [{layer["layer"]: layer for layer in run["layers"]} for run in runs]
    names = dict.fromkeys(name for found in costs for name in found)
    most = max((layer[word] for found in costs for layer in found.values()), default=0) or 1
    totals = [sum(layer[word] for layer in found.values()) or 1 for found in costs]
    return [
        {
            "layer": name,
            "runs": [
                {
                    "macs": layer["macs"], "all": layer[word], "share": layer[word] / whole,
                    "mac_per_cycle": layer.get("mac_per_cycle"),
                    "phases": {p: layer["phases"].get(p, {}).get(word, 0) for p in PHASES},
                    "widths": {p: 100 * layer["phases"].get(p, {}).get(word, 0) / most for p in PHASES},
                } if layer else None
                for found, whole in zip(costs, totals, strict=True) for layer in [found.get(name)]
            ],
        }
        for name in names
    ]  # fmt: skip


@cache
def _environment(folder: Path) -> jinja2.Environment:
    jinja = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, autoescape=True, finalize=_finalize,
    )  # fmt: skip
    jinja.filters |= {"words": lambda text: text.replace("_", " "), "count": lambda n: f"{n:,.0f}"}
    return jinja


def _finalize(value: Any) -> Any:
    """No control characters; what is markup already stays."""
    return printable(value) if type(value) is str else value
