"""Trains the base models and finishes their ONNX files."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch.nn import functional as F  # noqa: N812 - the customary name

from .torch_graph import TorchGraph

Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def fit(
    model: onnx.ModelProto,
    samples: tuple[np.ndarray, np.ndarray],
    *,
    epochs: int,
    batch: int = 32,
    lr: float = 3e-3,
    weight_decay: float = 1e-4,
    seed: int = 0,
    augment: Augment = lambda x, _rng: x,
) -> TorchGraph:
    """Trains every parameter with AdamW, a one-cycle rate and label smoothing, on one core.

    Label smoothing keeps the logits small, and with them the activations a binary16 device has to hold.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = TorchGraph(model)
    optimizer = torch.optim.AdamW(network.trainable().values(), lr, weight_decay=weight_decay)
    x, y = samples
    steps = epochs * (len(y) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for epoch in range(epochs):
        network.train()
        order = rng.permutation(len(y))
        losses = []
        for rows in order[: len(y) // batch * batch].reshape(-1, batch):
            optimizer.zero_grad()
            logits = network(torch.from_numpy(augment(x[rows], rng)))
            loss = F.cross_entropy(logits, torch.from_numpy(y[rows]), label_smoothing=0.1)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1:3}: loss {np.mean(losses):.4f}")
    return network
