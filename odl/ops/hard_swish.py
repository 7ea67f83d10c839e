"""x times a piecewise linear logistic function (MobileNetV3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.graph import Builder, Node
from odl.ops._elementwise import Unary, UnaryGradient, every_half, import_unary
from odl.ops._importer import Importer, OnnxNode, Sample, imports
from odl.types import Array

_EDGE = np.float16(3)


@dataclass(frozen=True)
class HardSwish(Unary):
    """y = x where x > 3, +0 where x < -3, else round16(rn32(x * rn32(rn32(x * (1/6)) + 0.5))). NaN stays NaN."""

    name: ClassVar[str] = "hard_swish"

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        (x,) = inputs
        gate = fp16.add32(fp16.mul32(x, np.float32(1 / 6)), np.float32(0.5))
        above = np.where(x > _EDGE, x, fp16.half(fp16.mul32(x, gate)))
        return (np.where(x < -_EDGE, np.float16(0), above),)

    def gradient(self, build: Builder, node: Node, grad: str, wanted: Sequence[bool]) -> Sequence[str | None]:
        return (build.add(HardSwishGradient(), (node.inputs[0], grad), f"{node.inputs[0]}.grad"),)


@dataclass(frozen=True)
class HardSwishGradient(UnaryGradient):
    """dx = dy where x > 3, +0 where x < -3, else round16(rn32(dy * rn32(rn32(x * (1/3)) + 0.5))).

    x is the input of HardSwish.
    """

    name: ClassVar[str] = "hard_swish_gradient"

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        x, dy = inputs
        slope = fp16.add32(fp16.mul32(x, np.float32(1 / 3)), np.float32(0.5))
        above = np.where(x > _EDGE, dy, fp16.half(fp16.mul32(dy, slope)))
        return (np.where(x < -_EDGE, np.float16(0), above),)


def _samples() -> Iterable[Sample]:
    finite = np.where(np.isinf(every_half()), np.float32(0), every_half())  # ONNX has -inf * 0 there
    yield Sample("HardSwish", ((1, 65536),), values={0: finite})
    yield Sample("HardSwish", ((1, 3, 5, 2),), low=-4, high=4)
    yield Sample("HardSwish", ((1, 7),))


@imports("HardSwish", samples=_samples, limits="any shape")
def _import(imp: Importer, node: OnnxNode) -> None:
    import_unary(imp, node, HardSwish())
