"""Sum of two tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from odl import fp16
from odl.graph import Builder, Node
from odl.ops._broadcast import LIMITS, Binary, read_operands, repeated, samples, summed
from odl.ops._importer import Importer, OnnxNode, Sample, imports
from odl.types import Array


@dataclass(frozen=True)
class Add(Binary):
    """y[m, n] = round16(a[m, n] + b[n])."""

    name: ClassVar[str] = "add"

    def combine(self, a: Array, b: Array) -> Array:
        return fp16.add16(a, b)

    def gradient(self, build: Builder, node: Node, grad: str, wanted: Sequence[bool]) -> Sequence[str | None]:
        a, b = node.inputs
        db: str | None = None
        if wanted[1]:
            db = summed(build, b, (grad,)) if repeated(build, a, b) else grad
        return grad if wanted[0] else None, db


def _samples() -> Iterable[Sample]:
    return samples("Add")


@imports("Add", samples=_samples, limits=LIMITS)
def _import(imp: Importer, node: OnnxNode) -> None:
    read = read_operands(imp, node)
    imp.bind(node.outputs[0], imp.add(Add(), (read.a, read.b)), read.shape)
