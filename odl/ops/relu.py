"""Rectified linear unit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from odl import fp16
from odl.graph import Builder, Node
from odl.ops._elementwise import Unary, UnaryGradient, every_half, import_unary
from odl.ops._importer import Importer, OnnxNode, Sample, imports
from odl.types import Array


@dataclass(frozen=True)
class Relu(Unary):
    """y = x where x > 0, else +0 (so -0 and NaN become +0). Exact; any shape."""

    name: ClassVar[str] = "relu"

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        (x,) = inputs
        return (fp16.kept(x, fp16.is_positive(x)),)

    def gradient(self, build: Builder, node: Node, grad: str, wanted: Sequence[bool]) -> Sequence[str | None]:
        # The output tells the sign as well as the input does, and lives on as the next layer's operand.
        return (build.add(ReluGradient(), (node.outputs[0], grad), f"{node.inputs[0]}.grad"),)


@dataclass(frozen=True)
class ReluGradient(UnaryGradient):
    """dx = dy where y > 0, else +0. Exact; y is the output of Relu."""

    name: ClassVar[str] = "relu_gradient"

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        y, dy = inputs
        return (fp16.kept(dy, fp16.is_positive(y)),)


def _samples() -> Iterable[Sample]:
    yield Sample("Relu", ((1, 65536),), values={0: every_half()})
    for shape in ((1, 7), (1, 3, 5, 2)):
        yield Sample("Relu", (shape,))


@imports("Relu", samples=_samples, limits="any shape")
def _import(imp: Importer, node: OnnxNode) -> None:
    import_unary(imp, node, Relu())
