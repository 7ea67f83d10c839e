"""The page of a sweep: what `odl sweep --json` prints as one file of HTML, by the templates of templates/report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from odl.report import pictures
from odl.report.page import rendered
from odl.sweep.text import UNIT_WORDS, count, fronts, score, standing

Result = Mapping[str, Any]
_MOST_CURVES = 8  # as many as there are colours
_MOST_REFUSALS = 50  # told at length; the table has the codes of all
_LONGEST = 300


def page(result: Result) -> str:
    """HTML of a sweep."""
    points = result["points"]
    axes = list(dict.fromkeys(axis for row in points for axis in row["settings"]))
    refused = [(row["point"], _short(p)) for row in points if row["refused"] for p in row["refused"]["problems"]]
    best = _best_of_front(result)
    return rendered(
        "sweep.html.j2",
        title=f"{result['model']}: a sweep",
        model=result["model"],
        steps=result["steps"],
        points=points,
        headline=_headline(result),
        groups=list(_groups(result)),
        loss=pictures.losses(_curves(result, best[:_MOST_CURVES]), raw=False) if best else None,
        left_out=len(best[_MOST_CURVES:]),
        axes=axes,
        rows=[_row(row, axes) for row in points],
        refused=refused[:_MOST_REFUSALS],
    )


def _headline(result: Result) -> list[tuple[str, str]]:
    about = [("front", text) for text in fronts(result)]
    for word in ("data", "test"):
        found = result[word]
        about.append((word, f"{found['file']} (SHA-256 {found['sha256'][:16]})"))
    return [*about, ("model", f"SHA-256 {result['model_sha256'][:16]}")]


def _groups(result: Result) -> Iterator[dict[str, Any]]:
    """What may be compared with each other: the same measure, the same unit."""
    for each in result["fronts"]:
        measure, unit = each["measure"], each["unit"]
        rows = [row for row in result["points"] if (row["measure"], row["unit"]) == (measure, unit)]
        rows.sort(key=lambda row: row["front"])  # so that the front is drawn above the others
        measured, unit_word = measure.replace("_", " "), UNIT_WORDS.get(unit, unit)
        yield {
            "title": f"{measured.capitalize()}, RAM and {unit_word}",
            "pictures": [
                _scatter(rows, measured, "RAM, KiB", "RAM", "ram_bytes", 1024.0),
                _scatter(rows, measured, f"{unit_word} of a training step", unit_word, unit, 1.0),
            ],
        }


def _scatter(rows: Sequence[Result], measured: str, axis: str, against: str, word: str, scale: float) -> pictures.Chart:
    points = [
        pictures.Dot(row[word] / scale, float(row["after"]), "front" if row["front"] else "behind", _says(row))
        for row in rows
    ]
    percent = measured == "accuracy"
    return pictures.scatter(
        f"{measured.capitalize()} against {against}", axis, measured, points,
        lambda value: f"{value:,g}" if value < 1e6 else f"{value / 1e6:,g} M",
        lambda value: f"{100 * value:g} %" if percent else f"{value:g}",
    )  # fmt: skip


def _says(row: Result) -> str:
    return f"{row['point']}: {score(row, 'after')}, {row['ram_bytes']:,} bytes, {count(row)}"


def _best_of_front(result: Result) -> list[Result]:
    """The rows of all fronts, the best first; an accuracy before an error."""
    rows = [row for row in result["points"] if row["front"]]
    sign = {"accuracy": -1, "mean_squared_error": 1}
    return sorted(rows, key=lambda row: (row["measure"], sign[row["measure"]] * float(row["after"])))


def _curves(result: Result, rows: Sequence[Result]) -> list[tuple[str, str, list[float]]]:
    return [(row["point"], f"run{at}", list(map(float, result["curves"][row["point"]]))) for at, row in enumerate(rows)]


def _row(row: Result, axes: Sequence[str]) -> dict[str, Any]:
    settings = [_setting(row["settings"].get(axis, "")) for axis in axes]
    return {
        "point": row["point"], "settings": settings, "before": score(row, "before"), "after": score(row, "after"),
        "ram": "" if row["refused"] else f"{row['ram_bytes']:,}", "count": count(row), "standing": standing(row),
        "front": row["front"],
    }  # fmt: skip


def _setting(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _short(problem: Mapping[str, str]) -> dict[str, str]:
    return {word: text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..." for word, text in problem.items()}
