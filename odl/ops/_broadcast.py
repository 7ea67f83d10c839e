"""Elementwise operators of two operands, one of which may be broadcast: how they are read, and their gradients."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from odl.errors import ModelError
from odl.graph import Builder, Kernel, Operator, Slice, Tile
from odl.ops._importer import CHANNELS_LAST, Importer, OnnxNode, Sample, stored_shape
from odl.ops.row_sum import RowSum, WeightRowSum
from odl.types import Array, DType, Shape, TensorType

LIMITS = "operands of one shape, or one of them per channel, (C, 1, 1) at rank 4 and (C,) at others, or one element"


@dataclass(frozen=True)
class Binary(Operator):
    """y[m, n] = a[m, n] op b[n], rounded once to binary16.

    a (M * N elements) and b (N elements), binary16 -> y, like a. b has a's shape, or is a vector along a's last axis,
    which in storage is the channel axis, or one element.
    """

    in_place: ClassVar[tuple[tuple[int, int], ...]] = ((0, 0), (0, 1))

    @abstractmethod
    def combine(self, a: Array, b: Array) -> Array:
        """a (M, N) op b (N)."""

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        a, b = inputs
        fits = a.shape == b.shape or b.n_elems in (1, *a.shape[-1:])
        if not fits or any(type_.dtype is not DType.F16 for type_ in inputs):
            raise ModelError("shape-mismatch", self.name, f"{b} does not broadcast to {a}")
        return (a,)

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        alike = inputs[0].shape == inputs[1].shape
        along = alike or cut is None or cut.axis < len(outputs[0].shape) - 1
        return Tile(self, (cut, cut if alike else None), (cut,)) if along else None

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        a, b = inputs
        return (self.combine(a.reshape(-1, b.size), b.reshape(-1)).reshape(a.shape),)

    def evaluate_many(self, inputs: Sequence[Array], many: Sequence[bool], n_samples: int) -> tuple[Array, ...]:
        a, b = inputs
        if many == (True, False) or (many == (True, True) and a.shape == b.shape):
            return self.evaluate(inputs)
        return super().evaluate_many(inputs, many, n_samples)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        return Kernel(self.name, {"n_elems": inputs[0].n_elems, "n_b": inputs[1].n_elems})


def repeated(build: Builder, a: str, b: str) -> bool:
    """Whether b is broadcast against a, so that its gradient is a sum."""
    return build.types[a].shape != build.types[b].shape


def summed(build: Builder, operand: str, factors: Sequence[str]) -> str:
    """The gradient of a broadcast operand: the sum of the product of `factors`, one or two values, over its repeats."""
    shape = build.types[operand].shape
    op = WeightRowSum(shape) if operand in build.persistent else RowSum(shape)
    return build.add(op, factors, f"{operand}.grad")


@dataclass(frozen=True)
class Operands:
    """What an ONNX node with two operands reads: graph values a and b, b the broadcast one.

    `swapped`: a is the node's second operand. `shape`: the ONNX shape of the result.
    """

    a: str
    b: str
    swapped: bool
    shape: Shape


def read_operands(imp: Importer, node: OnnxNode) -> Operands:
    """The operands of a node with ONNX broadcasting. A per-channel constant is held as (C,), a single one as (1,)."""
    shapes = [imp.shape(name) for name in node.inputs]
    rank = max(map(len, shapes))
    aligned = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        imp.refuse("unsupported-broadcast", f"{shapes[0]} and {shapes[1]} do not broadcast")
    whole = [
        full == shape and (imp.is_constant(name) or len(own) == rank)
        for name, own, full in zip(node.inputs, shapes, aligned, strict=True)
    ]
    if not any(whole):
        imp.refuse(
            "unsupported-broadcast", f"neither {shapes[0]} nor {shapes[1]} has the shape of the result, {shape}",
            "expand one of them to that shape",
        )  # fmt: skip
    swapped = not whole[0] or (whole[1] and imp.is_constant(node.inputs[0]))
    a, b = reversed(node.inputs) if swapped else node.inputs
    return Operands(_whole(imp, a, shape), _repeated(imp, b, shape), swapped, shape)


def _whole(imp: Importer, name: str, shape: Shape) -> str:
    """An operand of the result's ONNX shape; a constant may lack leading axes of size 1."""
    if not imp.is_constant(name):
        return imp.value(name)
    axes = CHANNELS_LAST if len(shape) == 4 else range(len(shape))
    missing = len(shape) - len(imp.shape(name))
    return imp.weight(name, tuple(axis - missing for axis in axes if axis >= missing), stored_shape(shape))


def _repeated(imp: Importer, name: str, shape: Shape) -> str:
    """The other operand: one element, one a channel, or of the result's shape."""
    own, rank = imp.shape(name), len(shape)
    aligned = (1,) * (rank - len(own)) + own
    channel = 1 if rank == 4 else rank - 1
    vector = tuple(size if axis == channel else 1 for axis, size in enumerate(shape))
    if aligned in (vector, (1,) * rank):
        return imp.weight(name, range(len(own)), (prod(own),)) if imp.is_constant(name) else imp.value(name)
    if aligned != shape or (len(own) < rank and not imp.is_constant(name)):
        imp.refuse(
            "unsupported-broadcast", f"{own} against {shape}: neither one element nor one a channel",
            f"give it the shape {vector}, (1,) or {shape}",
        )  # fmt: skip
    return _whole(imp, name, shape)


def samples(op_type: str) -> Iterable[Sample]:
    """Every way to broadcast, with constants and with activations, from either side."""
    image = (1, 3, 4, 5)
    pairs = ((image, image), ((2, 7), (2, 7)), (image, (1, 3, 1, 1)), ((3, 1, 1), image), ((1, 1), (3, 5)))
    yield from (Sample(op_type, pair) for pair in pairs)
    small: tuple[Shape, ...] = ((3, 1, 1), (1, 3, 1, 1), (1,), (), image, (3, 4, 5))
    for shape in small:
        yield Sample(op_type, (image, shape), constants=(1,))
        yield Sample(op_type, (shape, image), constants=(0,))
    vectors: tuple[Shape, ...] = ((5,), (1, 5), (3, 5), (1, 1))
    yield from (Sample(op_type, ((3, 5), shape), constants=(1,)) for shape in vectors)
    yield Sample(op_type, ((2, 3, 7), (7,)), constants=(1,))
    yield Sample(op_type, ((1, 1, 1, 1), (1,)), constants=(1,))
    yield Sample(op_type, ((1, 5), (1, 1)), constants=(0,))
