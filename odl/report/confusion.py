"""What samples of each class of a test set were taken for, before and after a run: the matrices of the scores that give
the accuracy, or, of many classes, the pairs that are confused most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from odl import render
from odl.scores import most_confused

Result = Mapping[str, Any]

MOST_CLASSES = 20  # of a matrix; of more there are pairs
_MOST_PAIRS = 20


def confusion(run: Result) -> Result | None:
    """What the page shows: `matrices` with their rows and cells, or `pairs`; or why they are `missing`. None where the
    loss knows no classes."""
    if run["recipe"]["loss"] != "cross_entropy":
        return None
    found = run["accuracy"]
    if "missing" in found:
        return {"missing": found["missing"]}
    if not found["held_out"]:
        return {"missing": "no test set was given (--test)"}
    before, after = found["before"], found["after"]
    is_small = len(after["confusion"]) <= MOST_CLASSES
    scores = (("before training", before), ("after training", after))
    return {
        "about": f"{after['samples']:,} samples of {found['file']}",
        "matrices": [_matrix(when, each) for when, each in scores] if is_small else [],
        "pairs": [] if is_small else _pairs(before, after),
        "undecided": _undecided(after),
    }


def _matrix(when: str, scores: Result) -> Result:
    rows = [
        {"label": at, "right": "" if right is None else f"{right:.0%}", "cells": _cells(counts, at)}
        for at, (counts, right) in enumerate(zip(scores["confusion"], scores["class_accuracy"], strict=True))
    ]
    return {"when": when, "accuracy": scores["accuracy"], "rows": rows}


def _cells(counts: Sequence[int], label: int) -> list[Result]:
    """`share` is of the row: rare classes are seen as well as others."""
    of = sum(counts) or 1
    return [{"count": n, "share": n / of, "style": "hit" if at == label else "miss"} for at, n in enumerate(counts)]


def _pairs(before: Result, after: Result) -> list[tuple[int, int, int, int, int]]:
    """A class, what it was taken for, how often so before and after training, and of how many samples."""
    return [
        (label, taken, before["confusion"][label][taken], n, sum(after["confusion"][label]))
        for label, taken, n in most_confused(after["confusion"], _MOST_PAIRS)
    ]


PAIR = ("class", "taken for", "before", "after", "samples")


def _undecided(after: Result) -> str:
    n = after["undecided"]
    return f"{n:,} samples have NaN among their outputs after training: taken for no class, and wrong" if n else ""


def confusion_text(run: Result) -> str:
    """What a terminal gets: the matrix after training, with the share that was right before; nothing without one."""
    found = confusion(run)
    if not found or "missing" in found:
        return ""
    before, after = run["accuracy"]["before"], run["accuracy"]["after"]
    what, text = "what was taken for what", render.confusion(after, before["class_accuracy"])
    if not found["matrices"]:
        what, text = f"the most frequent pairs of {len(after['confusion'])} classes", render.table(PAIR, found["pairs"])
    title = f"confusion after training, {what}: {found['about']}"
    return "\n".join(part for part in (title, text, found["undecided"]) if part)
