"""`odl ops`."""

from __future__ import annotations

from odl import render, results
from odl.commands.verb import verb
from odl.console import Console


@verb
def ops(console: Console) -> None:
    """List the supported ONNX operators and their limits."""
    console.answer(results.supported(), render.supported)
