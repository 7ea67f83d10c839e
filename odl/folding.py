"""Fold BatchNormalization into the convolution before it, so that it costs nothing and still trains.

y = s * (conv(x, w) + b - mean) + beta with s = gamma / sqrt(var + epsilon) is a convolution with kernel s * w and bias
beta + s * (b - mean). The folded weights remember s and the offset, and go back into the ONNX file as new w and beta.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from odl import fp16
from odl.ops._importer import OnnxNode
from odl.types import Array

Affine = tuple[Array, Array]  # stored = initializer * scale + offset, elementwise, before any transposition


@dataclass(frozen=True)
class _Pair:
    """A convolution and the normalisation behind it: what to multiply the kernel by, what to add to beta.

    `fixed` are the constants that the pair takes for granted, which therefore must not be trained elsewhere.
    """

    conv: OnnxNode
    norm: OnnxNode
    affine: Mapping[str, Affine]
    fixed: frozenset[str]

    def merged(self) -> OnnxNode:
        kernel, beta = self.affine
        return replace(self.conv, inputs=(self.conv.inputs[0], kernel, beta), outputs=self.norm.outputs[:1])


def fold_batch_normalization(
    nodes: Sequence[OnnxNode], constants: Mapping[str, Array], outputs: Collection[str]
) -> tuple[list[OnnxNode], dict[str, Affine]]:
    """The nodes, whose names are unique, with every foldable BatchNormalization merged into its Conv, and what that
    does to initializers.

    Foldable: the Conv's result goes nowhere else; no other node reads the kernel or beta, and no node that stays reads
    gamma, the statistics or the Conv's bias; all of them are constant and of fitting shapes; no channel's s is zero or
    infinite (such a kernel could not go back), and binary16 can hold what comes out.
    """
    readers = Counter(name for node in nodes for name in node.inputs)
    readers.update(outputs)
    makers = {name: node for node in nodes for name in node.outputs if name}
    pairs = []
    for norm in nodes:
        conv = makers.get(norm.input(0))
        if norm.op_type == "BatchNormalization" and conv is not None and conv.op_type == "Conv":
            pair = _pair(conv, norm, readers, constants)
            pairs += [pair] if pair else []
    pairs = _independent(nodes, pairs)
    merged = {pair.conv.name: pair.merged() for pair in pairs}
    gone = {pair.norm.name for pair in pairs}
    affine = {name: value for pair in pairs for name, value in pair.affine.items()}
    return [merged.get(node.name, node) for node in nodes if node.name not in gone], affine


def _pair(conv: OnnxNode, norm: OnnxNode, readers: Mapping[str, int], constants: Mapping[str, Array]) -> _Pair | None:
    """The pair, or None where it must stay as it is on its own account."""
    parameters = [name for name in (*conv.inputs[1:], *norm.inputs[1:]) if name]
    if len(norm.inputs) != 5 or any(norm.outputs[1:]) or norm.attributes.get("training_mode", 0):
        return None
    kernel, beta = conv.inputs[1], norm.inputs[2]
    if any(name not in constants for name in parameters) or any(
        readers[name] != 1 for name in (conv.outputs[0], kernel, beta)
    ):
        return None
    fixed = frozenset(parameters) - {kernel, beta}
    channels = constants[kernel].shape[:1]
    if not channels or any(constants[name].shape != channels for name in (*fixed, beta)):
        return None
    affine = _affine(conv, norm, constants)
    return _Pair(conv, norm, affine, fixed) if affine else None


def _affine(conv: OnnxNode, norm: OnnxNode, constants: Mapping[str, Array]) -> dict[str, Affine] | None:
    """What becomes of kernel and beta, worked out in binary64; None where it is lost or too large."""
    kernel, beta = conv.inputs[1], norm.inputs[2]
    gamma, _, mean, variance = (constants[name].astype(np.float64) for name in norm.inputs[1:])
    bias = constants[conv.input(2)].astype(np.float64) if conv.input(2) else np.zeros_like(gamma)
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + norm.attributes.get("epsilon", 1e-5))
        rows = scale.reshape(-1, *(1,) * (constants[kernel].ndim - 1))
        affine = {kernel: (rows, np.zeros(())), beta: (np.ones(()), (bias - mean) * scale)}
        folded = [constants[name] * factor + offset for name, (factor, offset) in affine.items()]
    usable = bool((scale != 0).all()) and all(np.isfinite(fp16.half(array)).all() for array in folded)
    return affine if usable and np.isfinite(scale).all() else None


def _independent(nodes: Sequence[OnnxNode], pairs: Sequence[_Pair]) -> list[_Pair]:
    """The pairs whose fixed constants no node reads that stays, be it as part of a pair that is left out."""
    kept = list(pairs)
    while True:
        inside = {node.name for pair in kept for node in (pair.conv, pair.norm)}
        outside = {name for node in nodes if node.name not in inside for name in node.inputs}
        # A pair's own kernel or beta, or another's, is trained: it cannot be fixed here.
        outside.update(name for pair in kept for name in pair.affine)
        sound = [pair for pair in kept if not pair.fixed & outside]
        if len(sound) == len(kept):
            return kept
        kept = sound
