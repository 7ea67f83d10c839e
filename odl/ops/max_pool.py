"""Maximum over windows (ONNX MaxPool, GlobalMaxPool), and its gradient.

Images are (1, H, W, C). A window is scanned row by row and starts with its first tap inside the image; a later tap
replaces it only if it is greater. So the first of equal maxima wins, -0 and +0 are equal, and a NaN is never replaced
and never replaces. Taps on padding do not take part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.graph import Builder, Kernel, Node, Operator, Slice, Tile
from odl.ops._importer import BATCH_HINT, Importer, OnnxNode, Sample, imports
from odl.ops._pools import backwards, cropped, cut_channels, image_window, read_pool
from odl.ops._windows import Window
from odl.types import Array, TensorType


def _scan(window: Window, x: Array) -> Iterator[tuple[int, Array, Array]]:
    """(number, values, replaces) of each tap in the order of the scan: what it sees at every output pixel and channel,
    (N, OH, OW, C), and where it becomes the maximum."""
    values = window.taps(x)
    inside = window.taps(np.ones((1, *x.shape[1:3], 1), bool))
    best = np.zeros(values.shape[2:], np.float16)
    started = np.zeros((1, *values.shape[3:5], 1), bool)
    for tap, at in enumerate(np.ndindex(window.size)):
        replaces = inside[at] & (~started | (values[at] > best))
        yield tap, values[at], replaces
        best = np.where(replaces, values[at], best)
        started |= inside[at]


@dataclass(frozen=True)
class MaxPool(Operator):
    """y[p, c] = the maximum of x[tap of p, c] over the taps of the window. Exact.

    x (1, H, W, C) -> y (1, OH, OW, C), binary16; every window has a tap inside the image.
    """

    name: ClassVar[str] = "max_pool"
    stacked: ClassVar[tuple[tuple[int, ...], ...]] = ((0,),)
    window: Window

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        _, height, width, channels = inputs[0].shape
        return (TensorType((1, *self.window.output(height, width), channels)),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        (x,) = inputs
        y = np.zeros((len(x), *self.window.output(*x.shape[1:3]), x.shape[3]), np.float16)
        for _, values, replaces in _scan(self.window, x):
            y = np.where(replaces, values, y)
        return (y,)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        return Kernel("max_pool", self.window.scalars(inputs[0].shape, outputs[0].shape), "odl_window")

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Rows of y from rows of x, or channels."""
        if cut is None or cut.axis != 1:
            return cut_channels(self, cut, 1)
        found = self.window.cut_rows(cut.first, cut.last, inputs[0].shape[1])
        return found and Tile(replace(self, window=found[0]), (Slice(1, *found[1:]),), (cut,))

    def gradient(self, build: Builder, node: Node, grad: str, wanted: Sequence[bool]) -> Sequence[str | None]:
        (x,) = node.inputs
        return (build.add(MaxPoolGradient(self.window), (x, grad), f"{x}.grad"),)


@dataclass(frozen=True)
class MaxPoolGradient(Operator):
    """dx[first maximum of window p, c] += dy[p, c], starting from +0, p ascending, each sum rounded to binary16.

    x (1, H, W, C), dy (1, OH, OW, C) -> dx (1, H, W, C). The maximum is found again by the scan of MaxPool.
    """

    name: ClassVar[str] = "max_pool_gradient"
    stacked: ClassVar[tuple[tuple[int, ...], ...]] = ((0, 1),)
    window: Window

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (inputs[0],)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        x, dy = inputs
        winner = np.zeros(dy.shape, np.int32)
        for tap, _, replaces in _scan(self.window, x):
            winner = np.where(replaces, tap, winner)
        padded = self.window.padded(np.zeros_like(x))
        for tap, seen in backwards(self.window, padded, (dy.shape[1], dy.shape[2])):
            seen[...] = np.where(winner == tap, fp16.add16(seen, dy), seen)
        return (cropped(self.window, padded, x.shape),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        return Kernel("max_pool_gradient", self.window.scalars(inputs[0].shape, inputs[1].shape), "odl_window")

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Channels, or rows where windows do not share any: as many of x as of dx, and the windows that lie in them."""
        if cut is None or cut.axis != 1:
            return cut_channels(self, cut, 2)
        stride, n_windows = self.window.stride[0], inputs[1].shape[1]
        ends_between = cut.first % stride == 0 and (cut.last % stride == 0 or cut.last == inputs[0].shape[1])
        if self.window.size[0] > stride or self.window.pads[0] or self.window.pads[2] or not ends_between:
            return None
        first, last = cut.first // stride, min(-(-cut.last // stride), n_windows)
        return Tile(self, (cut, Slice(1, first, last)), (cut,)) if first < last else None


def _samples() -> Iterable[Sample]:
    def pool(x: tuple[int, int, int], size: tuple[int, int], strides: tuple[int, int], **more: object) -> Sample:
        attributes = {"kernel_shape": size, "strides": strides, **more}
        return Sample("MaxPool", ((1, *x),), attributes, values=_distinct((1, *x)))

    yield pool((3, 6, 8), (2, 2), (2, 2))
    yield pool((5, 7, 7), (3, 3), (2, 2), pads=(1, 1, 1, 1))
    yield pool((2, 5, 6), (3, 2), (1, 1), auto_pad="SAME_UPPER")
    yield pool((1, 6, 5), (2, 3), (3, 1), pads=(1, 0, 0, 2))
    yield pool((4, 6, 6), (3, 3), (2, 2), ceil_mode=1)
    yield pool((3, 6, 4), (3, 3), (2, 2), ceil_mode=1, pads=(1, 1, 1, 1))
    yield pool((3, 2, 2), (1, 1), (2, 2))
    # The last window of each row and column would start in the padding; ONNX leaves it out since opset 22.
    last = {"kernel_shape": (2, 2), "strides": (3, 3), "pads": (1, 1, 1, 1), "ceil_mode": 1}
    yield Sample("MaxPool", ((1, 3, 5, 5),), last, values=_distinct((1, 3, 5, 5)), opset=22)
    yield Sample("GlobalMaxPool", ((1, 3, 4, 5),), values=_distinct((1, 3, 4, 5)))


def _distinct(shape: tuple[int, ...]) -> dict[int, Array]:
    """Values far enough from each other that a gradient by differences meets no tie."""
    n_elems = prod(shape)
    order = np.random.default_rng(n_elems).permutation(n_elems)
    return {0: ((order - n_elems // 2) / 64).astype(np.float32).reshape(shape)}


@imports("MaxPool", samples=_samples, limits="1-D or 2-D, dilation 1, pads less than the window, no Indices")
@imports("GlobalMaxPool", samples=_samples, limits="over the two spatial axes of one image")
def _import(imp: Importer, node: OnnxNode) -> None:
    x, shape = node.input(0), imp.shape(node.input(0))
    imp.expect(not any(node.outputs[1:]), "the output Indices is not supported")
    if node.op_type == "GlobalMaxPool":
        imp.require(len(shape) == 4 and shape[0] == 1, f"input {shape} is not one image (1, C, H, W)", BATCH_HINT)
        window = image_window(shape)
    else:
        window, _ = read_pool(imp, node, shape)
    y = imp.add(MaxPool(window), (imp.value(x),))
    imp.bind(node.outputs[0], y, (1, shape[1], *window.output(shape[2], shape[3])))
