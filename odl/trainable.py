"""What is trained of a model: which weights, and of a weight which output channels.

A weight is known by the name of its initializer and by the nodes that read it. It counts to the layer that reads it
first, so that nothing before the first trained layer has a backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase

from odl.errors import ModelError, UsageError
from odl.graph import Builder, Graph, Operator, Slice
from odl.ops.accumulate import AccumulateGradient
from odl.ops.add import Add
from odl.ops.conv2d import Conv2d
from odl.ops.dense import Dense
from odl.ops.depthwise import DepthwiseConv2d
from odl.ops.mul import Mul
from odl.recipe import Recipe, channel_run


def select(model: Graph, recipe: Recipe) -> dict[str, Slice | None]:
    """The weights that `recipe` trains, in the model's order, each with the output channels that are trained, None for
    all: `trainable` chooses weights, `parameters` their kinds, `last` their layers, then `channels` cuts them.

    Raises UsageError `no-such-weight`, `too-few-layers`, `no-channels` or `channel-range`, ModelError `no-parameters`.
    """
    weights = find_trainable(model, recipe.trainable)
    if recipe.parameters != "all":
        kind = (_biases if recipe.parameters == "biases" else _norms)(model)
        chosen = tuple(weight for weight in weights if weight in kind)
        if weights and not chosen:
            raise ModelError("no-parameters", recipe.parameters, *_NO_PARAMETERS[recipe.parameters])
        weights = chosen
    if recipe.last:
        weights = _of_last_layers(model, weights, recipe.last)
    return _with_channels(model, weights, recipe.channels)


_NO_PARAMETERS = {
    "biases": ("no convolution or dense layer that `trainable` matches adds a bias", "train all parameters"),
    "norms": (
        "no BatchNormalization that `trainable` matches is in the model",
        "export it without folding them into the convolutions, or train biases",
    ),
}


def find_trainable(model: Graph, patterns: tuple[str, ...]) -> tuple[str, ...]:
    """The weights whose initializer's or node's ONNX name matches a pattern, in the model's order."""
    names = _names(model)
    weights = [name for name, tensor in model.persistent.items() if tensor.origin is not None]
    known = {name for weight in weights for name in names[weight]}
    for pattern in patterns:
        if weights:
            _require_match(pattern, known, "matches no weight and no node that has weights")
    return tuple(weight for weight in weights if any(_matches(names[weight], pattern) for pattern in patterns))


def cut_gradients(build: Builder, gradients: Mapping[str, str], channels: Mapping[str, Slice]) -> None:
    """Make the gradients of partly trained weights of their trained `channels` alone; `build` has the nodes."""
    makers = {node.outputs[0]: at for at, node in enumerate(build.nodes)}
    for weight, run in channels.items():
        _cut(build, makers, gradients[weight], run)


def _cut(build: Builder, makers: Mapping[str, int], gradient: str, channels: Slice) -> None:
    """Cut a gradient, or the terms whose sum it is where layers share the weight."""
    node = build.nodes[makers[gradient]]
    if isinstance(node.op, Add | AccumulateGradient):
        for term in node.inputs:
            _cut(build, makers, term, channels)
    else:
        part = node.op.split(channels.first, len(channels))
        assert part, f"{node.name} cannot be cut"
        build.nodes[makers[gradient]] = replace(node, op=part)
    build.types[gradient] = channels.of(build.types[gradient])


# --- names ------------------------------------------------------------------------------------------------------------


def _names(model: Graph) -> dict[str, set[str]]:
    """Persistent tensor -> its own name and those of the nodes that read it."""
    found = {name: {name} for name in model.persistent}
    for node in model.nodes:
        for value in node.inputs:
            if value in found:
                found[value].add(node.layer)
    return found


def _matches(names: Iterable[str], pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def _require_match(pattern: str, names: Iterable[str], why: str) -> None:
    if not _matches(names, pattern):
        near = _near(pattern, names)
        meant = f"near it: {', '.join(near)} (case counts); all " if near else ""
        raise UsageError("no-such-weight", pattern, why, f"{meant}names: {', '.join(sorted(names))}")


def _near(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that a pattern matches if case does not count, or else those that are spelt alike."""
    lower = {name: name.lower() for name in sorted(names)}
    found = [name for name, text in lower.items() if fnmatchcase(text, pattern.lower())]
    alike = get_close_matches(pattern.lower().strip("*?"), lower.values())
    return found or [name for name, text in lower.items() if text in alike]


# --- kinds and layers -------------------------------------------------------------------------------------------------


def _biases(model: Graph) -> set[str]:
    """The vectors that convolutions and dense layers add, those of a MatMul in an Add of their own."""
    makers = model.producer()
    found: set[str] = set()
    for node in model.nodes:
        if isinstance(node.op, Conv2d | DepthwiseConv2d | Dense):
            found.update(node.inputs[2:])
        elif isinstance(node.op, Add):
            maker = makers.get(node.inputs[0])
            plain = maker is not None and isinstance(maker.op, Dense) and len(maker.inputs) == 2
            found.update(node.inputs[1:] if plain and len(model.types[node.inputs[1]].shape) == 1 else ())
    return found


def _norms(model: Graph) -> set[str]:
    """Scale and shift of every BatchNormalization: the Mul and the Add behind it in one layer make one."""
    makers = model.producer()
    found: set[str] = set()
    for node in model.nodes:
        scaled = makers.get(node.inputs[0])
        if isinstance(node.op, Add) and scaled and isinstance(scaled.op, Mul) and scaled.layer == node.layer:
            found.update((scaled.inputs[1], node.inputs[1]))
    return found


def _of_last_layers(model: Graph, weights: Sequence[str], n_layers: int) -> tuple[str, ...]:
    first: dict[str, str] = {}  # weight -> the layer that reads it first
    for node in model.nodes:
        for value in node.inputs:
            first.setdefault(value, node.layer)
    layers = list(dict.fromkeys(node.layer for node in model.nodes if node.layer in {first[w] for w in weights}))
    if n_layers > len(layers):
        why = f"the last {n_layers} layers are wanted, and {len(layers)} have weights that may be trained"
        raise UsageError("too-few-layers", "last", why, f"layers: {', '.join(layers)}")
    kept = layers[-n_layers:]
    return tuple(weight for weight in weights if first[weight] in kept)


# --- channels ---------------------------------------------------------------------------------------------------------


def _with_channels(model: Graph, weights: Sequence[str], words: Sequence[str]) -> dict[str, Slice | None]:
    """The weights, those that a word of `channels` names with the channels that it says; the last word counts.

    A weight can be cut that only Conv2d and Dense read, as their kernel. Biases, other vectors and depthwise kernels
    are trained whole: a sum over pixels for all channels is one call, and the channels of a depthwise kernel are its
    last axis, so they are no run of rows.
    """
    chosen: dict[str, Slice | None] = dict.fromkeys(weights)
    names, can_be_cut = _names(model), kernels(model, Conv2d, Dense)
    for word in words:
        run = channel_run(word)
        assert run, f"{word} is no word of a recipe"
        _require_match(run.pattern, {name for weight in weights for name in names[weight]}, "matches no trained weight")
        found = [weight for weight in weights if _matches(names[weight], run.pattern)]
        cut = [weight for weight in found if weight in can_be_cut]
        if not cut:
            why = f"matches only {', '.join(found)}: no kernel of Conv, Gemm or MatMul that can be cut"
            raise UsageError("no-channels", word, why, "depthwise kernels and biases have no runs of channels")
        for weight in cut:
            n_channels = model.types[weight].shape[0]
            first, last = run.of(n_channels)
            if last > n_channels:
                raise UsageError("channel-range", word, f"'{weight}' has output channels 0 .. {n_channels - 1}")
            chosen[weight] = None if last - first == n_channels else Slice(0, first, last)
    return chosen


def kernels(model: Graph, *kinds: type[Operator]) -> set[str]:
    """The persistent tensors that are the second operand of operators of these `kinds`, and of nothing else."""
    found = {node.inputs[1] for node in model.nodes if isinstance(node.op, kinds)} & set(model.persistent)
    for node in model.nodes:
        is_kernel = isinstance(node.op, kinds)
        found.difference_update(value for at, value in enumerate(node.inputs) if at != 1 or not is_kernel)
    return found
