"""Parts of a tensor (ONNX Slice, Split, and Gather of one element or of a run of them)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from odl.ops._importer import CHANNELS_LAST, Importer, OnnxNode, Sample, imports
from odl.ops.concat import Slice
from odl.ops.reshape import reshaped
from odl.types import Array, Shape

_LIMITS = "up to rank 4, constant, without gaps"


def _part(imp: Importer, x: str, axis: int, first: int, count: int, name: str) -> str:
    """The ONNX name of elements first .. first + count - 1 of `x` along an ONNX axis, `name` unless that is all."""
    shape = imp.shape(x)
    imp.require(count > 0 and first >= 0 and first + count <= shape[axis],
                f"elements {first} .. {first + count - 1} of axis {axis} are not in {shape}")  # fmt: skip
    imp.require(len(shape) <= 4, f"rank {len(shape)} is greater than 4")
    if count == shape[axis]:
        return x
    if imp.is_constant(x):
        imp.bind_constant(name, imp.constant(x, "the input").take(range(first, first + count), axis))
        return name
    stored = CHANNELS_LAST.index(axis) if len(shape) == 4 else axis
    value = imp.build.add(Slice(stored, first, count), (imp.value(x),), name)
    imp.bind(name, value, (*shape[:axis], count, *shape[axis + 1 :]))
    return name


def _slice_samples() -> Iterable[Sample]:
    def part(x: Shape, starts: Sequence[int], ends: Sequence[int], *more: Sequence[int]) -> Sample:
        values = {at: np.array(each, np.int64) for at, each in enumerate((starts, ends, *more), start=1)}
        shapes = (x, *(value.shape for value in values.values()))
        return Sample("Slice", shapes, constants=tuple(values), values=values)

    yield part((1, 5, 4, 3), [1], [4], [1])
    yield part((1, 3, 6, 5), [2, -4], [100, -1], [2, 3])
    yield part((1, 3, 6, 5), [0], [2], [-2], [1])
    yield part((1, 3, 7), [6], [7], [2])
    yield part((3, 5), [1, 0], [3, 4])
    yield part((1, 4), [0], [4], [1])


@imports("Slice", samples=_slice_samples, limits=f"{_LIMITS}, steps 1")
def _import_slice(imp: Importer, node: OnnxNode) -> None:
    x, shape = node.input(0), imp.shape(node.input(0))
    starts, ends, axes, steps = (_numbers(imp, node, at) for at in range(1, 5))
    axes = axes or list(range(len(starts)))
    imp.require(len(starts) == len(ends) == len(axes), f"starts {starts}, ends {ends}, axes {axes}")
    imp.require(all(step == 1 for step in steps), f"steps {steps} are not all 1")
    imp.require(all(-len(shape) <= axis < len(shape) for axis in axes), f"axes {axes} are not those of {shape}")
    cuts = {axis % len(shape): slice(*each).indices(shape[axis])
            for axis, *each in zip(axes, starts, ends, strict=True)}  # fmt: skip
    real = [(axis, first, end) for axis, (first, end, _) in cuts.items() if (first, end) != (0, shape[axis])]
    for at, (axis, first, end) in enumerate(real):
        last = at == len(real) - 1
        x = _part(imp, x, axis, first, end - first, node.outputs[0] if last else f"{node.outputs[0]}.{at}")
    if not real:
        imp.alias(node.outputs[0], x)


def _numbers(imp: Importer, node: OnnxNode, index: int) -> list[int]:
    """An operand of whole numbers, empty where it is left out."""
    if not node.input(index):
        return []
    array: Array = imp.constant(node.input(index), ("", "starts", "ends", "axes", "steps")[index])
    return [int(number) for number in array.ravel()]


def _gather_samples() -> Iterable[Sample]:
    def gather(x: Shape, axis: int, indices: object) -> Sample:
        at = np.array(indices, np.int64)
        return Sample("Gather", (x, at.shape), {"axis": axis}, constants=(1,), values={1: at})

    yield gather((1, 8, 5), 2, -1)
    yield gather((1, 4, 3, 2), 1, 2)
    yield gather((1, 4, 3, 2), -2, [1, 2])
    yield gather((3, 5), 1, [2])


@imports("Gather", samples=_gather_samples, limits=f"{_LIMITS}: one index, or ascending ones side by side")
def _import_gather(imp: Importer, node: OnnxNode) -> None:
    x, y, shape = node.input(0), node.outputs[0], imp.shape(node.input(0))
    indices = imp.constant(node.input(1), "the indices")
    axis = node.attributes.get("axis", 0)
    imp.require(-len(shape) <= axis < len(shape), f"axis {axis} is not one of {shape}")
    axis %= len(shape)
    wanted = [int(index) + (shape[axis] if index < 0 else 0) for index in indices.ravel()]
    is_run = bool(wanted) and indices.ndim < 2 and wanted == list(range(wanted[0], wanted[0] + len(wanted)))
    imp.require(is_run, f"indices {wanted[:8]} are not one run", "use Slice and Concat")
    part = _part(imp, x, axis, wanted[0], len(wanted), y if indices.ndim else f"{y}.part")
    if indices.ndim == 0:
        reshaped(imp, replace(node, inputs=(part,)), (*shape[:axis], *shape[axis + 1 :]))
    elif part != y:
        imp.alias(y, part)


def _split_samples() -> Iterable[Sample]:
    yield Sample("Split", ((1, 5),), {"axis": 1, "num_outputs": 1}, opset=18)


@imports("Split", samples=_split_samples, limits=_LIMITS)
def _import_split(imp: Importer, node: OnnxNode) -> None:
    x, shape = node.input(0), imp.shape(node.input(0))
    axis = node.attributes.get("axis", 0)
    imp.require(-len(shape) <= axis < len(shape), f"axis {axis} is not one of {shape}")
    axis %= len(shape)
    even = -(-shape[axis] // len(node.outputs))
    counts = [min(even, shape[axis] - even * at) for at in range(len(node.outputs))]
    if node.input(1):
        counts = [int(count) for count in imp.constant(node.input(1), "split").ravel()]
    imp.require(len(counts) == len(node.outputs) and sum(counts) == shape[axis], f"parts {counts} are not {shape}")
    first = 0
    for output, count in zip(node.outputs, counts, strict=True):
        if output and _part(imp, x, axis, first, count, output) != output:
            imp.alias(output, x)
        first += count
