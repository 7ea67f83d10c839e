"""Tensors side by side along one axis (ONNX Concat)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from odl.errors import ModelError
from odl.graph import Builder, Kernel, Node, Operator, Tile
from odl.graph import Slice as Cut
from odl.ops._cuts import cut_alike
from odl.ops._importer import CHANNELS_LAST, Importer, OnnxNode, Sample, imports
from odl.ops.pad import Pad
from odl.ops.reshape import Reshape
from odl.types import Array, Shape, TensorType


def _rows(shape: Shape, axis: int) -> int:
    """A tensor is so many rows; a row holds everything from `axis` on."""
    return prod(shape[:axis])


def _width(shape: Shape, axis: int) -> int:
    return prod(shape[axis:])


@dataclass(frozen=True)
class Concat(Operator):
    """y = up to four tensors, one behind the other along `axis`; their other axes are equal. Exact, binary16.

    A kernel has a fixed list of pointers, of which the missing ones are NULL: four of them serve nearly every network
    in one pass. Longer lists become chains, whose first tensors are copied once more for every three that follow.
    """

    name: ClassVar[str] = "concat"
    arity: ClassVar[int] = 4
    axis: int

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        before, after = inputs[0].shape[: self.axis], inputs[0].shape[self.axis + 1 :]
        for x in inputs:
            if x.shape[: self.axis] != before or x.shape[self.axis + 1 :] != after:
                raise ModelError("shape-mismatch", self.name, f"{x} beside {inputs[0]} along axis {self.axis}")
        total = sum(x.shape[self.axis] for x in inputs)
        return (TensorType((*before, total, *after)),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        return (np.concatenate(list(inputs), axis=self.axis),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        widths = [_width(x.shape, self.axis) for x in inputs] + [0] * (self.arity - len(inputs))
        named = {f"width{i}": width for i, width in enumerate(widths)}
        return Kernel("concat", {"n_rows": _rows(outputs[0].shape, self.axis), **named})

    def tile(self, cut: Cut | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        return cut_alike(self, cut, len(inputs), but=self.axis)

    def gradient(self, build: Builder, node: Node, grad: str, wanted: Sequence[bool]) -> Sequence[str | None]:
        gradients: list[str | None] = []
        first = 0
        for x, is_wanted in zip(node.inputs, wanted, strict=True):
            count = build.types[x].shape[self.axis]
            part = Slice(self.axis, first, count)
            gradients.append(build.add(part, (grad,), f"{x}.grad") if is_wanted else None)
            first += count
        return gradients


@dataclass(frozen=True)
class Slice(Operator):
    """y = elements `first` .. `first + count - 1` of x along `axis`. Exact, binary16; the gradient of Concat.

    Its own gradient is what Pad puts +0 around: both as images of one channel, a row of theirs all from `axis` on.
    """

    name: ClassVar[str] = "slice"
    axis: int
    first: int
    count: int

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        shape = inputs[0].shape
        return (TensorType((*shape[: self.axis], self.count, *shape[self.axis + 1 :])),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        before = (slice(None),) * self.axis
        return (np.ascontiguousarray(inputs[0][*before, self.first : self.first + self.count]),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        x, y = inputs[0].shape, outputs[0].shape
        first = self.first * prod(x[self.axis + 1 :])
        widths = {"in_width": _width(x, self.axis), "first": first, "count": _width(y, self.axis)}
        return Kernel("slice", {"n_rows": _rows(x, self.axis), **widths})

    def gradient(self, build: Builder, node: Node, grad: str, wanted: Sequence[bool]) -> Sequence[str | None]:
        x, y = (build.types[name].shape for name in (node.inputs[0], grad))
        rows, width, inner = _rows(x, self.axis), _width(x, self.axis), prod(x[self.axis + 1 :])
        left, count = self.first * inner, _width(y, self.axis)
        part = build.add(Reshape((1, rows, count, 1)), (grad,))
        whole = build.add(Pad((0, left, 0, width - left - count)), (part,))
        return (build.add(Reshape(x), (whole,), f"{node.inputs[0]}.grad"),)

    def tile(self, cut: Cut | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        return cut_alike(self, cut, len(inputs), but=self.axis)


def _samples() -> Iterable[Sample]:
    def concat(axis: int, *shapes: Shape) -> Sample:
        return Sample("Concat", shapes, {"axis": axis})

    yield concat(1, (1, 3, 2, 4), (1, 5, 2, 4))
    yield concat(-3, (1, 1, 3, 3), (1, 2, 3, 3), (1, 3, 3, 3))
    yield concat(2, (1, 3, 2, 4), (1, 3, 1, 4))
    yield concat(3, (1, 2, 3, 1), (1, 2, 3, 4))
    yield concat(1, *(((1, 3),) * 6), (1, 1))
    yield concat(-1, (1, 2, 3), (1, 2, 5))
    yield concat(0, (2, 3), (1, 3))
    yield concat(1, (1, 4))
    yield Sample("Concat", ((1, 2, 3, 3), (1, 1, 3, 3)), {"axis": 1}, constants=(1,))


@imports("Concat", samples=_samples, limits="up to rank 4")
def _import(imp: Importer, node: OnnxNode) -> None:
    names, y = node.inputs, node.outputs[0]
    shapes = [imp.shape(name) for name in names]
    rank, axis = len(shapes[0]), node.attributes["axis"]
    imp.require(-rank <= axis < rank <= 4, f"axis {axis} of rank {rank} is not supported")
    axis %= rank
    others = {shape[:axis] + shape[axis + 1 :] for shape in shapes}
    imp.require(len(others) == 1, f"shapes {', '.join(map(str, shapes))} do not fit along axis {axis}")
    if all(imp.is_constant(name) for name in names):
        imp.bind_constant(y, np.concatenate([imp.constant(name, "an input") for name in names], axis))
        return
    if len(names) == 1:
        imp.alias(y, names[0])
        return
    stored = CHANNELS_LAST.index(axis) if rank == 4 else axis
    total = sum(shape[axis] for shape in shapes)
    value = _chained(imp, [imp.value(name) for name in names], Concat(stored))
    imp.bind(y, value, (*shapes[0][:axis], total, *shapes[0][axis + 1 :]))


def _chained(imp: Importer, values: list[str], op: Concat) -> str:
    while len(values) > op.arity:
        values = [imp.build.add(op, values[: op.arity]), *values[op.arity :]]
    return imp.add(op, values)
