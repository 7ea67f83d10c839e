"""Clip between two constants; ReLU6 is Clip between 0 and 6."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isnan
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.graph import Builder, Node
from odl.ops._elementwise import Unary, UnaryGradient, every_half, import_unary
from odl.ops._importer import Importer, OnnxNode, Sample, imports
from odl.types import Array

NO_BOUND = 65536.0  # infinite in binary16, and yet a number that C can write


@dataclass(frozen=True)
class _Bounds:
    """Two binary32 numbers, of which the operators use what they round to in binary16."""

    low: float = -NO_BOUND
    high: float = NO_BOUND

    def bounds(self) -> Array:
        return fp16.half(np.array([self.low, self.high], np.float32))


@dataclass(frozen=True)
class Clip(_Bounds, Unary):
    """y = x, or low where x < low, then high where that is > high. Exact; any shape.

    NaN stays NaN, and -0 stays -0 at a low of 0. Where low > high, every number becomes high, as ONNX has it.
    """

    name: ClassVar[str] = "clip"

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        (x,) = inputs
        low, high = self.bounds()
        raised = np.where(x < low, low, x)
        return (np.where(raised > high, high, raised),)

    def gradient(self, build: Builder, node: Node, grad: str, wanted: Sequence[bool]) -> Sequence[str | None]:
        op = ClipGradient(self.low, self.high)
        return (build.add(op, (node.outputs[0], grad), f"{node.inputs[0]}.grad"),)


@dataclass(frozen=True)
class ClipGradient(_Bounds, UnaryGradient):
    """dx = dy where low < y < high, else +0, also on the bounds (as PyTorch's Hardtanh) and where y is NaN. Exact.

    y is the output of Clip.
    """

    name: ClassVar[str] = "clip_gradient"

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        y, dy = inputs
        low, high = self.bounds()
        return (np.where((y > low) & (y < high), dy, np.float16(0)),)


def _samples() -> Iterable[Sample]:
    def clip(shape: tuple[int, ...], *bounds: float, **values: Array) -> Sample:
        constants = {i + 1: np.array(bound, np.float32) for i, bound in enumerate(bounds)}
        given = {0: values["x"]} if values else {}
        return Sample("Clip", (shape, *((),) * len(bounds)), constants=tuple(constants), values={**given, **constants})

    yield clip((1, 65536), 0.0, 6.0, x=every_half())
    yield clip((1, 65536), -0.1, x=every_half())
    yield clip((1, 65536), -3.4028235e38, 0.3, x=every_half())
    yield clip((1, 3, 5, 2), -0.5, 0.5)
    yield clip((1, 7), 0.5, -0.5)
    yield clip((2, 3))


@imports("Clip", samples=_samples, limits="constant bounds")
def _import(imp: Importer, node: OnnxNode) -> None:
    low = _bound(imp, node, 1, "min", -NO_BOUND)
    high = _bound(imp, node, 2, "max", NO_BOUND)
    import_unary(imp, node, Clip(low, high))


def _bound(imp: Importer, node: OnnxNode, index: int, name: str, absent: float) -> float:
    operand = node.input(index)
    if not operand:
        return absent
    value = imp.constant(operand, name)
    imp.require(value.size == 1 and not isnan(value.item()), f"{name} = {value} is not one number")
    return min(max(float(value.item()), -NO_BOUND), NO_BOUND)
