"""The same recipe in binary32 by PyTorch: the same model, samples, order, batches and learning rates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import onnx
import torch
from torch.nn import functional

from benchmarks.accuracy.task import Array, Case, Changes, judged_by
from examples.torch_graph import TorchGraph
from odl.data import Data

# What of a recipe has no meaning where nothing is rounded to binary16, and what decides the rest.
_ROUNDING = frozenset({"master", "state", "accumulate", "gradients", "updates", "loss_scaling", "loss_scale",
                       "scale_growth", "scale_backoff", "scale_interval", "scale_floor"})  # fmt: skip
_DEFAULTS: Mapping[str, Any] = {
    "loss": "cross_entropy", "optimizer": "sgd", "lr": 0.01, "momentum": 0.0, "nesterov": False, "beta1": 0.9,
    "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0, "batch": 1, "trainable": ("*",), "lr_schedule": "constant",
    "warmup": 0, "lr_period": 1000, "lr_gamma": 0.1, "lr_least": 0.0, "clip_value": 0.0, "clip_norm": 0.0, "seed": 0,
}  # fmt: skip


def twin(changes: Changes) -> dict[str, Any]:
    """What of a recipe PyTorch is told. Raises ValueError for a word that it would have to leave out."""
    told = {name: value for name, value in changes.items() if name not in _ROUNDING}
    unknown = told.keys() - _DEFAULTS.keys()
    if unknown or told.get("loss", "cross_entropy") != "cross_entropy":
        raise ValueError(f"no twin in binary32 for {sorted(unknown) or told['loss']}")
    return told


def order(n_samples: int, steps: int, seed: int) -> Array:
    """Which sample each step takes, by the words of `odl run`."""
    numbers = np.arange(n_samples)
    return Data(numbers, numbers).steps(steps, seed).samples


def read(path: Any) -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(path) as arrays:
        return torch.from_numpy(arrays["x"].astype(np.float32)), torch.from_numpy(arrays["y"].astype(np.int64))


def run(case: Case, changes: Changes, steps: int, n_test: int | None) -> dict[str, Any]:
    """Train for `steps` samples; the accuracy on `n_test` test samples, and the loss of each update."""
    torch.set_num_threads(1)
    recipe = {**_DEFAULTS, **twin(changes)}
    network = TorchGraph(onnx.load(case.model))
    x, y = read(case.train)
    batch = recipe["batch"]
    walk = order(len(y), steps, recipe["seed"])
    parameters = chosen(network, recipe["trainable"])
    optimizer = _optimizer(parameters, recipe)
    losses = []
    for update in range(steps // batch):
        for group in optimizer.param_groups:
            group["lr"] = rate(recipe, update)
        rows = walk[update * batch : (update + 1) * batch]
        loss = functional.cross_entropy(network.logits(x[rows]), y[rows])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        _clip(parameters, recipe)
        optimizer.step()
        losses.append(loss.item())
    return {"accuracy": _accuracy(network, *read(case.test), n_test), "losses": losses}


def chosen(network: TorchGraph, patterns: tuple[str, ...]) -> list[torch.Tensor]:
    """The parameters whose name, or a reader's, matches a pattern; the others get no gradient."""
    readers: dict[str, set[str]] = {name: {name} for name in network.parameters}
    for node in network.model.graph.node:
        for name in readers.keys() & set(node.input):
            readers[name].add(node.name)
    found = []
    for name, weight in network.parameters.items():
        wanted = any(fnmatchcase(word, pattern) for word in readers[name] for pattern in patterns)
        weight.requires_grad_(wanted)
        found += [weight] if wanted else []
    return found


def rate(recipe: Changes, update: int) -> float:
    """The learning rate of the update, as `odl.Recipe` words it."""
    lr, past = float(recipe["lr"]), update - recipe["warmup"]
    if past < 0:
        return lr * (update + 1) / float(recipe["warmup"])
    if recipe["lr_schedule"] == "step":
        return lr * float(recipe["lr_gamma"]) ** (past // recipe["lr_period"])
    if recipe["lr_schedule"] == "cosine":
        least = float(recipe["lr_least"])
        return least + (lr - least) * (1 + math.cos(math.pi * min(past / recipe["lr_period"], 1))) / 2
    return lr


def _optimizer(parameters: list[torch.Tensor], recipe: Changes) -> torch.optim.Optimizer:
    lr, decay = recipe["lr"], recipe["weight_decay"]
    if recipe["optimizer"] == "sgd":
        momentum, nesterov = recipe["momentum"], recipe["nesterov"]
        return torch.optim.SGD(parameters, lr, momentum, weight_decay=decay, nesterov=nesterov)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe["optimizer"]]
    return kind(parameters, lr, (recipe["beta1"], recipe["beta2"]), recipe["epsilon"], decay)


def _clip(parameters: list[torch.Tensor], recipe: Changes) -> None:
    if recipe["clip_value"]:
        torch.nn.utils.clip_grad_value_(parameters, recipe["clip_value"])
    if recipe["clip_norm"]:
        torch.nn.utils.clip_grad_norm_(parameters, recipe["clip_norm"])


def _accuracy(network: TorchGraph, x: torch.Tensor, y: torch.Tensor, n_test: int | None) -> float:
    rows = torch.from_numpy(judged_by(len(y), n_test))
    with torch.no_grad():
        found = [network.logits(x[some]).argmax(1) for some in torch.split(rows, 100)]
    return float((torch.cat(found) == y[rows]).double().mean())
