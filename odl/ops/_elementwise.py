"""Operators that map each element by itself: what all of them have in common.

The fields of such an operator are binary32 numbers and, after the number of elements, the arguments of its kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np

from odl.graph import Kernel, Operator, Slice, Tile
from odl.ops._importer import Importer, OnnxNode
from odl.types import Array, TensorType


@dataclass(frozen=True)
class Unary(Operator):
    """x -> y of x's type; y[i] depends on x[i] alone."""

    in_place: ClassVar[tuple[tuple[int, int], ...]] = ((0, 0),)
    stacked: ClassVar[tuple[tuple[int, ...], ...]] = ((0,),)

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (inputs[0],)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        return Kernel(self.name, {"n_elems": outputs[0].n_elems, **asdict(self)})

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        return Tile(self, (cut,) * len(inputs), (cut,) * len(outputs))


@dataclass(frozen=True)
class UnaryGradient(Unary):
    """y, or x where `gradient` hands over `node.inputs[0]`, which then stays alive, and dy -> dx, all of one type.

    dx[i] depends on y[i], or x[i], and dy[i] alone.
    """

    in_place: ClassVar[tuple[tuple[int, int], ...]] = ((0, 1), (0, 0))
    stacked: ClassVar[tuple[tuple[int, ...], ...]] = ((0, 1),)


def import_unary(imp: Importer, node: OnnxNode, op: Unary) -> None:
    """Apply `op` to the node's first input."""
    x = node.input(0)
    imp.bind(node.outputs[0], imp.add(op, (imp.value(x),)), imp.shape(x))


def every_half() -> Array:
    """All binary16 numbers, NaNs too, by bit pattern: (1, 65536) float32."""
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32).reshape(1, -1)
