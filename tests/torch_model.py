"""An ONNX model as a PyTorch function of its weights: just the operators of the models that the tests compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch.nn import functional

Tensors = dict[str, torch.Tensor]
Store = Callable[[torch.Tensor], torch.Tensor]


def weights_of(model: onnx.ModelProto) -> Tensors:
    """The initializers as float64 leaves that want gradients."""
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    return {name: torch.tensor(array.astype(np.float64), requires_grad=True) for name, array in arrays.items()}


def stored_in_half(x: torch.Tensor) -> torch.Tensor:
    """Rounded to binary16, with the gradient of the identity."""
    return x + (x.half().double() - x).detach()


def exact(x: torch.Tensor) -> torch.Tensor:
    return x


def logits_of(model: onnx.ModelProto, weights: Tensors, x: torch.Tensor, store: Store = exact) -> torch.Tensor:
    """The model's output, or, where it ends in Softmax, what enters that; `store` is done to every tensor."""
    values: Tensors = {name: store(weight) for name, weight in weights.items()} | {model.graph.input[0].name: x}
    last = x
    for node in model.graph.node:
        if node.op_type == "Softmax":
            return values[node.input[0]]
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        last = store(_RULES[node.op_type]([values[name] for name in node.input], attributes))
        values[node.output[0]] = last
    return last


def _conv(inputs: list[torch.Tensor], a: dict[str, Any]) -> torch.Tensor:
    top, left, bottom, right = a.get("pads", (0, 0, 0, 0))
    x = functional.pad(inputs[0], (left, right, top, bottom))
    bias = inputs[2] if len(inputs) > 2 else None
    return functional.conv2d(x, inputs[1], bias, stride=a.get("strides", 1), groups=a.get("group", 1))


def _gemm(inputs: list[torch.Tensor], a: dict[str, Any]) -> torch.Tensor:
    return inputs[0] @ (inputs[1].T if a.get("transB") else inputs[1]) + inputs[2]


def _normalise(inputs: list[torch.Tensor], a: dict[str, Any]) -> torch.Tensor:
    x, gamma, beta, mean, var = inputs
    return functional.batch_norm(x, mean.detach(), var.detach(), gamma, beta, eps=a.get("epsilon", 1e-5))


_RULES: dict[str, Callable[[list[torch.Tensor], dict[str, Any]], torch.Tensor]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "BatchNormalization": _normalise,
    "Relu": lambda i, _: functional.relu(i[0]),
    "Add": lambda i, _: i[0] + i[1],
    "AveragePool": lambda i, a: functional.avg_pool2d(i[0], tuple(a["kernel_shape"]), tuple(a["strides"])),
    "GlobalAveragePool": lambda i, _: i[0].mean(dim=(2, 3), keepdim=True),
    "Flatten": lambda i, _: i[0].flatten(1),
}
