"""Random small networks for a cluster whose L1 is so small that they are cut into tiles.

Drawn by a seed, so that each has a number and they can run side by side, or by hypothesis, which makes a failing one
small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper

from campaigns.random_models import Net
from odl import Recipe
from odl.targets import Target
from odl.targets.pulp import PULP_OPEN


class Draws:
    """The words of NumPy's generator that networks are drawn by, said to hypothesis."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def integers(self, low: int, high: int | None = None, size: int | None = None) -> int | list[int]:
        numbers = st.integers(0, low - 1) if high is None else st.integers(low, high - 1)
        return self._draw(numbers) if size is None else [self._draw(numbers) for _ in range(size)]

    def random(self) -> float:
        return self._draw(st.integers(0, 99)) / 100


Rng = np.random.Generator | Draws


@dataclass(frozen=True)
class Case:
    """A network with its number of classes, how it is trained, and on how many cores. `seed` tells it from others."""

    seed: int
    model: onnx.ModelProto
    classes: int
    recipe: Recipe
    cores: int

    def machines(self) -> Iterator[Target]:
        return clusters(self.cores)


def clusters(cores: int) -> Iterator[Target]:
    """Clusters with more and more L1, from 4 KiB to all that there is."""
    n_bytes = 4 << 10
    while n_bytes < PULP_OPEN.l1_bytes:
        yield PULP_OPEN.resized(cores=cores, l1_bytes=n_bytes)
        n_bytes += n_bytes // 1024 * 256
    yield PULP_OPEN.resized(cores=cores)


def case(seed: int) -> Case:
    """Every other one has a wide image of few channels: a few rows of it, or a few channels, are what fits."""
    rng = np.random.default_rng([seed, 31])
    return _drawn(rng, rng, seed, ((2, 16), (16, 32), (16, 32)) if seed % 2 else _RANGES)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    return _drawn(Draws(draw), np.random.default_rng(0), 0, _RANGES)


_RANGES = ((1, 40), (1, 20), (1, 20))  # channels, height, width


def _drawn(rng: Rng, weights: np.random.Generator, seed: int, ranges: Sequence[tuple[int, int]]) -> Case:
    """One to four layers over an image, then a dense layer and Softmax."""
    shape = tuple(int(rng.integers(least, most + 1)) for least, most in ranges)
    net = Net(weights, shape)
    for _ in range(rng.integers(1, 5)):
        LAYERS[rng.integers(len(LAYERS))](rng, net)
    classes = int(rng.integers(2, 12))
    if rng.random() < 0.5:
        net.add("GlobalAveragePool", [], (net.shape[0], 1, 1))
    features = int(np.prod(net.shape))
    net.add("Flatten", [], (features,))
    net.add("Gemm", [_weight(net, (classes, features)), net.weight((classes,), 0.1)], (classes,), transB=1)
    net.add("Softmax", [], (classes,))
    source = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, *shape])
    output = helper.make_tensor_value_info(net.last, TensorProto.FLOAT, [1, classes])
    graph = helper.make_graph(net.nodes, f"random{seed}", [source], [output], net.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Case(seed, model, classes, _recipe(rng), int(rng.integers(1, 9)))


def _recipe(rng: Rng) -> Recipe:
    return Recipe(
        lr=0.05,
        momentum=(0.0, 0.9)[rng.integers(2)],
        weight_decay=(0.0, 1e-3)[rng.integers(2)],
        batch=int(rng.integers(1, 3)),
        accumulate=("fp32", "fp16")[rng.integers(2)],
        gradients=("fp32", "fp16")[rng.integers(2)],
    )


def _weight(net: Net, shape: tuple[int, ...]) -> str:
    """Such that a sum of its products with numbers near 1 is near 1."""
    return net.weight(shape, float(np.prod(shape[1:])) ** -0.5)


def _convolution(rng: Rng, net: Net) -> None:
    _windows(rng, net, 1, int(rng.integers(1, 25 if min(net.shape[1:]) > 12 else 41)))


def _depthwise(rng: Rng, net: Net) -> None:
    """One output a channel, or two."""
    channels = net.shape[0]
    _windows(rng, net, channels, channels * (2 if rng.random() < 0.2 else 1))


def _windows(rng: Rng, net: Net, group: int, out: int) -> None:
    channels, *image = net.shape
    size = [int(rng.integers(1, min(3, side) + 1)) for side in image]
    stride = [int(side) for side in rng.integers(1, 3, 2)]
    pads = [int(rng.integers(0, side)) for side in (*size, *size)]
    inputs = [_weight(net, (out, channels // group, *size))]
    inputs += [net.weight((out,), 0.1)] if rng.random() < 0.7 else []
    new = [(n + a + b - k) // s + 1 for n, a, b, k, s in zip(image, pads[:2], pads[2:], size, stride, strict=True)]
    net.add("Conv", inputs, (out, *new), strides=stride, pads=pads, group=group)


def _relu(_rng: Rng, net: Net) -> None:
    net.add("Relu", [], net.shape)


def _pool(rng: Rng, net: Net) -> None:
    channels, *image = net.shape
    size = [int(rng.integers(1, min(3, side) + 1)) for side in image]
    stride = [int(side) for side in rng.integers(1, 4, 2)]
    new = [(n - k) // s + 1 for n, k, s in zip(image, size, stride, strict=True)]
    net.add(("MaxPool", "AveragePool")[rng.integers(2)], [], (channels, *new), kernel_shape=size, strides=stride)


def _residual(rng: Rng, net: Net) -> None:
    """A sum of an image, and of a convolution of it that keeps its shape."""
    branch, shape = net.last, net.shape
    channels = shape[0]
    group = channels if rng.random() < 0.3 else 1
    net.add("Conv", [_weight(net, (channels, channels // group, 3, 3))], shape, pads=[1, 1, 1, 1], group=group)
    _relu(rng, net)
    net.add("Add", [branch], shape)


def _beside(rng: Rng, net: Net) -> None:
    """The channels of an image, and behind them those of its Relu."""
    branch, (channels, *image) = net.last, net.shape
    _relu(rng, net)
    net.add("Concat", [branch], (2 * channels, *image), axis=1)


def _turned(_rng: Rng, net: Net) -> None:
    """Rows and columns exchanged."""
    channels, height, width = net.shape
    net.add("Transpose", [], (channels, width, height), perm=[0, 1, 3, 2])


LAYERS = (
    *(_convolution, _convolution, _convolution, _depthwise, _depthwise, _depthwise),
    *(_relu, _pool, _pool, _residual, _beside, _turned),
)
