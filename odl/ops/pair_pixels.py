"""Pixels in pairs: a word holds one channel of two output pixels, as their weight gradient multiplies them.

Passes make this operator, no ONNX node does (`odl/passes/pair_pixels.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from odl.graph import Kernel, Operator, Slice, Tile
from odl.ops._pools import Pads, cut_padded_rows
from odl.types import Array, TensorType


@dataclass(frozen=True)
class PairPixels(Operator):
    """y[h, p, q, c] = (v[h, a, c], v[h, a + stride, c]), a = 2 * stride * p + q; v is x with `pads` zeros around.

    x (1, H, W, C) -> y (top + H + bottom, n_pairs, shifts, C, 2), binary16, exact. A pixel behind the row is +0, and so
    is the second pixel of the last pair if `is_odd`. Where output pixels 2p and 2p + 1 of a window make a pair, its tap
    j of channel c is word j * C + c behind the start of pair p, if shifts is 2 * stride or the number of taps in a row.
    """

    name: ClassVar[str] = "pair_pixels"
    moves: ClassVar[bool] = True
    pads: Pads
    n_pairs: int
    shifts: int = 1
    stride: int = 1
    is_odd: bool = False

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        (x,) = inputs
        _, height, _, channels = x.shape
        assert x.shape[0] == 1, x
        assert min(self.pads) >= 0, self
        return (TensorType((self.pads[0] + height + self.pads[2], self.n_pairs, self.shifts, channels, 2)),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        (x,) = inputs
        top, left, bottom, _ = self.pads
        _, _, width, channels = x.shape
        period, n, s = 2 * self.stride, self.n_pairs, self.stride
        need = period * n + self.shifts + s
        wide = np.pad(x[0], ((top, bottom), (left, max(need - width - left, 0)), (0, 0)))
        y = np.empty((len(wide), n, self.shifts, channels, 2), np.float16)
        for q in range(self.shifts):
            for lane in (0, 1):
                first = q + lane * s
                y[:, :, q, :, lane] = wide[:, first : first + period * n : period]
        if self.is_odd:
            y[:, -1, :, :, 1] = 0
        return (y,)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        _, height, width, channels = inputs[0].shape
        scalars: dict[str, int | float] = {
            "in_h": height, "in_w": width, "in_c": channels, "out_h": outputs[0].shape[0], "n_pairs": self.n_pairs,
            "shifts": self.shifts, "stride": self.stride, "top": self.pads[0], "left": self.pads[1],
            "is_odd": int(self.is_odd),
        }  # fmt: skip
        return Kernel("pair_pixels", scalars, "odl_pairing")

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Rows of y from rows of x, unless on the border alone; or pairs from pixels where no others are read."""
        if cut is None:
            return Tile(self, (None,), (None,))
        if cut.axis == 1:
            return self._some_pairs(cut, inputs[0].shape[2])
        if cut.axis != 0:
            return None
        found = cut_padded_rows(self.pads, cut, inputs[0].shape[1])
        return found and Tile(replace(self, pads=found[0]), (found[1],), (cut,))

    def _some_pairs(self, cut: Slice, width: int) -> Tile | None:
        if self.shifts * self.stride > 1 or any(self.pads):
            return None
        op = replace(self, n_pairs=len(cut), is_odd=self.is_odd and cut.last == self.n_pairs)
        return Tile(op, (Slice(2, 2 * cut.first, min(2 * cut.last, width)),), (cut,))
