"""The models that are measured, and input for them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from odl import Compiled, Recipe, compile_model

ROOT = Path(__file__).parent.parent
REAL = Path(os.environ.get("ODL_REAL", ROOT.parent / "shared")) / "models"

# What the project asks of every model that it is measured on, on any machine of today.
REQUIRED = {"executor_s": 0.5, "tiled_executor_s": 2.0, "step_s": 5.0, "build_s": 10.0, "text_bytes": 64_000}


@dataclass(frozen=True)
class Subject:
    """A model, a learning rate at which two steps stay finite, its largest input, and what is required of it alone."""

    title: str
    path: Path
    lr: float
    largest: float
    required: Mapping[str, float] = field(default_factory=dict)
    loss: str = "cross_entropy"
    loss_scale: float = 1.0

    def compile(self, target: str, accumulate: str = "fp32") -> Compiled:
        """All of it trained by SGD, one sample at a time."""
        recipe = Recipe(
            loss=self.loss, lr=self.lr, loss_scale=self.loss_scale, accumulate=accumulate,
            master="none",  # as in the libraries with which speed is compared
        )  # fmt: skip
        return compile_model(self.path, recipe, target)

    def write_data(self, compiled: Compiled, folder: Path) -> Path:
        """One sample, so that every step sees the same: numbers between 0 and `largest` that no library may change."""
        shape = [dim.dim_value for dim in compiled.model.proto.graph.input[0].type.tensor_type.shape.dim]
        hashed = np.arange(1, math.prod(shape) + 1, dtype=np.uint64) * np.uint64(2654435761) % np.uint64(1 << 32)
        path = folder / "sample.npz"
        x = (hashed / 2.0**32 * self.largest).reshape(shape)
        np.savez(path, x=x, y=x if self.loss == "mse" else [1])
        return path


EXAMPLES = ROOT / "examples"

# The real models are MLPerf Tiny's, converted to ONNX; they are not part of the project.
SUBJECTS = {
    "resnet8_cifar10": Subject("ResNet8 (CIFAR-10)", REAL / "resnet8_cifar10.onnx", 1e-5, 255, {"ram_bytes": 400_000}),
    "digits_resnet8": Subject("ResNet8 (digits)", EXAMPLES / "digits_resnet8/model.onnx", 3e-3, 1),
    "dscnn_kws": Subject("DS-CNN (Speech Commands)", REAL / "dscnn_kws.onnx", 1e-3, 8, {"ram_bytes": 230_000}),
    "words_dscnn": Subject("DS-CNN (words)", EXAMPLES / "words_dscnn/model.onnx", 3e-3, 8),
}

# Untrained, it has losses so large that gradients overflow binary16 without a scale.
AUTOENCODER = Subject("autoencoder (ToyADMOS)", REAL / "ad_autoencoder.onnx", 1e-12, 1, loss="mse", loss_scale=2.0**-10)


def chosen() -> dict[str, Subject]:
    """One ResNet8 and one DS-CNN: the real one where it is, else the example's."""
    pairs = (("resnet8_cifar10", "digits_resnet8"), ("dscnn_kws", "words_dscnn"))
    names = [real if SUBJECTS[real].path.exists() else example for real, example in pairs]
    return {name: SUBJECTS[name] for name in names}
