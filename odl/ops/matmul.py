"""ONNX MatMul: with a constant second factor a dense layer, else a product of two activations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from odl.fp16 import Accumulate
from odl.graph import Builder, Kernel, Node, Operator
from odl.ops._importer import Importer, OnnxNode, Sample, imports
from odl.ops.dense import Dense, DenseInputGradient, DenseWeightGradient
from odl.types import Array, DType, TensorType


@dataclass(frozen=True)
class MatMul(Operator):
    """y[m, n] = round16(sum over k of a[m, k] * b[k, n]), k in pairs, an odd K gets a zero.

    a (..., K), b (K, N), both activations -> y (..., N). The arithmetic of DenseInputGradient, whose kernel it calls.
    """

    name: ClassVar[str] = "matmul"
    accumulate: Accumulate = Accumulate.FP32

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return DenseInputGradient(self.accumulate).infer(inputs)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        return DenseInputGradient(self.accumulate).evaluate(inputs)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        return DenseInputGradient(self.accumulate).kernel(inputs, outputs)

    def macs(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return outputs[0].n_elems * inputs[0].shape[-1]

    def gradient(self, build: Builder, node: Node, grad: str, wanted: Sequence[bool]) -> Sequence[str | None]:
        a, b = node.inputs
        da = build.add(Dense(), (grad, b), f"{a}.grad") if wanted[0] else None
        db = build.add(DenseWeightGradient(dtype=DType.F16), (a, grad), f"{b}.grad") if wanted[1] else None
        return da, db


def _samples() -> Iterable[Sample]:
    yield Sample("MatMul", ((1, 5), (5, 3)), constants=(1,))
    yield Sample("MatMul", ((1, 3, 5), (5, 4)), constants=(1,))
    yield Sample("MatMul", ((3, 7), (7, 2)))
    yield Sample("MatMul", ((4, 1), (1, 5)))


@imports("MatMul", samples=_samples, limits="second factor of rank 2; first of rank 2 or 3")
def _import(imp: Importer, node: OnnxNode) -> None:
    a, b = node.inputs
    shape, factor = imp.shape(a), imp.shape(b)
    imp.require(len(factor) == 2 and 2 <= len(shape) <= 3, f"{shape} times {factor} is not supported")
    imp.require(shape[-1] == factor[0], f"{shape} times {factor}: inner sizes differ")
    if imp.is_constant(b):
        y = imp.add(Dense(), (imp.value(a), imp.weight(b, (1, 0))))
    else:
        y = imp.add(MatMul(), (imp.value(a), imp.value(b)))
    imp.bind(node.outputs[0], y, (*shape[:-1], factor[1]))
