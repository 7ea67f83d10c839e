from __future__ import annotations
import onnx
from ..network import Network

CLASSES = 12
CHANNELS = 64


def dscnn(seed: int = 0) -> onnx.ModelProto:
    """DS-CNN as in MLPerf Tiny: a 10x4 convolution, then four times depthwise 3x3 and pointwise 1x1."""
    net = Network("words_dscnn", (1, 1, 49, 10), seed)
    x = net.conv("mfcc", "stem/conv", (CHANNELS, 1, 10, 4), stride=2, pads=(4, 1, 5, 1))
    x = net.relu(net.batch_norm(x, "stem/bn", CHANNELS), "stem/relu")
    for index in range(1, 5):
        name = f"block{index}"
        x = net.conv(x, f"{name}/depthwise", (CHANNELS, 1, 3, 3), pads=(1, 1, 1, 1), group=CHANNELS)
        x = net.relu(net.batch_norm(x, f"{name}/bn1", CHANNELS), f"{name}/relu1")
        x = net.conv(x, f"{name}/pointwise", (CHANNELS, CHANNELS, 1, 1))
        x = net.relu(net.batch_norm(x, f"{name}/bn2", CHANNELS), f"{name}/relu2")
    net.classify(x, (25, 5), CHANNELS, CLASSES)
    return net.model(CLASSES)
