"""What pools share beyond windows: ceil_mode, and the way back from windows to pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from odl.graph import Operator, Slice, Tile
from odl.ops._importer import Importer, OnnxNode
from odl.ops._windows import Pair, Window, read_window
from odl.types import Array, Shape

Pads = tuple[int, int, int, int]


def read_pool(imp: Importer, node: OnnxNode, shape: Shape) -> tuple[Window, Pads]:
    """The window of an ONNX pool, and the padding that the node itself asks for.

    With ceil_mode the window's padding at the bottom and on the right is what the last window reaches over.
    """
    size = tuple(node.attributes.get("kernel_shape", ()))
    imp.require(len(size) == 2, f"kernel_shape {size} is not two-dimensional")
    window = read_window(imp, node, (size[0], size[1]), shape)
    top, left, bottom, right = window.pads
    imp.expect(
        max(top, bottom) < size[0] and max(left, right) < size[1],
        f"a window of {size} may lie wholly in the padding {window.pads}", "pad by less than the window's size",
    )  # fmt: skip
    if not node.attributes.get("ceil_mode", 0):
        return window, window.pads
    bottom, right = (
        _ceil(n, begin, end, k, stride)
        for n, begin, end, k, stride in zip(shape[2:], (top, left), (bottom, right), size, window.stride, strict=True)
    )
    return replace(window, pads=(top, left, bottom, right)), window.pads


def _ceil(n: int, begin: int, end: int, kernel: int, stride: int) -> int:
    """The padding behind n pixels that makes ONNX's ceil_mode: the last window starts before that padding."""
    last = -(-(n + begin + end - kernel) // stride) * stride
    if last >= n + begin:
        last -= stride
    return max(last + kernel - n - begin, 0)


def image_window(shape: Shape) -> Window:
    """The window that is a whole image of ONNX shape (1, C, H, W)."""
    return Window((shape[2], shape[3]), (1, 1), (0, 0, 0, 0))


def backwards(window: Window, padded: Array, output: Pair) -> Iterator[tuple[int, Array]]:
    """(tap, what it sees) from the last tap to the first: views (N, OH, OW, C) into padded images, to write through.

    Each tap sees a pixel at most once, and in this order a pixel meets the windows that hold it in ascending order.
    """
    rows, cols = window.stride
    height, width = (output[0] - 1) * rows + 1, (output[1] - 1) * cols + 1
    for tap, (i, j) in reversed(list(enumerate(np.ndindex(window.size)))):
        yield tap, padded[:, i : i + height : rows, j : j + width : cols]


def cropped(window: Window, padded: Array, shape: Shape) -> Array:
    """The images (N, H, W, C) inside their padding."""
    top, left = window.pads[:2]
    return np.ascontiguousarray(padded[:, top : top + shape[1], left : left + shape[2]])


def cut_channels(op: Operator, cut: Slice | None, n_inputs: int) -> Tile | None:
    """Channels of images (1, H, W, C), if that is how they are cut: for an operator that mixes none."""
    return Tile(op, (cut,) * n_inputs, (cut,)) if cut is None or cut.axis == 3 else None


def cut_padded_rows(pads: Pads, cut: Slice, height: int) -> tuple[Pads, Slice] | None:
    """Rows `cut` of a padded image: the pads that yield them from a slice of the image's rows, and that slice (axis 1).

    `height` is the image's. None where they lie on the border alone.
    """
    top, left, _, right = pads
    first, last = cut.first - top, cut.last - top
    begin, end = max(first, 0), min(last, height)
    return ((begin - first, left, last - end, right), Slice(1, begin, end)) if begin < end else None
