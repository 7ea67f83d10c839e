"""The same elements under another shape (ONNX Reshape, Flatten, Squeeze, Unsqueeze), or under another name alone
(Identity, Dropout as in inference)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from odl.graph import Builder, Node, Operator
from odl.ops._importer import CHANNELS_FIRST, CHANNELS_LAST, Importer, OnnxNode, Sample, imports, stored_shape
from odl.ops.transpose import MAX_RANK, Transpose
from odl.types import Array, Shape, TensorType


@dataclass(frozen=True)
class Reshape(Operator):
    """The elements of x in the order in which they lie in memory, under `shape`."""

    name: ClassVar[str] = "reshape"
    view: ClassVar[bool] = True
    shape: Shape

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        (x,) = inputs
        assert x.n_elems == prod(self.shape), f"{x} does not fill {self.shape}"
        return (TensorType(self.shape, x.dtype),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        return (inputs[0].reshape(self.shape),)

    def gradient(self, build: Builder, node: Node, grad: str, wanted: Sequence[bool]) -> Sequence[str | None]:
        (x,) = node.inputs
        return (build.add(Reshape(build.types[x].shape), (grad,), f"{x}.grad"),)


def reshaped(imp: Importer, node: OnnxNode, shape: Shape) -> None:
    """Bind the node's output to its first input's elements, in ONNX's order, under the ONNX shape `shape`."""
    x, y = node.input(0), node.outputs[0]
    old = imp.shape(x)
    imp.require(prod(old) == prod(shape), f"{old} does not fill {shape}")
    if imp.is_constant(x):
        imp.bind_constant(y, imp.constant(x, "the input").reshape(shape))
        return
    if old == shape:
        imp.alias(y, x)
        return
    imp.require(0 < len(shape) <= MAX_RANK, f"rank {len(shape)} is not 1 to {MAX_RANK}")
    value = imp.value(x)
    # Where images keep their channels, only their pixels are counted anew, and both orders agree on those.
    keeps_channels = len(old) == len(shape) == 4 and old[:2] == shape[:2]
    if _is_reordered(old) and not keeps_channels:
        value = imp.build.add(Transpose(CHANNELS_FIRST), (value,))
    if _is_reordered(shape) and not keeps_channels:
        value = imp.build.add(Reshape(shape), (value,))
        imp.bind(y, imp.add(Transpose(CHANNELS_LAST), (value,)), shape)
    else:
        imp.bind(y, imp.add(Reshape(stored_shape(shape)), (value,)), shape)


def _is_reordered(shape: Shape) -> bool:
    """Whether the elements of an ONNX tensor are stored in another order than ONNX's: channels last."""
    return len(shape) == 4 and shape[1] > 1 and shape[2] * shape[3] > 1


def _reshape_samples() -> Iterable[Sample]:
    def reshape(old: Shape, new: Shape, **more: object) -> Sample:
        return Sample("Reshape", (old, (len(new),)), more, constants=(1,), values={1: np.array(new, np.int64)})

    yield reshape((1, 12), (3, 4))
    yield reshape((1, 12), (1, 3, 2, 2))
    yield reshape((1, 3, 4, 5), (1, -1))
    yield reshape((1, 3, 4, 5), (0, 5, 0, -1))
    yield reshape((1, 3, 4, 5), (1, 3, 20, 1))
    yield reshape((1, 3, 4, 5), (0, 0, -1))
    yield reshape((1, 7, 1, 1), (0, -1))
    yield reshape((1, 1, 4, 3), (1, 1, 12), allowzero=1)


@imports("Reshape", samples=_reshape_samples, limits="up to rank 4, constant shape")
def _import_reshape(imp: Importer, node: OnnxNode) -> None:
    old = imp.shape(node.input(0))
    wanted = [int(n) for n in imp.constant(node.input(1), "the shape").ravel()]
    if not node.attributes.get("allowzero", 0):
        copied = len(old) >= len(wanted) or 0 not in wanted[len(old) :]
        imp.require(copied, f"shape {wanted} copies an axis that {old} does not have")
        wanted = [old[axis] if n == 0 else n for axis, n in enumerate(wanted)]
    if wanted.count(-1) == 1:
        known = -prod(wanted)
        imp.require(known > 0 and prod(old) % known == 0, f"{old} does not fill {tuple(wanted)}")
        wanted[wanted.index(-1)] = prod(old) // known
    imp.require(all(n >= 0 for n in wanted), f"shape {tuple(wanted)} is not a shape")
    reshaped(imp, node, tuple(wanted))


def _flatten_samples() -> Iterable[Sample]:
    yield Sample("Flatten", ((1, 3, 4, 5),))
    yield Sample("Flatten", ((1, 5, 1, 1),))
    yield Sample("Flatten", ((1, 3, 4, 5),), {"axis": -2})
    yield Sample("Flatten", ((2, 3, 4),), {"axis": 0})


@imports("Flatten", samples=_flatten_samples, limits="up to rank 4")
def _import_flatten(imp: Importer, node: OnnxNode) -> None:
    old = imp.shape(node.input(0))
    axis = node.attributes.get("axis", 1)
    imp.require(-len(old) <= axis <= len(old), f"axis {axis} is not one of {old}")
    axis += len(old) if axis < 0 else 0
    reshaped(imp, node, (prod(old[:axis]), prod(old[axis:])))


def _squeeze_samples() -> Iterable[Sample]:
    def sample(op_type: str, shape: Shape, axes: tuple[int, ...]) -> Sample:
        values = {1: np.array(axes, np.int64)}
        return Sample(op_type, (shape, (len(axes),)), constants=(1,), values=values)

    yield sample("Squeeze", (1, 5, 1, 1), (2, 3))
    yield sample("Squeeze", (1, 3, 4, 1), (-1,))
    yield Sample("Squeeze", ((1, 3, 1, 4),))
    yield sample("Unsqueeze", (1, 5), (2, 3))
    yield sample("Unsqueeze", (3, 4), (0, -1))
    yield sample("Unsqueeze", (1, 3, 4), (1,))


@imports("Squeeze", "Unsqueeze", samples=_squeeze_samples, limits="up to rank 4, constant axes")
def _import_squeeze(imp: Importer, node: OnnxNode) -> None:
    old = imp.shape(node.input(0))
    is_squeeze = node.op_type == "Squeeze"
    if node.input(1):
        axes = [int(axis) for axis in imp.constant(node.input(1), "the axes").ravel()]
    else:
        ones = [axis for axis, n in enumerate(old) if n == 1]
        axes = list(node.attributes.get("axes", ones if is_squeeze else ()))
    rank = len(old) + (0 if is_squeeze else len(axes))
    imp.require(all(-rank <= axis < rank for axis in axes), f"axes {axes} do not fit rank {rank}")
    chosen = {axis % rank for axis in axes}
    imp.require(len(chosen) == len(axes), f"axes {axes} name one axis twice")
    if is_squeeze:
        imp.require(all(old[axis] == 1 for axis in chosen), f"axes {axes} of {old} are not all 1")
        reshaped(imp, node, tuple(n for axis, n in enumerate(old) if axis not in chosen))
    else:
        rest = iter(old)
        reshaped(imp, node, tuple(1 if axis in chosen else next(rest) for axis in range(rank)))


def _identity_samples() -> Iterable[Sample]:
    yield Sample("Identity", ((1, 3, 2, 2),))
    yield Sample("Dropout", ((1, 6),))


@imports("Identity", samples=_identity_samples, limits="up to rank 4")
@imports("Dropout", samples=_identity_samples, limits="the identity, as in inference; no mask")
def _import_identity(imp: Importer, node: OnnxNode) -> None:
    imp.expect(not any(node.outputs[1:]), "the output mask is not supported")
    if node.input(2):
        training = imp.constant(node.input(2), "training_mode")
        imp.require(not training.any(), "training_mode = 1 is not supported", "export the model for inference")
    imp.alias(node.outputs[0], node.input(0))
