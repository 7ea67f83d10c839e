"""Fold BatchNormalization into the convolution before it, so that it costs nothing and still trains.

y = s * (conv(x, w) + b - mean) + beta with s = gamma / sqrt(var + epsilon) is a convolution with kernel s * w and bias
beta + s * (b - mean). The folded weights remember s and the offset, and go back into the ONNX file as new w and beta.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from odl.ops._importer import OnnxNode
from odl.types import Array

Affine = tuple[Array, Array]  # stored = initializer * scale + offset, elementwise, before any transposition


def fold_batch_normalization(
    nodes: Sequence[OnnxNode], constants: Mapping[str, Array], outputs: Collection[str]
) -> tuple[list[OnnxNode], dict[str, Affine]]:
    """The nodes with every foldable BatchNormalization merged into its Conv, and what that does to initializers.

    Foldable: the Conv's result goes nowhere else, the kernel and beta are read by no other node, all statistics are
    constant, and no channel's s is zero or infinite (such a kernel could not go back).
    """
    readers = Counter(name for node in nodes for name in node.inputs)
    readers.update(outputs)
    makers = {name: node for node in nodes for name in node.outputs}
    affine: dict[str, Affine] = {}
    replaced: dict[str, OnnxNode] = {}
    gone: set[str] = set()
    for node in nodes:
        conv = makers.get(node.input(0))
        if node.op_type != "BatchNormalization" or conv is None or conv.op_type != "Conv":
            continue
        scale = _foldable(conv, node, readers, constants)
        if scale is None:
            continue
        kernel, beta = conv.inputs[1], node.inputs[2]
        bias = constants[conv.input(2)] if conv.input(2) else np.zeros_like(scale)
        shape = (-1, *(1,) * (constants[kernel].ndim - 1))
        affine[kernel] = (scale.reshape(shape), np.zeros(()))
        affine[beta] = (np.ones(()), (bias.astype(np.float64) - constants[node.inputs[3]]) * scale)
        replaced[conv.name] = replace(conv, inputs=(conv.inputs[0], kernel, beta), outputs=node.outputs[:1])
        gone.add(node.name)
    return [replaced.get(node.name, node) for node in nodes if node.name not in gone], affine


def _foldable(
    conv: OnnxNode, norm: OnnxNode, readers: Mapping[str, int], constants: Mapping[str, Array]
) -> Array | None:
    """s of each channel in binary64, or None where the pair must stay as it is."""
    parameters = (*conv.inputs[1:], *norm.inputs[1:])
    if len(norm.inputs) != 5 or len(norm.outputs) != 1 or norm.attributes.get("training_mode", 0):
        return None
    if any(name and name not in constants for name in parameters):
        return None
    if any(readers[name] != 1 for name in (conv.outputs[0], conv.inputs[1], norm.inputs[2])):
        return None
    gamma, _, _, variance = (constants[name].astype(np.float64) for name in norm.inputs[1:])
    epsilon = norm.attributes.get("epsilon", 1e-5)
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + epsilon)
    usable = np.isfinite(scale).all() and (scale != 0).all()
    return scale if usable and gamma.shape == constants[conv.inputs[1]].shape[:1] else None
