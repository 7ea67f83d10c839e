"""`odl doctor`."""

from __future__ import annotations

from odl import render, results
from odl.commands.verb import verb
from odl.console import Console
from odl.errors import ToolError
from odl.targets import DEFAULT, TARGETS
from odl.toolchain import doctor as look_around


@verb
def doctor(console: Console) -> None:
    """Tell which compilers and simulators are here."""
    found = results.tools(look_around(TARGETS))
    console.answer(found, render.tools)
    if not found["usable"]:
        raise ToolError("target-unusable", DEFAULT.name, "it cannot be compiled and run here", "see the table's hints")
