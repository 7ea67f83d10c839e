"""Batch normalisation by frozen statistics, where it is not folded into a convolution: composed of Sub, Mul and Add."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from odl import fp16
from odl.graph import Persistent, fresh
from odl.ops._importer import Importer, OnnxNode, Sample, imports
from odl.ops.add import Add
from odl.ops.mul import Mul
from odl.ops.sub import Sub
from odl.types import Array, Shape, TensorType


def _samples() -> Iterable[Sample]:
    def norm(shape: Shape, attributes: Mapping[str, float] | None = None) -> Sample:
        channels = shape[1]
        variance = np.linspace(0.05, 4, channels, dtype=np.float32)
        vectors = ((channels,),) * 4
        return Sample("BatchNormalization", (shape, *vectors), attributes or {}, (1, 2, 3, 4), {4: variance})

    yield norm((1, 3, 4, 5))
    yield norm((1, 1, 2, 1))
    yield norm((1, 7))
    yield norm((3, 5), {"epsilon": 0.1})


@imports(
    "BatchNormalization", samples=_samples, limits="inference form; rank 2 or 4; mean and variance are not trained"
)
def _import(imp: Importer, node: OnnxNode) -> None:
    """y = ((x - mean) * rstd) * scale + bias per channel, each operation rounded to binary16.

    mean and rstd = 1 / sqrt(variance + epsilon), worked out in binary64, are rounded to binary16 and frozen; scale and
    bias are weights. Where the convolution before has the statistics in its kernel (`odl.folding`), the node comes
    without them, and y = x * scale + bias.
    """
    x, *vectors = node.inputs
    shape, y = imp.shape(x), node.outputs[0]
    imp.expect(not node.attributes.get("training_mode", 0), "training_mode = 1 is not supported", EVAL_HINT)
    imp.expect(not any(node.outputs[1:]), "the statistics of the batch are not computed", EVAL_HINT)
    imp.require(len(shape) in (2, 4), f"input {shape} is of rank {len(shape)}, not 2 or 4")
    arrays = [imp.constant(name, what) for name, what in zip(vectors, _VECTORS, strict=False)]
    for array in arrays:
        imp.require(array.shape == shape[1:2], f"{array.shape} against {shape[1]} channels")
    normal = _normalised(imp, node, *arrays[2:]) if arrays[2:] else imp.value(x)
    scaled = imp.build.add(Mul(), (normal, imp.weight(vectors[0], (0,))), f"{y}.scaled")
    imp.bind(y, imp.add(Add(), (scaled, imp.weight(vectors[1], (0,)))), shape)


def _normalised(imp: Importer, node: OnnxNode, mean: Array, variance: Array) -> str:
    y, build = node.outputs[0], imp.build
    with np.errstate(all="ignore"):
        rstd = 1 / np.sqrt(variance.astype(np.float64) + node.attributes.get("epsilon", 1e-5))
    centred = build.add(Sub(), (imp.value(node.input(0)), _frozen(imp, f"{y}.mean", mean)), f"{y}.centred")
    return build.add(Mul(), (centred, _frozen(imp, f"{y}.rstd", rstd)), f"{y}.normalised")


def _frozen(imp: Importer, name: str, vector: Array) -> str:
    """A constant without an ONNX origin, which therefore is not trained."""
    rounded = fp16.half(vector)
    if not np.isfinite(rounded).all():
        imp.refuse("weight-overflow", f"'{name}' is not finite in binary16")
    return imp.build.hold(Persistent(fresh(name, imp.build.types), TensorType(rounded.shape), rounded))


EVAL_HINT = "export the model in evaluation mode"
_VECTORS = ("scale", "bias", "mean", "variance")
