"""The measurements as text: tables for a terminal, docs/ACCURACY_BENCHMARKS.md. Both are made of accuracy.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.accuracy.measure import best
from benchmarks.report import markdown
from odl.render import table

Result = Mapping[str, Any]

_HEAD = """\
<!-- Made by `make bench-accuracy` from benchmarks/accuracy.json; do not edit. -->

# Accuracy

What training in binary16 reaches on real data, by odl's NumPy executor, whose bits are those of every target. Beside
it the same recipe in binary32 by PyTorch: the same model, samples, order of samples, batches and learning rates.
Accuracies are on samples that training has not seen, means over the seeds {seeds}, the least and the most of them in
brackets; the difference is in points. Learning rates are those that did best in binary32 on samples held out of
training (`python -m benchmarks.accuracy.rates`), so that no test sample chose any. RAM is the arena of qemu-zhinx; what
is kept between steps is a part of it. Lost are updates of single weights that were to move and stayed; under stochastic
rounding that is chance, and no loss.

"""
_COLUMNS = ("", "binary32", "binary16", "difference", "RAM, bytes", "kept, bytes", "lost updates")

# (what is wanted, which variants may reach it, at most so many points below binary32)
WANTED = (
    ("the best within 0.5 points of binary32", ("fp32", "kahan", "stochastic", "none"), 0.5),
    ("within 1 point without a binary32 copy", ("kahan", "stochastic"), 1.0),
)


def text(results: Result) -> str:
    """The tables of a terminal."""
    parts = []
    for task in results["tasks"]:
        verdicts = "".join(f"\n{line}" for line in wanted(task))
        parts.append(f"{task['title']}: {_task_line(task)}\n{table(_COLUMNS, list(_rows(task)))}{verdicts}")
    return "\n\n".join(parts)


def page(results: Result, more: str = "") -> str:
    """docs/ACCURACY_BENCHMARKS.md; `more` are further sections."""
    seeds = ", ".join(map(str, results["seeds"]))
    parts = [_HEAD.format(seeds=seeds)]
    for task in results["tasks"]:
        parts.append(f"## {task['title']}\n\n{task['about']} {_task_line(task)}\n\n")
        parts.append(markdown(_COLUMNS, list(_rows(task))))
        parts += [f"\n{line}\n" for line in wanted(task)]
        parts.append("\nRecipes, where they differ from `Recipe()`:\n\n")
        parts += [f"- {each['title']}: {_recipe(each['recipe'])}\n" for each in task["variants"]]
        parts.append("\n")
    made_on = "".join(f"- {what}: {is_}\n" for what, is_ in results["made_on"].items())
    return f"{''.join(parts)}{more}Measured with\n\n{made_on}"


def _task_line(task: Result) -> str:
    before = task["before"]
    return (
        f"{task['steps']:,} samples are seen. Before: {_percent(before['float32']['mean'])} in binary32, "
        f"{_percent(before['half']['mean'])} in binary16."
    )


def _rows(task: Result) -> Iterator[tuple[str, ...]]:
    for each in task["variants"]:
        if "skipped" in each:
            yield each["title"], *("" for _ in _COLUMNS[2:]), f"not measured: {each['skipped']}"
            continue
        lost = f"{each['lost_updates'] / each['updates']:.0%}" if each.get("updates") else ""
        ram = f"{each['arena_bytes']:,}", f"{each['persistent_bytes']:,}"
        accuracies = _accuracy(each["float32"]), _accuracy(each["half"])
        yield each["title"], *accuracies, f"{each['difference_points']:+.2f}", *ram, lost


def wanted(task: Result) -> Iterator[str]:
    for what, keys, points in WANTED:
        found = best(task["variants"], keys)
        if found is None:
            yield f"Wanted: {what}: not measured."
            continue
        met = "met" if found["difference_points"] >= -points else "NOT MET"
        yield f"Wanted: {what}: {met}, {found['difference_points']:+.2f} by {found['title']}."


def _accuracy(of: Result) -> str:
    return f"{_percent(of['mean'])} ({100 * of['least']:.1f} to {100 * of['most']:.1f})"


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")


def _recipe(recipe: Result) -> str:
    return ", ".join(f"`{name} = {_word(value)}`" for name, value in recipe.items())


def _word(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_word, value))}]"
    return f'"{value}"' if isinstance(value, str) else f"{value}"
