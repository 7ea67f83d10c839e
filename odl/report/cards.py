"""Results as cards in a notebook: HTML with pictures in it, which asks for nothing else and touches nothing around it.

What a card holds is what the commands tell of the same result (`odl.results`), cut to what a notebook can bear.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odl import results
from odl.compare import Verdict
from odl.outcomes import Compiled, Run
from odl.program import ARENA
from odl.render import LAYERS, cell_text, layer_row, most_taken_for
from odl.report import pictures
from odl.report.page import PHASES, layers, maps, rendered, unit
from odl.report.text import losses, step, updates
from odl.scores import Scores
from odl.share import share
from odl.sizes import size_text
from odl.toolchain import BuildResult
from odl.training import STEP

Result = Mapping[str, Any]

SCOPE = ".odl-card"
_MOST_ROWS = 60  # of a table
_MOST_BLOCKS = 400  # of a memory map
_MOST_CLASSES = 24  # of a matrix


@dataclass(frozen=True)
class Table:
    """Rows of text under a header. `numbers` are the columns of numbers; `left_out` rows are not here."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[bool]
    left_out: int


@dataclass(frozen=True)
class Card:
    """What a card shows, from its top down. `is_good` None: there is no verdict; `verdict` is its words."""

    title: str
    about: str = ""
    verdict: str = ""
    is_good: bool | None = None
    facts: Sequence[tuple[str, str]] = ()
    charts: Sequence[pictures.Chart] = ()
    note: str = ""
    has_phases: bool = False
    table: Table | None = None
    run: Result | None = None


def card(result: object) -> str:
    """HTML of one of CARDS."""
    tell = next(tell for kind, tell in CARDS.items() if isinstance(result, kind))
    told = tell(result)
    runs = [{**told.run, "layers": told.run["layers"][:_MOST_ROWS]}] if told.run else []
    return rendered(
        "card.html.j2", card=told, scope=SCOPE[1:],
        style=scoped(Path(share("templates"), "report/style.css").read_text(), SCOPE),
        id=f"odl-{zlib.crc32(repr(told).encode()):08x}", phases=PHASES,
        runs=runs, layers=layers(runs), unit=unit(runs),
    )  # fmt: skip


def scoped(style: str, scope: str) -> str:
    """A style sheet that holds inside of `scope` alone; what it says of the page, it says of `scope`."""

    def inside(found: re.Match[str]) -> str:
        words = [word.strip() for word in found[1].split(",")]
        return ", ".join(scope if word in (":root", "body") else f"{scope} {word}" for word in words) + " {"

    return re.sub(r"([^{}@;]+?)\s*\{(?![^{}]*\{)", inside, style)


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    every = list(rows)
    kept = every[:_MOST_ROWS]
    numbers = [
        all(isinstance(row[at], int | float | None) or row[at] == "" for row in kept) for at in range(len(header))
    ]
    return Table(header, [[cell_text(value) for value in row] for row in kept], numbers, len(every) - len(kept))


# --- what each kind of result shows -----------------------------------------------------------------------------------


def _compiled(compiled: Compiled) -> Card:
    model, memory = results.checked(compiled), results.planned(compiled)
    ram, arena = memory["ram"], memory["arena_bytes"][ARENA]
    bound = "" if ram["fits"] and ram["open"] else f" of {size_text(ram['available'])}"
    held = f"arena {size_text(arena)}, stack {size_text(memory['stack_bytes'])}"
    facts = [
        ("weights", f"{model['weights']:,}, of which {model['trained_weights']:,} are trained"),
        ("MACs", f"{model['macs']['forward']:,} forward, {model['macs']['step']:,} a training step"),
        ("RAM", f"{size_text(ram['needed'])}{bound}: {held}"),
        ("of the arena", f"{size_text(memory['persistent_bytes'])} outlive a step; "
                         f"no plan of that order is below {size_text(memory['arena_lower_bound'])}"),
    ]  # fmt: skip
    if memory["l1"]:
        facts.append(("L1", " of ".join(size_text(memory["l1"][word]) for word in ("needed", "available"))))
    if model["vanished"]:
        facts.append(("binary16", f"{sum(model['vanished'].values()):,} elements of weights become zero"))
    drawn, left_out = _largest(memory)
    return Card(
        model["model"], f"compiled for {compiled.target.name}: {compiled.target.summary}",
        "" if ram["fits"] else f"does not fit: {size_text(compiled.missing_bytes)} too many",
        None if ram["fits"] else False,
        facts, list(maps(drawn)), f"{left_out:,} smaller blocks are not drawn." if left_out else "", True,
        _table(LAYERS, map(layer_row, model["layers"])),
    )  # fmt: skip


def _largest(memory: Result) -> tuple[Result, int]:
    """The plan with the largest blocks of a training step alone, and how many others there are."""
    (entry,) = (each for each in memory["entries"] if each["entry"] == STEP)
    drawn = [block for block in entry["blocks"] if block["space"] in memory["arena_bytes"]]
    blocks = sorted(drawn, key=lambda block: block["bytes"] * (block["last"] - block["first"] + 1))
    left_out = max(0, len(blocks) - _MOST_BLOCKS)
    return {**memory, "entries": [{**entry, "blocks": blocks[left_out:]}]}, left_out


def _run(run: Run) -> Card:
    told = results.ran(run)
    facts = [("loss", losses(told)), ("a step", step(told)), ("updates", updates(told))]
    if told["stack_bytes"]:
        facts.append(("stack", size_text(told["stack_bytes"])))
    diverged = told["updates"]["diverged"]
    curve = [("running mean over a tenth", "run0", run.loss)]
    return Card(
        run.compiled.title, f"{len(run.loss):,} training steps for {run.compiled.target.name}, on {run.on}",
        "diverged" if diverged else "", False if diverged else None,
        facts, [pictures.losses(curve)] if run.loss else [], run=told,
    )  # fmt: skip


def _verdict(verdict: Verdict) -> Card:
    compared = f"{verdict.tensors:,} tensors, {verdict.values:,} values over {verdict.steps:,} steps"
    found = verdict.first_difference
    if found is None:
        return Card("Verification", compared, "same bits as NumPy", True)
    facts = [
        ("first difference", f"step {found.step}, layer {found.layer}, kernel {found.kernel}"),
        ("element", f"{found.tensor}{list(found.index)}, in storage order"),
        ("on the target", f"{found.actual.bits} ({found.actual.value:g})"),
        ("in NumPy", f"{found.expected.bits} ({found.expected.value:g})"),
    ]
    return Card("Verification", compared, "other bits than NumPy", False, facts)


def _scores(scores: Scores) -> Card:
    if "accuracy" not in scores:
        return Card(f"mean squared error {scores['mean_squared_error']:.6g}", f"of {scores['samples']:,} samples")
    title, about = f"accuracy {scores['accuracy']:.2%}", f"{scores['correct']:,} of {scores['samples']:,} samples"
    lost = (
        f"{scores['undecided']:,} samples have NaN among their outputs, and are wrong." if scores["undecided"] else ""
    )
    matrix, shares = scores["confusion"], scores["class_accuracy"]
    if len(matrix) <= _MOST_CLASSES:
        return Card(title, about, charts=[pictures.confusion(matrix)], note=lost)
    worst = sorted((right, at) for at, right in enumerate(shares) if right is not None)
    rows = [(at, sum(matrix[at]), f"{right:.2%}", most_taken_for(matrix[at])) for right, at in worst]
    return Card(title, about, note=lost, table=_table(("class, worst first", "samples", "right", "taken for"), rows))


def _built(built: BuildResult) -> Card:
    sizes = {"text": built.text_bytes, "data": built.data_bytes, "bss": built.bss_bytes}
    told = ", ".join(f"{name} {size_text(n_bytes)}" for name, n_bytes in sizes.items())
    return Card("Runner", str(built.elf), facts=[("sections", told)] if any(sizes.values()) else ())


CARDS: Mapping[type, Callable[[Any], Card]] = {
    Compiled: _compiled,
    Run: _run,
    Verdict: _verdict,
    Scores: _scores,
    BuildResult: _built,
}
