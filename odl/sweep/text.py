"""A sweep in words: a row for each point, as a terminal gets them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from odl.render import table

Result = Mapping[str, Any]
UNIT_WORDS = {"macs": "MACs"}


def score(row: Result, when: str) -> str:
    """What a point reached, `before` or `after`; nothing of one that was refused."""
    if row["refused"]:
        return ""
    value = float(row[when])
    return f"{value:.1%}" if row["measure"] == "accuracy" else f"{value:.4g}"


def count(row: Result) -> str:
    """What a step takes, in the unit that is compared."""
    return f"{row[row['unit']]:,.0f} {UNIT_WORDS.get(row['unit'], row['unit'])}" if row["unit"] else ""


def status(row: Result) -> str:
    """What became of it."""
    if row["refused"]:
        return f"refused: {row['refused']['problems'][0]['code']}"
    return "diverged" if row["diverged"] else "trained"


def measure(result: Result) -> str:
    """What says how good the points are."""
    words = {row["measure"]: None for row in result["points"] if row["measure"]}
    return " or ".join(word.replace("_", " ") for word in words) or "accuracy"


def finished(row: Result) -> str:
    """A line about one point."""
    if row["refused"]:
        problem = row["refused"]["problems"][0]
        return f"{row['point']}: {problem['code']}: {problem['where']}: {problem['why']}"
    return f"{row['point']}: {score(row, 'before')} before, {score(row, 'after')} after"


def swept(result: Result) -> str:
    """`odl sweep`."""
    rows = [
        (row["point"], score(row, "before"), score(row, "after"),
         "" if row["refused"] else f"{row['ram_bytes']:,}", count(row), status(row), "yes" if row["front"] else "")
        for row in result["points"]
    ]  # fmt: skip
    header = ("point", f"{measure(result)} before", "after", "RAM", "a step", "status", "front")
    lost = refusals(result)
    return "\n".join([table(header, rows), "", *fronts(result), *([f"refused: {lost}"] if lost else [])])


def fronts(result: Result) -> Iterator[str]:
    """A sentence for each front."""
    for each in result["fronts"]:
        unit = UNIT_WORDS.get(each["unit"], each["unit"])
        among = sum(row["unit"] == each["unit"] and row["measure"] == each["measure"] for row in result["points"])
        measured = each["measure"].replace("_", " ")
        yield f"Pareto front of {measured}, RAM and {unit} of a step: {len(each['points'])} of {among} points"


def refusals(result: Result) -> str:
    """How many points were refused; empty where none was."""
    n = sum(row["refused"] is not None for row in result["points"])
    return f"{n} of {len(result['points'])} points" if n else ""
