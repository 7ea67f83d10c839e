"""The weights of a layer as its input gradient reads them: input and output channels exchanged, taps reversed.

Passes make these operators, no ONNX node does: an input gradient is then a convolution of the output's gradient
(`odl/passes/input_gradients.py`). Weights that a recipe freezes are rearranged anew in every step all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from odl.graph import Kernel, Operator, Slice, Tile
from odl.ops._windows import Pair
from odl.types import Array, TensorType


@dataclass(frozen=True)
class FlipTranspose(Operator):
    """y[i, a, b, o] = w[o, row a, column b, i], where rows and columns are the taps of one phase, in falling order.

    w (O, kh, kw, I) -> y (I, n_rows, n_columns, O rounded up to even), binary16, exact; the channel behind an odd O is
    +0. The rows are those i < kh with i mod stride[0] = first[0], the columns likewise; with stride 1, all. A matrix
    w (O, I) gives y (I, O), its transpose, and O stays as it is.
    """

    name: ClassVar[str] = "flip_transpose"
    moves: ClassVar[bool] = True
    stride: Pair = (1, 1)
    first: Pair = (0, 0)

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        (w,) = inputs
        if len(w.shape) == 2:
            return (TensorType((w.shape[1], w.shape[0])),)
        rows, cols = self._taps(w)
        return (TensorType((w.shape[3], len(rows), len(cols), w.shape[0] + w.shape[0] % 2)),)

    def _taps(self, w: TensorType) -> tuple[range, range]:
        rows, cols = (range(self.first[at], w.shape[1 + at], self.stride[at]) for at in (0, 1))
        assert rows, f"{w} has no row from {self.first}"
        assert cols, f"{w} has no column from {self.first}"
        return rows, cols

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        (w,) = inputs
        if w.ndim == 2:
            return (np.ascontiguousarray(w.T),)
        taps = w[:, self.first[0] :: self.stride[0], self.first[1] :: self.stride[1]][:, ::-1, ::-1]
        return (np.pad(taps.transpose(3, 1, 2, 0), ((0, 0), (0, 0), (0, 0), (0, len(w) % 2))),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        (w,), (y,) = inputs, outputs
        n_outputs, height, width, n_inputs = w.shape if len(w.shape) == 4 else (w.shape[0], 1, 1, w.shape[1])
        n_rows, n_cols = y.shape[1:3] if len(y.shape) == 4 else (1, 1)
        step = self.stride[0] * width, self.stride[1]
        last = (self.first[0] + (n_rows - 1) * self.stride[0]) * width + self.first[1] + (n_cols - 1) * self.stride[1]
        scalars: dict[str, int | float] = {
            "n_outputs": n_outputs, "n_inputs": n_inputs, "n_taps": height * width, "out_c": y.shape[-1],
            "n_rows": n_rows, "n_cols": n_cols, "last_tap": last, "row_step": step[0], "col_step": step[1],
        }  # fmt: skip
        return Kernel("flip_transpose", scalars, "odl_flip")

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Input channels: y's first axis, w's last."""
        if cut is None or cut.axis == 0:
            return Tile(self, (cut and Slice(len(inputs[0].shape) - 1, cut.first, cut.last),), (cut,))
        return None


@dataclass(frozen=True)
class FlipTaps(Operator):
    """y[i, j, o] = w[kh - 1 - i, kw - 1 - j, o]: the kernel of a depthwise convolution with its taps reversed.

    w (kh, kw, O) -> y (kh, kw, O), binary16, exact.
    """

    name: ClassVar[str] = "flip_taps"
    moves: ClassVar[bool] = True

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (inputs[0],)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        return (np.ascontiguousarray(inputs[0][::-1, ::-1]),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        height, width, channels = inputs[0].shape
        return Kernel("flip_taps", {"n_taps": height * width, "n_channels": channels})

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Channels."""
        return Tile(self, (cut,), (cut,)) if cut is None or cut.axis == 2 else None
