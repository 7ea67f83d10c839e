"""Mean squared error: the loss and its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.errors import ModelError
from odl.fp16 import Accumulate
from odl.graph import Kernel, Operator
from odl.types import Array, DType, TensorType


@dataclass(frozen=True)
class MeanSquaredError(Operator):
    """d = round16(y - target); loss = (sum over i of d[i] * d[i]) / n.

    y, target of one shape with n elements, binary16 -> loss (1,) binary32 and d, like y, which the gradient needs.
    The sum runs in storage order in pairs, an odd n gets a zero; the division is one binary32 operation.
    """

    name: ClassVar[str] = "mean_squared_error"
    in_place: ClassVar[tuple[tuple[int, int], ...]] = ((1, 0),)
    accumulate: Accumulate = Accumulate.FP32

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        y, target = inputs
        if y != target:
            raise ModelError("loss-shape", "loss", f"the model gives {y}, the target is {target}")
        return TensorType((1,), DType.F32), y

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        y, target = inputs
        difference = fp16.sub16(y, target)
        flat = difference.reshape(-1, 1)
        total = fp16.sum_of_products(flat, flat, None, self.accumulate)
        with np.errstate(all="ignore"):
            return total / np.float32(y.size), difference

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        return Kernel("mean_squared_error", {"n_elems": inputs[0].n_elems})


@dataclass(frozen=True)
class MeanSquaredErrorGradient(Operator):
    """dy = round16(d * factor) where factor = 2 * scale / n, rounded to binary32 beforehand; so is the product.

    d of n elements, binary16 [, loss_scale (1) binary32] -> dy, like d. `scale` is the loss scale where it is constant,
    else factor is multiplied by the loss_scale.
    """

    name: ClassVar[str] = "mean_squared_error_gradient"
    arity: ClassVar[int] = 2
    in_place: ClassVar[tuple[tuple[int, int], ...]] = ((0, 0),)
    scale: float = 1.0

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (inputs[0],)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        difference, *loss_scale = inputs
        factor = fp16.mul32(self._factor(difference.size), loss_scale[0] if loss_scale else np.float32(1))
        return (fp16.half(fp16.mul32(difference, factor)),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        n_elems = inputs[0].n_elems
        return Kernel("mean_squared_error_gradient", {"n_elems": n_elems, "factor": float(self._factor(n_elems))})

    def _factor(self, n_elems: int) -> np.float32:
        return np.float32(2.0 * self.scale / n_elems)
