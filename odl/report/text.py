"""A report in words: the rows that its page begins with, and that a terminal gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

from odl.render import ends
from odl.report.confusion import confusion_text

Result = Mapping[str, Any]
Row = tuple[str, list[str]]


def headline(runs: Sequence[Result]) -> list[Row]:
    """What a reader wants to know first: words, and for each run what is so."""
    words: Mapping[str, Callable[[Result], str]] = {
        "bits against NumPy": bits,
        "accuracy": _accuracy,
        "loss": losses,
        "RAM at its peak": _ram,
        "L1": _l1,
        "flash": _flash,
        "a training step": step,
        "time of a step": _time,
        "recipe": lambda run: run["recipe_flags"] or "the default one",
        "updates": updates,
        "target": lambda run: f"{run['target']} on {run['on']}",
    }
    rows = [(word, [tell(run) for run in runs]) for word, tell in words.items()]
    return [(word, told) for word, told in rows if any(told)]


def bits(run: Result) -> str:
    """Whether what the target computed is what NumPy computes, and of how much that is known."""
    reference, verified = run["reference"], run["verification"]
    return "; ".join(filter(None, (_bits_of_run(run, reference), _bits_of_steps(verified))))


def equal(run: Result) -> bool | None:
    """Whether all that was compared is equal; None where nothing was."""
    compared = [
        *([run["reference"]["loss_equal"], _all_equal(run["reference"])] if "loss" in run["reference"] else []),
        *([run["verification"]["equal"]] if "equal" in run["verification"] else []),
    ]
    return all(compared) if compared else None


def _all_equal(reference: Result) -> bool:
    return bool(reference["tensors"] == reference["tensors_equal"])


def _bits_of_run(run: Result, reference: Result) -> str:
    if "missing" in reference:
        return f"run not compared ({reference['missing']})"
    if reference["loss_equal"] and _all_equal(reference):
        return f"equal: all {len(run['loss']):,} losses and {reference['tensors']:,} tensors at the end"
    losses = "equal" if reference["loss_equal"] else "different"
    return (
        f"DIFFERENT: losses {losses}, {reference['tensors_equal']} of {reference['tensors']} tensors equal at the end"
    )


def _bits_of_steps(verified: Result) -> str:
    if "missing" in verified:
        return f"steps not verified ({verified['missing']})"
    if verified["equal"]:
        return f"equal: {verified['values']:,} values of {verified['steps']:,} verified steps"
    found = verified["first_difference"]
    return f"DIFFERENT: '{found['tensor']}' of layer {found['layer']} in step {found['step']}"


def _accuracy(run: Result) -> str:
    found = run["accuracy"]
    if "missing" in found:
        return f"not measured ({found['missing']})"
    before, after = found["before"], found["after"]
    where = "held out" if found["held_out"] else "what it learned from"
    if "accuracy" in before:
        return (
            f"{before['accuracy']:.1%} before, {after['accuracy']:.1%} after; "
            f"{after['samples']:,} samples of {found['file']}, {where}"
        )
    words = (f"{each['mean_squared_error']:.4g}" for each in (before, after))
    return "mean squared error {} before, {} after; ".format(*words) + f"{found['file']}, {where}"


def losses(run: Result) -> str:
    loss = list(map(float, run["loss"]))
    if not loss:
        return "no step was done"
    first, last, n = ends(loss)
    means = f", means of {n:,}" if n > 1 else ""
    return f"{first:.4g} at first, {last:.4g} at last{means}, of {len(loss):,} steps{_before(run)}"


def _before(run: Result) -> str:
    first = run["resumed_at"]
    return f" behind the {first:,} of a checkpoint" if first else ""


def diverged(run: Result) -> str:
    """What a reader must see who sees nothing else: that training came to nothing; empty where it did not."""
    tried, skipped = run["updates"]["tried"], run["updates"]["skipped"]
    last = float(run["loss"][-1]) if run["loss"] else 0.0
    if run["updates"]["diverged"] or not isfinite(last) or 2 * skipped > tried:
        return f"diverged: {skipped:,} of {tried:,} updates were not finite"
    return ""


def _ram(run: Result) -> str:
    memory, stack = run["memory"], run["stack_bytes"]
    arena, bound = memory["arena_bytes"]["arena"], memory["arena_lower_bound"]
    how = "measured" if run["stack_measured"] else "reserved"
    return (
        f"{arena + stack:,} bytes: arena {arena:,} (no plan of that order is below {bound:,}), stack {stack:,}, {how}"
    )


def _l1(run: Result) -> str:
    found = run["memory"]["l1"]
    return f"{found['needed']:,} of {found['available']:,} bytes" if found else ""


def _flash(run: Result) -> str:
    found = run["flash"]
    if "missing" in found:
        return f"not measured ({found['missing']})"
    return f"{found['text'] + found['data']:,} bytes of code, constants and initial weights, with the runner"


def step(run: Result) -> str:
    costs = run["per_step"]
    count = "".join(f"{costs[word]:,.0f} {word}, " for word in ("cycles", "instructions") if word in costs)
    rate = f", {costs['mac_per_cycle']:.2f} a cycle" if "mac_per_cycle" in costs else ""
    return f"{count}{costs['macs']:,} MACs{rate}"


def _time(run: Result) -> str:
    found = run["time"]
    if "missing" in found:
        return f"not known ({found['missing']})"
    least = "" if found["unit"] == "cycles" else "at least "
    because = "" if found["unit"] == "cycles" else ", at one instruction a cycle"
    return f"{least}{found['seconds'] * 1e3:.3g} ms at {found['clock_hz'] / 1e6:g} MHz{because}"


def updates(run: Result) -> str:
    found = run["updates"]
    skipped = f", {found['skipped']:,} not finite and skipped" if found["skipped"] else ""
    return f"{found['tried']:,}{skipped}" + (", DIVERGED" if found["diverged"] else "")


def report(result: Result) -> str:
    """What a terminal gets of `odl report`: a line for each fact, or, of several runs, one for each run below it; then
    what was taken for what."""
    runs, rows = result["runs"], headline(result["runs"])
    taken = [(run["name"], text) for run in runs if (text := confusion_text(run))]
    if len(runs) == 1:
        width = max(len(word) for word, _ in rows)
        lines = [f"{word.ljust(width)}  {told}" for word, (told,) in rows]
        lines = [f"{'run'.ljust(width)}  {runs[0]['name']}: {runs[0]['model']}", *lines]
        return "\n".join([*lines, *(f"\n{text}" for _, text in taken)])
    width = max(len(run["name"]) for run in runs)
    lines = [
        line
        for word, told in rows
        for line in (word, *(f"  {run['name'].ljust(width)}  {text}" for run, text in zip(runs, told, strict=True)))
    ]
    return "\n".join([*lines, *(f"\n{name}: {text}" for name, text in taken)])
