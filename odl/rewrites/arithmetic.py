"""Arithmetic on shapes and on constants, which exporters leave in the graph, is done once, at import.

Static shapes make a Shape a constant, and with it the Gather, Concat, Cast behind it, up to the Reshape that wants the
result. Of constants that are numbers of their own (a variance, say) only what odl has no operator for is worked out
here, with all that leads to it; the result is frozen, since it has no place in the file that it could go back to.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
from onnx import TensorProto, helper, numpy_helper

from odl.model_file import ONNX_DOMAINS
from odl.ops._importer import IMPORTS
from odl.rewrites.branches import branch
from odl.types import Array, Shape

# Where none of these is, there is nothing to do.
_SIGNS = frozenset((
    "Shape", "Size", "Cast", "CastLike", "ConstantOfShape", "Expand", "Range", "Gather", "Slice", "Div", "Sqrt",
    "Reciprocal", "Pow", "Where", "Equal", "If",
))  # fmt: skip
_EVALUATED = _SIGNS | frozenset((
    "Abs", "Add", "Ceil", "Concat", "Exp", "Floor", "Greater", "Identity", "Less", "Max", "Min", "Mod", "Mul", "Neg",
    "Not", "ReduceMax", "ReduceMin", "ReduceProd", "Reshape", "Squeeze", "Sub", "Transpose", "Unsqueeze",
))  # fmt: skip
_LEAST_INPUTS = {"If": 1, "Cast": 1, "CastLike": 2, "Shape": 1, "Size": 1}  # of what is read here by its place
_MOST_ROUNDS = 64  # each finds shapes that the one before made known
_MOST_WORK = 1 << 24  # the product of the operands' sizes; no result is larger, but for those below
_MOST_ELEMS = 1 << 20  # of what ConstantOfShape, Expand and Range make out of a few numbers


def evaluated(flat: onnx.ModelProto) -> onnx.ModelProto:
    """A flat model, in order, without the arithmetic that its static shapes and its constants decide.

    Results become Constant nodes of the same name; casts of float32 to float32 become Identity.
    """
    if not any(_is_onnx(node) and node.op_type in _SIGNS for node in flat.graph.node):
        return flat
    model = onnx.ModelProto()
    model.CopyFrom(flat)
    for _ in range(_MOST_ROUNDS):
        if not _round(model):
            break
    _drop_unread(model.graph)
    return model


def static_shapes(flat: onnx.ModelProto) -> dict[str, Shape]:
    """The shapes of computed values, by name, where ONNX's inference can tell all of their dimensions."""
    return {name: shape for name, (_, shape) in _described(flat).items() if shape is not None}


def _is_onnx(node: onnx.NodeProto) -> bool:
    return node.domain in ONNX_DOMAINS


def _described(model: onnx.ModelProto) -> dict[str, tuple[int, Shape | None]]:
    """Element type and static shape of values, from the inputs alone: what the file declares of others may be wrong.

    Without ONNX's propagation of data, which works out a Range of any length.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        graph = onnx.shape_inference.infer_shapes(bare).graph
    except (onnx.shape_inference.InferenceError, ValueError):
        graph = bare.graph
    found: dict[str, tuple[int, Shape | None]] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        dims = tensor.shape.dim
        is_static = tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in dims)
        found[value.name] = tensor.elem_type, tuple(dim.dim_value for dim in dims) if is_static else None
    return found


def _round(model: onnx.ModelProto) -> bool:
    """Replace what can be worked out now; returns whether anything was."""
    known = _Known(model)
    found: list[onnx.NodeProto] = []
    for node in model.graph.node:
        found += known.instead(node)
    if known.changed:
        del model.graph.node[:]
        model.graph.node.extend(found)
    return known.changed


class _Known:
    """What is known of a model's values: types and shapes, and the constants."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.described = _described(model)
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.values: dict[str, Array] = {}
        self.opset = next(entry.version for entry in model.opset_import if entry.domain in ONNX_DOMAINS)
        self.taken = {name for node in model.graph.node for name in (node.name, *node.output)} | {*self.described}
        self.changed = False

    def instead(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes in place of this one: itself, what it comes to, or the branch that it takes."""
        if not _is_onnx(node) or len(node.input) < _LEAST_INPUTS.get(node.op_type, 0):
            return [node]  # the import says what is wrong with it
        if node.op_type == "If":
            condition = self._value(node.input[0])
            self.changed |= condition is not None
            return [node] if condition is None else branch(node, bool(condition.any()), self.taken)
        if len(node.output) != 1:
            return [node]
        if node.op_type == "Constant":
            self._note(node)
            return [node]
        if self._is_cast_to_itself(node):
            self.changed = True
            return [helper.make_node("Identity", node.input[:1], node.output, node.name)]
        result = self._shape(node)
        if result is None and node.op_type in _EVALUATED:
            result = self._result(node)
        if result is None:
            return [node]
        self.values[node.output[0]] = result
        if result.dtype.kind == "f" and node.op_type in IMPORTS:
            return [node]
        self.changed = True
        return [helper.make_node("Constant", [], node.output, node.name, value=numpy_helper.from_array(result))]

    def _value(self, name: str) -> Array | None:
        if name not in self.values and name in self.tensors:
            try:
                self.values[name] = numpy_helper.to_array(self.tensors[name])
            except (ValueError, TypeError, KeyError):
                return None  # the import says what is wrong with it
        return self.values.get(name)

    def _note(self, node: onnx.NodeProto) -> None:
        for attribute in node.attribute:
            if attribute.name == "value":
                self.tensors[node.output[0]] = attribute.t
            elif attribute.name in ("value_int", "value_ints", "value_float", "value_floats"):
                kind = np.float32 if "float" in attribute.name else np.int64
                self.values[node.output[0]] = np.array(helper.get_attribute_value(attribute), kind)

    def _is_cast_to_itself(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in ("Cast", "CastLike"):
            return False
        types = [self.described.get(name, (0, None))[0] for name in (node.input[0], node.output[0])]
        return types == [TensorProto.FLOAT] * 2

    def _shape(self, node: onnx.NodeProto) -> Array | None:
        """What Shape and Size come to, where they can be told."""
        if node.op_type not in ("Shape", "Size"):
            return None
        _, shape = self.described.get(node.input[0], (0, None))
        if shape is None and node.input[0] in self.tensors:
            shape = tuple(self.tensors[node.input[0]].dims)
        if shape is None:
            return None
        if node.op_type == "Size":
            return np.array(prod(shape), np.int64)
        ends = {attribute.name: attribute.i for attribute in node.attribute}
        return np.array(shape[slice(ends.get("start"), ends.get("end"))], np.int64)

    def _result(self, node: onnx.NodeProto) -> Array | None:
        """What the node computes from constants; None where it reads others, or it cannot be told."""
        if node.op_type == "CastLike":
            type_, _ = self.described.get(node.input[1], (0, None))
            if not type_:
                return None
            node = helper.make_node("Cast", node.input[:1], node.output, to=type_)
        names = list(dict.fromkeys(name for name in node.input if name))
        given = {name: array for name in names if (array := self._value(name)) is not None}
        operands = [given[name] for name in node.input if name in given]
        if len(given) < len(names) or _is_too_large(node.op_type, operands):
            return None
        return _run(node, given, self.opset)


def _run(node: onnx.NodeProto, given: dict[str, Array], opset: int) -> Array | None:
    """One node by ONNX's evaluator."""
    from onnx.reference import ReferenceEvaluator  # it takes long to import, and few models need it

    graph = helper.make_graph(
        [node], "one", [helper.make_value_info(name, onnx.TypeProto()) for name in given],
        [helper.make_value_info(node.output[0], onnx.TypeProto())],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    feeds: dict[str, Any] = dict(given)
    try:
        with np.errstate(all="ignore"):
            (found,) = ReferenceEvaluator(model).run(None, feeds)
            result = np.asarray(found)
    except Exception:  # whatever a file's attributes make of it: the node stays, and is told as it is
        return None
    return result if result.dtype.kind in "iubf" else None


def _is_too_large(op_type: str, operands: Sequence[Array]) -> bool:
    if prod(max(operand.size, 1) for operand in operands) > _MOST_WORK:
        return True
    if op_type in ("ConstantOfShape", "Expand"):
        sizes = [abs(int(size)) for size in operands[-1].ravel()]
        return prod(max(size, 1) for size in sizes) * max(operands[0].size, 1) > _MOST_ELEMS
    if op_type == "Range":
        start, limit, delta = (float(operand.ravel()[0]) if operand.size else 0.0 for operand in operands)
        return delta == 0 or not np.isfinite([start, limit]).all() or ceil((limit - start) / delta) > _MOST_ELEMS
    return False


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Remove nodes whose results nobody reads any more."""
    wanted = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
