"""Trains ResNet8."""

from __future__ import annotations

import onnx

from ..network import Network

CLASSES = 10


def resnet8(side: int = 8, widths=(16, 32, 64), seed: int = 0) -> onnx.ModelProto:
    net = Network("digits_resnet8", (1, 1, side, side), seed)
    same = (1, 1, 1, 1)
    x = net.conv("image", "stem/conv", (widths[0], 1, 3, 3), pads=same)
    x = net.relu(net.batch_norm(x, "stem/bn", widths[0]), "stem/relu")
    before = widths[0]
    for index, width in enumerate(widths, 1):
        name = f"stack{index}"
        stride = 1 if index == 1 else 2
        y = net.conv(x, f"{name}/conv1", (width, before, 3, 3), stride=stride, pads=same if stride == 1 else (0, 0, 1, 1))
        y = net.relu(net.batch_norm(y, f"{name}/bn1", width), f"{name}/relu1")
        y = net.conv(y, f"{name}/conv2", (width, width, 3, 3), pads=same)
        y = net.batch_norm(y, f"{name}/bn2", width)
        if stride != 1:
            x = net.conv(x, f"{name}/shortcut", (width, before, 1, 1), stride=stride)
            x = net.batch_norm(x, f"{name}/shortcut_bn", width)
        x = net.relu(net.add(x, y, f"{name}/add"), f"{name}/relu2")
        before = width
    net.classify(x, (side // 4, side // 4), before, CLASSES)
    return net.model(CLASSES)
