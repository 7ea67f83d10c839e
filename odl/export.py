"""ONNX out: trained weights back into the model they came from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from odl.frontend import Model
from odl.types import Array


def export_model(model: Model, weights: Mapping[str, Array]) -> onnx.ModelProto:
    """The original model with the initializers of `weights` (stored binary16, by name) replaced.

    Names, order, opset and metadata stay; so does every initializer that is not in `weights`, to the last bit. A
    folded BatchNormalization is unfolded. External data comes back inside the file.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    trained: dict[str, Array] = {}
    for name, stored in weights.items():
        origin = model.graph.persistent[name].origin
        assert origin is not None, f"'{name}' has no initializer to go back to"
        trained[origin.initializer] = origin.restore(stored)
    for initializer in proto.graph.initializer:
        if initializer.name in trained:
            old = numpy_helper.to_array(initializer)
            new = trained[initializer.name].reshape(old.shape).astype(old.dtype)
            initializer.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(new), initializer.name))
    return proto
