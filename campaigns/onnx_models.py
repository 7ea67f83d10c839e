"""A case as a model that odl can be asked about: one input, of one sample.

ONNX's cases give weights as inputs, have batches, vectors without a batch, and are of old opsets. Nothing that is
computed may become something else by what is done about that: ONNX's own evaluator must compute the case's expected
outputs from what a case was turned into. Where it does not, odl is asked about the case as it is.

- The first input is the data; all others become initializers.
- An opset that odl refuses as too old is converted by onnx.version_converter, as the refusal recommends.
- A batch is taken apart into samples, and with it, where the data alone will not do, every operand of the same rank
  that is as long. A constant shape that begins with the length of the batch begins with 1.
- A vector becomes a row.
- A zero is added to the input: odl compiles what has something to train, and a node alone mostly has nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper, numpy_helper, version_converter
from onnx.reference import ReferenceEvaluator

from campaigns.onnx_cases import OnnxCase
from odl.model_file import OLDEST_OPSET, ONNX_DOMAINS
from odl.types import Array, Shape

# Of the opsets before 14, ONNX's evaluator computes BatchNormalization as in training.
_CONVERTED_OPSET = 17


@dataclass(frozen=True)
class Part:
    """A model, the samples (N, ...) that are fed to it one at a time, and the values that each must give (N, ...)."""

    model: onnx.ModelProto
    samples: Array
    expected: Array


def parts(case: OnnxCase) -> list[Part]:
    """What odl is asked: all that is asked of the same model together."""
    for asked in (_converted(case), case):
        for found in _candidates(asked):
            if all(_is_true(part) for part in found):
                return _together(found)
    return [_part(case, case.inputs, case.outputs)]


def with_weight(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a zero added to its input."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    graph, source = found.graph, found.graph.input[0].name
    for node in graph.node:
        node.input[:] = ["with zero" if name == source else name for name in node.input]
    graph.node.insert(0, helper.make_node("Add", [source, "zero"], ["with zero"]))
    graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "zero"))
    return found


def _converted(case: OnnxCase) -> OnnxCase:
    """Of an opset that odl reads, where it is an older one."""
    version = max((entry.version for entry in case.model.opset_import if entry.domain in ONNX_DOMAINS), default=0)
    if not 0 < version < OLDEST_OPSET:
        return case
    return replace(case, model=version_converter.convert_version(case.model, _CONVERTED_OPSET))


def _candidates(case: OnnxCase) -> Iterator[list[Part]]:
    """Ways to ask about a case that odl may take, those that change the least first, and the case as it is."""
    data = next(iter(case.inputs.values()))
    if data.ndim == 1:
        yield [_row(case)]
    elif data.ndim and data.shape[0] != 1 and _has_batch(case, len(data)):
        yield _apart(case, [])
        yield _apart(case, _as_long(case, data))
    yield [_part(case, case.inputs, case.outputs)]


def _row(case: OnnxCase) -> Part:
    name, data = next(iter(case.inputs.items()))
    rows = {output: value[None] for output, value in case.outputs.items()}
    return _part(case, {**case.inputs, name: data[None]}, rows)


def _has_batch(case: OnnxCase, n: int) -> bool:
    return n > 0 and all(value.shape[:1] == (n,) for value in case.outputs.values())


def _as_long(case: OnnxCase, data: Array) -> list[str]:
    """The other operands that look like a batch of the same length."""
    operands = {
        **case.inputs,
        **{tensor.name: numpy_helper.to_array(tensor) for tensor in case.model.graph.initializer},
    }
    return [name for name, value in operands.items() if value.ndim == data.ndim and len(value) == len(data)]


def _apart(case: OnnxCase, others: list[str]) -> list[Part]:
    """A model a sample, with the samples of the data and of `others`."""
    data, n = next(iter(case.inputs)), len(next(iter(case.inputs.values())))
    shapes = {
        name: np.array([1, *value[1:]])
        for name, value in case.inputs.items() if value.dtype == np.int64 and value.ndim == 1 and value[:1] == [n]
    }  # fmt: skip
    found = []
    for at in range(n):
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        for tensor in model.graph.initializer:
            if tensor.name in others:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[at : at + 1], tensor.name))
        own = {name: case.inputs[name][at : at + 1] for name in (data, *others) if name in case.inputs}
        results = {name: value[at : at + 1] for name, value in case.outputs.items()}
        found.append(_part(replace(case, model=model), {**case.inputs, **shapes, **own}, results))
    return found


def _part(case: OnnxCase, inputs: dict[str, Array], outputs: dict[str, Array]) -> Part:
    """The model with all inputs but the first as initializers, for one sample."""
    (name, data), *others = inputs.items()
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = max(model.ir_version, 8)  # before 4, initializers had to be inputs too
    graph = model.graph
    given = {value.name: value for value in graph.input}
    del graph.input[:]
    graph.input.append(_described(given[name], data.shape))
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), other) for other, value in others)
    for value in graph.output:
        value.CopyFrom(_described(value, outputs[value.name].shape))
    del graph.value_info[:]
    return Part(model, data[None], next(iter(outputs.values()))[None])


def _described(value: onnx.ValueInfoProto, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, shape)


def _is_true(part: Part) -> bool:
    """Whether ONNX's evaluator computes what is expected, of the same shape and to binary32's precision."""
    try:
        evaluator = ReferenceEvaluator(part.model)
        found = np.asarray(evaluator.run(None, {part.model.graph.input[0].name: part.samples[0]})[0])
    except Exception:  # whatever it raises where a model makes no sense, or where it lacks an operator
        return False
    wanted = part.expected[0]
    return found.shape == wanted.shape and np.allclose(found, wanted, rtol=1e-4, atol=1e-5, equal_nan=True)


def _together(found: list[Part]) -> list[Part]:
    """Samples of the same model in one part."""
    same: dict[bytes, list[Part]] = {}
    for part in found:
        same.setdefault(part.model.SerializeToString(deterministic=True), []).append(part)
    return [
        Part(
            group[0].model,
            np.concatenate([part.samples for part in group]),
            np.concatenate([part.expected for part in group]),
        )
        for group in same.values()
    ]
