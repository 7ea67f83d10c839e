"""The number of samples in the open mini-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from odl.graph import Kernel, Operator, Phase
from odl.types import Array, TensorType


@dataclass(frozen=True)
class Count(Operator):
    """n = n + 1, and 0 when that reaches `limit` or, of damaged memory, is beyond it. n (1,) int32, in place."""

    name: ClassVar[str] = "count"
    phase: ClassVar[Phase] = Phase.UPDATE
    overwrites: ClassVar[tuple[tuple[int, int], ...]] = ((0, 0),)
    limit: int

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (inputs[0],)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        more = inputs[0].view(np.uint32) + np.uint32(1)
        return (np.where(more >= self.limit, np.uint32(0), more).view(np.int32),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        return Kernel("count", {"limit": self.limit})
