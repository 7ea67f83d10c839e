"""How far binary16 may lead away from ONNX's numbers: a bound for every element of a model's output.

A number travels with a bound on how far odl's own may be from it (`Near`), through the operators of the model, as in
J. H. Wilkinson's Rounding Errors in Algebraic Processes (1963). Inputs and weights are rounded to binary16 at the
start: by 2^-11 of their size, or by 2^-25 where they are subnormal. Then each operator hands on the error of what it
reads, and adds its own roundings, those of docs/NUMERICS.md:

- What only moves numbers rounds nothing. Nor do the greatest of a window, Relu and Clip, which bring no two numbers
  further apart than they were.
- What is linear in each of its operands, with coefficients that are not negative (a sum of products, an average), is
  asked itself: with |x| the operands' sizes and e their errors, the result's is F(|x| + e) - F(|x|), all ways to mix
  them together. A sum of n terms in binary32 adds n * 2^-24 * F(|x| + e), once for odl and once for the case's own
  numbers, which ONNX's authors had computed in binary32; the result is rounded to binary16.
- The slope of Sigmoid is 1/4 at most, that of Tanh 1, that of HardSwish 1.5. With e the largest error of a row, a
  softmax grows by a factor of exp(2 e) at most, and its logarithm moves by 2 e.

The bound follows from the inputs of the case, so it is as wide as binary16 is coarse: of logits around 10,000, where
its numbers are 8 apart, not much is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from odl.types import Array

HALF, LEAST_HALF = 2.0**-11, 2.0**-25  # half of a last place: of 1 to 2, and of subnormal numbers
SINGLE = 2.0**-24
FUNCTIONS = 2 * SINGLE  # exp, log, tanh and sigmoid in binary32 (odl/fp16.py), of their size


@dataclass(frozen=True)
class Near:
    """Numbers in binary64, and how far from them what odl has may be."""

    value: Array
    error: Array

    def __add__(self, other: Near) -> Near:
        return Near(self.value + other.value, self.error + other.error)

    def __sub__(self, other: Near) -> Near:
        return Near(self.value - other.value, self.error + other.error)

    def __mul__(self, other: Near) -> Near:
        crossed = abs(self.value) * other.error + abs(other.value) * self.error
        return Near(self.value * other.value, crossed + self.error * other.error)

    def __truediv__(self, other: Near) -> Near:
        """By what is further from zero than its error."""
        quotient = self.value / other.value
        return Near(quotient, (self.error + abs(quotient) * other.error) / (abs(other.value) - other.error))

    def root(self) -> Near:
        """Of what is positive: sqrt(a) - sqrt(b) = (a - b) / (sqrt(a) + sqrt(b))."""
        return Near(np.sqrt(self.value), self.error / np.sqrt(self.value))

    def half(self) -> Near:
        """Rounded to binary16."""
        return Near(self.value, self.error + HALF * (abs(self.value) + self.error) + LEAST_HALF)

    def single(self, times: float = 1) -> Near:
        """Rounded to binary32, some times."""
        return Near(self.value, self.error + times * SINGLE * (abs(self.value) + self.error))


def exact(value: Any) -> Near:
    wide = np.asarray(value, np.float64)
    return Near(wide, np.zeros_like(wide))


def stored(value: Any) -> Near:
    """What is rounded to binary16 once."""
    return exact(value).half()


def through(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Near]:
    """The outputs of a model of odl's operators, of which inputs and initializers are rounded to binary16."""
    known: dict[str, Any] = {name: _operand(value) for name, value in feeds.items()}
    known |= {tensor.name: _operand(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer}
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    for node in model.graph.node:
        operands = [known[name] if name else None for name in node.input]
        if node.op_type == "Constant":
            known[node.output[0]] = _operand(_evaluate(node, [], opset))
        elif node.op_type == "Split":
            for at, name in enumerate(node.output):
                value, error = (_evaluate(node, _map(operands, part), opset, at) for part in (_value, _error))
                known[name] = Near(value, error)
        elif node.op_type == "Shape":
            known[node.output[0]] = _evaluate(node, _map(operands, _value), opset)
        elif not any(isinstance(operand, Near) for operand in operands):  # arithmetic on shapes
            known[node.output[0]] = _evaluate(node, operands, opset)
        else:
            known[node.output[0]] = _RULES[node.op_type](node, operands, opset)
    return [known[value.name] for value in model.graph.output]


def _operand(value: Array) -> Any:
    """Shapes and axes stay as they are."""
    return stored(value) if value.dtype.kind == "f" else value


def _evaluate(node: onnx.NodeProto, operands: list[Any], opset: int, at: int = 0) -> Array:
    """What ONNX's evaluator makes of an output, the first if not said, in binary64."""
    names = [name for name, value in zip(node.input, operands, strict=True) if value is not None]
    inputs = [helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, None) for name in dict.fromkeys(names)]
    output = helper.make_tensor_value_info(node.output[at], onnx.TensorProto.DOUBLE, None)
    graph = helper.make_graph([node], "one", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    feeds = {name: value for name, value in zip(node.input, operands, strict=True) if value is not None}
    return np.asarray(ReferenceEvaluator(model).run(None, feeds)[0])


# --- rules: (node, operands, opset) -> its output ---------------------------------------------------------------------

Rule = Callable[[onnx.NodeProto, list[Any], int], Near]


def _value(x: Near) -> Array:
    return x.value


def _error(x: Near) -> Array:
    return x.error


def _size(x: Near) -> Array:
    return abs(x.value)


def _most(x: Near) -> Array:
    return abs(x.value) + x.error


def _map(operands: list[Any], change: Callable[[Near], Array]) -> list[Any]:
    return [change(operand) if isinstance(operand, Near) else operand for operand in operands]


def _moved(node: onnx.NodeProto, operands: list[Any], opset: int) -> Near:
    value, error = (_evaluate(node, _map(operands, part), opset) for part in (_value, _error))
    return Near(value, abs(error))


def _linear(node: onnx.NodeProto, operands: list[Any], opset: int) -> Near:
    value = _evaluate(node, _map(operands, _value), opset)
    larger, scale = _without_signs(node)
    # A factor that goes into the weights before they are rounded does not make the least rounding less.
    operands = [Near(x.value, x.error + LEAST_HALF * scale) if isinstance(x, Near) else x for x in operands]
    size, most = (_evaluate(larger, _map(operands, part), opset) for part in (_size, _most))
    terms = _terms(node, operands)
    return Near(value, most - size + 2 * (terms + 2) * SINGLE * most).half()


def _without_signs(node: onnx.NodeProto) -> tuple[onnx.NodeProto, float]:
    """The node with nothing that is subtracted, and what the least rounding of weights may grow by."""
    found = onnx.NodeProto()
    found.CopyFrom(node)
    found.op_type = "Add" if node.op_type == "Sub" else node.op_type
    scale = 0.0
    for attribute in found.attribute:
        if attribute.name in ("alpha", "beta") and attribute.f:
            attribute.f = abs(attribute.f)
            scale += 1 / attribute.f
    return found, scale


def _terms(node: onnx.NodeProto, operands: list[Any]) -> int:
    """How many terms a sum has at most, a bias with them."""
    x: Array = operands[0].value
    if node.op_type == "Conv":
        return int(prod(operands[1].value.shape[1:])) + 1
    if node.op_type in ("Gemm", "MatMul"):
        return max(x.shape) + 1
    if node.op_type == "AveragePool":
        return int(prod(_attribute(node, "kernel_shape", ())))
    return x.size if node.op_type in ("GlobalAveragePool", "ReduceMean") else 2


def _relu(node: onnx.NodeProto, operands: list[Any], opset: int) -> Near:
    return Near(_evaluate(node, _map(operands, _value), opset), operands[0].error)


def _clip(node: onnx.NodeProto, operands: list[Any], opset: int) -> Near:
    errors = [operand.error for operand in operands if operand is not None]
    largest = errors[0]
    for error in errors[1:]:
        largest = np.maximum(largest, error)
    return Near(_evaluate(node, _map(operands, _value), opset), largest)


def _function(slope: float) -> Rule:
    def rule(node: onnx.NodeProto, operands: list[Any], opset: int) -> Near:
        value = _evaluate(node, [operands[0].value], opset)
        return Near(value, slope * operands[0].error + FUNCTIONS * abs(value)).half()

    return rule


def _hard_swish(node: onnx.NodeProto, operands: list[Any], opset: int) -> Near:
    """Its slope is 1.5 at most; x / 6, + 0.5, and that times x are rounded to binary32."""
    (x,) = operands
    size = abs(x.value) + x.error
    return Near(_evaluate(node, [x.value], opset), 1.5 * x.error + 4 * SINGLE * size * (size / 6 + 0.5)).half()


def _leaky_relu(node: onnx.NodeProto, operands: list[Any], opset: int) -> Near:
    x, alpha = operands[0], abs(_attribute(node, "alpha", 0.01))
    value = _evaluate(node, [x.value], opset)
    slope = np.where(x.value > x.error, 1, np.where(x.value < -x.error, alpha, max(1.0, alpha)))
    rounded = stored(alpha).error * (abs(x.value) + x.error)
    return Near(value, slope * x.error + rounded).half()


def _batch_normalization(node: onnx.NodeProto, operands: list[Any], _opset: int) -> Near:
    x, *vectors = operands
    shape = (1, -1, *(1 for _ in x.value.shape[2:]))
    scale, bias, mean, variance = (vector.value.reshape(shape) for vector in vectors)
    rstd = stored(1 / np.sqrt(variance + _attribute(node, "epsilon", 1e-5)))
    normal = ((x - stored(mean)).half() * rstd).half()
    found = ((normal * stored(scale)).half() + stored(bias)).half()
    return Near(found.value, found.error + 8 * SINGLE * abs(found.value))  # the last term is of ONNX's own numbers


def _softmax(node: onnx.NodeProto, operands: list[Any], opset: int) -> Near:
    x, axis = operands[0], int(_attribute(node, "axis", -1))
    largest = x.error.max(axis=axis, keepdims=True)
    value = _evaluate(node, [x.value], opset)
    own = (2 * x.value.shape[axis] + 8) * SINGLE
    return Near(value, value * (np.expm1(2 * largest) + own)).half()


def log_softmax(x: Near, axis: int = -1) -> Near:
    """Before it is rounded to binary16."""
    largest = x.error.max(axis=axis, keepdims=True)
    shifted = x.value - x.value.max(axis=axis, keepdims=True)
    total = np.exp(shifted).sum(axis=axis, keepdims=True)
    own = (2 * x.value.shape[axis] + 8) * SINGLE
    return Near(shifted - np.log(total), 2 * largest + own * (1 + abs(shifted) + np.log(total)))


def _log_softmax(node: onnx.NodeProto, operands: list[Any], _opset: int) -> Near:
    return log_softmax(operands[0], int(_attribute(node, "axis", -1))).half()


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default


_MOVES = (
    "Concat", "Dropout", "Flatten", "Gather", "Identity", "Neg", "Pad", "Reshape", "Slice", "Squeeze",
    "Transpose", "Unsqueeze",
)  # fmt: skip
_SUMS = ("Add", "AveragePool", "Conv", "Gemm", "GlobalAveragePool", "MatMul", "Mul", "ReduceMean", "Sub")
_RULES: dict[str, Rule] = {
    **dict.fromkeys(_MOVES, _moved), **dict.fromkeys(_SUMS, _linear),
    **dict.fromkeys(("MaxPool", "GlobalMaxPool"), _moved), "Relu": _relu, "Clip": _clip, "Sigmoid": _function(0.25),
    "Tanh": _function(1.0), "LeakyRelu": _leaky_relu, "BatchNormalization": _batch_normalization, "Softmax": _softmax,
    "LogSoftmax": _log_softmax, "HardSwish": _hard_swish,
}  # fmt: skip
