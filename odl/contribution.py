"""What each output channel of a weight contributes to learning, on calibration data.

The measure is Fisher information, as TinyTrain has it (Kwon et al. 2023, after Theis et al. 2018): of an output
channel, the mean over samples of (sum of a * da)^2, where a is what the channel computes and da its gradient. That sum
is the gradient of a factor on the channel. Since a channel is linear in its weights it is also the sum of w * dw over
them, which is how it is taken here, for each weight tensor on its own: so it does not change when data or a layer are
scaled and the weights the other way, as a sum of dw^2 does. A weight that is 0 contributes nothing.

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
from odl.ops.depthwise import DepthwiseConv2d
from odl.recipe import Recipe
from odl.stages import stage
from odl.trainable import kernels
from odl.training import INFER, Training
from odl.types import Array


@dataclass(frozen=True)
class Contributions:
    """`rows` holds for each weight a binary64 number for each of its output channels. `samples` were looked at; those
    `skipped` had gradients that are not finite."""

    rows: Mapping[str, Array]
    samples: int
    skipped: int

    @property
    def total(self) -> float:
        """The contribution of everything."""
        return sum(float(each.sum()) for each in self.rows.values())


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
    kept = {name: step.persistent[name].initial.astype(np.float64) for name in gradients}
    last = kernels(training.graphs[INFER], DepthwiseConv2d)
    sums = {name: np.zeros(weight.shape[-1 if name in last else 0]) for name, weight in kept.items()}
    skipped = 0
    for number, (sample, target) in enumerate(data):
        stage(f"gradients of sample {number + 1} of {len(data)}")
        values = interpret(graph, {training.sample: sample, training.target: target})
        found = {name: values[value].astype(np.float64) for name, value in gradients.items()}
        if not all(np.isfinite(gradient).all() for gradient in found.values()):
            skipped += 1
            continue
        for name, gradient in found.items():
            products = np.moveaxis(kept[name] * gradient / training.recipe.loss_scale, -1 if name in last else 0, 0)
            sums[name] += np.square(products.reshape(len(products), -1).sum(axis=1))
    if not any(each.any() for each in sums.values()):
        why = f"{skipped} of {len(data)} samples have gradients that are not finite, those of the others are all zero"
        raise ModelError("no-gradients", training.loss, why, "change loss_scale, or calibrate with other data")
    used = len(data) - skipped
    return Contributions({name: each / used for name, each in sums.items()}, len(data), skipped)
