"""Adapts a model to a shift in PyTorch, as `odl run` does it on a device: in float32 and with binary16 storage.

    python -m examples.rehearse EXAMPLE_DIR DATA_DIR

EXAMPLE_DIR holds `model.onnx` and `recipe.toml`, DATA_DIR holds `adapt.npz` and `eval.npz`. Printed is the
accuracy on `eval.npz` as mean and range over several orders of the samples, and the share of the updates that
were lost because they are less than half a unit in the last place of their weight.
"""

from __future__ import annotations

import argparse
import tomllib
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch.nn import functional as F  # noqa: N812 - its customary name

from .network import fold_batch_norm
from .torch_graph import Rounding, TorchGraph

Array = np.ndarray[Any, np.dtype[Any]]
Samples = tuple[Array, Array]


@dataclass(frozen=True)
class Recipe:
    """What the rehearsal takes from `recipe.toml`; it knows plain SGD and cross entropy only."""

    lr: float
    batch: int
    momentum: float
    trainable: tuple[str, ...]
    seed: int

    @classmethod
    def read(cls, path: Path) -> Recipe:
        words = tomllib.loads(path.read_text())
        kind = (words["loss"], words["optimizer"], words["weight_decay"])
        if kind != ("cross_entropy", "sgd", 0.0):
            raise ValueError(f"{path}: cannot rehearse loss, optimizer and weight_decay {kind}")
        return cls(words["lr"], words["batch"], words["momentum"], tuple(words["trainable"]), words["seed"])


class Sgd:
    """v = momentum * v + g, rounded; w = w - lr * v, rounded: one gradient, one velocity, one weight are stored."""

    def __init__(self, network: TorchGraph, recipe: Recipe) -> None:
        self.store = network.rounding
        self.recipe = recipe
        self.weights = {
            name: weight
            for name, weight in network.parameters.items()
            if any(fnmatchcase(name, pattern) for pattern in recipe.trainable)
        }
        if not self.weights:
            raise ValueError(f"no weight matches {recipe.trainable}")
        self.velocity = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        self.updates = self.lost = 0

    @torch.no_grad()
    def step(self, network: TorchGraph) -> None:
        for name, weight in self.weights.items():
            assert weight.grad is not None
            velocity = self.store(weight.grad)
            if self.recipe.momentum:
                velocity = self.store(self.recipe.momentum * self.velocity[name] + velocity)
                self.velocity[name] = velocity
            updated = self.store(weight - self.recipe.lr * velocity)
            self.updates += int((velocity != 0).sum())
            self.lost += int(((velocity != 0) & (updated == weight)).sum())
            weight.copy_(updated)
        for weight in network.parameters.values():
            weight.grad = None


def walk(n_samples: int, steps: int, seed: int) -> Array:
    """Which sample each step takes: every pass through the data in an order of its own, the one `odl run` takes."""
    rng = np.random.default_rng(seed)
    passes = [rng.permutation(n_samples) for _ in range(-(-steps // n_samples))]
    return np.concatenate(passes)[:steps]


def adapt(
    model: onnx.ModelProto, sets: tuple[Samples, Samples], recipe: Recipe, rounding: Rounding, steps: int, every: int
) -> tuple[list[float], float]:
    """Accuracies on the second set after 0, `every`, 2 * `every`, ... steps on the first; share of lost updates.

    A step is one sample, as for `odl run`; `recipe.batch` steps make one update.
    """
    network = TorchGraph(fold_batch_norm(model), rounding)
    optimizer = Sgd(network, recipe)
    (x, y), evaluation = sets
    order = walk(len(y), steps, recipe.seed)
    accuracies = [network.accuracy(*evaluation)]
    for step in range(recipe.batch, steps + 1, recipe.batch):
        rows = order[step - recipe.batch : step]
        loss = F.cross_entropy(network.logits(torch.from_numpy(x[rows])), torch.from_numpy(y[rows]))
        torch.autograd.backward(loss)
        optimizer.step(network)
        if step % every == 0:
            accuracies.append(network.accuracy(*evaluation))
    return accuracies, optimizer.lost / max(optimizer.updates, 1)


def load(path: Path) -> Samples:
    with np.load(path) as arrays:
        return arrays["x"].astype(np.float32), arrays["y"].astype(np.int64)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("example", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5, help="how many orders of the samples")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--trainable", action="append", metavar="PATTERN")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    recipe = Recipe.read(arguments.example / "recipe.toml")
    recipe = replace(
        recipe,
        lr=arguments.lr or recipe.lr,
        batch=arguments.batch or recipe.batch,
        trainable=tuple(arguments.trainable or recipe.trainable),
    )
    model = onnx.load(arguments.example / "model.onnx")
    sets = load(arguments.data / "adapt.npz"), load(arguments.data / "eval.npz")
    print(f"{recipe}\n{len(sets[0][1])} samples to adapt, {len(sets[1][1])} to evaluate")
    for rounding in Rounding:
        seeds = range(recipe.seed, recipe.seed + arguments.seeds)
        runs = [
            adapt(model, sets, replace(recipe, seed=seed), rounding, arguments.steps, arguments.every) for seed in seeds
        ]
        for index, found in enumerate(zip(*(run[0] for run in runs), strict=True)):
            spread = f"{np.mean(found):6.1%}  ({min(found):.1%} to {max(found):.1%})"
            print(f"{rounding.value:8}  step {index * arguments.every:4}  {spread}")
        print(f"{rounding.value:8}  updates lost {np.mean([run[1] for run in runs]):.0%}")


if __name__ == "__main__":
    main()
