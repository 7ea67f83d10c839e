"""Small ONNX models for tests, a line each.

model(node("Gemm", "x w", "y", transB=1), x=(1, 4), w=draw(3, 4)) reads `x`, computes `y`; arrays are initializers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from odl.api import Compiled, compile_model
from odl.errors import OdlError
from odl.executor import Executor
from odl.fp16 import half
from odl.frontend import Model, load_model
from odl.ops._importer import CHANNELS_FIRST, CHANNELS_LAST
from odl.recipe import Recipe
from odl.training import INFER
from odl.types import Array, Shape

Dims = Sequence[int | str | None]


def node(op_type: str, inputs: str, outputs: str, name: str = "", **attributes: object) -> onnx.NodeProto:
    """`inputs` and `outputs` are words; a dot is an input left out."""
    operands = ["" if word == "." else word for word in inputs.split()]
    return helper.make_node(op_type, operands, outputs.split(), name=name, **attributes)


def model(
    *nodes: onnx.NodeProto,
    x: Dims | None = (1, 4),
    inputs: Sequence[onnx.ValueInfoProto] | None = None,
    outputs: str = "y",
    opset: int = 17,
    functions: Sequence[onnx.FunctionProto] = (),
    **weights: Array,
) -> onnx.ModelProto:
    """A model from `x`, or `inputs`, to `outputs`, with the other arguments as initializers."""
    sources = [value("x", x)] if inputs is None else list(inputs)
    results = [value(name, None) for name in outputs.split()]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(list(nodes), "small", sources, results, tensors)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("custom", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8)


def value(name: str, shape: Dims | None, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def draw(*shape: int, seed: int = 0, scale: float = 0.5) -> Array:
    """Normal random numbers, as float32."""
    return np.random.default_rng([seed, *shape]).normal(0, scale, shape).astype(np.float32)


def mlp(classes: int = 3) -> onnx.ModelProto:
    """Two dense layers: 4 inputs, 5 hidden, `classes` outputs."""
    return model(
        node("Gemm", "x w1 b1", "h", "fc1", transB=1), node("Relu", "h", "r", "relu"),
        node("Gemm", "r w2 b2", "y", "fc2", transB=1),
        w1=draw(5, 4), b1=draw(5), w2=draw(classes, 5), b2=draw(classes),
    )  # fmt: skip


def cnn() -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu, MaxPool, dense: (1, 2, 6, 6) to 3 classes."""
    return model(
        node("Conv", "x w b", "c", "conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("BatchNormalization", "c gamma beta mean var", "n", "bn"), node("Relu", "n", "r", "relu"),
        node("MaxPool", "r", "p", "pool", kernel_shape=[2, 2], strides=[2, 2]), node("Flatten", "p", "f", "flat"),
        node("Gemm", "f v c0", "y", "fc", transB=1), x=(1, 2, 6, 6),
        w=draw(5, 2, 3, 3), b=draw(5), gamma=1 + draw(5, scale=0.1), beta=draw(5), mean=draw(5),
        var=1 + draw(5, scale=0.1) ** 2, v=draw(3, 45), c0=draw(3),
    )  # fmt: skip


def save(folder: Path, proto: onnx.ModelProto, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path


def load(folder: Path, proto: onnx.ModelProto) -> Model:
    return load_model(save(folder, proto))


def compiled(folder: Path, proto: onnx.ModelProto, target: str = "host", **recipe: object) -> Compiled:
    return compile_model(save(folder, proto), Recipe(**recipe), target)  # type: ignore[arg-type]


def infer(program: Compiled, x: Array) -> Array:
    """What the executor computes from x, both in ONNX order."""
    stored = half(x.transpose(CHANNELS_LAST) if x.ndim == 4 else x)
    y = Executor(program.program).run(INFER, {program.training.sample: stored})[0]
    return y.transpose(CHANNELS_FIRST) if y.ndim == 4 else y


def reference(proto: onnx.ModelProto, x: Array) -> Array:
    """What ONNX's reference evaluator computes from x, which it gets as the binary16 numbers that odl reads."""
    result = ReferenceEvaluator(proto).run(None, {proto.graph.input[0].name: half(x).astype(np.float32)})[0]
    return np.asarray(result)


def widened(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same model in binary64."""
    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    for tensor in wide.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for described in (*wide.graph.input, *wide.graph.output):
        described.type.tensor_type.elem_type = TensorProto.DOUBLE
    return wide


def input_shape(proto: onnx.ModelProto) -> Shape:
    return tuple(dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim)


def refusal(action: Callable[[], object]) -> OdlError:
    """The refusal that `action` must end in."""
    with pytest.raises(OdlError) as caught:
        action()
    return caught.value


def codes(error: OdlError) -> list[str]:
    return [problem.code for problem in error.problems]
