"""What may be trained of a layer: its vectors alone, or with them a run of each kernel's output channels.

An option says which weights, and which rows of them, by what share of its kernels it trains and what that contributes
(`odl.contribution`). Runs come in eighths of a kernel, each where the contribution is greatest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from odl.graph import Graph, Slice
from odl.ops.conv2d import Conv2d
from odl.ops.dense import Dense
from odl.ops.depthwise import DepthwiseConv2d
from odl.recipe import Recipe
from odl.trainable import kernels, select
from odl.types import Array

RUNS = 8


@dataclass(frozen=True)
class Option:
    """Training `weights` of one layer, each with its trained rows or None for all.

    `share` is that of the rows of its kernels: 0 where it trains vectors alone, 1 where it trains all that there is.
    `gain` is the contribution. `weight_bytes` then lie in RAM, `saved_bytes` of activations are kept for its gradients,
    and `elements` may change.
    """

    layer: str
    weights: tuple[tuple[str, Slice | None], ...]
    share: float
    gain: float
    weight_bytes: int
    saved_bytes: int
    elements: int


Offers = Mapping[str, Sequence[Option]]


def offered(model: Graph, recipe: Recipe, rows: Mapping[str, Array]) -> dict[str, tuple[Option, ...]]:
    """For each layer of `model` that has weights in `rows`, in the layers' order, its options from the smallest on.

    A weight counts to the layer that reads it first. Options that a recipe cannot express, since another tensor or node
    has the same name as the weight, are left out, and so are layers without any other.
    """
    found = {layer: tuple(_options(model, layer, names, rows)) for layer, names in _by_layer(model, rows).items()}
    exact = {
        layer: tuple(each for each in options if _is_exact(model, recipe, each)) for layer, options in found.items()
    }
    return {layer: options for layer, options in exact.items() if options}


def recipe_for(recipe: Recipe, chosen: Iterable[Option]) -> Recipe:
    """The recipe, but training what is chosen, by its exact names."""
    weights = [pair for option in chosen for pair in option.weights]
    names = tuple(escaped(name) for name, _ in weights)
    runs = tuple(f"{escaped(name)}={run.first}:{run.last}" for name, run in weights if run)
    return replace(recipe, trainable=names, channels=runs, last=0)


def escaped(name: str) -> str:
    """The pattern that matches a name and nothing else; of a line end, which `channels` cannot say, any character."""
    return re.sub(r"[*?[]", r"[\g<0>]", name).replace("\n", "?")


def _by_layer(model: Graph, names: Iterable[str]) -> dict[str, list[str]]:
    first: dict[str, str] = {}
    for node in model.nodes:
        for value in node.inputs:
            first.setdefault(value, node.layer)
    wanted = set(names)
    layers: dict[str, list[str]] = {node.layer: [] for node in model.nodes}
    for name in model.persistent:
        if name in wanted:
            layers[first[name]].append(name)
    return {layer: weights for layer, weights in layers.items() if weights}


def _options(model: Graph, layer: str, names: Sequence[str], rows: Mapping[str, Array]) -> Iterator[Option]:
    """From the smallest; of runs of equal length, which a small kernel has, one."""
    cut = sorted(kernels(model, Conv2d, Dense) & set(names), key=names.index)
    vectors = [name for name in names if name not in kernels(model, Conv2d, Dense, DepthwiseConv2d)]
    if vectors and len(vectors) < len(names):
        yield _option(model, layer, dict.fromkeys(vectors), rows, 0.0)
    n_rows = sum(len(rows[name]) for name in cut)
    seen = {n_rows}
    for eighths in range(1, RUNS):
        runs = {name: best_run(rows[name], max(1, len(rows[name]) * eighths // RUNS)) for name in cut}
        if (n_trained := sum(map(len, runs.values()))) not in seen and n_trained:
            seen.add(n_trained)
            wanted = {name: None if len(run) == len(rows[name]) else run for name, run in runs.items()}
            yield _option(model, layer, {**dict.fromkeys(names), **wanted}, rows, n_trained / n_rows)
    yield _option(model, layer, dict.fromkeys(names), rows, 1.0)


def best_run(rows: Array, length: int) -> Slice:
    """The `length` neighbours of the greatest sum; of equals, the first."""
    sums = [float(rows[first : first + length].sum()) for first in range(len(rows) - length + 1)]
    first = int(np.argmax(sums))
    return Slice(0, first, first + length)


def _option(
    model: Graph, layer: str, weights: Mapping[str, Slice | None], rows: Mapping[str, Array], share: float
) -> Option:
    trained = {name: rows[name][run.first : run.last] if run else rows[name] for name, run in weights.items()}
    types = {name: model.types[name] for name in weights}
    elements = sum(types[name].n_elems // len(rows[name]) * len(kept) for name, kept in trained.items())
    saved = {
        node.inputs[0]: model.types[node.inputs[0]].n_bytes
        for node in model.nodes if share and set(node.inputs[1:2]) & set(weights)
    }  # fmt: skip
    gain = sum(float(kept.sum()) for kept in trained.values())
    weight_bytes = sum(type_.n_bytes for type_ in types.values())
    return Option(layer, tuple(weights.items()), share, gain, weight_bytes, sum(saved.values()), elements)


def _is_exact(model: Graph, recipe: Recipe, option: Option) -> bool:
    named = recipe_for(recipe, [option])
    names = select(model, replace(named, channels=()))  # first: a run may be no run of another weight of this name
    return names.keys() == dict(option.weights).keys() and select(model, named) == dict(option.weights)
