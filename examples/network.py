"""Builds a small ONNX network layer by layer, and folds BatchNormalization into convolutions."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
EPSILON = 1e-3


class Network:
    """Nodes and weights in order of execution; each method appends a layer and returns the name of its output.

    A layer called `stack1/conv1` is a node of that name with output `stack1/conv1.out` and weights
    `stack1/conv1.weight` and `stack1/conv1.bias`. Weights start out after He et al. (2015), from `seed`.
    """

    def __init__(self, name: str, input_shape: tuple[int, ...], seed: int) -> None:
        self.name = name
        self.input_shape = input_shape
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}

    def _append(self, op: str, name: str, inputs: list[str], output: str = "", **attributes: object) -> str:
        output = output or f"{name}.out"
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def _add_weight(self, name: str, value: np.ndarray) -> str:
        self.weights[name] = value.astype(np.float32)
        return name

    def conv(
        self,
        x: str,
        name: str,
        shape: tuple[int, int, int, int],
        *,
        stride: int = 1,
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
        group: int = 1,
    ) -> str:
        """Convolution without bias, since `batch_norm` follows it; `pads` are top, left, bottom, right."""
        fan_in = int(np.prod(shape[1:]))
        weight = self.rng.normal(0, np.sqrt(2 / fan_in), shape)
        inputs = [x, self._add_weight(f"{name}.weight", weight)]
        kernel, strides = list(shape[2:]), [stride, stride]
        return self._append(
            "Conv", name, inputs, kernel_shape=kernel, strides=strides, pads=list(pads), group=group
        )

    def batch_norm(self, x: str, name: str, channels: int) -> str:
        start = {"scale": 1.0, "bias": 0.0, "mean": 0.0, "variance": 1.0}
        inputs = [self._add_weight(f"{name}.{key}", np.full(channels, value)) for key, value in start.items()]
        return self._append("BatchNormalization", name, [x, *inputs], epsilon=EPSILON, momentum=0.9)

    def relu(self, x: str, name: str) -> str:
        return self._append("Relu", name, [x])

    def add(self, x: str, y: str, name: str) -> str:
        return self._append("Add", name, [x, y])

    def classify(self, x: str, pool: tuple[int, int], channels: int, classes: int) -> str:
        """Average over the whole image, one dense layer, softmax: output `probabilities` (1, classes)."""
        x = self._append("AveragePool", "pool", [x], kernel_shape=list(pool), strides=list(pool))
        x = self._append("Flatten", "flatten", [x], axis=1)
        weight = self.rng.normal(0, np.sqrt(1 / channels), (classes, channels))
        inputs = [x, self._add_weight("fc.weight", weight), self._add_weight("fc.bias", np.zeros(classes))]
        x = self._append("Gemm", "fc", inputs, transB=1)
        return self._append("Softmax", "softmax", [x], "probabilities", axis=1)

    def model(self, classes: int) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info(self.nodes[0].input[0], TensorProto.FLOAT, self.input_shape)],
            [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, (1, classes))],
            [numpy_helper.from_array(value, name) for name, value in self.weights.items()],
        )
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="odl examples")


def fold_batch_norm(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every Conv -> BatchNormalization pair as one Conv with a bias, computed in float64."""
    weights = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    producer = {node.output[0]: node for node in model.graph.node}
    nodes = []
    for node in model.graph.node:
        if node.op_type != "BatchNormalization":
            nodes.append(node)
            continue
        conv = producer[node.input[0]]
        scale, bias, mean, variance = (weights.pop(name) for name in node.input[1:])
        factor = scale / np.sqrt(variance + EPSILON)
        weights[conv.input[1]] *= factor[:, None, None, None]
        weights[f"{conv.name}.bias"] = bias - mean * factor
        conv.input.append(f"{conv.name}.bias")
        conv.output[0] = node.output[0]
    # Outputs keep the names the following nodes read, so that no edge has to be renamed.
    order = [name for node in nodes for name in node.input if name in weights]
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    del folded.graph.node[:], folded.graph.initializer[:]
    folded.graph.node.extend(nodes)
    folded.graph.initializer.extend(
        numpy_helper.from_array(weights[name].astype(np.float32), name) for name in order
    )
    return folded
