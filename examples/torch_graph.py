"""Runs and trains an ONNX graph in PyTorch: the ONNX file is the only description of a network.

Only the operators of the two examples are here. `Rounding.FP16` imitates what a device stores: every activation
and every gradient is rounded to binary16 once, while the sums behind them are binary32. It is a rehearsal and
not the bits of the device: PyTorch adds in an order of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its customary name

Array = np.ndarray[Any, np.dtype[Any]]
Attributes = dict[str, Any]
Operator = Callable[[list[Tensor], Attributes, bool], Tensor]


class Rounding(Enum):
    """What is kept between two operators and between two steps."""

    NONE = "float32"
    FP16 = "binary16"

    def __call__(self, tensor: Tensor) -> Tensor:
        return tensor.half().float() if self is Rounding.FP16 else tensor


class _Store16(torch.autograd.Function):
    """The identity, rounded to binary16 forwards and backwards."""

    @staticmethod
    def forward(_context: Any, x: Tensor) -> Tensor:
        return x.half().float()

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return gradient.half().float()


def _store16(x: Tensor) -> Tensor:
    stored: Tensor = _Store16.apply(x)  # type: ignore[no-untyped-call]
    return stored


def _conv(inputs: list[Tensor], a: Attributes, _training: bool) -> Tensor:
    x, weight = inputs[:2]
    bias = inputs[2] if len(inputs) == 3 else None
    top, left, bottom, right = a["pads"]
    x = F.pad(x, (left, right, top, bottom))
    return F.conv2d(x, weight, bias, stride=a["strides"], groups=a["group"])


def _batch_norm(inputs: list[Tensor], a: Attributes, training: bool) -> Tensor:
    x, scale, bias, mean, variance = inputs
    return F.batch_norm(x, mean, variance, scale, bias, training, 1.0 - a["momentum"], a["epsilon"])


OPERATORS: dict[str, Operator] = {
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "Relu": lambda inputs, _a, _training: F.relu(inputs[0]),
    "Add": lambda inputs, _a, _training: inputs[0] + inputs[1],
    "AveragePool": lambda inputs, a, _training: F.avg_pool2d(inputs[0], a["kernel_shape"], a["strides"]),
    "Flatten": lambda inputs, _a, _training: inputs[0].flatten(1),
    "Gemm": lambda inputs, _a, _training: F.linear(*inputs),
}


class TorchGraph:
    """`weights` holds the initializers by name; those that need a gradient are the parameters."""

    def __init__(self, model: onnx.ModelProto, rounding: Rounding = Rounding.NONE) -> None:
        self.model = model
        self.rounding = rounding
        self.nodes = [
            (node, {a.name: helper.get_attribute_value(a) for a in node.attribute})
            for node in model.graph.node
            if node.op_type != "Softmax"
        ]
        norms = [node for node, _ in self.nodes if node.op_type == "BatchNormalization"]
        statistics = {name for node in norms for name in node.input[3:5]}
        self.weights: dict[str, Tensor] = {}
        for tensor in model.graph.initializer:
            value = rounding(torch.from_numpy(numpy_helper.to_array(tensor).copy()))
            self.weights[tensor.name] = value.requires_grad_(tensor.name not in statistics)

    @property
    def parameters(self) -> dict[str, Tensor]:
        return {name: weight for name, weight in self.weights.items() if weight.requires_grad}

    def values(self, x: Tensor, *, training: bool = False) -> dict[str, Tensor]:
        """Every intermediate value by name, in order; the last are the logits, in front of the Softmax."""
        values = {self.model.graph.input[0].name: x}
        for node, attributes in self.nodes:
            inputs = [self.weights[name] if name in self.weights else values[name] for name in node.input]
            value = OPERATORS[node.op_type](inputs, attributes, training)
            stored = _store16(value) if self.rounding is Rounding.FP16 else value
            values[node.output[0]] = stored
        return values

    def logits(self, x: Tensor, *, training: bool = False) -> Tensor:
        """(N, C, H, W) to (N, classes)."""
        return self.values(x, training=training)[self.nodes[-1][0].output[0]]

    def accuracy(self, x: Array, y: Array) -> float:
        with torch.no_grad():
            return float(np.mean(self.logits(torch.from_numpy(x)).argmax(dim=1).numpy() == y))

    def trained(self) -> onnx.ModelProto:
        """A copy of the model with the present weights."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        for tensor in model.graph.initializer:
            value = self.weights[tensor.name].detach().numpy()
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        return model
