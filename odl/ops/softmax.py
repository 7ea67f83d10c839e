"""Softmax and LogSoftmax over the last axis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.fp16 import Accumulate
from odl.graph import Builder, Kernel, Node, Operator, Slice, Tile
from odl.ops._cuts import cut_alike
from odl.ops._importer import Importer, OnnxNode, Sample, imports
from odl.ops.dense import matrix, rows
from odl.types import Array, TensorType


def exponentials(x: Array) -> tuple[Array, Array, Array]:
    """(x - max, exp(x - max), sum of the exponentials) of each row, in binary32, one operation a step.

    x (M, K) binary16 -> (M, K), (M, K), (M, 1). The largest element is found by scanning k upwards with `>`; the sum
    starts at +0 and adds one exponential after the other.
    """
    wide = x.astype(np.float32)
    largest = wide[:, :1]
    for k in range(1, x.shape[1]):
        largest = np.where(wide[:, k : k + 1] > largest, wide[:, k : k + 1], largest)
    with np.errstate(all="ignore"):
        shifted = wide - largest
        powers = fp16.exp32(shifted)
        total = np.zeros_like(largest)
        for k in range(x.shape[1]):
            total = total + powers[:, k : k + 1]
    return shifted, powers, total


@dataclass(frozen=True)
class Softmax(Operator):
    """y = round16(exp(x - max) / sum), or, if `log`, round16((x - max) - log(sum)), along the last axis.

    x (..., K) binary16 -> y (..., K) binary16; all in binary32 by `exponentials`, rounded once at the end.
    """

    name: ClassVar[str] = "softmax"
    stacked: ClassVar[tuple[tuple[int, ...], ...]] = ((0,),)
    in_place: ClassVar[tuple[tuple[int, int], ...]] = ((0, 0),)
    log: bool = False

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (inputs[0],)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        (x,) = inputs
        shifted, powers, total = exponentials(matrix(x))
        with np.errstate(all="ignore"):
            y = shifted - fp16.log32(total) if self.log else powers / total
        return (fp16.half(y).reshape(x.shape),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        name = "log_softmax" if self.log else "softmax"
        return Kernel(name, {"n_rows": rows(outputs[0]), "n_classes": outputs[0].shape[-1]})

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        return cut_alike(self, cut, len(inputs), but=len(inputs[0].shape) - 1)

    def gradient(self, build: Builder, node: Node, grad: str, wanted: Sequence[bool]) -> Sequence[str | None]:
        return (build.add(SoftmaxGradient(self.log), (node.outputs[0], grad), f"{node.inputs[0]}.grad"),)


@dataclass(frozen=True)
class SoftmaxGradient(Operator):
    """dx = round16(y * (dy - sum of y * dy)); if `log`, dx = round16(dy - exp(y) * sum of dy).

    y, dy (..., K) binary16 -> dx (..., K) binary16; y is the output of Softmax. The sums run over k in pairs, an odd K
    gets a zero; the second one is of products with 1. What follows is binary32, rounded after each operation.
    """

    name: ClassVar[str] = "softmax_gradient"
    stacked: ClassVar[tuple[tuple[int, ...], ...]] = ((0, 1),)
    in_place: ClassVar[tuple[tuple[int, int], ...]] = ((0, 1), (0, 0))
    log: bool = False
    accumulate: Accumulate = Accumulate.FP32

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (inputs[1],)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        y, dy = (matrix(x) for x in inputs)
        with np.errstate(all="ignore"):
            if self.log:
                total = fp16.sum_with_ones(dy.T, self.accumulate)[:, None]
                dx = dy.astype(np.float32) - fp16.exp32(y.astype(np.float32)) * total
            else:
                total = fp16.sum_of_products(y.T, dy.T, None, self.accumulate)[:, None]
                dx = y.astype(np.float32) * (dy.astype(np.float32) - total)
        return (fp16.half(dx).reshape(inputs[1].shape),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        name = "log_softmax_gradient" if self.log else "softmax_gradient"
        return Kernel(name, {"n_rows": rows(outputs[0]), "n_classes": outputs[0].shape[-1]})

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        return cut_alike(self, cut, len(inputs), but=len(inputs[0].shape) - 1)


def _samples() -> Iterable[Sample]:
    for op_type in ("Softmax", "LogSoftmax"):
        for shape in ((1, 1), (1, 2), (1, 10), (3, 7)):
            yield Sample(op_type, (shape,), {"axis": -1}, low=-6, high=6)
        equal = np.full((1, 5), 3.0, np.float32)
        yield Sample(op_type, ((1, 5),), {"axis": 1}, values={0: equal})


@imports("Softmax", "LogSoftmax", samples=_samples, limits="over the last axis of a tensor of rank 2 or 3")
def _import(imp: Importer, node: OnnxNode) -> None:
    (x,) = node.inputs
    shape = imp.shape(x)
    axis = node.attributes.get("axis", -1) % len(shape)
    imp.require(axis == len(shape) - 1 and len(shape) < 4, f"axis {axis} of {shape} is not the last of rank 2 or 3")
    y = imp.add(Softmax(log=node.op_type == "LogSoftmax"), (imp.value(x),))
    imp.bind(node.outputs[0], y, shape)
