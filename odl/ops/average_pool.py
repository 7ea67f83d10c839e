"""Averages over windows (ONNX AveragePool, GlobalAveragePool, ReduceMean), and their gradient.

Images are (1, H, W, C). A sum of products with ones, then one division. The gradient is two operators, because each
quotient is needed by all pixels of its window: first the quotients, then the sums of those that reach a pixel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.fp16 import Accumulate
from odl.graph import Builder, Kernel, Node, Operator, Slice, Tile
from odl.ops._importer import BATCH_HINT, CHANNELS_LAST, Importer, OnnxNode, Sample, imports, stored_shape
from odl.ops._pools import Pads, backwards, cropped, cut_channels, image_window, read_pool
from odl.ops._windows import Window
from odl.ops.reshape import Reshape
from odl.ops.transpose import permuted
from odl.types import Array, Shape, TensorType


def _counts(window: Window, counted: Pads, size: tuple[int, int]) -> Array:
    """What the sum of each window is divided by, (OH, OW, 1) binary32: its taps on the image and on `counted`, the
    (top, left, bottom, right) padding that takes part."""
    lengths = []
    for axis, n_outputs in enumerate(window.output(*size)):
        begin = window.pads[axis]
        low, high = begin - counted[axis], begin + size[axis] + counted[axis + 2]
        firsts = range(0, n_outputs * window.stride[axis], window.stride[axis])
        lengths.append([min(first + window.size[axis], high) - max(first, low) for first in firsts])
    return np.multiply.outer(*lengths).astype(np.float32)[..., None]


def _extra(counted: Pads) -> dict[str, int | float]:
    return dict(zip(("count_top", "count_left", "count_bottom", "count_right"), counted, strict=True))


def _cut_counted(counted: Pads, window: Window) -> Pads:
    """The padding that takes part where `window` is what a cut of the rows has left."""
    top, left, bottom, right = counted
    return min(top, window.pads[0]), left, min(bottom, window.pads[2]), right


@dataclass(frozen=True)
class AveragePool(Operator):
    """y[p, c] = round16(rn32(sum over the taps of the window of x[tap of p, c] / count[p])).

    x (1, H, W, C) -> y (1, OH, OW, C), binary16. Order: taps row by row, in pairs that run on across the ends of rows,
    an odd number of taps gets a zero; taps on padding are +0. count[p] is the number of taps on the image and on the
    padding `counted` (top, left, bottom, right), exact in binary32.
    """

    name: ClassVar[str] = "average_pool"
    stacked: ClassVar[tuple[tuple[int, ...], ...]] = ((0,),)
    window: Window
    counted: Pads = (0, 0, 0, 0)
    accumulate: Accumulate = Accumulate.FP32

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _, height, width, channels = inputs[0].shape
        return (TensorType((1, *self.window.output(height, width), channels)),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        (x,) = inputs
        taps = self.window.taps(x)
        total = fp16.sum_with_ones(taps.reshape(-1, *taps.shape[2:]), self.accumulate)
        counts = _counts(self.window, self.counted, (x.shape[1], x.shape[2]))
        return (fp16.half(fp16.div32(total, counts)),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        window = self.window.scalars(inputs[0].shape, outputs[0].shape)
        return Kernel("average_pool", window, "odl_window", _extra(self.counted))

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Rows of y from rows of x, or channels."""
        if cut is None or cut.axis != 1:
            return cut_channels(self, cut, 1)
        found = self.window.cut_rows(cut.first, cut.last, inputs[0].shape[1])
        if not found:
            return None
        op = replace(self, window=found[0], counted=_cut_counted(self.counted, found[0]))
        return Tile(op, (Slice(1, *found[1:]),), (cut,))

    def gradient(self, build: Builder, node: Node, grad: str, wanted: Sequence[bool]) -> Sequence[str | None]:
        (x,) = node.inputs
        size = build.types[x].shape[1:3]
        shares = build.add(AveragePoolShare(self.window, (size[0], size[1]), self.counted), (grad,))
        return (build.add(AveragePoolSpread(self.window, (size[0], size[1])), (shares,), f"{x}.grad"),)


@dataclass(frozen=True)
class AveragePoolShare(Operator):
    """q[p, c] = round16(rn32(dy[p, c] / count[p])), elementwise; count as in AveragePool.

    dy (1, OH, OW, C) -> q (1, OH, OW, C); `size` is (H, W) of the pool's input.
    """

    name: ClassVar[str] = "average_pool_share"
    stacked: ClassVar[tuple[tuple[int, ...], ...]] = ((0,),)
    in_place: ClassVar[tuple[tuple[int, int], ...]] = ((0, 0),)
    window: Window
    size: tuple[int, int]
    counted: Pads = (0, 0, 0, 0)

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (inputs[0],)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        (dy,) = inputs
        return (fp16.half(fp16.div32(dy, _counts(self.window, self.counted, self.size))),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        dy = outputs[0].shape
        window = self.window.scalars((1, *self.size, dy[3]), dy)
        return Kernel("average_pool_share", window, "odl_window", _extra(self.counted))

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Rows or channels."""
        if cut is None or cut.axis != 1:
            return cut_channels(self, cut, 1)
        found = self.window.cut_rows(cut.first, cut.last, self.size[0])
        if not found:
            return None
        window, first, last = found
        op = replace(self, window=window, size=(last - first, self.size[1]), counted=_cut_counted(self.counted, window))
        return Tile(op, (cut,), (cut,))


@dataclass(frozen=True)
class AveragePoolSpread(Operator):
    """dx[i, c] = round16(sum over the windows p that hold pixel i of q[p, c]).

    q (1, OH, OW, C) -> dx (1, H, W, C). A binary32 sum that starts at +0; windows ascending, one at a time, each
    addition rounded. A pixel that no window holds is +0.
    """

    name: ClassVar[str] = "average_pool_spread"
    stacked: ClassVar[tuple[tuple[int, ...], ...]] = ((0,),)
    window: Window
    size: tuple[int, int]

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (TensorType((1, *self.size, inputs[0].shape[3])),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        (q,) = inputs
        shape = (len(q), *self.size, q.shape[3])
        padded = self.window.padded(np.zeros(shape, np.float32))
        for _, seen in backwards(self.window, padded, (q.shape[1], q.shape[2])):
            seen[...] = fp16.add32(seen, q)
        return (fp16.half(cropped(self.window, padded, shape)),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        return Kernel("average_pool_spread", self.window.scalars(outputs[0].shape, inputs[0].shape), "odl_window")

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Rows of dx from the rows of q that reach them, or channels."""
        if cut is None or cut.axis != 1:
            return cut_channels(self, cut, 1)
        window, first, last = self.window.cut_rows_back(cut.first, cut.last, inputs[0].shape[1])
        op = replace(self, window=window, size=(len(cut), self.size[1]))
        return Tile(op, (Slice(1, first, last),), (cut,))


def _pool_samples() -> Iterable[Sample]:
    def pool(x: tuple[int, int, int], size: tuple[int, int], strides: tuple[int, int], **more: object) -> Sample:
        return Sample("AveragePool", ((1, *x),), {"kernel_shape": size, "strides": strides, **more})

    yield pool((3, 6, 8), (2, 2), (2, 2))
    yield pool((9, 7, 7), (3, 3), (2, 2), pads=(1, 1, 1, 1))
    yield pool((9, 7, 7), (3, 3), (2, 2), pads=(1, 1, 1, 1), count_include_pad=1)
    yield pool((2, 5, 6), (3, 2), (1, 1), auto_pad="SAME_UPPER")
    yield pool((2, 6, 5), (2, 3), (1, 2), auto_pad="SAME_LOWER", count_include_pad=1)
    yield pool((1, 6, 5), (2, 3), (3, 1), pads=(1, 0, 0, 2))
    yield pool((4, 6, 6), (3, 3), (2, 2), ceil_mode=1)
    yield pool((3, 4, 6), (3, 3), (2, 2), ceil_mode=1, pads=(1, 1, 0, 1), count_include_pad=1)
    yield pool((2, 4, 4), (1, 1), (3, 3))


@imports("AveragePool", samples=_pool_samples, limits="1-D or 2-D, dilation 1, pads less than the window")
def _import_pool(imp: Importer, node: OnnxNode) -> None:
    x, shape = node.input(0), imp.shape(node.input(0))
    window, declared = read_pool(imp, node, shape)
    counted = declared if node.attributes.get("count_include_pad", 0) else (0, 0, 0, 0)
    y = imp.add(AveragePool(window, counted), (imp.value(x),))
    imp.bind(node.outputs[0], y, (1, shape[1], *window.output(shape[2], shape[3])))


def _mean_samples() -> Iterable[Sample]:
    for x in ((3, 4, 5), (17, 3, 3), (1, 1, 1)):
        yield Sample("GlobalAveragePool", ((1, *x),))
    yield Sample("ReduceMean", ((1, 5, 4, 3),), {"axes": (2, 3), "keepdims": 1})
    yield Sample("ReduceMean", ((1, 5, 3, 3),), {"axes": (-1, -2), "keepdims": 0})
    axes = np.array([2, 3], np.int64)
    yield Sample("ReduceMean", ((1, 3, 5, 5), (2,)), {"keepdims": 0}, constants=(1,), values={1: axes}, opset=18)
    yield Sample("ReduceMean", ((1, 4, 7),), {"axes": (1,), "keepdims": 0})
    yield Sample("ReduceMean", ((1, 4, 7),), {"axes": (-1,)})
    yield Sample("ReduceMean", ((1, 4, 3, 5),), {"axes": (1, 2), "keepdims": 0})
    yield Sample("ReduceMean", ((1, 4, 3, 5),), {"axes": (3, 1)})
    yield Sample("ReduceMean", ((2, 5),), {})


@imports("GlobalAveragePool", samples=_mean_samples, limits="over the two spatial axes of one image")
@imports("ReduceMean", samples=_mean_samples, limits="up to rank 4, constant axes")
def _import_mean(imp: Importer, node: OnnxNode) -> None:
    x, shape = node.input(0), imp.shape(node.input(0))
    keeps = node.op_type == "GlobalAveragePool" or bool(node.attributes.get("keepdims", 1))
    axes = {2, 3}
    if node.op_type == "ReduceMean":
        axes = {axis % len(shape) for axis in _axes(imp, node)}
        imp.require(bool(axes) or not node.attributes.get("noop_with_empty_axes", 0), "a mean over no axes")
    if len(shape) != 4 or axes != {2, 3}:
        imp.require(node.op_type == "ReduceMean", f"input {shape} is not one image (1, C, H, W)", BATCH_HINT)
        _import_other_mean(imp, node, tuple(sorted(axes)) or tuple(range(len(shape))), keeps)
        return
    imp.require(shape[0] == 1, f"input {shape} is not one image (1, C, H, W)", BATCH_HINT)
    average = AveragePool(image_window(shape))
    if keeps:
        imp.bind(node.outputs[0], imp.add(average, (imp.value(x),)), (1, shape[1], 1, 1))
        return
    mean = imp.build.add(average, (imp.value(x),))
    imp.bind(node.outputs[0], imp.add(Reshape((1, shape[1])), (mean,)), (1, shape[1]))


def _import_other_mean(imp: Importer, node: OnnxNode, axes: Shape, keeps: bool) -> None:
    """A mean over other axes: of an image whose pixels are the elements of these, in order, its channels the rest."""
    shape, build = imp.shape(node.input(0)), imp.build
    rank = len(shape)
    imp.require(0 < rank <= 4, f"rank {rank} is not 1 to 4")
    order = CHANNELS_LAST if rank == 4 else tuple(range(rank))
    others = [axis for axis in (order if keeps else range(rank)) if axis not in axes]
    result = tuple(1 if axis in axes else n for axis, n in enumerate(shape) if keeps or axis not in axes)
    imp.require(bool(result), "the result is one number without axes", "keep the axes (keepdims = 1)")
    turned = permuted(build, imp.value(node.input(0)), [order.index(axis) for axis in (*axes, *others)])
    pixels, channels = (prod(shape[axis] for axis in part) for part in (axes, others))
    image = build.add(Reshape((1, 1, pixels, channels)), (turned,))
    mean = build.add(AveragePool(Window((1, pixels), (1, 1), (0, 0, 0, 0))), (image,))
    imp.bind(node.outputs[0], imp.add(Reshape(stored_shape(result)), (mean,)), result)


def _axes(imp: Importer, node: OnnxNode) -> Shape:
    """The attribute of opset 13, the second input since opset 18."""
    if node.input(1):
        return tuple(int(axis) for axis in imp.constant(node.input(1), "the axes").ravel())
    return tuple(node.attributes.get("axes", ()))
