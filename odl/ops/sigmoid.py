"""Logistic function."""

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
class Sigmoid(Unary):
    """y = round16(1 / (1 + exp(-x))), in binary32 as `fp16.sigmoid32` has it."""

    name: ClassVar[str] = "sigmoid"

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        return (fp16.half(fp16.sigmoid32(inputs[0].astype(np.float32))),)

    def gradient(self, build: Builder, node: Node, grad: str, wanted: Sequence[bool]) -> Sequence[str | None]:
        return (build.add(SigmoidGradient(), (node.outputs[0], grad), f"{node.inputs[0]}.grad"),)


@dataclass(frozen=True)
class SigmoidGradient(UnaryGradient):
    """dx = (y * (1 - y)) * dy, each operation rounded to binary16; y is the output of Sigmoid."""

    name: ClassVar[str] = "sigmoid_gradient"

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        y, dy = inputs
        slope = fp16.mul16(y, fp16.sub16(np.float16(1), y))
        return (fp16.mul16(slope, dy),)


def _samples() -> Iterable[Sample]:
    yield Sample("Sigmoid", ((1, 65536),), values={0: every_half()})
    yield Sample("Sigmoid", ((1, 3, 5, 2),), low=-4, high=4)
    yield Sample("Sigmoid", ((1, 7),))


@imports("Sigmoid", samples=_samples, limits="any shape")
def _import(imp: Importer, node: OnnxNode) -> None:
    import_unary(imp, node, Sigmoid())
