"""From a model and a recipe to the graphs that a device runs: a training step, a batch's end, inference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from functools import partial

import numpy as np

from odl.autodiff import differentiate
from odl.errors import ModelError, UsageError
from odl.fp16 import Accumulate
from odl.graph import Builder, Graph, Operator, Persistent, Phase, Role, fresh, prune
from odl.ops.accumulate import AccumulateGradient, ClearGradient
from odl.ops.count import Count
from odl.ops.cross_entropy import SoftmaxCrossEntropy, SoftmaxCrossEntropyGradient
from odl.ops.mean_squared_error import MeanSquaredError, MeanSquaredErrorGradient
from odl.ops.sgd import SgdUpdate
from odl.ops.softmax import Softmax
from odl.recipe import Recipe
from odl.types import DType, TensorType

STEP, APPLY, INFER = "train_step", "apply_batch", "infer"
COUNTER = "samples_seen"


@dataclass(frozen=True)
class Training:
    """The graphs of a device, by entry name, and the names that the outside needs.

    `step` sees one sample: forward, loss, backward and, with batch 1, the updates. With a larger batch it adds its
    gradients to sums, and `apply` updates from the sums and clears them. `target` is the label or the target tensor.
    """

    recipe: Recipe
    graphs: Mapping[str, Graph]
    sample: str
    target: str
    loss: str
    trainable: tuple[str, ...]

    @property
    def step(self) -> Graph:
        return self.graphs[STEP]


def build_training(model: Graph, recipe: Recipe) -> Training:
    """The training graphs of `model`, which has one input and one output."""
    configure = partial(_configured, recipe=recipe)
    model = replace(model, nodes=tuple(replace(node, op=configure(node.op)) for node in model.nodes))
    trainable = find_trainable(model, recipe.trainable)
    forward = _without_head(model) if recipe.loss == "cross_entropy" else model
    build = Builder(forward, configure)
    target, loss, seed = _loss(build, forward.outputs[0], recipe)
    gradients = differentiate(build, forward.nodes, (forward.outputs[0], seed), trainable)
    trained = tuple(name for name in trainable if name in gradients)
    if not trained:
        raise ModelError("nothing-to-train", "", "no path leads from the loss to a trainable weight")
    build.phase = Phase.UPDATE
    layers = _layers(forward)
    if recipe.batch == 1:
        carries = _updates(build, {name: gradients[name] for name in trained}, layers, recipe)
        graphs = {STEP: build.graph(STEP, (loss,), carries)}
    else:
        sums = _accumulations(build, {name: gradients[name] for name in trained}, layers)
        carries = {held: value for held, value in sums.values()} | _counted(build, recipe.batch)
        graphs = {STEP: build.graph(STEP, (loss,), carries)}
        held = {name: held for name, (held, _) in sums.items()}
        graphs[APPLY] = _apply_batch(graphs[STEP], held, layers, recipe)
    graphs[INFER] = replace(model, name=INFER)
    graphs = {name: prune(graph) for name, graph in graphs.items()}
    return Training(recipe, graphs, next(iter(model.inputs)), target, loss, trained)


def find_trainable(model: Graph, patterns: tuple[str, ...]) -> tuple[str, ...]:
    """The weights whose initializer's or node's ONNX name matches a pattern, in the model's order."""
    users: dict[str, set[str]] = {name: {name} for name in model.persistent}
    for node in model.nodes:
        for value in node.inputs:
            if value in users:
                users[value].add(node.layer)
    weights = [name for name, tensor in model.persistent.items() if tensor.origin is not None]
    names = sorted({name for weight in weights for name in users[weight]})
    for pattern in patterns:
        if weights and not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(
                "no-such-weight",
                pattern,
                "matches no weight and no node that has weights",
                f"names: {', '.join(names)}",
            )
    return tuple(
        weight for weight in weights
        if any(fnmatchcase(name, pattern) for name in users[weight] for pattern in patterns)
    )  # fmt: skip


def _without_head(model: Graph) -> Graph:
    """The model without its final Softmax or LogSoftmax, which the loss contains."""
    last = model.producer().get(model.outputs[0])
    if last is None or not isinstance(last.op, Softmax):
        return model
    nodes = tuple(node for node in model.nodes if node is not last)
    types = {name: type_ for name, type_ in model.types.items() if name not in last.outputs}
    return replace(model, nodes=nodes, types=types, outputs=(last.inputs[0],))


def _loss(build: Builder, output: str, recipe: Recipe) -> tuple[str, str, str]:
    """Append the loss and the start of the backward pass; returns (target, loss, gradient of the output)."""
    build.layer = "loss"
    type_ = build.types[output]
    if recipe.loss == "cross_entropy":
        target = build.input(fresh("label", build.types), TensorType((1,), DType.I32))
        loss, saved = build.add_many(SoftmaxCrossEntropy(), (output, target), ("loss", "probabilities"))
        seed = build.add(SoftmaxCrossEntropyGradient(recipe.loss_scale), (saved, target), f"{output}.grad")
    else:
        target = build.input(fresh("target", build.types), type_)
        loss, saved = build.add_many(MeanSquaredError(), (output, target), ("loss", "difference"))
        seed = build.add(MeanSquaredErrorGradient(recipe.loss_scale), (saved,), f"{output}.grad")
    return target, loss, seed


def _layers(forward: Graph) -> dict[str, str]:
    """Weight -> the first layer that reads it."""
    found: dict[str, str] = {}
    for node in forward.nodes:
        for value in node.inputs:
            found.setdefault(value, node.layer)
    return found


def _updates(build: Builder, gradients: Mapping[str, str], layers: Mapping[str, str], recipe: Recipe) -> dict[str, str]:
    """Append one update a weight; returns what every changed persistent tensor is afterwards."""
    carries: dict[str, str] = {}
    op = SgdUpdate(recipe.lr, recipe.momentum, recipe.weight_decay, 1.0 / (recipe.loss_scale * recipe.batch))
    for name, gradient in gradients.items():
        build.layer = layers[name]
        state = (_zeros(build, f"{name}.velocity", build.types[name], Role.VELOCITY),) if recipe.momentum else ()
        new = build.add_many(op, (name, gradient, *state), [f"{held}.new" for held in (name, *state)])
        carries.update(zip((name, *state), new, strict=True))
    return carries


def _accumulations(
    build: Builder, gradients: Mapping[str, str], layers: Mapping[str, str]
) -> dict[str, tuple[str, str]]:
    """Append one addition a weight; returns weight -> (persistent sum, its value after this sample)."""
    sums: dict[str, tuple[str, str]] = {}
    for name, gradient in gradients.items():
        build.layer = layers[name]
        held = _zeros(build, f"{name}.sum", build.types[gradient], Role.GRADIENT)
        sums[name] = held, build.add(AccumulateGradient(), (held, gradient), f"{held}.new")
    return sums


def _counted(build: Builder, batch: int) -> dict[str, str]:
    """Append the count of samples that tells when a batch is full: it is then 0 again."""
    build.layer = "batch"
    counter = _zeros(build, COUNTER, TensorType((1,), DType.I32), Role.COUNTER)
    return {counter: build.add(Count(batch), (counter,), f"{counter}.new")}


def _apply_batch(step: Graph, held: Mapping[str, str], layers: Mapping[str, str], recipe: Recipe) -> Graph:
    """The end of a batch: update from the sums, then clear them."""
    build = Builder()
    build.phase = Phase.UPDATE
    for name, total in held.items():
        build.hold(step.persistent[name])
        build.hold(step.persistent[total])
    carries = _updates(build, held, layers, recipe)
    for name, total in held.items():
        build.layer = layers[name]
        carries[total] = build.add(ClearGradient(), (total,), f"{total}.cleared")
    return build.graph(APPLY, (), carries)


def _zeros(build: Builder, name: str, type_: TensorType, role: Role) -> str:
    return build.hold(Persistent(fresh(name, build.types), type_, np.zeros(type_.shape, type_.dtype.numpy), role))


def _configured(op: Operator, recipe: Recipe) -> Operator:
    """The operator with the recipe's accumulator, and, for weight gradients, the recipe's type."""
    names = {f.name for f in fields(op)}
    changes: dict[str, object] = {}
    if "accumulate" in names:
        changes["accumulate"] = Accumulate(recipe.accumulate)
    if "dtype" in names and recipe.gradients == "fp16":
        changes["dtype"] = DType.F16
    return replace(op, **changes)
