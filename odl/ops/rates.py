"""What the updates of one step are told: the learning rate, what undoes the loss scale, Adam's corrections.

Worked out on the device, once a step, in binary32, one operation at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.graph import Kernel, Operator, Phase
from odl.ops._updates import N_RATES
from odl.ops.square_sums import PARTS, total
from odl.types import Array, DType, TensorType

F32 = np.float32
_ONE = F32(1)
SCHEDULES = ("constant", "step", "cosine")


@dataclass(frozen=True)
class LearningRate:
    """The learning rate at step t = 0, 1, ..., counted in updates tried, all in binary32.

    Below `warmup`: lr * ((t + 1) / warmup). From there on, with u = t - warmup: "constant": lr. "step": lr * gamma^n,
    n = u / period rounded down, by squaring: the lowest bit of n first. "cosine": least + (lr - least) * c, where
    c = (1 + cos(pi u / period)) / 2 as `fp16.half_cosine32(u / period)`; `least` from u = period on. As StepLR and
    CosineAnnealingLR of PyTorch, behind LinearLR.
    """

    lr: float = 0.01
    schedule: str = "constant"
    warmup: int = 0
    period: int = 1
    gamma: float = 1.0
    least: float = 0.0

    def at(self, step: int) -> np.float32:
        """The rate of step t."""
        lr = F32(self.lr)
        if step < self.warmup:
            return F32(lr * F32(F32(step + 1) / F32(self.warmup)))
        steps = step - self.warmup
        if self.schedule == "step":
            return F32(lr * self._power(steps // self.period))
        if self.schedule == "cosine":
            least = F32(self.least)
            if steps >= self.period:
                return least
            share = fp16.half_cosine32(F32(steps) / F32(self.period))
            return F32(least + F32(F32(lr - least) * share))
        return lr

    def _power(self, n: int) -> np.float32:
        found, square = _ONE, F32(self.gamma)
        while n:
            found = F32(found * square) if n & 1 else found
            square = F32(square * square)
            n >>= 1
        return found


@dataclass(frozen=True)
class Rates(Operator):
    """[powers], progress, [loss_scale], [squares] -> rates (4) binary32 [, powers', in place].

    progress (4) int32 says how many updates have been tried. rates: [0] `unscale` = 1 / (scale * batch), with scale the
    loss_scale (1) binary32 where it is given (`dynamic`), else `scale`; with `clip_norm` > 0, of which the squares (8)
    of all gradients are given, times clip_norm / norm where norm = sqrt(total of squares) * unscale is larger than
    that. [1] the learning rate. With Adam's `betas` > 0: powers (2) are beta^t from t = 0, multiplied by the betas
    first, unless squares are given and not finite: then the step is skipped; [2] = lr / (1 - powers[0]) and
    [3] = 1 / sqrt(1 - powers[1]). Without Adam they are 0.
    """

    name: ClassVar[str] = "rates"
    phase: ClassVar[Phase] = Phase.UPDATE
    overwrites: ClassVar[tuple[tuple[int, int], ...]] = ((1, 0),)
    rate: LearningRate = LearningRate()
    batch: int = 1
    scale: float = 1.0
    dynamic: bool = False
    has_squares: bool = False
    clip_norm: float = 0.0
    betas: tuple[float, ...] = ()

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        powers = (TensorType((2,), DType.F32),) * bool(self.betas)
        scale = (TensorType((1,), DType.F32),) * self.dynamic
        squares = (TensorType((PARTS,), DType.F32),) * self.has_squares
        assert tuple(inputs) == (*powers, TensorType((4,), DType.I32), *scale, *squares), (self, inputs)
        return (TensorType((N_RATES,), DType.F32), *powers)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        operands = list(inputs)
        powers = operands.pop(0).copy() if self.betas else None
        step = int(operands.pop(0)[0])
        scale = operands.pop(0)[0] if self.dynamic else F32(self.scale)
        squares = total(operands.pop(0)) if self.has_squares else F32(0)
        rates = np.zeros(N_RATES, F32)
        with np.errstate(all="ignore"):
            rates[0] = self._unscale(scale, squares)
            rates[1] = self.rate.at(step)
            if powers is None:
                return (rates,)
            if np.isfinite(squares):
                powers *= np.array(self.betas, F32)
            rates[2] = rates[1] / (_ONE - powers[0])
            rates[3] = fp16.rsqrt32(_ONE - powers[1])
        return (rates, powers)

    def _unscale(self, scale: np.float32, squares: np.float32) -> np.float32:
        found = F32(_ONE / F32(scale * F32(self.batch)))
        if self.clip_norm:
            norm = F32(F32(np.sqrt(squares)) * found)
            if norm > F32(self.clip_norm):
                found = F32(found * F32(F32(self.clip_norm) / norm))
        return found

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        rate = self.rate
        fields: dict[str, int | float] = {
            "lr": rate.lr, "schedule": SCHEDULES.index(rate.schedule), "warmup": rate.warmup, "period": rate.period,
            "gamma": rate.gamma, "least": rate.least, "batch": float(self.batch), "scale": self.scale,
            "clip_norm": self.clip_norm, "beta1": self.betas[0] if self.betas else 0.0,
            "beta2": self.betas[1] if self.betas else 0.0,
        }  # fmt: skip
        return Kernel(self._kernel_name(), fields, "odl_rate_rule")

    def _kernel_name(self) -> str:
        words = {"adam": bool(self.betas), "scaled": self.dynamic, "squares": self.has_squares}
        return "_".join(("rates", *(word for word, holds in words.items() if holds)))

    @property
    def is_constant(self) -> bool:
        """Whether every step gets the same rates, whatever happens."""
        same = self.rate.schedule == "constant" and not self.rate.warmup
        return same and not (self.dynamic or self.clip_norm or self.betas)
