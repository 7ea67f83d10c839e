"""Builds a small ONNX network layer by layer, and folds its BatchNormalization into the convolutions."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
EPSILON = 1e-3

Array = np.ndarray[Any, np.dtype[Any]]
Shape4 = tuple[int, int, int, int]


class Network:
    """Nodes and weights in order of execution; each method appends a layer and returns the name of its output.

    A layer called `stack1/conv1` is a node of that name with output `stack1/conv1.out` and weight
    `stack1/conv1.weight`. Weights start as normal noise of variance 2 / fan-in, drawn from `seed`.
    """

    def __init__(self, name: str, input_name: str, input_shape: Shape4, seed: int) -> None:
        self.name = name
        self.input = helper.make_tensor_value_info(input_name, TensorProto.FLOAT, input_shape)
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Array] = {}

    def _append(self, op: str, name: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        output = output or f"{name}.out"
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def _weight(self, name: str, value: Array) -> str:
        self.weights[name] = value.astype(np.float32)
        return name

    def _noise(self, name: str, shape: tuple[int, ...]) -> str:
        return self._weight(name, self.rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape))

    def conv(
        self, x: str, name: str, shape: Shape4, *, stride: int = 1, pads: Shape4 = (0, 0, 0, 0), group: int = 1
    ) -> str:
        """A convolution without bias, since `batch_norm` follows it; `pads` are top, left, bottom, right."""
        geometry: dict[str, Any] = {
            "kernel_shape": shape[2:],
            "strides": (stride, stride),
            "pads": pads,
            "group": group,
        }
        return self._append("Conv", name, [x, self._noise(f"{name}.weight", shape)], **geometry)

    def batch_norm(self, x: str, name: str, channels: int) -> str:
        start = {"scale": 1.0, "bias": 0.0, "mean": 0.0, "variance": 1.0}
        inputs = [self._weight(f"{name}.{key}", np.full(channels, value)) for key, value in start.items()]
        return self._append("BatchNormalization", name, [x, *inputs], epsilon=EPSILON, momentum=0.9)

    def relu(self, x: str, name: str) -> str:
        return self._append("Relu", name, [x])

    def add(self, x: str, y: str, name: str) -> str:
        return self._append("Add", name, [x, y])

    def classify(self, x: str, window: tuple[int, int], channels: int, classes: int) -> onnx.ModelProto:
        """Average over the whole image, one dense layer, softmax; then the finished model."""
        x = self._append("AveragePool", "pool", [x], kernel_shape=window, strides=window)
        x = self._append("Flatten", "flatten", [x], axis=1)
        weight = self._noise("fc.weight", (classes, channels))
        x = self._append("Gemm", "fc", [x, weight, self._weight("fc.bias", np.zeros(classes))], transB=1)
        self._append("Softmax", "softmax", [x], "probabilities", axis=1)
        output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, (1, classes))
        tensors = [numpy_helper.from_array(value, name) for name, value in self.weights.items()]
        graph = helper.make_graph(self.nodes, self.name, [self.input], [output], tensors)
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="odl examples",
        )


def fold_batch_norm(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with every Conv -> BatchNormalization pair as one Conv with a bias, computed in float64.

    Such a Conv must have no bias yet and no other reader; it takes over the name of the pair's output.
    """
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    weights = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    producer = {node.output[0]: node for node in folded.graph.node}
    for norm in [node for node in folded.graph.node if node.op_type == "BatchNormalization"]:
        conv = producer[norm.input[0]]
        scale, bias, mean, variance = (weights.pop(name) for name in norm.input[1:])
        factor = scale / np.sqrt(variance + EPSILON)
        weights[conv.input[1]] *= factor[:, None, None, None]
        weights[f"{conv.name}.bias"] = bias - mean * factor
        conv.input.append(f"{conv.name}.bias")
        conv.output[0] = norm.output[0]
        folded.graph.node.remove(norm)
    del folded.graph.initializer[:]
    for node in folded.graph.node:
        for name in filter(weights.__contains__, node.input):
            tensor = numpy_helper.from_array(weights[name].astype(np.float32), name)
            folded.graph.initializer.append(tensor)
    return folded
