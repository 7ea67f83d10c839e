"""The registry's samples as ONNX models, as graphs of odl, and all of them together as one program."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from team import Work

import odl.ops  # noqa: F401
from odl import fp16
from odl.autodiff import differentiate
from odl.fp16 import Accumulate
from odl.graph import Builder, Graph, Persistent
from odl.interpreter import interpret
from odl.ops._importer import CHANNELS_FIRST, CHANNELS_LAST, IMPORTS, Importer, OnnxNode, Sample
from odl.types import Array, TensorType


@dataclass(frozen=True)
class Case:
    """One sample with drawn inputs."""

    label: str
    sample: Sample
    seed: int

    @property
    def names(self) -> list[str]:
        return [f"i{at}" for at in range(len(self.sample.shapes))]

    @cached_property
    def values(self) -> dict[str, Array]:
        """Inputs by name, in ONNX order: floats are binary16 numbers held as float32."""
        rng = np.random.default_rng(self.seed)
        found = {}
        for at, (name, shape) in enumerate(zip(self.names, self.sample.shapes, strict=True)):
            drawn = rng.uniform(self.sample.low, self.sample.high, shape)
            given = np.asarray(self.sample.values.get(at, drawn))
            found[name] = given if given.dtype.kind in "iu" else fp16.half(given).astype(np.float32)
        return found

    @property
    def constants(self) -> dict[str, Array]:
        return {f"i{at}": self.values[f"i{at}"] for at in self.sample.constants}

    def model(self, dtype: type[np.floating] = np.float32) -> onnx.ModelProto:
        """The node as a model in which every floating input is fed and every integer one is an initializer."""
        elem = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        fed = [n for n, v in self.values.items() if v.dtype.kind == "f"]
        inputs = [helper.make_tensor_value_info(n, elem, self.values[n].shape) for n in fed]
        fixed = [numpy_helper.from_array(v, n) for n, v in self.values.items() if n not in fed]
        node = helper.make_node(self.sample.op_type, self.names, ["y"], name="node", **self.sample.attributes)
        output = helper.make_tensor_value_info("y", elem, None)
        graph = helper.make_graph([node], "sample", inputs, [output], fixed)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.sample.opset)])

    def onnx_shape(self) -> tuple[int, ...]:
        inferred = onnx.shape_inference.infer_shapes(self.model(), strict_mode=True, data_prop=True)
        return tuple(dim.dim_value for dim in inferred.graph.output[0].type.tensor_type.shape.dim)

    @cached_property
    def _reference(self) -> ReferenceEvaluator:
        return ReferenceEvaluator(self.model(np.float64))

    def reference(self, values: dict[str, Array] | None = None) -> Array:
        """ONNX's own evaluation in binary64, in ONNX order."""
        used = values or self.values
        feeds = {n: v.astype(np.float64) for n, v in used.items() if v.dtype.kind == "f"}
        with np.errstate(all="ignore"):
            return np.asarray(self._reference.run(None, feeds)[0])

    def imported(self) -> tuple[Builder, str, tuple[int, ...]]:
        """The builder after the import rule has run, the output value, and its ONNX shape."""
        floats = {n for n, v in self.constants.items() if v.dtype.kind == "f"}
        importer = Importer(self.constants, floats, {})
        for name, value in self.values.items():
            if name not in self.constants:
                stored = stored_array(value)
                importer.bind(name, importer.build.input(name, TensorType(stored.shape)), value.shape)
        importer.node = OnnxNode(self.sample.op_type, "node", tuple(self.names), ("y",), self.sample.attributes)
        importer.build.layer = "node"
        IMPORTS[self.sample.op_type].rule(importer, importer.node)
        return importer.build, importer.value("y"), importer.shape("y")

    def feeds(self) -> dict[str, Array]:
        """The inputs that are not constant, in storage order."""
        return {n: fp16.half(stored_array(v)) for n, v in self.values.items() if n not in self.constants}

    def differentiated(self, seed: Array) -> tuple[Graph, str, dict[str, str]]:
        """Forward and backward: the graph, its output value, and the gradients of all float inputs by name.

        `seed` is the output's gradient in storage order; it enters as a persistent tensor "seed".
        """
        build, output, _ = self.imported()
        forward = tuple(build.nodes)
        build.hold(Persistent("seed", build.types[output], seed))
        wanted = [*(n for n in build.inputs), *(n for n, t in build.persistent.items() if t.origin is not None)]
        gradients = differentiate(build, forward, (output, "seed"), wanted)
        return build.graph("sample", (output, *gradients.values())), output, gradients


def stored_array(array: Array) -> Array:
    return array.transpose(CHANNELS_LAST) if array.ndim == 4 else array


def onnx_array(array: Array) -> Array:
    return array.transpose(CHANNELS_FIRST) if array.ndim == 4 else array


def cases() -> Iterator[Case]:
    """Every sample of every operator."""
    for op_type in sorted(IMPORTS):
        seen = (sample for sample in IMPORTS[op_type].samples() if sample.op_type == op_type)
        for number, sample in enumerate(seen):
            yield Case(f"{op_type}-{number}", sample, number)


def works(accumulate: Accumulate) -> Iterator[Work]:
    """Every node of every sample, forward and backward, with its operands."""
    for case in cases():
        build, output, _ = case.imported()
        seed = fp16.half(np.random.default_rng(1).uniform(-1, 1, build.types[output].shape))
        graph, _, _ = case.differentiated(seed)
        values = interpret(graph, case.feeds())
        for node in graph.nodes:
            if not node.op.view:
                op = replace(node.op, accumulate=accumulate) if hasattr(node.op, "accumulate") else node.op
                yield Work(op, tuple(values[name] for name in node.inputs))


def together(chosen: list[Case], accumulate: Accumulate) -> Builder:
    """All cases, forward and backward, as independent nodes of one graph whose inputs are constants."""
    whole = Builder()
    for case in chosen:
        build, output, _ = case.imported()
        seed = np.random.default_rng(1).uniform(-1, 1, build.types[output].shape)
        graph, _, _ = case.differentiated(fp16.half(seed))
        rename = {name: f"{case.label}/{name}" for name in graph.types}
        for name, value in case.feeds().items():
            whole.hold(Persistent(rename[name], graph.types[name], value))
        for name, tensor in graph.persistent.items():
            whole.hold(replace(tensor, name=rename[name]))
        whole.types.update({rename[name]: type_ for name, type_ in graph.types.items()})
        for node in graph.nodes:
            op = replace(node.op, accumulate=accumulate) if hasattr(node.op, "accumulate") else node.op
            inputs, outputs = (tuple(rename[v] for v in values) for values in (node.inputs, node.outputs))
            name = f"{case.label}/{node.name}"
            whole.nodes.append(replace(node, op=op, name=name, inputs=inputs, outputs=outputs, layer=case.label))
    return whole
