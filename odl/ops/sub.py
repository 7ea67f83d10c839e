"""Difference of two tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from odl import fp16
from odl.graph import Builder, Kernel, Node
from odl.ops._broadcast import LIMITS, Binary, read_operands, repeated, samples, summed
from odl.ops._importer import Importer, OnnxNode, Sample, imports
from odl.ops.neg import Neg
from odl.types import Array, TensorType


@dataclass(frozen=True)
class Sub(Binary):
    """y[m, n] = round16(a[m, n] - b[n]), or, if `reverse`, round16(b[n] - a[m, n])."""

    name: ClassVar[str] = "sub"
    reverse: bool = False

    def combine(self, a: Array, b: Array) -> Array:
        return fp16.sub16(b, a) if self.reverse else fp16.sub16(a, b)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        kernel = super().kernel(inputs, outputs)
        return replace(kernel, name="sub_reversed") if self.reverse else kernel

    def gradient(self, build: Builder, node: Node, grad: str, wanted: Sequence[bool]) -> Sequence[str | None]:
        a, b = node.inputs
        negated = wanted[0] if self.reverse else wanted[1]
        minus = build.add(Neg(), (grad,), f"{grad}.negated") if negated else grad
        da, db = (minus, grad) if self.reverse else (grad, minus)
        if wanted[1] and repeated(build, a, b):
            db = summed(build, b, (db,))
        return da if wanted[0] else None, db if wanted[1] else None


def _samples() -> Iterable[Sample]:
    return samples("Sub")


@imports("Sub", samples=_samples, limits=LIMITS)
def _import(imp: Importer, node: OnnxNode) -> None:
    read = read_operands(imp, node)
    imp.bind(node.outputs[0], imp.add(Sub(reverse=read.swapped), (read.a, read.b)), read.shape)
