"""ONNX out: trained weights back into the model they came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from odl.errors import ModelError, Problem
from odl.frontend import Model
from odl.graph import fresh
from odl.types import Array

_DATA_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data", "raw_data")


def export_model(model: Model, weights: Mapping[str, Array]) -> onnx.ModelProto:
    """The original model with what training changed in `weights` (as stored, by name) put into its initializers.

    They are binary16, or binary64 where adapters have been added to them. Every element whose number is still the first
    one keeps its original bits, and with it whatever binary16 lost; so do all other initializers, names, order, opset,
    metadata and comments. A folded BatchNormalization is unfolded; statistics that the file shares with a weight that
    changed become initializers of their own. External data comes back inside the file. Raises ModelError
    `weight-not-finite` for weights that training drove out of range.
    """
    trained: dict[str, Array] = {}
    problems = []
    for name, stored in weights.items():
        tensor = model.graph.persistent[name]
        assert tensor.origin is not None, f"'{name}' has no initializer to go back to"
        with np.errstate(all="ignore"):
            trained[name] = tensor.origin.restore(stored)
        if not np.isfinite(trained[name]).all():
            problems.append(Problem("weight-not-finite", name, "holds NaN or infinity", "train with a lower --lr"))
    if problems:
        raise ModelError.of(problems)
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for initializer in proto.graph.initializer:
        if initializer.name in trained:
            tensor = model.graph.persistent[initializer.name]
            assert tensor.origin is not None
            changed = trained[initializer.name] != tensor.origin.restore(tensor.initial)
            _write(initializer, trained[initializer.name], changed)
    _keep_statistics(proto.graph, {tensor.name: tensor for tensor in model.proto.graph.initializer})
    return proto


def _keep_statistics(graph: onnx.GraphProto, before: Mapping[str, onnx.TensorProto]) -> None:
    """Give a BatchNormalization whose mean or variance is a weight that changed, maybe by way of Identity nodes, the
    numbers of before."""
    same = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Identity"}
    names = {name for node in graph.node for name in (*node.input, *node.output)} | {*before}
    after = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "BatchNormalization":
            continue
        for at in range(3, len(node.input)):
            source = node.input[at]
            while source in same and source not in after:
                source = same[source]
            if source in after and after[source] != before[source]:
                kept = graph.initializer.add()
                kept.CopyFrom(before[source])
                kept.name = node.input[at] = fresh(f"{node.input[at]}.kept", names)
                names.add(kept.name)


def write_model(proto: onnx.ModelProto, path: Path) -> None:
    """Write a model with all its data in one file."""
    onnx.save(proto, path)


def _write(initializer: onnx.TensorProto, values: Array, changed: Array) -> None:
    """Replace the elements of an initializer that are `changed`, and nothing else of it."""
    if not changed.any():
        return
    old = numpy_helper.to_array(initializer)
    new = np.where(changed, values, old).astype(old.dtype)
    for field in _DATA_FIELDS:
        initializer.ClearField(field)
    initializer.raw_data = numpy_helper.from_array(new).raw_data
