"""Tile rules that several operators share."""

from __future__ import annotations

from odl.graph import Operator, Slice, Tile


def cut_alike(op: Operator, cut: Slice | None, n_inputs: int, *, but: int) -> Tile | None:
    """The same slice of all operands, along any axis but the operator's own, `but`."""
    return None if cut is not None and cut.axis == but else Tile(op, (cut,) * n_inputs, (cut,))
