"""Trains DS-CNN on 24 voices and writes `model.onnx`.

    python -m examples.words_dscnn.train

The network is DS-CNN of MLPerf Tiny, layer by layer. It is trained with BatchNormalization and written without:
each is folded into the convolution in front of it.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from ..fit import finish, fit
from ..network import Network
from .data import base_test, base_train

CLASSES = 12
CHANNELS = 64


def dscnn(seed: int = 0) -> onnx.ModelProto:
    """Input `mfcc` (1, 1, 49, 10), output `probabilities` (1, 12)."""
    net = Network("words_dscnn", "mfcc", (1, 1, 49, 10), seed)
    x = net.conv("mfcc", "stem/conv", (CHANNELS, 1, 10, 4), stride=2, pads=(4, 1, 5, 1))
    x = net.relu(net.batch_norm(x, "stem/bn", CHANNELS), "stem/relu")
    for index in range(1, 5):
        name = f"block{index}"
        x = net.conv(x, f"{name}/depthwise", (CHANNELS, 1, 3, 3), pads=(1, 1, 1, 1), group=CHANNELS)
        x = net.relu(net.batch_norm(x, f"{name}/depthwise_bn", CHANNELS), f"{name}/relu1")
        x = net.conv(x, f"{name}/pointwise", (CHANNELS, CHANNELS, 1, 1))
        x = net.relu(net.batch_norm(x, f"{name}/pointwise_bn", CHANNELS), f"{name}/relu2")
    return net.classify(x, (25, 5), CHANNELS, CLASSES)


def main() -> None:
    network = fit(dscnn(), base_train(), epochs=20)
    finish(
        network,
        base_test(),
        Path(__file__).with_name("model.onnx"),
        doc="DS-CNN for twelve spoken words; the input is 49x10 MFCC of unit variance, see mfcc.py and make_words.py.",
        data="words spoken by eSpeak NG in 24 voices (words.npz)",
        folded=True,
    )


if __name__ == "__main__":
    main()
