"""A small network with every kind of layer that has weights, and the recipes that train parts of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from models import draw, model, node, save

from odl.api import Compiled, compile_model
from odl.compare import Reference
from odl.executor import Executor
from odl.fp16 import half
from odl.program import ARENA
from odl.recipe import Recipe
from odl.types import Array


def network() -> onnx.ModelProto:
    """Every kind of layer with weights: a convolution with a normalisation, a depthwise and a pointwise one, a
    normalisation on its own, a Gemm."""
    return model(
        node("Conv", "x w0 b0", "c0", "conv", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("BatchNormalization", "c0 gamma beta mean var", "n0", "bn"), node("Relu", "n0", "r0"),
        node("Conv", "r0 w1 b1", "c1", "dw", group=9, pads=[1, 1, 1, 1]), node("Relu", "c1", "r1"),
        node("Conv", "r1 w2 b2", "c2", "pw"), node("Relu", "c2", "t2"),
        node("BatchNormalization", "t2 gamma2 beta2 mean2 var2", "n2", "bn2"),
        node("GlobalAveragePool", "n2", "p"), node("Flatten", "p", "f"), node("Gemm", "f w3 b3", "g", "fc", transB=1),
        node("Softmax", "g", "y"), x=(1, 3, 9, 7),
        w0=draw(9, 3, 3, 3), b0=draw(9), gamma=1 + draw(9), beta=draw(9), mean=draw(9), var=1 + draw(9) ** 2,
        w1=draw(9, 1, 3, 3), b1=draw(9), w2=draw(11, 9, 1, 1), b2=draw(11), gamma2=1 + draw(11), beta2=draw(11),
        mean2=draw(11), var2=1 + draw(11) ** 2, w3=draw(5, 11), b3=draw(5),
    )  # fmt: skip


CHOICES: dict[str, dict[str, Any]] = {
    "last": {"last": 2},
    "biases": {"parameters": "biases"},
    "norms": {"parameters": "norms", "momentum": 0.9},
    "norms-at-last": {"parameters": "norms", "last": 1},
    "channels": {"channels": ("*=0.25", "conv=3:8", "fc=1:4")},
    "channels-with-velocity": {"channels": ("w0=1:6", "pw=7:8", "w3=3:5"), "momentum": 0.9, "weight_decay": 0.01},
    "channels-of-batches": {"channels": ("*=0.5",), "batch": 2, "momentum": 0.5, "gradients": "fp16"},
    "channels-in-fp16": {"channels": ("w0=5:8", "w2=1:4"), "accumulate": "fp16"},
    "adapters": {"lora_rank": 3},
    "adapters-of-batches": {"lora_rank": 2, "batch": 2, "momentum": 0.9, "accumulate": "fp16", "gradients": "fp16"},
}  # fmt: skip


def written(folder: Path) -> Path:
    """A folder with the network and four samples."""
    save(folder, network())
    np.savez(folder / "data.npz", x=draw(4, 3, 9, 7, scale=1), y=np.array([0, 4, 2, 1]))
    return folder


def of(folder: Path, target: str = "host", **recipe: Any) -> Compiled:
    return compile_model(folder / "model.onnx", Recipe(lr=0.05, **recipe), target)


def walked(network: Compiled, n_steps: int = 4) -> Executor:
    """The device after some steps on noise."""
    reference = Reference(network.program, network.training)
    shape = network.training.step.inputs[network.training.sample].shape
    for step in range(n_steps):
        reference.step(half(draw(*shape, seed=step, scale=1)), np.array([step % 3], np.int32), lambda *_: None)
    return reference.executor


def held(network: Compiled, device: Executor) -> dict[str, Array]:
    """What a run would keep: all that lies in the arena."""
    kept = [r.tensor.name for r in network.program.residents if r.buffer.space == ARENA]
    return {name: device.persistent(name) for name in kept}
