"""The page of a sweep: what `odl sweep --json` prints as one file of HTML, by the templates of templates/report.

Points have the numbers of their rows in the table, the best first, and the pictures call them by these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

from odl.report import pictures
from odl.report.page import rendered
from odl.sizes import size_text
from odl.sweep.grid import RAM
from odl.sweep.text import UNIT_WORDS, count, fronts, measure, refusals, score, status

Result = Mapping[str, Any]
_MOST_CURVES = 8  # as many as there are colours
_MOST_REFUSALS = 50  # told at length; the table has the codes of all
_LONGEST = 300
_SIGNS = {"accuracy": -1, "mean_squared_error": 1}  # that make less better


def page(result: Result) -> str:
    """HTML of a sweep."""
    points = _ranked(result["points"])
    axes = list(dict.fromkeys(axis for row in points for axis in row["settings"]))
    refused = [(row, _short(problem)) for row in points if row["refused"] for problem in row["refused"]["problems"]]
    best = [row for row in points if row["front"]]
    return rendered(
        "sweep.html.j2",
        title=f"{result['model']}: a sweep",
        model=result["model"],
        steps=result["steps"],
        headline=_headline(result),
        measure=measure(result),
        axes=axes,
        rows=[_row(row, axes) for row in points],
        groups=list(_groups(result["fronts"], points)),
        loss=pictures.losses(_curves(result, best[:_MOST_CURVES]), raw=False) if best else None,
        left_out=len(best[_MOST_CURVES:]),
        refused=[(row["number"], row["point"], problem) for row, problem in refused[:_MOST_REFUSALS]],
    )


def _ranked(points: Sequence[Result]) -> list[Result]:
    """The rows with their `number`, the best first: by what they reached, then by RAM and cost; an accuracy before an
    error; what diverged behind them, what was refused at the end."""

    def rank(row: Result) -> tuple[Any, ...]:
        if row["refused"]:
            return (2,)
        reached = float(row["after"])
        sound = isfinite(reached) and not row["diverged"]
        good = (row["measure"], _SIGNS[row["measure"]] * reached, row["ram_bytes"], row[row["unit"]]) if sound else ()
        return (0 if sound else 1, *good)

    return [{**row, "number": number} for number, row in enumerate(sorted(points, key=rank), 1)]


def _headline(result: Result) -> list[tuple[str, str]]:
    lost = refusals(result)
    about = [*(("front", text) for text in fronts(result)), *([("refused", lost)] if lost else [])]
    for word in ("data", "test"):
        found = result[word]
        about.append((word, f"{found['file']} (SHA-256 {found['sha256'][:16]})"))
    return [*about, ("model", f"SHA-256 {result['model_sha256'][:16]}")]


def _groups(groups: Sequence[Result], points: Sequence[Result]) -> Iterator[dict[str, Any]]:
    """What may be compared with each other: the same measure, the same unit."""
    for each in groups:
        unit = each["unit"]
        rows = [row for row in points if (row["measure"], row["unit"]) == (each["measure"], unit)]
        rows.sort(key=lambda row: (row["front"], -row["number"]))  # what is drawn last lies above, and is named first
        measured, unit_word = each["measure"].replace("_", " "), str(UNIT_WORDS.get(unit, unit))
        yield {
            "title": f"{measured.capitalize()}, RAM and {unit_word}",
            "pictures": [
                _scatter(rows, measured, "RAM, KiB", "RAM", "ram_bytes", 1024.0),
                _scatter(rows, measured, f"{unit_word} of a training step", unit_word, unit, 1.0),
            ],
        }


def _scatter(rows: Sequence[Result], measured: str, axis: str, against: str, word: str, scale: float) -> pictures.Chart:
    points = [
        pictures.Dot(row[word] / scale, float(row["after"]), _style(row), _says(row), str(row["number"]))
        for row in rows
    ]
    percent = measured == "accuracy"
    return pictures.scatter(
        f"{measured.capitalize()} against {against}", axis, measured, points,
        lambda value: f"{value:,g}" if value < 1e6 else f"{value / 1e6:,g} M",
        lambda value: f"{100 * value:g} %" if percent else f"{value:g}",
    )  # fmt: skip


def _style(row: Result) -> str:
    return "front" if row["front"] else "behind"


def _says(row: Result) -> str:
    return f"{_name(row)}: {score(row, 'after')}, {row['ram_bytes']:,} bytes, {count(row)}"


def _name(row: Result) -> str:
    return f"{row['number']}, {row['point']}"


def _curves(result: Result, rows: Sequence[Result]) -> list[tuple[str, str, list[float]]]:
    return [(_name(row), f"run{at}", list(map(float, result["curves"][row["point"]]))) for at, row in enumerate(rows)]


def _row(row: Result, axes: Sequence[str]) -> dict[str, Any]:
    settings = [_setting(axis, row["settings"].get(axis, "")) for axis in axes]
    return {
        "number": row["number"], "point": row["point"], "settings": settings,
        "before": score(row, "before"), "after": score(row, "after"),
        "ram": "" if row["refused"] else f"{row['ram_bytes']:,}", "count": count(row),
        "status": status(row), "front": row["front"],
    }  # fmt: skip


def _setting(axis: str, value: object) -> str:
    if axis == RAM and isinstance(value, int):
        return size_text(value)
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _short(problem: Mapping[str, str]) -> dict[str, str]:
    return {word: text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..." for word, text in problem.items()}
