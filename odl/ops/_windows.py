"""Windows over images: the geometry that convolutions and pools share, read from ONNX once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from odl.ops._importer import BATCH_HINT, Importer, OnnxNode
from odl.types import Array, Shape

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """A window that slides over images (N, H, W, C): size, stride, and (top, left, bottom, right) padding."""

    size: Pair
    stride: Pair
    pads: tuple[int, int, int, int]

    def output(self, height: int, width: int) -> Pair:
        """(height, width) of the output."""
        top, left, bottom, right = self.pads
        return (
            (height + top + bottom - self.size[0]) // self.stride[0] + 1,
            (width + left + right - self.size[1]) // self.stride[1] + 1,
        )

    def padded(self, x: Array) -> Array:
        """x (N, H, W, C) with +0 around each image, (N, top + H + bottom, left + W + right, C)."""
        top, left, bottom, right = self.pads
        n, height, width, channels = x.shape
        wide = np.zeros((n, top + height + bottom, left + width + right, channels), x.dtype)
        wide[:, top : top + height, left : left + width] = x
        return wide

    def taps(self, x: Array, out: Array | None = None) -> Array:
        """x (N, H, W, C) -> (kh, kw, N, OH, OW, C): what each tap of the window sees at each output pixel.

        They are written to `out`, where that is given, which has to hold +0 for what lies on padding.
        """
        top, left = self.pads[:2]
        rows, cols = range(-top, self.size[0] - top), range(-left, self.size[1] - left)
        return grid(x, rows, cols, self.stride, self.output(*x.shape[1:3]), out)

    def columns(self, x: Array, odd_width: int = 0, odd_channels: int = 0) -> Array:
        """`taps` as `columns` lays them out, with so many columns of zeros behind those of the window, and channels
        behind those of x: (kh, kw + odd_width, C + odd_channels, N, OH, OW)."""
        top, left = self.pads[:2]
        rows = range(-top, self.size[0] - top)
        cols = (*range(-left, self.size[1] - left), *[x.shape[2]] * odd_width)
        return columns(x, rows, cols, self.stride, self.output(*x.shape[1:3]), odd_channels)

    def cut_rows(self, first: int, last: int, height: int) -> tuple[Window, int, int] | None:
        """The window that yields output rows first .. last - 1 from input rows a .. b - 1: (window, a, b).

        `height` is the input's. None where those rows see nothing but padding.
        """
        top, left, _, right = self.pads
        start = first * self.stride[0] - top
        end = (last - 1) * self.stride[0] + self.size[0] - top
        a, b = max(start, 0), min(end, height)
        return (replace(self, pads=(a - start, left, end - b, right)), a, b) if a < b else None

    def cut_rows_back(self, first: int, last: int, n_outputs: int) -> tuple[Window, int, int]:
        """The window over input rows first .. last - 1 and the output rows a .. b - 1 that see them: (window, a, b).

        `n_outputs` is how many rows the output has. Rows behind the last window get its row, which sees none of them.
        """
        stride, at = self.stride[0], first + self.pads[0]
        a = min(max(-((self.size[0] - 1 - at) // stride), 0), at // stride, n_outputs - 1)
        b = max(min((last - 1 + self.pads[0]) // stride + 1, n_outputs), a + 1)
        top = at - a * stride
        bottom = max((b - a - 1) * stride + self.size[0] - top - (last - first), 0)
        return replace(self, pads=(top, self.pads[1], bottom, self.pads[3])), a, b

    def walks_words(self, x: Shape) -> bool:
        """Whether, without padding, each kernel row of each output pixel is whole words of an image at one."""
        width, channels = x[2:]
        even = channels % 2 == 0 or (channels == 1 and not (self.size[1] % 2 or self.stride[1] % 2 or width % 2))
        return even and not any(self.pads)

    def scalars(self, x: Shape, y: Shape) -> dict[str, int | float]:
        """The fields of C's `struct odl_window`, for an input and an output image in storage order."""
        return {
            "in_h": x[1], "in_w": x[2], "in_c": x[3], "out_h": y[1], "out_w": y[2], "out_c": y[3],
            "kernel_h": self.size[0], "kernel_w": self.size[1], "stride_h": self.stride[0],
            "stride_w": self.stride[1], "pad_top": self.pads[0], "pad_left": self.pads[1],
        }  # fmt: skip


def grid(
    images: Array, rows: Sequence[int], cols: Sequence[int], stride: Pair, output: Pair, out: Array | None = None
) -> Array:
    """images (..., H, W, C) -> (rows, columns, ..., *output, C), in `out` if that is given.

    Element (a, b, ..., i, j, c) is that of images at (..., rows[a] + i * stride[0], cols[b] + j * stride[1], c), +0
    where there is none.
    """
    *lead, height, width, channels = images.shape
    shape = (len(rows), len(cols), *lead, *output, channels)
    found = np.zeros(shape, images.dtype) if out is None else out
    for (a, row), (b, col) in itertools.product(enumerate(rows), enumerate(cols)):
        (to_rows, from_rows), (to_cols, from_cols) = (
            _inside(first, step, count, size)
            for first, step, count, size in zip((row, col), stride, output, (height, width), strict=True)
        )
        found[a, b, ..., to_rows, to_cols, :] = images[..., from_rows, from_cols, :]
    return found


def columns(
    images: Array, rows: Sequence[int], cols: Sequence[int], stride: Pair, output: Pair, odd_channels: int = 0
) -> Array:
    """The `grid` of images (N, H, W, C) as (rows, columns, C + odd_channels, N, *output), binary32.

    Pixels come last because most often that is the longest axis, as `fp16.sum_of_products` likes it.
    """
    n, height, width, channels = images.shape
    planes = np.zeros((channels + odd_channels, n, height, width, 1), np.float32)
    planes[:channels, ..., 0] = np.moveaxis(images, 3, 0)
    return grid(planes, rows, cols, stride, output)[..., 0]


def _inside(first: int, step: int, count: int, size: int) -> tuple[slice, slice]:
    """Which of `count` positions first, first + step, ... lie in 0 .. size - 1, and these positions."""
    begin = min(max(0, -(first // step)), count)
    end = max(begin, min(count, -((first - size) // step)))
    return slice(begin, end), slice(first + begin * step, first + end * step, step)


def hits(at: int, kernel: int, stride: int, pad: int) -> list[tuple[int, int]]:
    """The taps that may see input position `at`: (output position, tap), output ascending.

    All taps of the position's phase are listed, also those whose output lies outside the image: they count as
    products with +0, as they do in a padded tile of the output's gradient. So the number of taps depends on the
    phase alone.
    """
    found = [((at + pad - tap) // stride, tap) for tap in range(kernel) if (at + pad - tap) % stride == 0]
    return sorted(found)


_AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


def read_window(imp: Importer, node: OnnxNode, size: Pair, shape: Shape) -> Window:
    """The window of an ONNX node with strides, pads, auto_pad and dilations (which must be 1)."""
    attributes = node.attributes
    imp.require(len(shape) == 4 and shape[0] == 1, f"input {shape} is not one image (1, C, H, W)", BATCH_HINT)
    imp.expect(all(d == 1 for d in attributes.get("dilations", ())), "dilations other than 1 are not supported")
    stride = tuple(attributes.get("strides", (1, 1)))
    pads = tuple(attributes.get("pads", (0, 0, 0, 0)))
    auto = attributes.get("auto_pad", "NOTSET")
    imp.expect(auto in _AUTO_PADS, f"auto_pad {auto!r} is unknown")
    imp.require(len(stride) == 2 and min(stride) > 0 and min(size) > 0, f"kernel {size}, strides {stride}")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = _same(shape[2:], size, stride, upper=auto == "SAME_UPPER")
    elif auto == "VALID":
        pads = (0, 0, 0, 0)
    imp.require(len(pads) == 4 and min(pads) >= 0, f"pads {pads} are not four numbers of at least 0")
    window = Window((size[0], size[1]), (stride[0], stride[1]), (pads[0], pads[1], pads[2], pads[3]))
    height, width = shape[2] + pads[0] + pads[2], shape[3] + pads[1] + pads[3]
    imp.require(
        size[0] <= height and size[1] <= width, f"kernel {size} is larger than the padded input {height, width}"
    )
    return window


def _same(shape: Shape, size: Pair, stride: tuple[int, ...], upper: bool) -> tuple[int, ...]:
    """ONNX auto_pad: output = ceil(input / stride); the odd pixel goes to the end if `upper`."""
    totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(shape, size, stride, strict=True)]
    begins = [total // 2 if upper else total - total // 2 for total in totals]
    return (*begins, *(total - begin for total, begin in zip(totals, begins, strict=True)))
