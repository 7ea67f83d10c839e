"""Permutation of axes (ONNX Transpose)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from odl.graph import Builder, Kernel, Node, Operator, Slice, Tile
from odl.ops._importer import CHANNELS_LAST, Importer, OnnxNode, Sample, imports
from odl.types import Array, Shape, TensorType

MAX_RANK = 4


@dataclass(frozen=True)
class Transpose(Operator):
    """y[i0, i1, ...] = x[...] with i_k at axis perm[k], as NumPy's transpose. Exact; up to four axes, binary16."""

    name: ClassVar[str] = "transpose"
    perm: Shape

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        (x,) = inputs
        return (TensorType(tuple(x.shape[axis] for axis in self.perm), x.dtype),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        return (np.ascontiguousarray(inputs[0].transpose(self.perm)),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        shape = inputs[0].shape
        strides = tuple(prod(shape[axis + 1 :]) for axis in self.perm)
        missing = MAX_RANK - len(shape)
        sizes, steps = (1,) * missing + outputs[0].shape, (0,) * missing + strides
        fields = {f"size{axis}": size for axis, size in enumerate(sizes)}
        fields |= {f"stride{axis}": step for axis, step in enumerate(steps)}
        return Kernel("transpose", fields, "odl_transpose")

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Any axis: y's, and the one of x that it was."""
        return Tile(self, (cut and Slice(self.perm[cut.axis], cut.first, cut.last),), (cut,))

    def gradient(self, build: Builder, node: Node, grad: str, wanted: Sequence[bool]) -> Sequence[str | None]:
        inverse = tuple(self.perm.index(axis) for axis in range(len(self.perm)))
        return (build.add(type(self)(inverse), (grad,), f"{node.inputs[0]}.grad"),)


@dataclass(frozen=True)
class TransposeView(Transpose):
    """A permutation that keeps the order of all axes longer than 1, and so of the bytes."""

    name: ClassVar[str] = "transpose_view"
    view: ClassVar[bool] = True

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        (x,) = inputs
        return (x.reshape([x.shape[axis] for axis in self.perm]),)


def permuted(build: Builder, value: str, perm: Sequence[int], name: str = "") -> str:
    """`value` with its axes permuted, by no node, a view, or a copy: the cheapest that will do."""
    shape = build.types[value].shape
    if list(perm) == sorted(perm):
        return value
    long = [axis for axis in perm if shape[axis] != 1]
    kind = TransposeView if long == sorted(long) else Transpose
    return build.add(kind(tuple(perm)), (value,), name)


def _samples() -> Iterable[Sample]:
    for shape, perm in (
        ((1, 3, 4, 5), (0, 2, 3, 1)),
        ((1, 3, 4, 5), (0, 3, 1, 2)),
        ((2, 3, 4, 5), (3, 1, 0, 2)),
        ((1, 3, 1, 5), (0, 2, 1, 3)),
        ((1, 4, 1, 1), (0, 2, 3, 1)),
        ((1, 2, 3), (0, 2, 1)),
        ((3, 1, 4), (2, 0, 1)),
        ((1, 5), (1, 0)),
        ((3, 5), (1, 0)),
        ((7,), (0,)),
    ):
        yield Sample("Transpose", (shape,), {"perm": perm})
    yield Sample("Transpose", ((2, 3, 4),))


@imports("Transpose", samples=_samples, limits="up to rank 4")
def _import(imp: Importer, node: OnnxNode) -> None:
    x, shape = node.input(0), imp.shape(node.input(0))
    axes = tuple(range(len(shape)))
    perm = tuple(node.attributes.get("perm", axes[::-1]))
    imp.require(sorted(perm) == list(axes), f"perm {perm} does not permute {len(shape)} axes")
    if imp.is_constant(x):
        imp.bind_constant(node.outputs[0], np.transpose(imp.constant(x, "the input"), perm))
        return
    imp.require(len(shape) <= MAX_RANK, f"rank {len(shape)} is greater than {MAX_RANK}")
    stored = CHANNELS_LAST if len(shape) == 4 else axes
    y = permuted(imp.build, imp.value(x), [stored.index(perm[axis]) for axis in stored], node.outputs[0])
    imp.bind(node.outputs[0], y, tuple(shape[axis] for axis in perm))
