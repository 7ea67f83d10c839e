"""Trains ResNet8 on nine writers' digits and writes `model.onnx`.

    python -m examples.digits_resnet8.train

The network is ResNet8 of MLPerf Tiny with its three stacks, its 16, 32 and 64 channels and the padding of its
strided convolutions (none above and left); the image is 8x8 grey instead of 32x32 RGB. BatchNormalization stays
in the file, behind convolutions without bias.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..fit import finish, fit
from ..network import Network, Shape4
from .data import Hand, base_test, base_train, rewrite

CLASSES = 10
CHANNELS = (16, 32, 64)
SAME: Shape4 = (1, 1, 1, 1)
STRIDED: Shape4 = (0, 0, 1, 1)

Array = np.ndarray[Any, np.dtype[Any]]


def _conv(net: Network, x: str, name: str, shape: Shape4, *, stride: int = 1) -> str:
    """Convolution `name` and its norm `name`_bn."""
    size = shape[2]
    pads = (0, 0, 0, 0) if size == 1 else SAME if stride == 1 else STRIDED
    return net.batch_norm(net.conv(x, name, shape, stride=stride, pads=pads), f"{name}_bn", shape[0])


def resnet8(channels: tuple[int, int, int] = CHANNELS, seed: int = 0) -> onnx.ModelProto:
    """Input `image` (1, 1, 8, 8), output `probabilities` (1, 10)."""
    net = Network("digits_resnet8", "image", (1, 1, 8, 8), seed)
    before = channels[0]
    x = net.relu(_conv(net, "image", "stem/conv", (before, 1, 3, 3)), "stem/relu")
    for index, after in enumerate(channels, start=1):
        name, stride = f"stack{index}", 1 if after == before else 2
        y = _conv(net, x, f"{name}/conv1", (after, before, 3, 3), stride=stride)
        y = net.relu(y, f"{name}/relu1")
        y = _conv(net, y, f"{name}/conv2", (after, after, 3, 3))
        if stride == 2:
            x = _conv(net, x, f"{name}/shortcut", (after, before, 1, 1), stride=stride)
        x = net.relu(net.add(x, y, f"{name}/add"), f"{name}/relu2")
        before = after
    return net.classify(x, (2, 2), before, CLASSES)


def vary(x: Array, rng: np.random.Generator) -> Array:
    """A batch in a slightly different hand."""
    slant, turn = rng.uniform(-0.15, 0.15), rng.uniform(-8, 8)
    width, height = rng.uniform(0.85, 1.1), rng.uniform(0.9, 1.1)
    return rewrite(x, Hand(slant, turn, width, height))


def main() -> None:
    network = fit(resnet8(), base_train(), epochs=60, augment=vary)
    finish(
        network,
        base_test(),
        Path(__file__).with_name("model.onnx"),
        doc="ResNet8 for 8x8 grey images of handwritten digits, 0 is paper and 1 is ink. BatchNormalization is kept.",
        data="nine of the forms in the UCI optical digits test set (E. Alpaydin and C. Kaynak, 1998)",
        folded=False,
    )


if __name__ == "__main__":
    main()
