"""Runs and trains an ONNX graph in PyTorch: the one description of a network is its ONNX file.

Only the operators of the two examples are here. `Rounding.FP16` imitates what the device stores: every
activation, every gradient of an activation and every weight gradient is rounded to binary16 once, while the
sums behind them are binary32. It is a rehearsal, not a model of the bits: PyTorch adds in its own order.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the customary name


class Rounding(Enum):
    """What is kept between two operators."""

    NONE = "float32"
    FP16 = "binary16"


class _Store16(torch.autograd.Function):
    """The identity, rounded to binary16 on the way forth and on the way back."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.half().float()

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.half().float()


Attributes = dict[str, Any]


def _conv(inputs: list[Tensor], a: Attributes, _training: bool) -> Tensor:
    x, weight, bias = [*inputs, None][:3]
    top, left, bottom, right = a["pads"]
    x = F.pad(x, (left, right, top, bottom))
    return F.conv2d(x, weight, bias, stride=a["strides"], groups=a["group"])


def _batch_norm(inputs: list[Tensor], a: Attributes, training: bool) -> Tensor:
    x, scale, bias, mean, variance = inputs
    momentum = 1.0 - a["momentum"]
    return F.batch_norm(x, mean, variance, scale, bias, training, momentum, a["epsilon"])


OPERATORS: dict[str, Callable[[list[Tensor], Attributes, bool], Tensor]] = {
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "Relu": lambda inputs, _a, _t: F.relu(inputs[0]),
    "Add": lambda inputs, _a, _t: inputs[0] + inputs[1],
    "AveragePool": lambda inputs, a, _t: F.avg_pool2d(inputs[0], a["kernel_shape"], a["strides"]),
    "Flatten": lambda inputs, _a, _t: inputs[0].flatten(1),
    "Gemm": lambda inputs, _a, _t: F.linear(*inputs),
}


def is_statistic(name: str) -> bool:
    """Whether a tensor is a running mean or variance: state, not a parameter."""
    return name.endswith((".mean", ".variance"))


class TorchGraph(nn.Module):
    """`forward` maps (N, C, H, W) to logits (N, classes): it stops in front of the final Softmax."""

    def __init__(self, model: onnx.ModelProto, rounding: Rounding = Rounding.NONE) -> None:
        super().__init__()
        self.model = model
        self.rounding = rounding
        self.nodes = [
            (node, {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute})
            for node in model.graph.node
            if node.op_type != "Softmax"
        ]
        self.weights: dict[str, Tensor] = {}
        for tensor in model.graph.initializer:
            value = torch.from_numpy(numpy_helper.to_array(tensor).copy())
            if rounding is Rounding.FP16:
                value = value.half().float()
            self.weights[tensor.name] = value.requires_grad_(not is_statistic(tensor.name))

    def forward(self, x: Tensor) -> Tensor:
        store = _Store16.apply if self.rounding is Rounding.FP16 else lambda tensor: tensor
        values: dict[str, Tensor] = {self.model.graph.input[0].name: x}
        for node, attributes in self.nodes:
            inputs = [self.weights[name] if name in self.weights else values[name] for name in node.input]
            values[node.output[0]] = store(OPERATORS[node.op_type](inputs, attributes, self.training))
        return values[self.nodes[-1][0].output[0]]

    def trainable(self) -> dict[str, Tensor]:
        return {name: weight for name, weight in self.weights.items() if weight.requires_grad}

    def predict(self, x: np.ndarray) -> np.ndarray:
        """(N, C, H, W) to logits (N, classes), in inference mode."""
        self.eval()
        with torch.no_grad():
            return self(torch.from_numpy(np.asarray(x, dtype=np.float32))).numpy()

    def accuracy(self, x: np.ndarray, y: np.ndarray) -> float:
        return float(np.mean(self.predict(x).argmax(axis=1) == y))

    def write_back(self) -> onnx.ModelProto:
        """The model with the current weights."""
        for tensor in self.model.graph.initializer:
            value = self.weights[tensor.name].detach().numpy()
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        return self.model
