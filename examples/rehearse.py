"""Adapts a model to a shift in PyTorch as `odl run` does on a device, in float32 and with binary16 storage.

    python -m examples.rehearse MODEL RECIPE DATA_DIR

DATA_DIR holds `adapt.npz` and `eval.npz`. Printed is the accuracy on `eval.npz` after 0, 50, 100, ... steps.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch.nn import functional as F  # noqa: N812 - the customary name

from .network import fold_batch_norm
from .torch_graph import Rounding, TorchGraph

Samples = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Recipe:
    """The part of `recipe.toml` the rehearsal understands."""

    lr: float
    batch: int = 1
    momentum: float = 0.0
    trainable: tuple[str, ...] = ("*",)
    seed: int = 0

    @classmethod
    def of(cls, entries: dict[str, Any]) -> Recipe:
        known = {field.name for field in fields(cls)}
        chosen = {key: value for key, value in entries.items() if key in known}
        return cls(**{**chosen, "trainable": tuple(entries["trainable"])})


@dataclass(frozen=True)
class Progress:
    """`lost` is the share of non-zero updates that left their weight unchanged, over all steps so far."""

    step: int
    loss: float
    lost: float


class Sgd:
    """Plain SGD: v = momentum * v + g; w = w - lr * v, each stored as `rounding` says."""

    def __init__(self, network: TorchGraph, recipe: Recipe) -> None:
        self.rounding = network.rounding
        self.recipe = recipe
        self.weights = {
            name: weight
            for name, weight in network.trainable().items()
            if any(fnmatchcase(name, pattern) for pattern in recipe.trainable)
        }
        self.velocity = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        self.updates = self.lost = 0

    def _store(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.half().float() if self.rounding is Rounding.FP16 else tensor

    @torch.no_grad()
    def step(self) -> None:
        lr = self._store(torch.tensor(self.recipe.lr))
        for name, weight in self.weights.items():
            gradient = self._store(weight.grad)
            if self.recipe.momentum:
                kept = self._store(self.recipe.momentum * self.velocity[name])
                gradient = self.velocity[name] = self._store(kept + gradient)
            new = self._store(weight - self._store(lr * gradient))
            moving = gradient != 0
            self.updates += int(moving.sum())
            self.lost += int((moving & (new == weight)).sum())
            weight.copy_(new)
            weight.grad = None


def batches(samples: Samples, batch: int, seed: int) -> Iterator[Samples]:
    """Endless shuffled batches."""
    rng = np.random.default_rng(seed)
    x, y = samples
    while True:
        order = rng.permutation(len(y))
        for rows in order[: len(y) // batch * batch].reshape(-1, batch):
            yield x[rows], y[rows]


def adapt(network: TorchGraph, samples: Samples, recipe: Recipe, steps: int) -> Iterator[Progress]:
    """Trains in place; yields after every step."""
    network.eval()
    optimizer = Sgd(network, recipe)
    source = batches(samples, recipe.batch, recipe.seed)
    for step in range(1, steps + 1):
        x, y = next(source)
        loss = F.cross_entropy(network(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()
        optimizer.step()
        yield Progress(step, loss.item(), optimizer.lost / max(optimizer.updates, 1))


def load(path: Path) -> Samples:
    with np.load(path) as arrays:
        return arrays["x"].astype(np.float32), arrays["y"].astype(np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=500)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe.of(tomllib.loads(arguments.recipe.read_text()))
    adaptation, evaluation = (load(arguments.data / f"{name}.npz") for name in ("adapt", "eval"))
    for rounding in Rounding:
        network = TorchGraph(fold_batch_norm(onnx.load(arguments.model)), rounding)
        print(f"{rounding.value}: step 0: accuracy {network.accuracy(*evaluation):.3f}")
        for now in adapt(network, adaptation, recipe, arguments.steps):
            if now.step % 50 == 0:
                accuracy = network.accuracy(*evaluation)
                print(f"{rounding.value}: step {now.step}: accuracy {accuracy:.3f}, lost {now.lost:.1%}")


if __name__ == "__main__":
    main()
