"""The measurements as text: a table for the terminal, and docs/BENCHMARKS.md. Both are made of results.json alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.measure import values
from odl.graph import Phase
from odl.render import table
from odl.targets import DEFAULT

Result = Mapping[str, Any]

_PHASES = {phase.value: phase.value.replace("_", " ") for phase in Phase}

_ROWS = {
    "macs": "MACs a training step",
    "executor_s": "NumPy executor, seconds a step",
    "tiled_executor_s": "the same with the tiles of pulp-open",
    "step_s": "QEMU, seconds a step",
    "build_s": "odl build, seconds",
    "arena_bytes": "arena, bytes",
    "arena_lower_bound": "lower bound of the arena",
    "stack_bytes": "deepest stack, bytes",
    "variable_bytes": "the runner's variables, bytes",
    "ram_bytes": "RAM: arena, variables, deepest stack",
    "linked_ram_bytes": "RAM with the stack that is set aside",
    "text_bytes": ".text, bytes",
    "model_text_bytes": ".text of the model alone",
    "rodata_bytes": ".rodata, bytes",
    "data_bytes": ".data, bytes",
    "flash_bytes": "flash: .text, .rodata, .data",
    "instructions": "instructions a step",
    **{phase: f"instructions, {words}" for phase, words in _PHASES.items()},
    "instructions_per_mac": "instructions per MAC",
}

_HEAD = """\
<!-- Made by `python -m benchmarks` from benchmarks/results.json; do not edit. -->

# Benchmarks

One training step of all weights on one sample, by SGD. Counts and sizes are exact: the same compiler gives them again,
and `tests/pins` holds those of {pinned}. Seconds are medians, and the machine's.

"""
_NOTES = """
Where a cell holds two numbers they are those of {targets} or,
for `odl build`, of {compilers}; all other rows are of programs compiled by the first.

A program is the runner: the model, which `make lib` makes a library of, and what reads jobs and writes logs. Stack and
RAM are those of the runner when it also logs instruction counts. `odl build` is timed as a user sees it, from ONNX file
to ELF file.
"""


def text(report: Result) -> str:
    """The table of a terminal."""
    models = report["models"]
    return table(("", "required", *(model["title"] for model in models)), _rows(models))


def page(report: Result) -> str:
    """docs/BENCHMARKS.md."""
    models, made_on = report["models"], report["made_on"]
    names = {"targets": _list(models[0]["targets"]), "compilers": _list(models[0]["build_s"])}
    head = ["", "required", *(model["title"] for model in models)]
    machine = "".join(f"- {what}: {is_}\n" for what, is_ in made_on.items())
    layers = "".join(part for model in models for part in _layers(model))
    table_and_notes = markdown(head, _rows(models)) + _NOTES.format(**names)
    return f"{_HEAD.format(pinned=DEFAULT.name)}{table_and_notes}\nMeasured with\n\n{machine}{layers}"


def _list(words: Mapping[str, object]) -> str:
    return " and ".join(words)


def _rows(models: Sequence[Result]) -> Iterator[tuple[str, ...]]:
    """What is measured, what is required of it, and one cell a model."""
    for key, label in _ROWS.items():
        limits = [model["required"][key]["limit"] for model in models if key in model["required"]]
        wanted = " / ".join(dict.fromkeys(f"{limit:,g}" for limit in limits))
        yield label, f"<= {wanted}" if wanted else "", *(_cell(model, key) for model in models)


def _cell(model: Result, key: str) -> str:
    numbers = " / ".join(dict.fromkeys(map(_number, values(model, key))))
    required = model["required"].get(key)
    return f"{numbers} {'met' if required['met'] else 'NOT MET'}" if required else numbers


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:#.3g}"


def _layers(model: Result) -> Iterator[str]:
    """Instructions by layer and phase, on the first target."""
    name, device = next(iter(model["targets"].items()))
    rows = []
    for layer in device["layers"]:
        phases = (layer["phases"].get(phase, {}).get("instructions") for phase in _PHASES)
        each = f"{layer['instructions'] / layer['macs']:.2f}" if layer["macs"] else ""
        share = f"{layer['instructions'] / device['instructions']:.1%}"
        counts = ("" if count is None else f"{count:,}" for count in phases)
        rows.append((f"`{layer['layer']}`", *counts, f"{layer['instructions']:,}", share, each))
    yield f"\n## {model['title']}: instructions by layer, {name}\n\n"
    yield markdown(["layer", *_PHASES.values(), "all", "share", "per MAC"], rows)


def markdown(header: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
