"""Random small networks, as hypothesis draws them: every operator family, odd sizes, branches."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper


@dataclass
class Net:
    """A network under construction: its last value and the (C, H, W) of that."""

    rng: np.random.Generator
    shape: tuple[int, ...]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    last: str = "input"

    def add(self, op_type: str, inputs: list[str], shape: tuple[int, ...], **attributes: object) -> None:
        name = f"{op_type.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, [self.last, *inputs], [f"{name}_y"], name=name, **attributes))
        self.last, self.shape = f"{name}_y", shape

    def weight(self, shape: tuple[int, ...], spread: float) -> str:
        name = f"w{len(self.initializers)}"
        array = (self.rng.standard_normal(shape) * spread).astype(np.float32)
        self.initializers.append(numpy_helper.from_array(array, name))
        return name


def convolution(draw: st.DrawFn, net: Net) -> None:
    channels, height, width = net.shape
    depthwise = channels > 1 and draw(st.booleans())
    size = draw(st.integers(1, min(3, height))), draw(st.integers(1, min(3, width)))
    stride = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    pads = [draw(st.integers(0, k - 1)) for k in (*size, *size)]
    out = channels * draw(st.integers(1, 2)) if depthwise else draw(st.integers(1, 9))
    group = channels if depthwise else 1
    kernel = net.weight((out, channels // group, *size), 0.5)
    inputs = [kernel, net.weight((out,), 0.1)] if draw(st.booleans()) else [kernel]
    new = [
        (n + a + b - k) // s + 1
        for n, a, b, k, s in zip((height, width), pads[:2], pads[2:], size, stride, strict=True)
    ]
    net.add("Conv", inputs, (out, *new), strides=stride, pads=pads, group=group)


def activation(draw: st.DrawFn, net: Net) -> None:
    op_type = draw(st.sampled_from(["Relu", "LeakyRelu", "Sigmoid", "Tanh", "Clip"]))
    bounds = []
    if op_type == "Clip":
        for value in (0.0, 6.0):
            bounds.append(f"bound{len(net.initializers)}")
            net.initializers.append(numpy_helper.from_array(np.array(value, np.float32), bounds[-1]))
    net.add(op_type, bounds, net.shape)


def pool(draw: st.DrawFn, net: Net) -> None:
    channels, height, width = net.shape
    size = draw(st.integers(1, min(3, height))), draw(st.integers(1, min(3, width)))
    stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    new = [(n - k) // s + 1 for n, k, s in zip((height, width), size, stride, strict=True)]
    op_type = draw(st.sampled_from(["MaxPool", "AveragePool"]))
    net.add(op_type, [], (channels, *new), kernel_shape=size, strides=stride)


def residual(draw: st.DrawFn, net: Net) -> None:
    branch, shape = net.last, net.shape
    activation(draw, net)
    net.add(draw(st.sampled_from(["Add", "Sub", "Mul"])), [branch], shape)


def normalisation(_draw: st.DrawFn, net: Net) -> None:
    channels = net.shape[0]
    names = [net.weight((channels,), 1.0) for _ in range(3)]
    variance = f"v{len(net.initializers)}"
    net.initializers.append(numpy_helper.from_array(net.rng.uniform(0.5, 2, channels).astype(np.float32), variance))
    net.add("BatchNormalization", [*names, variance], net.shape)


LAYERS = (convolution, convolution, activation, pool, residual, normalisation)


@st.composite
def networks(draw: st.DrawFn) -> tuple[onnx.ModelProto, int]:
    """(model, number of classes): one to five layers over a small odd image, then a dense layer and Softmax."""
    shape = draw(st.tuples(st.integers(1, 7), st.integers(1, 9), st.integers(1, 9)))
    net = Net(np.random.default_rng(draw(st.integers(0, 2**16))), shape)
    for _ in range(draw(st.integers(1, 5))):
        draw(st.sampled_from(LAYERS))(draw, net)
    classes = draw(st.integers(1, 5))
    if draw(st.booleans()):
        net.add("GlobalAveragePool", [], (net.shape[0], 1, 1))
    features = int(np.prod(net.shape))
    net.add("Flatten", [], (features,))
    net.add("Gemm", [net.weight((classes, features), 0.4), net.weight((classes,), 0.1)], (classes,), transB=1)
    net.add("Softmax", [], (classes,))
    source = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, *shape])
    output = helper.make_tensor_value_info(net.last, TensorProto.FLOAT, [1, classes])
    graph = helper.make_graph(net.nodes, "random", [source], [output], net.initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), classes
