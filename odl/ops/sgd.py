"""Stochastic gradient descent with momentum, plain or Nesterov's, and weight decay.

Source: the update of PyTorch's SGD with dampening 0: v' = momentum * v + d, d = g + decay * w; w' = w - lr * v', or,
with Nesterov's, w - lr * (d + momentum * v').
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.ops._updates import LR, Update
from odl.types import Array, DType


@dataclass(frozen=True)
class SgdUpdate(Update):
    """The step is d = rn32(g + rn32(decay * w)), with momentum v' = round(rn32(momentum * v) + d) as it is stored, with
    `nesterov` rn32(d + rn32(momentum * v')); the way is rn32(lr * step).

    One state, the velocity v, with momentum.
    """

    name: ClassVar[str] = "sgd_update"
    momentum: float = 0.0
    nesterov: bool = False

    @property
    def rule(self) -> str:  # type: ignore[override]
        return "nesterov_update" if self.nesterov else "momentum_update" if self.momentum else "sgd_update"

    @property
    def n_states(self) -> int:
        return int(self.momentum > 0)

    def move(
        self, w: Array, states: Sequence[Array], g: Array, rates: Array, types: Sequence[DType]
    ) -> tuple[Array, Array, tuple[Array, ...]]:
        step = fp16.add32(g, fp16.mul32(np.float32(self.decay), w))
        if not self.n_states:
            return step, fp16.mul32(rates[LR], step), ()
        momentum = np.float32(self.momentum)
        fast = fp16.add32(fp16.mul32(momentum, states[0]), step)
        velocity = fp16.half(fast) if types[0] is DType.F16 else fast
        kept = np.asarray(velocity, np.float32)
        step = fp16.add32(step, fp16.mul32(momentum, kept)) if self.nesterov else kept
        return step, fp16.mul32(rates[LR], step), (velocity,)

    def constants(self) -> dict[str, int | float]:
        return {"momentum": self.momentum} if self.n_states else {}
