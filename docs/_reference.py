"""Pages that nobody writes: what the code says of its commands, recipe, operators, targets and library, as Markdown."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

import click

import odl
from odl import results
from odl.cli import COMMANDS, cli
from odl.commands.check import check
from odl.recipe import CHOICES, RANGES, Recipe, range_text
from odl.targets import TARGETS
from odl.version import VERSION

_RECIPE = {field.name for field in fields(Recipe)}
_ON_EVERY_COMMAND = ("as_json", "verbose", "quiet")


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def text(words: str) -> str:
    """Plain text as Markdown that shows it as it stands; what is in backquotes stays code."""
    parts = html.escape(words.replace("\b", "").strip(), quote=False).split("`")
    for at in range(0, len(parts), 2):
        for mark in "*_[|":
            parts[at] = parts[at].replace(mark, f"\\{mark}")
    return " ".join("`".join(parts).split())


# --- commands ---------------------------------------------------------------------------------------------------------


def commands() -> str:
    """Each command with its arguments and flags, as `--help` has them."""
    return "\n\n".join(["# Commands: all flags", f"Of odl {VERSION}; the same as `odl VERB --help`.", *_commands()])


def _commands() -> Iterator[str]:
    yield "Every command takes `--json` (the result as JSON), `-v` (say what is done) and `-q` (no progress, no notes)."
    yield "The flags of a recipe are [keys of the recipe](recipe.md) with dashes: `--weight-decay 0.01`."
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command
        inner = command.commands if isinstance(command, click.Group) else {"": command}
        for word, each in inner.items():
            yield from _command(f"odl {name} {word}".strip(), each)


def _command(name: str, command: click.Command) -> Iterator[str]:
    params = [param for param in command.params if param.name not in _ON_EVERY_COMMAND]
    arguments = [param for param in params if isinstance(param, click.Argument)]
    words = [f"{param.make_metavar(click.Context(command))}" for param in arguments]
    yield f"## {name}"
    yield f"`{' '.join([name, *words, '[OPTIONS]'])}`"
    yield text((command.help or "").replace("\n\n", " "))
    own = [param for param in params if isinstance(param, click.Option) and param.name not in _RECIPE]
    if own:
        rows = [(_flags(param, command), text(param.help or "") + _need(param)) for param in own]
        yield table(("option", "what"), rows)
    if any(param.name in _RECIPE for param in params):
        yield "And the flags of a recipe."


def _flags(param: click.Option, command: click.Command) -> str:
    takes = "" if param.is_flag else f" {param.make_metavar(click.Context(command))}"
    return f"`{', '.join(param.opts)}{takes}`"


def _need(param: click.Parameter) -> str:
    return " **Required.**" if param.required else ""


# --- what they take ---------------------------------------------------------------------------------------------------


def recipe() -> str:
    """The keys of a recipe: what each may be, what it is if it is left out, what it does."""
    told = {param.name: text((param.help or "").split("  [")[0]) for param in check.params}
    rows = []
    for field in fields(Recipe):
        assert field.default is not MISSING
        may_be = ", ".join(f'`"{word}"`' for word in CHOICES.get(field.name, ())) or _kind(field.name, field.default)
        rows.append((f"`{field.name}`", may_be, f"`{_toml(field.default)}`", told[field.name]))
    return "\n\n".join(
        [
            "# Recipe",
            "How a model is trained: a TOML file with these keys (`-r recipe.toml`), or flags of the same names with "
            "dashes, or `odl.Recipe(lr=0.01, ...)`. [Commands](../CLI.md) tells what goes with what.",
            table(("key", "is", "left out", "what"), rows),
        ]
    )


def _kind(name: str, default: object) -> str:
    if name in RANGES:
        return ("a whole number, " if isinstance(default, int) else "") + text(range_text(name))
    return {tuple: "a list of strings", bool: "`true` or `false`", str: "a string"}[type(default)]


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(each) for each in value)}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def operators() -> str:
    """The ONNX operators, as `odl ops` has them."""
    rows = [(f"`{each['operator']}`", text(each["limits"])) for each in results.supported()["operators"]]
    return "\n\n".join(
        [
            "# Operators",
            f"{len(rows)} operators of ONNX, each with its gradient, on every target; the same as `odl ops`. "
            "What each rounds: [Numerics](../NUMERICS.md). One more: [A new operator](../NEW_OPERATOR.md).",
            table(("operator", "what of it"), rows),
        ]
    )


def targets() -> str:
    """What `-t` takes."""
    rows = [
        (
            f"`{each.name}`", text(each.summary), f"`{each.isa}`" if each.isa else "this machine's", each.cores,
            ", ".join(f"{memory.name} {memory.n_bytes:,}" for memory in each.memories),
            ", ".join(dict.fromkeys((each.simulator, *(other.simulator for other in each.elsewhere), "host"))),
            each.counter or "nothing",
        )
        for each in TARGETS.values()
    ]  # fmt: skip
    header = ("target", "what", "instructions", "cores", "memories, bytes", "`--on`", "counts")
    return "\n\n".join(
        [
            "# Targets",
            "Of a chip with other sizes, `--ram` tells odl; [a new target](../NEW_TARGET.md) is one constant.",
            table(header, rows),
        ]
    )


# --- the library ------------------------------------------------------------------------------------------------------


def library() -> str:
    """All that `import odl` gives, from its docstrings; mkdocstrings fills in what stands behind `:::`."""
    home = {name: module for module, names in odl.HOMES.items() for name in names}
    names = [name for name in odl.__all__ if name in home]
    functions = [name for name in names if not isinstance(getattr(odl, name), type)]
    parts = {
        "Functions": sorted(functions, key=_ORDER.index),
        "Results": ["Compiled", "Verdict", "Difference", "Run", "Scores", "BuildResult"],
    }
    parts["What they take and raise"] = [name for name in names if name not in functions + parts["Results"]]
    blocks = [
        "\n\n".join([f"## {title}", *(f"::: {home[name]}.{name}" for name in within)])
        for title, within in parts.items()
    ]
    return "\n\n".join(["# Library", _LIBRARY, *blocks])


_ORDER = (
    "compile_model", "open_folder", "verify", "train", "evaluate", "infer", "export", "build", "package",
    "save_run",
    "load_weights", "load_checkpoint", "write_report", "read_recipe",
)  # fmt: skip

_LIBRARY = """`import odl` gives these names. Data are `.npz` files ([your own data](../howto/own-data.md)); weights are
dicts of NumPy arrays by ONNX name, in binary16 and storage order: images and kernels channels last. Every refusal is an
`OdlError` with a code, and with all that is wrong ([errors](../RELIABILITY.md)). In Jupyter a result shows itself."""

PAGES: Mapping[str, Callable[[], Any]] = {
    "reference/commands.md": commands,
    "reference/recipe.md": recipe,
    "reference/operators.md": operators,
    "reference/targets.md": targets,
    "reference/library.md": library,
}
