"""A network that knows six digits learns four more on a simulated microcontroller, with a memory of old ones and
without.

    python examples/new_digits/learn.py [--target NAME] [-o FOLDER]

`recipe.toml` has the memory: of old samples it keeps the activations behind a layer (latent replay). Without it, the
same layers are trained by the same recipe on the new samples alone. All that the target learns is compared with NumPy.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import odl

HERE = Path(__file__).parent
SESSIONS = {"known": "0 to 5, a few again", "digit6": "then 6", "digit7": "then 7", "digit8": "then 8", "digit9": "then 9"}
N_KNOWN = 6


@dataclass(frozen=True)
class Learned:
    """After a session: the share of right answers about the digits seen so far, and how the run went."""

    accuracy: float
    run: odl.api.Run


def compiled(target: str) -> tuple[odl.Compiled, odl.Compiled]:
    """With replay, and the same without."""
    recipe, model = odl.read_recipe(HERE / "recipe.toml"), HERE / "model.onnx"
    replayed = odl.compile_model(model, recipe, target)
    plain = replace(recipe, replay_layer="", replay_slots=0, trainable=replayed.training.trainable)
    return replayed, odl.compile_model(model, plain, target)


def learn(network: odl.Compiled, data: Path, on: str = "") -> Iterator[Learned]:
    """One session after the other, each of which goes on where the one before ended."""
    weights = None
    for number, name in enumerate(SESSIONS):
        run = odl.train(network, data / f"{name}.npz", n_samples(data / f"{name}.npz"), on, weights=weights)
        weights = run.weights
        yield Learned(accuracy_of(network, data, weights, N_KNOWN + number), run)


def n_samples(path: Path) -> int:
    with np.load(path) as arrays:
        return len(arrays["y"])


def accuracy_of(network: odl.Compiled, data: Path, weights: object, n_seen: int) -> float:
    """Of the digits below `n_seen` by other writers; each may be taken for any of the ten."""
    confusion = np.array(odl.evaluate(network, data / "eval.npz", weights)["confusion"])
    of_class = np.bincount(np.load(data / "eval.npz")["y"])
    return float(confusion.diagonal()[:n_seen].sum() / of_class[:n_seen].sum())
