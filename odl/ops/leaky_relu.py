"""Leaky rectified linear unit."""

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


@dataclass(frozen=True)
class LeakyRelu(Unary):
    """y = x where x > 0, else round16(x * alpha), alpha a binary32 number rounded to binary16. NaN stays NaN."""

    name: ClassVar[str] = "leaky_relu"
    alpha: float = 0.01

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        (x,) = inputs
        return (np.where(x > 0, x, fp16.mul16(x, _slope(self.alpha))),)

    def gradient(self, build: Builder, node: Node, grad: str, wanted: Sequence[bool]) -> Sequence[str | None]:
        # As in Relu the output will do, unless a negative alpha turns its sign.
        sign = node.outputs[0] if self.alpha >= 0 else node.inputs[0]
        return (build.add(LeakyReluGradient(self.alpha), (sign, grad), f"{node.inputs[0]}.grad"),)


@dataclass(frozen=True)
class LeakyReluGradient(UnaryGradient):
    """dx = dy where y > 0, else round16(dy * alpha); y is the output of LeakyRelu, or its input if alpha < 0."""

    name: ClassVar[str] = "leaky_relu_gradient"
    alpha: float = 0.01

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        y, dy = inputs
        return (np.where(y > 0, dy, fp16.mul16(dy, _slope(self.alpha))),)


def _slope(alpha: float) -> np.float16:
    return np.float16(np.float32(alpha))


def _samples() -> Iterable[Sample]:
    for alpha in (0.01, -0.3):
        yield Sample("LeakyRelu", ((1, 65536),), {"alpha": alpha}, values={0: every_half()}, ulps=1.6)
    yield Sample("LeakyRelu", ((1, 3, 5, 2),), ulps=1.6)
    yield Sample("LeakyRelu", ((1, 7),), {"alpha": 0.0})
    yield Sample("LeakyRelu", ((3, 5),), {"alpha": 1.5})
    yield Sample("LeakyRelu", ((2, 7),), {"alpha": -2.0})


@imports("LeakyRelu", samples=_samples, limits="alpha finite in binary16")
def _import(imp: Importer, node: OnnxNode) -> None:
    alpha = node.attributes.get("alpha", 0.01)
    imp.require(bool(np.isfinite(fp16.half(alpha))), f"alpha {alpha} is not finite in binary16")
    import_unary(imp, node, LeakyRelu(alpha))
