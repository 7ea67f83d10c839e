"""ONNX in: a file becomes a checked Graph, or a list of everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import numpy_helper

import odl.ops  # noqa: F401  fills the registry
from odl.errors import ModelError, OdlError, Problem
from odl.folding import fold_batch_normalization
from odl.graph import Graph, prune
from odl.ops._importer import BATCH_HINT, IMPORTS, Importer, OnnxNode, stored_shape
from odl.types import Array, Shape, TensorType

OLDEST_OPSET = 13
NEWEST_OPSET = 26


@dataclass(frozen=True)
class Model:
    """An imported model: the file as ONNX knows it, the inference graph, and what its binary16 form loses.

    `vanished` counts, by weight, the elements that are not zero in the file and are in binary16.
    """

    path: Path
    proto: onnx.ModelProto
    graph: Graph
    vanished: dict[str, int]


def load_model(path: Path) -> Model:
    """Read, check and import an ONNX file; raises ModelError with every problem that was found."""
    proto = _read(path)
    _check_header(proto, path)
    inlined = onnx.inliner.inline_local_functions(proto) if proto.functions else proto
    graph = inlined.graph
    constants = {tensor.name: numpy_helper.to_array(tensor, str(path.parent)) for tensor in graph.initializer}
    _check_constants(constants)
    nodes = [_node(node, index) for index, node in enumerate(graph.node)]
    imported, vanished = _import(graph, nodes, constants)
    return Model(path, proto, imported, vanished)


def _read(path: Path) -> onnx.ModelProto:
    if not path.exists():
        raise ModelError("file-missing", str(path), "there is no such file")
    if not path.is_file():
        raise ModelError("not-a-file", str(path), "this is a directory, not an ONNX file")
    try:
        proto = onnx.load(path, load_external_data=True)
    except (DecodeError, ValueError, OSError) as error:
        raise ModelError("file-unreadable", str(path), f"ONNX cannot read it: {error}") from error
    if not proto.graph.node:
        raise ModelError("empty-graph", str(path), "the file holds no graph with nodes")
    return proto


def _check_header(proto: onnx.ModelProto, path: Path) -> None:
    versions = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions or not OLDEST_OPSET <= versions[0] <= NEWEST_OPSET:
        raise ModelError(
            "opset", str(path), f"opset {versions[0] if versions else 'missing'}, not {OLDEST_OPSET} .. {NEWEST_OPSET}",
            "convert it with onnx.version_converter",
        )  # fmt: skip
    try:
        onnx.checker.check_model(proto, full_check=False)
    except onnx.checker.ValidationError as error:
        raise ModelError("onnx-checker", str(path), str(error).strip().splitlines()[0]) from error


def _check_constants(constants: dict[str, Array]) -> None:
    problems = []
    for name, array in constants.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            problems.append(Problem("weight-not-finite", f"initializer '{name}'", "holds NaN or infinity"))
    if problems:
        raise ModelError.of(problems)


def _node(node: onnx.NodeProto, index: int) -> OnnxNode:
    attributes: dict[str, Any] = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        attributes[attribute.name] = value.decode() if isinstance(value, bytes) else value
    name = node.name or f"{node.op_type}_{index}"
    op_type = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    return OnnxNode(op_type, name, tuple(node.input), tuple(node.output), attributes)


def _import(
    graph: onnx.GraphProto, nodes: Sequence[OnnxNode], constants: dict[str, Array]
) -> tuple[Graph, dict[str, int]]:
    (source,) = _data_inputs(graph)
    shape = _static_shape(source)
    nodes, affine = fold_batch_normalization(nodes, constants, {output.name for output in graph.output})
    importer = Importer(constants, (tensor.name for tensor in graph.initializer), affine)
    value = importer.build.input(source.name, TensorType(stored_shape(shape)))
    importer.bind(source.name, value, shape)
    _run_rules(importer, nodes)
    (output,) = _one(graph.output, "output")
    result = importer.value(output.name)
    if result in importer.build.inputs:
        raise ModelError("empty-graph", f"output '{output.name}'", "the output is the input")
    return prune(importer.build.graph("model", (result,))), _vanished(importer)


def _run_rules(importer: Importer, nodes: Iterable[OnnxNode]) -> None:
    """Import every node that can be; what cannot, and was not spoiled by an earlier one, is a problem."""
    problems: list[Problem] = []
    spoiled: set[str] = set()
    for node in nodes:
        importer.node = node
        importer.build.layer = node.name
        known = IMPORTS.get(node.op_type)
        if known is None:
            problems.append(_unsupported(node))
        elif not spoiled.intersection(node.inputs):
            try:
                known.rule(importer, node)
                continue
            except OdlError as error:
                problems.extend(error.problems)
        spoiled.update(node.outputs)
    if problems:
        raise ModelError.of(problems)


def _unsupported(node: OnnxNode) -> Problem:
    return Problem(
        "unsupported-operator", f"{node.op_type} '{node.name}'", "this operator is not supported",
        f"supported: {', '.join(sorted(IMPORTS))}",
    )  # fmt: skip


def _data_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    initializers = {tensor.name for tensor in graph.initializer}
    return _one([value for value in graph.input if value.name not in initializers], "input")


def _one(values: Iterable[onnx.ValueInfoProto], what: str) -> list[onnx.ValueInfoProto]:
    found = list(values)
    if len(found) != 1:
        names = ", ".join(value.name for value in found) or "none"
        raise ModelError("one-" + what, "graph", f"the model must have one {what}, it has {len(found)}: {names}")
    return found


def _static_shape(value: onnx.ValueInfoProto) -> Shape:
    where, tensor = f"input '{value.name}'", value.type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        raise ModelError("input-type", where, "must be float32", "odl casts data to binary16 itself")
    shape = tuple(dim.dim_value for dim in tensor.shape.dim)
    if not tensor.HasField("shape") or any(size <= 0 for size in shape):
        text = "x".join(dim.dim_param or str(dim.dim_value) for dim in tensor.shape.dim)
        raise ModelError("dynamic-shape", where, f"shape {text or 'unknown'} is not static and positive", BATCH_HINT)
    if len(shape) < 2 or len(shape) > 4 or shape[0] != 1:
        raise ModelError("input-shape", where, f"shape {shape} is not one sample of rank 2 to 4", BATCH_HINT)
    return shape


def _vanished(importer: Importer) -> dict[str, int]:
    found = {}
    for name, tensor in importer.build.persistent.items():
        if tensor.origin is not None:
            exact = tensor.origin.store(importer.constants[name])
            count = int(((exact != 0).ravel() & (tensor.initial == 0).ravel()).sum())
            if count:
                found[name] = count
    return found
