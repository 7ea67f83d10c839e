"""Fold BatchNormalization into the convolution before it, so that it costs nothing and still trains.

y = s * (conv(x, w) + b - mean) + beta with s = gamma / sqrt(var + epsilon) is a convolution with kernel s * w and bias
beta + s * (b - mean). The folded weights remember s and the offset, and go back into the ONNX file as new w and beta.

Where gamma and beta are to be trained and the kernel is not, the statistics alone are folded: with r = 1 / sqrt(var +
epsilon), a convolution with kernel r * w and bias r * (b - mean), then y = gamma * that + beta.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from odl import fp16
from odl.graph import fresh
from odl.ops._importer import OnnxNode
from odl.types import Array

Affine = tuple[Array, Array]  # stored = initializer * scale + offset, elementwise, before any transposition


@dataclass(frozen=True)
class Folded:
    """The nodes of a model with its normalisations folded, what that does to initializers, and new constants."""

    nodes: list[OnnxNode]
    affine: dict[str, Affine]
    constants: dict[str, Array]


@dataclass(frozen=True)
class _Pair:
    """A convolution and the normalisation behind it, what takes their places, and what becomes of initializers.

    `fixed` are the constants that the pair takes for granted, which therefore must not be trained elsewhere; `trained`
    are those that may be trained here. `constants` are new.
    """

    conv: OnnxNode
    norm: OnnxNode
    merged: Mapping[str, OnnxNode | None]
    affine: Mapping[str, Affine]
    fixed: frozenset[str]
    trained: frozenset[str]
    constants: Mapping[str, Array] = field(default_factory=dict)


def fold_batch_normalization(
    nodes: Sequence[OnnxNode],
    constants: Mapping[str, Array],
    outputs: Collection[str],
    statistics_only: bool = False,
) -> Folded:
    """Merge every foldable BatchNormalization into its Conv. The nodes' names are unique.

    Foldable: the Conv's result goes nowhere else; no other node reads the kernel or beta, and no node that stays reads
    gamma, the statistics or the Conv's bias; all of them are constant and of fitting shapes; no channel's s is zero or
    infinite (such a kernel could not go back), and binary16 can hold what comes out.

    With `statistics_only` a BatchNormalization of three inputs stays, gamma and beta its last two. Others may then read
    these too.
    """
    readers = Counter(name for node in nodes for name in node.inputs)
    readers.update(outputs)
    makers = {name: node for node in nodes for name in node.outputs if name}
    pairs = []
    for norm in nodes:
        conv = makers.get(norm.input(0))
        if norm.op_type == "BatchNormalization" and conv is not None and conv.op_type == "Conv":
            pair = _pair(conv, norm, readers, constants, statistics_only)
            pairs += [pair] if pair else []
    pairs = _independent(nodes, pairs)
    merged = {name: node for pair in pairs for name, node in pair.merged.items()}
    left = (merged.get(node.name, node) for node in nodes)
    return Folded(
        [node for node in left if node is not None],
        {name: value for pair in pairs for name, value in pair.affine.items()},
        {name: value for pair in pairs for name, value in pair.constants.items()},
    )


def _pair(
    conv: OnnxNode,
    norm: OnnxNode,
    readers: Mapping[str, int],
    constants: Mapping[str, Array],
    statistics_only: bool,
) -> _Pair | None:
    """The pair, or None where it must stay as it is on its own account."""
    parameters = [name for name in (*conv.inputs[1:], *norm.inputs[1:]) if name]
    if len(norm.inputs) != 5 or any(norm.outputs[1:]) or norm.attributes.get("training_mode", 0):
        return None
    kernel, beta = conv.inputs[1], norm.inputs[2]
    alone = (conv.outputs[0], kernel) if statistics_only else (conv.outputs[0], kernel, beta)
    if any(name not in constants for name in parameters) or any(readers[name] != 1 for name in alone):
        return None
    channels = constants[kernel].shape[:1]
    if not channels or any(constants[name].shape != channels for name in set(parameters) - {kernel}):
        return None
    if statistics_only:
        return _normalised(conv, norm, constants, fresh(f"{conv.outputs[0]}.shift", {*readers, *constants}))
    affine = _affine(conv, norm, constants)
    merged = {conv.name: replace(conv, inputs=(conv.inputs[0], kernel, beta), outputs=norm.outputs[:1]),
              norm.name: None}  # fmt: skip
    fixed = frozenset(parameters) - {kernel, beta}
    return _Pair(conv, norm, merged, affine, fixed, frozenset(affine)) if affine else None


def _affine(conv: OnnxNode, norm: OnnxNode, constants: Mapping[str, Array]) -> dict[str, Affine] | None:
    """What becomes of kernel and beta, worked out in binary64; None where it is lost or too large."""
    kernel, beta = conv.inputs[1], norm.inputs[2]
    gamma = constants[norm.inputs[1]].astype(np.float64)
    bias, mean, rstd = _statistics(conv, norm, constants)
    with np.errstate(all="ignore"):
        scale = gamma * rstd
        affine = {kernel: (_rows(scale, constants[kernel]), np.zeros(())), beta: (np.ones(()), (bias - mean) * scale)}
    return affine if bool((scale != 0).all()) and _is_usable(scale, affine, constants) else None


def _normalised(conv: OnnxNode, norm: OnnxNode, constants: Mapping[str, Array], shift: str) -> _Pair | None:
    """The pair whose convolution has the statistics in it, and a new constant `shift` as its bias; None where they are
    too large."""
    x, kernel, *own_bias = conv.inputs
    bias, mean, rstd = _statistics(conv, norm, constants)
    with np.errstate(all="ignore"):
        added = {shift: (bias - mean) * rstd}
        affine = {kernel: (_rows(rstd, constants[kernel]), np.zeros(())), shift: (np.ones(()), np.zeros(()))}
    merged = {conv.name: replace(conv, inputs=(x, kernel, shift)), norm.name: replace(norm, inputs=norm.inputs[:3])}
    fixed = frozenset(name for name in (*own_bias, *norm.inputs[3:]) if name)
    trained = frozenset((kernel, *norm.inputs[1:3]))
    usable = _is_usable(rstd, affine, {**constants, **added})
    return _Pair(conv, norm, merged, affine, fixed, trained, added) if usable else None


def _statistics(conv: OnnxNode, norm: OnnxNode, constants: Mapping[str, Array]) -> tuple[Array, Array, Array]:
    """The convolution's bias, the mean and 1 / sqrt(variance + epsilon), in binary64."""
    mean, variance = (constants[name].astype(np.float64) for name in norm.inputs[3:])
    bias = constants[conv.input(2)].astype(np.float64) if conv.input(2) else np.zeros_like(mean)
    with np.errstate(all="ignore"):
        return bias, mean, 1 / np.sqrt(variance + norm.attributes.get("epsilon", 1e-5))


def _rows(scale: Array, kernel: Array) -> Array:
    """A factor a channel, against a kernel."""
    return scale.reshape(-1, *(1,) * (kernel.ndim - 1))


def _is_usable(scale: Array, affine: Mapping[str, Affine], constants: Mapping[str, Array]) -> bool:
    """Whether the scale is finite, and binary16 can hold what comes out."""
    with np.errstate(all="ignore"):
        folded = [constants[name] * factor + offset for name, (factor, offset) in affine.items()]
    return bool(np.isfinite(scale).all()) and all(np.isfinite(fp16.half(array)).all() for array in folded)


def _independent(nodes: Sequence[OnnxNode], pairs: Sequence[_Pair]) -> list[_Pair]:
    """The pairs whose fixed constants no node reads that stays, be it as part of a pair that is left out."""
    kept = list(pairs)
    while True:
        inside = {node.name for pair in kept for node in (pair.conv, pair.norm)}
        outside = {name for node in nodes if node.name not in inside for name in node.inputs}
        # A pair's own kernel or beta, or another's, is trained: it cannot be fixed here.
        outside.update(name for pair in kept for name in pair.trained)
        sound = [pair for pair in kept if not pair.fixed & outside]
        if len(sound) == len(kept):
            return kept
        kept = sound
