"""Networks on the cluster whose images are larger than L1: the bits of the graph as it was before any pass."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import compiled, draw, node, refusal, save
from models import model as small_model

from campaigns.agreement import graph_agrees
from odl.api import Compiled, compile_model
from odl.data import Data
from odl.errors import ExitCode
from odl.fp16 import half
from odl.targets.pulp import PULP_OPEN
from odl.types import Array


class Layers:
    """A network under construction: convolutions with biases, a border that keeps the size, and what is put between."""

    def __init__(self, channels: int) -> None:
        self.last, self.channels = "x", channels
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Array] = {}

    def convolution(self, name: str, size: int, stride: int, outputs: int, group: int = 1) -> None:
        inputs = self.channels // group
        self.weights |= {
            f"{name}_w": draw(outputs, inputs, size, size, seed=len(self.nodes), scale=(2 / (inputs * size**2)) ** 0.5),
            f"{name}_b": draw(outputs, seed=len(self.nodes), scale=0.1),
        }
        self.put("Conv", f"{name}_w {name}_b", name, strides=[stride] * 2, pads=[size // 2] * 4, group=group)
        self.channels = outputs

    def depthwise(self, name: str, stride: int, multiplier: int = 1) -> None:
        self.convolution(name, 3, stride, self.channels * multiplier, self.channels)

    def put(self, op_type: str, others: str, name: str, **attributes: object) -> None:
        self.nodes.append(node(op_type, f"{self.last} {others}", name, name, **attributes))
        self.last = name

    def classified(self, side: int, channels: int) -> onnx.ModelProto:
        """With a mean over the image, and two classes."""
        self.put("GlobalAveragePool", "", "mean")
        self.put("Flatten", "", "features")
        self.weights |= {"v": draw(2, self.channels), "c": draw(2)}
        self.put("Gemm", "v c", "y", transB=1)
        return small_model(*self.nodes, x=(1, channels, side, side), **self.weights)


def mobilenet() -> onnx.ModelProto:
    """MobileNetV1, width 0.25, of an image of 96x96: 13 pairs of a depthwise and a 1x1 convolution."""
    net = Layers(3)
    net.convolution("stem", 3, 2, 8)
    net.put("Relu", "", "stem_relu")
    pairs = [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1)]
    for at, (outputs, stride) in enumerate(pairs):
        net.depthwise(f"dw{at}", stride)
        net.put("Relu", "", f"dw{at}_relu")
        net.convolution(f"pw{at}", 1, 1, outputs)
        net.put("Relu", "", f"pw{at}_relu")
    return net.classified(96, 3)


def pools() -> onnx.ModelProto:
    """Images of 64x64x16, which is 128 KB, past whatever is no convolution."""
    net = Layers(3)
    net.convolution("stem", 3, 1, 8)
    net.put("Relu", "", "relu")
    net.put("Concat", "stem", "both", axis=1)
    net.channels = 16
    net.depthwise("dw", 1)
    net.put("MaxPool", "", "overlapping", kernel_shape=[3, 3], pads=[1] * 4)
    net.put("Transpose", "", "turned", perm=[0, 1, 3, 2])
    net.put("AveragePool", "", "average", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)
    net.put("MaxPool", "", "maximum", kernel_shape=[2, 2], strides=[2, 2])
    net.depthwise("wide", 2, multiplier=2)
    return net.classified(64, 3)


def step_agrees(found: Compiled) -> None:
    """One training step of the program, through L2 and L1, against the graph."""
    training = found.training
    sample = half(draw(*training.step.inputs[training.sample].shape, seed=5, scale=1))
    assert np.isfinite(graph_agrees(found, Data(sample[None], np.array([[1]], np.int32)))).all()


def cut_axes(found: Compiled) -> dict[str, set[int]]:
    """By kernel, the axes along which its calls are cut."""
    axes = defaultdict(set)
    for _, _, call in found.program.calls():
        if "[" in call.name:
            axes[call.op.name].add(call.name.split("[")[1].count(":,"))
    return axes


@pytest.mark.parametrize("accumulate", ["fp32", "fp16"])
def test_mobilenet_of_96x96(accumulate: str, tmp_path: Path) -> None:
    found = compiled(tmp_path, mobilenet(), "pulp-open", accumulate=accumulate, gradients=accumulate)
    axes = cut_axes(found)
    assert {"depthwise", "weight_row_sum", "pad", "relu_gradient"} <= axes.keys()
    strides = {call.op.window.stride for _, _, call in found.program.calls() if call.op.name == "depthwise_sums_begin"}
    assert strides == {(1, 1), (2, 2)}
    step_agrees(found)


def test_pools_of_64x64(tmp_path: Path) -> None:
    found = compiled(tmp_path, pools(), "pulp-open")
    kinds = {"max_pool", "average_pool", "transpose", "concat", "depthwise"}
    gradients = {"max_pool_gradient", "average_pool_share", "average_pool_spread", "slice"}
    assert kinds | gradients <= cut_axes(found).keys()
    step_agrees(found)


@pytest.mark.parametrize("depthwise", [False, True])
def test_a_border_wider_than_the_kernel(depthwise: bool, tmp_path: Path) -> None:
    """A go or a tile of a border alone would have nothing to be made of."""
    group = 8 if depthwise else 1
    proto = small_model(
        node("Conv", "x w", "c", "c", pads=[3, 3, 3, 3], group=group), node("GlobalAveragePool", "c", "m", "m"),
        node("Flatten", "m", "f", "f"), node("Gemm", "f v", "y", "fc", transB=1),
        x=(1, 8, 12, 40), w=draw(8, 8 // group, 3, 3), v=draw(2, 8),
    )  # fmt: skip
    path = save(tmp_path, proto)
    for kib in (6, 8, 10, 12) if depthwise else (11, 13, 15):
        found = compile_model(path, target=PULP_OPEN.resized(l1_bytes=kib << 10))
        assert any("sums" in call.kernel.name for _, _, call in found.program.calls())
        step_agrees(found)


def test_an_image_of_which_no_channel_fits_is_refused(tmp_path: Path) -> None:
    """A mean needs all pixels of a channel: 80 KB of two."""
    net = Layers(2)
    net.convolution("stem", 1, 1, 2)
    error = refusal(lambda: compiled(tmp_path, net.classified(200, 2), "pulp-open"))
    assert (error.code, error.exit_code) == ("tile-too-large", ExitCode.DOES_NOT_FIT)
    assert "average_pool needs 80,008 bytes next to the cores of 53,248: 26,760 are missing" in str(error)
    assert "its largest tensor is stem, f16[1x200x200x2]" in str(error)
