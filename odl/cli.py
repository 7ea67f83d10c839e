"""The command line. A command's module is imported when it is asked for: `odl --help` wants none of them."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from odl import signals
from odl.errors import ExitCode
from odl.version import VERSION

INTERRUPTED = 130  # 128 + the signal's number, as shells have it

# A command is of the same name in the module of that name; this is the first sentence of what it says of itself.
COMMANDS = {
    "doctor": "Tell which compilers and simulators are here.",
    "ops": "List the supported ONNX operators and their limits.",
    "check": "Accept MODEL and list its layers, or say all that is wrong.",
    "plan": "Show in which order MODEL runs and where its tensors lie.",
    "build": "Write a C project that trains MODEL, and compile it.",
    "run": "Train MODEL, printing each step's loss as it comes.",
    "verify": "Compare every tensor of every step with NumPy, in bits.",
    "eval": "Tell how well MODEL, or what a run made of it, does on data.",
    "report": "Tell all about RUNS, folders that `odl run -o` wrote; several are compared.",
    "export": "Write the original model with what was trained.",
    "checkpoint": "What a device's flash holds.",
    "tune": "Measure kernels and tiles of MODEL, an ONNX file, on the simulator; keep each layer's fastest.",
    "select": "Choose the layers and channels of MODEL that contribute most to learning, within RAM and time.",
    "sweep": "Train MODEL by each recipe of a grid for each target, and compare accuracy, RAM and cycles.",
    "dump": "Print any stage of MODEL on its way to C, as text.",
}

_CODES = ", ".join(f"{code.value} {code.name.lower().replace('_', ' ')}" for code in ExitCode)
_EPILOG = f"""\b
MODEL is an ONNX file, or a folder that `odl build` or `odl run -o` wrote.
Exit codes: {_CODES}.
Shell completion: eval "$(_ODL_COMPLETE=bash_source odl)", or zsh_source, fish_source."""


class Commands(click.Group):
    """The commands of COMMANDS, in that order."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        found: dict[str, Any] = vars(import_module(f"odl.commands.{cmd_name}"))
        return next(c for c in found.values() if isinstance(c, click.Command) and c.name == cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        """Ctrl-C ends any command, also one that is still being imported, with the same words and code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)


@click.group(
    cls=Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(VERSION, prog_name="odl", message="%(prog)s %(version)s")
def cli() -> None:
    """Compile ONNX models to C that trains them on RISC-V microcontrollers, bit for bit equal to NumPy."""


def main() -> None:
    """The entry point. A SIGTERM unwinds as Ctrl-C does, so that no child outlives us."""
    signals.catch()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        cli(prog_name="odl")
    finally:
        signals.ignore()  # what is still to be removed is removed when the interpreter ends
