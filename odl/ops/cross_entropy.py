"""Softmax cross entropy over integer labels: the loss and its gradient.

Source: ONNX SoftmaxCrossEntropyLoss, one row, reduction "mean".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.errors import ModelError
from odl.graph import Builder, Kernel, Node, Operator
from odl.ops.softmax import exponentials
from odl.types import Array, DType, TensorType


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Operator):
    """loss = log(sum over k of exp(x[k] - max x)) - (x[label] - max x); p[k] = exp(x[k] - max x) / sum.

    logits x (1, K) binary16 and label (1,) int32 in 0 .. K-1 -> loss (1,) and probabilities (1, K), both binary32.
    Every step is one binary32 operation; the sum runs over k in order, one addend at a time, as in Softmax. A label
    that is no class makes loss and probabilities NaN, and so the gradient, which then touches no weight.
    """

    name: ClassVar[str] = "softmax_cross_entropy"
    stacked: ClassVar[tuple[tuple[int, ...], ...]] = ((0, 1),)

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        logits, label = inputs
        if len(logits.shape) != 2 or logits.shape[0] != 1 or label != TensorType((1,), DType.I32):
            raise ModelError(
                "loss-shape", "loss", f"cross entropy wants logits of shape (1, classes), not {logits.shape}",
                "let the model end in one row of logits, or train with --loss mse",
            )  # fmt: skip
        return TensorType((1,), DType.F32), TensorType(logits.shape, DType.F32)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        logits, label = inputs
        shifted, powers, total = exponentials(logits)
        is_class = (label >= 0) & (label < logits.shape[1])
        total = np.where(is_class[:, None], total, np.float32(np.nan))
        chosen = shifted[np.arange(len(label)), np.where(is_class, label, 0)]
        with np.errstate(all="ignore"):
            return fp16.log32(total)[:, 0] - chosen, powers / total

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        return Kernel("softmax_cross_entropy", {"n_classes": inputs[0].shape[1]})

    def gradient(self, build: Builder, node: Node, grad: str, wanted: Sequence[bool]) -> Sequence[str | None]:
        raise AssertionError("training.py starts from SoftmaxCrossEntropyGradient, which knows the loss scale")


@dataclass(frozen=True)
class SoftmaxCrossEntropyGradient(Operator):
    """dx[k] = round16((p[k] - (1 where k is the label, else 0)) * scale), each operation rounded to binary32 first.

    probabilities p (1, K) binary32, label (1,) int32 [, loss_scale (1,) binary32] -> dx (1, K) binary16. `scale` is the
    loss scale where it is constant, else it is 1 and multiplied by the loss_scale.
    """

    name: ClassVar[str] = "softmax_cross_entropy_gradient"
    arity: ClassVar[int] = 3
    stacked: ClassVar[tuple[tuple[int, ...], ...]] = ((0, 1),)
    scale: float = 1.0

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (TensorType(inputs[0].shape),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        p, label, *loss_scale = inputs
        hot = (np.arange(p.shape[1]) == label[:, None]).astype(np.float32)
        with np.errstate(all="ignore"):
            factor = np.float32(self.scale)
            for scale in loss_scale:
                factor = factor * scale[0]
            return (fp16.half((p - hot) * factor),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        return Kernel("softmax_cross_entropy_gradient", {"n_classes": inputs[0].shape[1], "scale": self.scale})
