"""The cases of ONNX's backend test suite that could concern odl, which ONNX's own people wrote.

Of kind "node", those of one node whose operator is ours; of the kinds that are stored in the package, "simple",
"pytorch-converted" and "pytorch-operator", those with at least one such operator. Ours are the operators of `odl ops`,
and those that a recipe might stand for: the losses and what is in ONNX's domain of training. Of these, the cases whose
numbers are binary32, of rank 4 at most. The kind "real" would have to be downloaded.

What is left out is counted by the first reason that holds: the operator, the number of nodes, the type, the rank.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

import odl.ops  # noqa: F401  fills the registry
from odl.ops._importer import IMPORTS
from odl.types import Array

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
TRAINING_DOMAIN = "ai.onnx.preview.training"
LOSSES = ("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss")
UPDATES = ("Momentum", "Adam", "Adagrad")
OURS = {("", name) for name in (*IMPORTS, *LOSSES)} | {(TRAINING_DOMAIN, name) for name in (*UPDATES, "Gradient")}
MOST_AXES = 4


@dataclass(frozen=True)
class OnnxCase:
    """A model with the values of its inputs, and of its outputs as ONNX has them, both by name and in order."""

    name: str
    kind: str
    operator: str
    model: onnx.ModelProto
    inputs: dict[str, Array]
    outputs: dict[str, Array]


def select() -> tuple[list[OnnxCase], Counter[str]]:
    """The cases by kind and name, and how many were left out of those there are, by the reason."""
    found, left_out = [], Counter[str]()
    for kind in KINDS:
        for test in sorted(_tests(kind), key=lambda test: test.name):
            model = test.model or onnx.load(Path(test.model_dir or "", "model.onnx"))
            reason = _outside(model, kind)
            if reason:
                left_out[reason] += 1
                continue
            (values,) = _data_sets(test, model)
            found.append(_case(test.name, kind, model, *values))
    return found, left_out


def _tests(kind: str) -> list[TestCase]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # cases that divide by zero on purpose
        return list(load_model_tests(kind=kind))


def operators(model: onnx.ModelProto) -> list[str]:
    """What the nodes compute, but for constants."""
    return [node.op_type for node in model.graph.node if node.op_type != "Constant"]


def _outside(model: onnx.ModelProto, kind: str) -> str:
    """Why the case is none for odl, or nothing."""
    nodes = model.graph.node
    if not any((node.domain, node.op_type) in OURS for node in nodes):
        return "operator"
    if kind == "node" and len(nodes) > 1:
        return "more than one node"
    if not _has_floats(model):
        return "type"
    tensors = [value.type.tensor_type for value in (*model.graph.input, *model.graph.output)]
    return "rank" if any(len(tensor.shape.dim) > MOST_AXES for tensor in tensors) else ""


def _has_floats(model: onnx.ModelProto) -> bool:
    """Whether the first input and the first output are binary32 tensors, and none has floats of another width."""
    values = (*model.graph.input, *model.graph.output)
    kinds = [value.type.tensor_type.elem_type for value in values]
    others = {TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.UNDEFINED}
    return kinds[0] == kinds[len(model.graph.input)] == TensorProto.FLOAT and not others.intersection(kinds)


def _data_sets(test: TestCase, model: onnx.ModelProto) -> Iterator[tuple[list[Array], list[Array]]]:
    """Of cases in memory (inputs, outputs) as they are; the others keep them in files beside the model."""
    if test.model_dir is None:
        for inputs, outputs in test.data_sets or ():
            yield [np.asarray(value) for value in inputs], [np.asarray(value) for value in outputs]
        return
    for folder in sorted(Path(test.model_dir).glob("test_data_set_*")):
        yield (
            [_stored(folder / f"input_{at}.pb") for at in range(len(_sources(model)))],
            [_stored(folder / f"output_{at}.pb") for at in range(len(model.graph.output))],
        )


def _stored(path: Path) -> Array:
    tensor = TensorProto()
    tensor.ParseFromString(path.read_bytes())
    return np.asarray(numpy_helper.to_array(tensor))


def _sources(model: onnx.ModelProto) -> list[str]:
    """The inputs that are no initializers."""
    held = {tensor.name for tensor in model.graph.initializer}
    return [value.name for value in model.graph.input if value.name not in held]


def _case(name: str, kind: str, model: onnx.ModelProto, inputs: list[Array], outputs: list[Array]) -> OnnxCase:
    given = dict(zip(_sources(model), inputs, strict=True))
    expected = dict(zip((value.name for value in model.graph.output), outputs, strict=True))
    return OnnxCase(name, kind, " ".join(operators(model)), model, given, expected)
