"""Adam and AdamW.

Source: D. P. Kingma and J. Ba, Adam, ICLR 2015; I. Loshchilov and F. Hutter, Decoupled weight decay regularization,
ICLR 2019; the order of operations is that of PyTorch's Adam.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.ops._updates import CORRECTION, LR, STEP_SIZE, Update
from odl.types import Array, DType


@dataclass(frozen=True)
class AdamUpdate(Update):
    """m' = round(beta1 * m + (1 - beta1) * d), v' = beta2 * v + (1 - beta2) * d * d, with d = g + decay * w or, if
    `decoupled`, d = g; step = m' / (sqrt(v') * correction + epsilon), and the way is step_size * step, if decoupled
    plus lr * (decay * w). Each operation is rounded to binary32, left to right; 1 - beta is the binary32 number nearest
    to it.

    Two states. m is stored as its type says. v is stored as it is in binary32; in binary16 its root is stored, since
    squares of small gradients are below binary16's range: r' = round16(sqrt(beta2 * (r * r) + ...)), and sqrt(v') is
    then r'.
    """

    name: ClassVar[str] = "adam_update"
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    decoupled: bool = False

    @property
    def rule(self) -> str:  # type: ignore[override]
        return "adamw_update" if self.decoupled else "adam_update"

    @property
    def n_states(self) -> int:
        return 2

    def move(
        self, w: Array, states: Sequence[Array], g: Array, rates: Array, types: Sequence[DType]
    ) -> tuple[Array, Array, tuple[Array, ...]]:
        pull = fp16.mul32(np.float32(self.decay), w)
        d = g if self.decoupled else fp16.add32(g, pull)
        mean = fp16.add32(fp16.mul32(np.float32(self.beta1), states[0]), fp16.mul32(np.float32(1 - self.beta1), d))
        is_half = types[0] is DType.F16
        old = fp16.mul32(states[1], states[1]) if is_half else states[1]
        new = fp16.mul32(fp16.mul32(np.float32(1 - self.beta2), d), d)
        square = fp16.add32(fp16.mul32(np.float32(self.beta2), old), new)
        root: Array = np.sqrt(square)
        stored = (fp16.half(mean), fp16.half(root)) if is_half else (mean, square)
        if is_half:
            mean, root = (np.asarray(each, np.float32) for each in stored)
        step = fp16.div32(mean, fp16.add32(fp16.mul32(root, rates[CORRECTION]), np.float32(self.epsilon)))
        way = fp16.mul32(rates[STEP_SIZE], step)
        if self.decoupled:
            way = fp16.add32(way, fp16.mul32(rates[LR], pull))
        return step, way, stored

    def constants(self) -> dict[str, int | float]:
        rest = {"rest1": float(np.float32(1 - self.beta1)), "rest2": float(np.float32(1 - self.beta2))}
        return {"beta1": self.beta1, "beta2": self.beta2, **rest, "epsilon": self.epsilon}
