"""What each output channel of a weight contributes to learning: the squares of its gradients on calibration data.

The measure is the diagonal of the empirical Fisher information, summed over a channel: the mean over samples of the sum
of g^2 over the channel's weights (Theis et al. 2018 and TinyTrain, Kwon et al. 2023, take it of activations; Kirkpatrick
et al. 2017 of weights, as here). It is also what a step of SGD on one sample gains to first order, a learning rate of 1
and these weights alone: L(w - lr g) = L(w) - lr |g|^2. So contributions of disjoint sets of weights add up.

The gradients are those of the device, in its bits. The statistics are not the device's: they are binary64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from odl.data import Data
from odl.errors import ModelError
from odl.graph import prune
from odl.interpreter import interpret
from odl.ops._updates import Update
from odl.recipe import Recipe
from odl.training import Training
from odl.types import Array


@dataclass(frozen=True)
class Contributions:
    """`rows` holds for each weight a binary64 number for each index of its first axis, which is the output channel of
    a kernel that can be cut. `samples` were looked at; gradients of `skipped` ones were not finite, and did not count."""

    rows: Mapping[str, Array]
    samples: int
    skipped: int


def analysed(recipe: Recipe) -> Recipe:
    """The recipe whose training graph shows every gradient that `recipe` could train with, whole, before any update."""
    return replace(recipe, batch=1, updates="kept", channels=())


def contributions(training: Training, data: Data) -> Contributions:
    """The contributions of all that `training` trains, which is of an `analysed` recipe, over all of `data`.

    Raises ModelError `no-gradients` where nothing is left to compare: each sample's gradients are all zero, or some of
    them not finite.
    """
    step = training.step
    updates = [node for node in step.nodes if isinstance(node.op, Update)]
    gradients = {node.inputs[0]: node.inputs[len(node.outputs)] for node in updates}
    graph = prune(replace(step, outputs=tuple(gradients.values()), carries={}))
    sums = {name: np.zeros(step.types[name].shape[0]) for name in gradients}
    skipped = 0
    for sample, target in data:
        values = interpret(graph, {training.sample: sample, training.target: target})
        found = {name: values[value].astype(np.float64) for name, value in gradients.items()}
        if not all(np.isfinite(gradient).all() for gradient in found.values()):
            skipped += 1
            continue
        for name, gradient in found.items():
            unscaled = gradient / training.recipe.loss_scale
            sums[name] += np.square(unscaled).reshape(len(unscaled), -1).sum(axis=1)
    if not any(each.any() for each in sums.values()):
        why = f"of {len(data)} samples, {skipped} have gradients that are not finite, the others none that is not zero"
        raise ModelError("no-gradients", training.loss, why, "change loss_scale, or calibrate with other data")
    used = len(data) - skipped
    return Contributions({name: each / used for name, each in sums.items()}, len(data), skipped)
