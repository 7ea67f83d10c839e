"""The end of a step: whether it counts as skipped, and what becomes of the loss scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.graph import Kernel, Operator, Phase
from odl.ops.square_sums import PARTS, is_finite
from odl.types import Array, DType, TensorType

# What `progress` holds: updates tried, updates of which something was skipped, those in a row that were sound since the
# scale last changed, and whether the loss scale has reached its floor.
TRIED, SKIPPED, STREAK, DIVERGED, N_PROGRESS = range(5)
_MOST = np.int32(2**31 - 1)


@dataclass(frozen=True)
class FinishStep(Operator):
    """progress, [loss_scale], squares -> progress' [, loss_scale'], in place.

    progress (4) int32: see above; counts stop at 2^31 - 1. squares (8) binary32: of all that the step's gradients were
    made of, or of the gradients; one that is not finite makes the step a skipped one. With a loss_scale (1) binary32:
    after a skipped step it is multiplied by `backoff`, but where that is below `floor` it stays, and training has
    diverged; after `interval` sound steps in a row it is multiplied by `growth` up to `ceiling`. All are powers of two,
    so every product is exact. As the dynamic loss scaling of P. Micikevicius et al., Mixed precision training, ICLR
    2018.
    """

    name: ClassVar[str] = "finish_step"
    phase: ClassVar[Phase] = Phase.UPDATE
    overwrites: ClassVar[tuple[tuple[int, int], ...]] = ((0, 0), (1, 1))
    dynamic: bool = False
    growth: float = 2.0
    backoff: float = 0.5
    interval: int = 1
    floor: float = 1.0
    ceiling: float = 65536.0

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        scale = (TensorType((1,), DType.F32),) * self.dynamic
        held = (TensorType((N_PROGRESS,), DType.I32), *scale)
        assert tuple(inputs) == (*held, TensorType((PARTS,), DType.F32)), inputs
        return held

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        progress, *scale = (array.copy() for array in inputs[:-1])
        is_sound = is_finite(inputs[-1])
        for count, grows in ((TRIED, True), (SKIPPED, not is_sound), (STREAK, is_sound)):
            progress[count] += np.int32(grows and progress[count] < _MOST)
        if not is_sound:
            progress[STREAK] = 0
        if self.dynamic:
            self._rescale(progress, scale[0], is_sound)
        return (progress, *scale)

    def _rescale(self, progress: Array, scale: Array, is_sound: bool) -> None:
        if not is_sound:
            less = fp16.mul32(scale, np.float32(self.backoff))
            if less[0] < np.float32(self.floor):
                progress[DIVERGED] = 1
            else:
                scale[:] = less
        elif progress[STREAK] >= self.interval:
            more = fp16.mul32(scale, np.float32(self.growth))
            scale[:] = np.where(more > np.float32(self.ceiling), np.float32(self.ceiling), more)
            progress[STREAK] = 0

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        if not self.dynamic:
            return Kernel("finish_step")
        scalars = {"growth": self.growth, "backoff": self.backoff, "interval": self.interval}
        return Kernel("finish_step_scaled", {**scalars, "floor": self.floor, "ceiling": self.ceiling})
