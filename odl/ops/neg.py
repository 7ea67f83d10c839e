"""Negation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from odl.graph import Builder, Kernel, Node
from odl.ops._elementwise import Unary, every_half, import_unary
from odl.ops._importer import Importer, OnnxNode, Sample, imports
from odl.types import Array, TensorType


@dataclass(frozen=True)
class Neg(Unary):
    """y = -x, the sign bit flipped: exact, and +0 becomes -0."""

    name: ClassVar[str] = "neg"

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        return (np.negative(inputs[0]),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        return Kernel("neg", {"n_elems": outputs[0].n_elems, "minus_one": -1.0})

    def gradient(self, build: Builder, node: Node, grad: str, wanted: Sequence[bool]) -> Sequence[str | None]:
        return (build.add(Neg(), (grad,), f"{node.inputs[0]}.grad"),)


def _samples() -> Iterable[Sample]:
    yield Sample("Neg", ((1, 65536),), values={0: every_half()})
    yield Sample("Neg", ((1, 3, 5, 2),))


@imports("Neg", samples=_samples, limits="any shape")
def _import(imp: Importer, node: OnnxNode) -> None:
    import_unary(imp, node, Neg())
