"""A batch that the exporter left open becomes one sample."""

from __future__ import annotations

import onnx


def has_open_batch(value: onnx.ValueInfoProto) -> bool:
    """Whether the first dimension of a tensor, and no other, is a name or not said at all."""
    is_open = [not dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim]
    return is_open[:1] == [True] and not any(is_open[1:])


def with_batch_of_one(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the open batch of its inputs set to 1; what its outputs declare of their shapes is taken away."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    given = {tensor.name for tensor in fixed.graph.initializer}
    for value in fixed.graph.input:
        if value.name not in given and has_open_batch(value):
            value.type.tensor_type.shape.dim[0].dim_value = 1
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    del fixed.graph.value_info[:]
    return fixed
