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


def standing(row: Result) -> str:
    """Whether it is on the front, or why it cannot be."""
    if row["refused"]:
        return str(row["refused"]["problems"][0]["code"])
    return "diverged" if row["diverged"] else "front" if row["front"] else ""


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
         "" if row["refused"] else f"{row['ram_bytes']:,}", count(row), standing(row))
        for row in result["points"]
    ]  # fmt: skip
    words = {row["measure"]: None for row in result["points"] if row["measure"]}
    measure = " or ".join(word.replace("_", " ") for word in words) or "accuracy"
    header = ("point", f"{measure} before", "after", "RAM", "a step", "")
    return "\n".join([table(header, rows), "", *fronts(result)])


def fronts(result: Result) -> Iterator[str]:
    """A sentence for each front, and for the points that are in none."""
    for each in result["fronts"]:
        unit = UNIT_WORDS.get(each["unit"], each["unit"])
        among = sum(row["unit"] == each["unit"] and row["measure"] == each["measure"] for row in result["points"])
        measure = each["measure"].replace("_", " ")
        yield f"Pareto front of {measure}, RAM and {unit} of a step: {len(each['points'])} of {among} points"
    refused = sum(row["refused"] is not None for row in result["points"])
    if refused:
        yield f"refused: {refused} of {len(result['points'])} points"
