"""ONNX's losses, optimizers and gradients, which in odl are words of a recipe, or what training is made of.

Each becomes a training by odl that must compute what the case has. What no recipe says is refused with
`no-recipe-word`, which is a code of this campaign alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
from onnx import helper, numpy_helper

from campaigns.near import Near, exact, log_softmax, stored
from campaigns.onnx_cases import OnnxCase
from odl.api import NUMPY, Compiled, compile_model, infer, train
from odl.compare import Reference
from odl.data import load_data
from odl.errors import ModelError
from odl.recipe import Recipe
from odl.types import Array

HOST = "host"


@dataclass(frozen=True)
class Compared:
    """What odl computed, what ONNX has, and how far apart the two may be."""

    computed: Array
    expected: Array
    bound: Array


@contextmanager
def _compiled(model: onnx.ModelProto, recipe: Recipe, x: Array, y: Array) -> Iterator[tuple[Compiled, Path]]:
    """A model and the file of its data."""
    with tempfile.TemporaryDirectory(prefix="odl-") as scratch:
        path, data = Path(scratch, "model.onnx"), Path(scratch, "data.npz")
        path.write_bytes(model.SerializeToString())
        np.savez(data, x=x, y=y)
        yield compile_model(path, recipe, HOST), data


def _on(on: str) -> str:
    """A simulator's name, as training wants it."""
    return NUMPY if on == NUMPY else ""


def _model(nodes: Sequence[onnx.NodeProto], x: Sequence[int], y: str, weights: Mapping[str, Array]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "case",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info(y, onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    found = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}


def _refuse(where: str, why: str) -> NoReturn:
    raise ModelError("no-recipe-word", where, why)


# --- losses -----------------------------------------------------------------------------------------------------------


def loss_case(case: OnnxCase, on: str) -> list[Compared]:
    """Cross entropy, sample by sample, of a mini-batch of all of them, whose gradient is that of the mean. The second
    output of some cases, the logarithms of the probabilities, is what a network that ends in LogSoftmax infers."""
    (node,) = case.model.graph.node
    attributes = _attributes(node)
    reduction = attributes.get("reduction", "mean")
    if node.op_type != "SoftmaxCrossEntropyLoss":
        _refuse(node.op_type, "cross entropy has its softmax inside")
    if len(node.input) > 2:
        _refuse(node.op_type, "classes have no weights")
    if "ignore_index" in attributes:
        _refuse(node.op_type, "no label is left out")
    if reduction == "sum":
        _refuse(node.op_type, "reduction sum: the loss of a mini-batch is the mean of its samples'")
    x, labels = case.inputs.values()
    n = len(x)
    nodes = [helper.make_node("Add", ["x", "zero"], ["s"]), helper.make_node("LogSoftmax", ["s"], ["y"], axis=1)]
    model = _model(nodes, (1, *x.shape[1:]), "y", {"zero": np.zeros(1)})
    if x.ndim > 2:
        model = _model([helper.make_node("Add", ["x", "zero"], ["y"])], (1, *x.shape[1:]), "y", {"zero": np.zeros(1)})
    with _compiled(model, Recipe(batch=n), x, labels) as (compiled, data):
        run = train(compiled, data, n, on=_on(on))
        logs = infer(compiled, load_data(data, compiled.training), on=on)
    order = np.random.default_rng(compiled.recipe.seed).permutation(n)  # that of `Data.steps`
    losses = np.zeros(n)
    losses[order] = run.loss
    wanted, *more = case.outputs.values()
    found = log_softmax(stored(x))
    bound = found.error[np.arange(n), labels]
    results = [Compared(losses, wanted, bound)]
    if reduction == "mean":
        results = [Compared(losses.mean(keepdims=True), wanted.reshape(1), bound.mean(keepdims=True))]
    return [*results, *(Compared(logs, each, found.half().error) for each in more)]


# --- optimizers -------------------------------------------------------------------------------------------------------


def update_case(case: OnnxCase, on: str) -> list[Compared]:
    """A step of training: of y = x + w, where x is 0, by mean squared error towards the target that makes the gradient
    what the case has. Weights and states begin as the case says; the states are binary32."""
    (node,) = case.model.graph.node
    attributes, values = _attributes(node), list(case.inputs.values())
    rate, time, *tensors = values
    recipe = _optimizer(node.op_type, attributes, float(rate), int(time))
    n_kinds = {"Momentum": 3, "Adam": 4}[node.op_type]  # the weight, its gradient, its states
    n_tensors = len(tensors) // n_kinds
    wanted = list(case.outputs.values())
    found = []
    for at in range(n_tensors):
        weight, gradient, *states = tensors[at::n_tensors]
        computed, near = _step(recipe, weight, gradient, states, on)
        found += [
            Compared(*each) for each in zip(computed, wanted[at::n_tensors], (n.error for n in near), strict=True)
        ]
    return found


def _optimizer(name: str, attributes: Mapping[str, Any], rate: float, time: int) -> Recipe:
    """Momentum's first step takes all of the gradient, as odl always does; Adam's at T = 0 knows no corrections."""
    common = {
        "lr": rate,
        "weight_decay": attributes["norm_coefficient"],
        "loss": "mse",
        "state": "fp32",
        "master": "none",
    }
    if name == "Momentum":
        if time > 0 and attributes["beta"] != 1:
            _refuse(name, "a velocity takes all of the gradient")
        return Recipe(momentum=attributes["alpha"], nesterov=attributes["mode"] == "nesterov", **common)
    if name == "Adam":
        if time > 0 or attributes.get("norm_coefficient_post"):
            _refuse(name, "epsilon is added behind the bias corrections, decay comes before or beside the step")
        betas = {"beta1": attributes["alpha"], "beta2": attributes["beta"]}
        return Recipe(optimizer="adam", epsilon=attributes["epsilon"], **betas, **common)
    return Recipe(optimizer=name.lower())  # refused by odl


def _step(
    recipe: Recipe, weight: Array, gradient: Array, states: Sequence[Array], on: str
) -> tuple[list[Array], list[Near]]:
    """Weight and states after one step, and what they should be near to."""
    n = weight.size
    model = _model([helper.make_node("Add", ["x", "w"], ["y"])], (1, n), "y", {"w": weight})
    target = weight - gradient * np.float32(n / 2)  # the gradient is 2 / n * (y - target)
    with _compiled(model, recipe, np.zeros((1, n)), target[None]) as (compiled, data):
        start = Reference(compiled.program, compiled.training).executor
        held = {each.tensor.name: start.persistent(each.tensor.name) for each in compiled.program.held}
        names = ["w.velocity"] if recipe.optimizer == "sgd" else ["w.mean", "w.variance"]
        held |= {name: state.reshape(n).astype(np.float32) for name, state in zip(names, states, strict=True)}
        if "beta_powers" in held:  # as after many steps, when nothing is left to correct
            held["beta_powers"] = np.zeros(2, np.float32)
        run = train(compiled, data, 1, on=_on(on), weights=held)
    computed = [np.asarray(run.weights[name]).reshape(weight.shape) for name in ("w", *names)]
    w = stored(weight)
    g = (exact(2 / n) * (w - stored(target)).half()).half()
    return computed, _stepped(recipe, w, g, [exact(state) for state in states])


def _stepped(recipe: Recipe, w: Near, g: Near, states: Sequence[Near]) -> list[Near]:
    """Each operation rounded to binary32, and once more for the case's own numbers; the weight to binary16."""

    def times(factor: float, number: Near) -> Near:
        return (exact(factor).single(2) * number).single(2)

    d = (g + times(recipe.weight_decay, w)).single(2)
    if recipe.optimizer == "sgd":
        velocity = (times(recipe.momentum, states[0]) + d).single(2)
        step = (d + times(recipe.momentum, velocity)).single(2) if recipe.nesterov else velocity
        return [(w - times(recipe.lr, step)).single(2).half(), velocity]
    mean = (times(recipe.beta1, states[0]) + times(1 - recipe.beta1, d)).single(2)
    variance = (times(recipe.beta2, states[1]) + times(1 - recipe.beta2, (d * d).single(2)).single(2)).single(2)
    step = (mean / (variance.root().single(2) + exact(recipe.epsilon)).single(2)).single(2)
    return [(w - times(recipe.lr, step)).single(2).half(), mean, variance]


# --- gradients --------------------------------------------------------------------------------------------------------


def gradient_case(case: OnnxCase, on: str) -> list[Compared]:
    """The variables become weights, the first of them added to an input of 0; the gradient of the result is 1 where the
    target of mean squared error lies 1/2 below it; a step by a rate of 1 then leaves the weights lower by their
    gradients."""
    *nodes, gradient = case.model.graph.node
    names, y = list(gradient.input), _attributes(gradient)["y"]
    first = helper.make_node("Add", ["x", "first"], [names[0]])
    weights = {"first" if name == names[0] else name: case.inputs[name].reshape(1) for name in names}
    wanted, *gradients = case.outputs.values()
    target = wanted.reshape(1, 1, 1) - np.float32(0.5)
    recipe = Recipe(loss="mse", lr=1.0, master="none")
    model = _model([first, *nodes], (1, 1), y, weights)
    with _compiled(model, recipe, np.zeros((1, 1)), target) as (compiled, data):
        output = infer(compiled, load_data(data, compiled.training), on=on)
        run = train(compiled, data, 1, on=_on(on))
    # Each operator rounds once forward, once for each of its operands backward; weights, target and update do as well.
    roundings = 3 * len(nodes) + 4
    largest = max(abs(float(value.max())) for value in (*case.inputs.values(), *case.outputs.values()))
    bound = np.full(1, roundings * 2.0**-11 * 2 * largest)
    found = [Compared(output.reshape(1), wanted.reshape(1), bound)]
    for (name, before), expected in zip(weights.items(), gradients, strict=True):
        moved = before.astype(np.float64) - np.asarray(run.weights[name], np.float64)
        found.append(Compared(moved.reshape(1), expected.reshape(1), bound))
    return found
