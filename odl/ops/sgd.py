"""Stochastic gradient descent with momentum and weight decay.

Source: the update of PyTorch's SGD (dampening 0, no Nesterov): v = momentum * v + (g + decay * w); w = w - lr * v.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.graph import Kernel, Operator, Phase, Slice, Tile
from odl.types import Array, TensorType


@dataclass(frozen=True)
class SgdUpdate(Operator):
    """w[rows] = round16(w - lr * g') where g' = g * scale + decay * w, each operation rounded to binary32.

    w (N, ...) binary16, of which the rows from `row` on are trained: all, or as many as the whole gradient has; g
    (count, ...) binary32 or binary16, of rows `first` .. `first + count - 1` of these (all where count is 0). `scale`
    undoes the loss scale and averages over the batch. With a velocity v, which has the trained rows alone, as third
    input: v[rows] = round16(momentum * v + g'), w[rows] = round16(w - lr * v), the latter of the rounded v.
    An element whose g is not finite leaves w and v as they are: no weight is touched by a non-finite gradient.
    """

    name: ClassVar[str] = "sgd_update"
    phase: ClassVar[Phase] = Phase.UPDATE
    overwrites: ClassVar[tuple[tuple[int, int], ...]] = ((0, 0), (1, 2))
    lr: float = 0.01
    momentum: float = 0.0
    decay: float = 0.0
    scale: float = 1.0
    first: int = 0
    count: int = 0
    row: int = 0

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        w, g, *velocity = inputs
        assert g.shape == (self.count or g.shape[0], *w.shape[1:]), (w, g)
        assert self.row + self.first + g.shape[0] <= w.shape[0], (w, g)
        assert all(v.shape[1:] == w.shape[1:] and self.first + g.shape[0] <= v.shape[0] for v in velocity), (w, g)
        return (w, *velocity)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        w, g, *velocity = (array.copy() for array in inputs)
        block, kept = (slice(first, first + g.shape[0]) for first in (self.row + self.first, self.first))
        lr, momentum, decay, scale = map(np.float32, (self.lr, self.momentum, self.decay, self.scale))
        finite = np.isfinite(g)
        with np.errstate(all="ignore"):
            old = w[block].astype(np.float32)
            step = g.astype(np.float32) * scale + decay * old
            for v in velocity:
                v[kept] = np.where(finite, fp16.half(momentum * v[kept].astype(np.float32) + step), v[kept])
                step = v[kept].astype(np.float32)
            w[block] = np.where(finite, fp16.half(old - lr * step), w[block])
        return (w, *velocity)

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Cuts along axis 0 of what is updated; the weight and its velocity are needed no further than that."""
        w, g, *velocity = inputs
        cut = cut or Slice(0, 0, g.shape[0])
        if cut.axis:
            return None
        kept = Slice(0, self.first + cut.first, self.first + cut.last)
        rows = Slice(0, self.row + kept.first, self.row + kept.last)
        part = None if len(cut) == g.shape[0] else cut
        held = ((w, rows), *((v, kept) for v in velocity))
        changed = tuple(None if len(cut) == type_.shape[0] else where for type_, where in held)
        return Tile(replace(self, first=0, count=0, row=0), (changed[0], part, *changed[1:]), changed)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        w, g, *velocity = inputs
        width = w.n_elems // w.shape[0]
        name = "sgd_momentum_update" if velocity else "sgd_update"
        sizes = {"first": (self.row + self.first) * width, "n_elems": g.n_elems}
        rates = {"lr": self.lr, "decay": self.decay, "scale": self.scale}
        extra = {"momentum": self.momentum, "first_v": self.first * width} if velocity else {}
        return Kernel(f"{name}_{g.dtype.value}", {**sizes, **rates, **extra})

    def split(self, first: int, count: int) -> Operator:
        return replace(self, first=first, count=count)
