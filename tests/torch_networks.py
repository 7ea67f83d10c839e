"""Small networks as people write them in PyTorch, and their ways to ONNX.

Each is drawn with a fixed seed, has statistics in its normalisations that are not the first ones, and takes one sample.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from odl.types import Shape


@dataclass(frozen=True)
class Network:
    """How a network is made, and the shape of a sample of it with the batch axis in front."""

    make: Callable[[], nn.Module]
    shape: Shape

    def drawn(self) -> nn.Module:
        """The network in evaluation mode, its weights and statistics drawn."""
        torch.manual_seed(7)
        net = self.make()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                for name, tensor in module.state_dict().items():
                    if tensor.is_floating_point():
                        low, high = (0.6, 1.4) if name in ("weight", "running_var") else (-0.3, 0.3)
                        tensor.uniform_(low, high)
        return net.eval()


def conv_norm(c_in: int, c_out: int, size: int, activation: type[nn.Module] | None = nn.ReLU, **more: int) -> nn.Module:
    """Convolution without bias, normalisation, activation: what most image networks are made of."""
    tail = [activation()] if activation else []
    return nn.Sequential(nn.Conv2d(c_in, c_out, size, bias=False, **more), nn.BatchNorm2d(c_out), *tail)


class MobileBlock(nn.Module):
    """MobileNetV2: expand, depthwise with ReLU6, project, and a way around where nothing changes."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        wide = 4 * c_in
        self.around = stride == 1 and c_in == c_out
        self.body = nn.Sequential(
            conv_norm(c_in, wide, 1, nn.ReLU6),
            conv_norm(wide, wide, 3, nn.ReLU6, stride=stride, padding=1, groups=wide),
            conv_norm(wide, c_out, 1, None),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.around else y


def mobilenet() -> nn.Module:
    return nn.Sequential(
        conv_norm(3, 8, 3, nn.ReLU6, stride=2, padding=1), MobileBlock(8, 8, 1), MobileBlock(8, 12, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(12, 5),
    )  # fmt: skip


class Fire(nn.Module):
    """SqueezeNet: squeeze, then two convolutions side by side."""

    def __init__(self, c_in: int, narrow: int, wide: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(c_in, narrow, 1)
        self.one, self.three = nn.Conv2d(narrow, wide, 1), nn.Conv2d(narrow, wide, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.squeeze(x))
        return torch.cat([functional.relu(self.one(x)), functional.relu(self.three(x))], 1)


def squeezenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(8, 4, 6), Fire(12, 4, 8),
        nn.Dropout(), nn.Conv2d(16, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(),
    )  # fmt: skip


class Bottleneck(nn.Module):
    """ResNet: narrow, 3x3, wide, and a projection around."""

    def __init__(self, c_in: int, narrow: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_norm(c_in, narrow, 1), conv_norm(narrow, narrow, 3, stride=stride, padding=1),
            conv_norm(narrow, 4 * narrow, 1, None),
        )  # fmt: skip
        self.around = conv_norm(c_in, 4 * narrow, 1, None, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.around(x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(nn.MaxPool2d(3, 2, 1), Bottleneck(8, 4, 1), Bottleneck(16, 4, 2))
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class Vgg(nn.Module):
    """Two convolutions and a pool, twice; then dense layers with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(True), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2),
            nn.Conv2d(4, 8, 3, padding="same"), nn.ReLU(True), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Linear(8 * 3 * 3, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        logits: Tensor = self.classifier(x.view(x.size(0), -1))
        return logits


def autoencoder() -> nn.Module:
    """Dense layers with normalisations, down and up again."""

    def layer(n_in: int, n_out: int) -> nn.Module:
        return nn.Sequential(nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out), nn.ReLU())

    return nn.Sequential(layer(20, 16), layer(16, 4), layer(4, 16), nn.Linear(16, 20))


class TemporalBlock(nn.Module):
    """Two causal 1-D convolutions and a way around: padded on the left alone."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv1d(c_in, c_out, 3), nn.Conv1d(c_out, c_out, 3)
        self.around = nn.Conv1d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.one(functional.pad(x, (2, 0))))
        y = functional.relu(self.two(functional.pad(y, (2, 0))))
        return functional.relu(y + self.around(x))


class Temporal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(TemporalBlock(3, 6), TemporalBlock(6, 8))
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.blocks(x)[:, :, -1])
        return logits


def sensor_cnn() -> nn.Module:
    """1-D convolutions with normalisations and pools over time, as for accelerometers."""
    return nn.Sequential(
        nn.Conv1d(3, 8, 5, padding=2), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 8, 3, stride=2),
        nn.BatchNorm1d(8), nn.ReLU(), nn.AvgPool1d(2), nn.Conv1d(8, 8, 3, padding=1, groups=8), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 6),
    )  # fmt: skip


class KeywordResidual(nn.Module):
    """res8 of keyword spotting: an image of MFCCs without channel axis, residuals over pairs of convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1, bias=False)
        self.pool = nn.AvgPool2d((4, 2))
        self.convs = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1, bias=False) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(6, affine=False) for _ in range(4))
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(functional.relu(self.first(x.unsqueeze(1))))
        before = x
        for at, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = functional.relu(conv(x))
            if at % 2:
                x = before = x + before
            x = norm(x)
        x = x.view(x.size(0), x.size(1), -1)
        logits: Tensor = self.fc(torch.mean(x, 2))
        return logits


class DsCnn(nn.Module):
    """Depthwise separable keyword spotting, its padding as a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ZeroPad2d((1, 1, 4, 5)), conv_norm(1, 8, 4, stride=2), conv_norm(8, 8, 3, padding=1, groups=8),
            conv_norm(8, 8, 1), nn.AvgPool2d((10, 5)),
        )  # fmt: skip
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.body(x).squeeze(-1).squeeze(-1))
        return functional.log_softmax(logits, dim=1)


def mobilenet_v3() -> nn.Module:
    """HardSwish in the stem, and pools, one convolution a class."""
    return nn.Sequential(
        conv_norm(3, 8, 3, nn.Hardswish, stride=2, padding=1), conv_norm(8, 8, 3, nn.Hardswish, padding=1, groups=8),
        conv_norm(8, 12, 1, nn.Hardswish), nn.AdaptiveAvgPool2d(1), nn.Conv2d(12, 5, 1), nn.Flatten(1),
    )  # fmt: skip


class ConvAutoencoder(nn.Module):
    """Convolutions down, and nearest-neighbour upsampling by hand is not there: a dense layer goes up again."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 2, 3, 2, 1), nn.LeakyReLU(0.1))
        self.up = nn.Linear(8, 64)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(self.down(x).flatten(1))
        return torch.sigmoid(y).reshape(x.shape)


class Mixer(nn.Module):
    """Dense layers over time and over channels, in turn, with a transposition between them."""

    def __init__(self) -> None:
        super().__init__()
        self.time, self.channels, self.fc = nn.Linear(10, 10), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.time(x.transpose(1, 2)).relu().permute(0, 2, 1)
        x = x + torch.tanh(self.channels(x))
        logits: Tensor = self.fc(x.mean(1))
        return logits


NETWORKS = {
    "mobilenet_v2": Network(mobilenet, (1, 3, 12, 12)),
    "squeezenet_fire": Network(squeezenet, (1, 3, 15, 15)),
    "resnet_bottleneck": Network(ResNet, (1, 3, 10, 10)),
    "vgg": Network(Vgg, (1, 1, 12, 12)),
    "autoencoder": Network(autoencoder, (1, 20)),
    "temporal_cnn": Network(Temporal, (1, 3, 12)),
    "sensor_cnn": Network(sensor_cnn, (1, 3, 24)),
    "kws_residual": Network(KeywordResidual, (1, 12, 8)),
    "ds_cnn": Network(DsCnn, (1, 1, 20, 10)),
    "mobilenet_v3": Network(mobilenet_v3, (1, 3, 12, 12)),
    "conv_autoencoder": Network(ConvAutoencoder, (1, 1, 8, 8)),
    "mixer": Network(Mixer, (1, 10, 6)),
}


def script_export(net: nn.Module, x: Tensor, *, folded: bool = False, dynamic: bool = False) -> onnx.ModelProto:
    """What the TorchScript exporter writes."""
    file = io.BytesIO()
    axes = {"input": {0: "batch"}, "output": {0: "batch"}} if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (x,), file, dynamo=False, do_constant_folding=folded, input_names=["input"], output_names=["output"],
            training=torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE, dynamic_axes=axes,
        )  # fmt: skip
    return onnx.load_model_from_string(file.getvalue())


def dynamo_export(net: nn.Module, x: Tensor, *, optimize: bool = False, dynamic: bool = False) -> onnx.ModelProto:
    """What the exporter of torch.export and onnxscript writes."""
    if dynamic:
        x = torch.cat([x, x])
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            net, (x,), dynamo=True, optimize=optimize, input_names=["input"], output_names=["output"],
            dynamic_shapes=shapes, verbose=False,
        )  # fmt: skip
    assert program is not None
    return program.model_proto
