"""ONNX in: a file becomes a checked Graph, or a list of everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

import odl.ops  # noqa: F401  fills the registry
from odl.errors import ModelError, Problem
from odl.folding import fold_batch_normalization
from odl.graph import Graph, Node, prune
from odl.model_file import ONNX_DOMAINS, check, dims_text, first_line, flatten, inferred_shapes, read_model
from odl.ops._importer import BATCH_HINT, IMPORTS, Importer, OnnxNode, stored_shape
from odl.ops._windows import Window
from odl.rewrites import rewritten
from odl.rewrites.arithmetic import evaluated, static_shapes
from odl.rewrites.batch import has_open_batch, with_batch_of_one
from odl.types import Array, Shape, TensorType

# Offsets of elements, up to four bytes each, are computed in 32 bits.
MOST_ELEMS = 1 << 29

OPEN_BATCH_HINT = "--fix-batch (fix_batch=True) makes it one sample; mini-batches are made on the device (--batch)"

# Operators whose constants are bounds or fillings, where an infinity is in its place.
_UNBOUNDED = ("Clip", "Pad")

_CONSTANTS = ("value", "value_float", "value_floats", "value_int", "value_ints")

# What to use instead, for operators that people ask for.
_NEAREST = {
    **dict.fromkeys(("Elu", "Selu", "Celu", "Gelu", "Mish", "Softplus", "Swish"), "Relu, LeakyRelu or HardSwish"),
    **dict.fromkeys(("HardSigmoid", "ThresholdedRelu"), "Clip"),
    **dict.fromkeys(("If", "Loop", "Scan"), "a graph without control flow: unroll it, or export one branch"),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), "unrolled Gemm, Sigmoid and Tanh"),
    **dict.fromkeys(("LayerNormalization", "InstanceNormalization", "GroupNormalization"), "BatchNormalization"),
    **dict.fromkeys(
        ("Shape", "Size", "Range", "Cast", "ConstantOfShape", "Expand", "Where", "Equal"),
        "an export with static shapes (no dynamic_shapes or dynamic_axes but the batch)",
    ),
    **dict.fromkeys(("Resize", "Upsample"), "a stride in the Conv before, and Gemm to grow: nothing is interpolated"),
    **dict.fromkeys(("Einsum", "Attention"), "MatMul, Transpose and Softmax of rank 2 or 3"),
    "Erf": "Relu, LeakyRelu or HardSwish in place of Gelu",
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear", "QLinearConv"), "the model before quantization"),
    "ConvTranspose": "Conv", "Div": "Mul by the reciprocal", "Pow": "Mul", "PRelu": "LeakyRelu",
    "ReduceSum": "ReduceMean",
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """An imported model: the file as ONNX knows it, the inference graph, and what its binary16 form loses.

    `vanished` counts, by weight, the elements that are not zero in the file and are in binary16. `fix_batch`: the
    graph's batch is 1, which the file leaves open.
    """

    path: Path
    proto: onnx.ModelProto
    graph: Graph
    vanished: dict[str, int]
    fix_batch: bool = False


@dataclass
class _Told:
    """What is wrong with a model so far, and the names of the nodes that are not imported for it."""

    problems: list[Problem] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)

    def raise_any(self, more: Iterable[Problem] = ()) -> None:
        if self.problems:
            raise ModelError.of([*self.problems, *more])

    @contextmanager
    def first(self) -> Iterator[None]:
        """What the block raises comes behind what has been told."""
        try:
            yield
        except ModelError as error:
            raise ModelError.of([*self.problems, *error.problems]) from error


def load_model(path: Path, *, keeps_norms: bool = False, fix_batch: bool = False) -> Model:
    """Read, check and import an ONNX file; raises ModelError with every problem that was found.

    `keeps_norms`: scale and shift of a BatchNormalization stay tensors of their own, and only its statistics are folded
    into the convolution before it. `fix_batch`: a batch that the file leaves open is 1.
    """
    proto = read_model(path)
    given = flatten(proto)
    single = with_batch_of_one(given)  # of an open batch the rest is looked at as if it were 1
    flat = flatten(evaluated(single))
    told = _Told([*_interface_problems(single.graph if fix_batch else given.graph)])
    nodes, constants = _checked(flat, told)
    graph = _imported(flat, nodes, constants, keeps_norms, told)
    return Model(path, proto, graph, _vanished(graph, constants), fix_batch)


# --- before the import: what can be told from the file alone ----------------------------------------------------------


def _checked(flat: onnx.ModelProto, told: _Told) -> tuple[list[OnnxNode], dict[str, Array]]:
    """The nodes that compute, in order, and the constants; what the file alone says against them is told."""
    unsupported = _unsupported(flat)
    told.problems += unsupported.values()
    if any(problem for source in _sources(flat.graph) for problem in _input_problems(source)):
        told.raise_any()  # what else would be found might come of that input
    with told.first():
        misshapen = check(flat, unsupported)
        constants = {tensor.name: _array(tensor, f"initializer '{tensor.name}'") for tensor in flat.graph.initializer}
        nodes = _settled(_nodes(flat.graph), constants)
    told.problems += misshapen.values()
    told.refused.update(unsupported, misshapen)
    _check_nodes(nodes, constants, told)
    return nodes, constants


def _interface_problems(graph: onnx.GraphProto) -> Iterator[Problem]:
    """One float32 input of static shape, one output, which something other than the input alone decides."""
    sources = _sources(graph)
    for what, values in (("input", sources), ("output", list(graph.output))):
        if len(values) != 1:
            names = ", ".join(value.name for value in values) or "none"
            yield Problem(f"one-{what}", "graph", f"the model must have one {what}, it has {len(values)}: {names}")
    if len(sources) == 1:
        yield from _input_problems(sources[0])
    given = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    for output in graph.output:
        if output.name in given:
            yield Problem(
                "empty-graph", f"output '{output.name}'", "the output is an input or a constant; no node computes it"
            )


def _sources(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that are no initializers."""
    initializers = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in initializers]


def _input_problems(value: onnx.ValueInfoProto) -> Iterator[Problem]:
    where, tensor = f"input '{value.name}'", value.type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        yield Problem("input-type", where, "must be float32", "odl casts data to binary16 itself")
        return
    shape = _shape(value)
    if not tensor.HasField("shape") or any(size <= 0 for size in shape):
        text = dims_text(tensor.shape) if tensor.HasField("shape") else "unknown"
        hint = OPEN_BATCH_HINT if has_open_batch(value) else BATCH_HINT
        yield Problem("dynamic-shape", where, f"shape {text} is not static and positive", hint)
    elif len(shape) < 2 or len(shape) > 4 or shape[0] != 1:
        yield Problem("input-shape", where, f"shape {shape} is not one sample of rank 2 to 4", BATCH_HINT)


def _shape(value: onnx.ValueInfoProto) -> Shape:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _unsupported(flat: onnx.ModelProto) -> dict[str, Problem]:
    """Every node whose operator has no import rule, by name, with the shapes that it reads. An operator's hint is given
    once."""
    supported = {*IMPORTS, "Constant"}
    found = [node for node in flat.graph.node if _op_type(node) not in supported]
    shapes = inferred_shapes(flat) if found else {}
    problems: dict[str, Problem] = {}
    hinted: set[str] = set()
    for node in found:
        op_type = _op_type(node)
        seen = " and ".join(shapes.get(name, "an unknown shape") for name in node.input if name) or "no inputs"
        hints = [] if op_type in hinted else [_hint(node)]
        hints += [] if hinted else ["`odl ops` lists what is supported"]
        hinted.add(op_type)
        why, hint = f"is not supported (it reads {seen})", "; ".join(filter(None, hints))
        problems[node.name] = Problem("unsupported-operator", f"{op_type} '{node.name}'", why, hint)
    return problems


def _hint(node: onnx.NodeProto) -> str:
    """What to use in place of an operator, if that is known."""
    if node.domain not in ONNX_DOMAINS:
        return "it is no operator of ONNX: try a newer exporter, or another layer in its place"
    return f"try {_NEAREST[node.op_type]}" if node.op_type in _NEAREST else ""


def _op_type(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in ONNX_DOMAINS else f"{node.domain}.{node.op_type}"


# --- from protobuf to plain values ------------------------------------------------------------------------------------


def _array(tensor: onnx.TensorProto, where: str) -> Array:
    try:
        array: Array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError("tensor-malformed", where, first_line(error)) from error
    return array


def _nodes(graph: onnx.GraphProto) -> list[OnnxNode]:
    return [
        OnnxNode(_op_type(node), node.name, tuple(node.input), tuple(node.output), _attributes(node))
        for node in graph.node
    ]


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    for attribute in node.attribute:
        try:
            value = onnx.helper.get_attribute_value(attribute)
        except ValueError as error:
            raise ModelError("attribute-malformed", f"{node.op_type} '{node.name}'", first_line(error)) from error
        attributes[attribute.name] = value.decode(errors="replace") if isinstance(value, bytes) else value
    return attributes


def _settled(nodes: Iterable[OnnxNode], constants: dict[str, Array]) -> list[OnnxNode]:
    """The nodes that compute: Constant nodes move to `constants`, and an Identity of a constant is that constant.

    So a weight stays an initializer that can be trained where an exporter shares it through Identity nodes. Statistics
    of a BatchNormalization are not shared so: of a network that was never trained, PyTorch's exporter takes mean and
    shift, and variance and scale, for one and the same, and only one of the two is trained.
    """
    same: dict[str, str] = {}
    kept = []
    for node in nodes:
        n_shared = 3 if node.op_type == "BatchNormalization" else len(node.inputs)
        inputs = (*(same.get(name, name) for name in node.inputs[:n_shared]), *node.inputs[n_shared:])
        constants.update((name, constants[same[name]]) for name in inputs if name in same)
        if node.op_type == "Constant" and len(node.attributes) == 1 and node.attributes.keys() <= {*_CONSTANTS}:
            constants[node.outputs[0]] = _constant(node)
        elif node.op_type == "Identity" and inputs[0] in constants:
            same[node.outputs[0]] = inputs[0]
        else:
            kept.append(replace(node, inputs=inputs))
    return kept


def _constant(node: OnnxNode) -> Array:
    ((kind, value),) = node.attributes.items()
    if kind == "value":
        return _array(value, f"Constant '{node.name}'")
    return np.array(value, np.float32 if "float" in kind else np.int64)


def _check_nodes(nodes: Iterable[OnnxNode], constants: dict[str, Array], told: _Told) -> None:
    """Tell what neither onnx.checker nor ONNX's inference looks at: NaN and infinity, empty weights and inputs, and the
    shapes of some constants. In `constants`, ones take the place of what is not finite, so that this is told once."""
    used: dict[str, list[str]] = {}
    for node in nodes:
        problems = list(_node_problems(node, constants))
        told.problems += problems
        told.refused.update([node.name] if problems else [])
        for name in node.inputs if node.op_type not in _UNBOUNDED else ():
            used.setdefault(name, []).append(node.name)
    for name, readers in used.items():
        problems = list(_constant_problems(name, constants[name])) if name in constants else []
        told.problems += problems
        if problems:
            constants[name] = np.where(np.isfinite(constants[name]), constants[name], 1.0)
            told.refused.update(readers if constants[name].size == 0 else ())


def _node_problems(node: OnnxNode, constants: Mapping[str, Array]) -> Iterator[Problem]:
    where = f"{node.op_type} '{node.name}'"
    for key, value in node.attributes.items():
        if isinstance(value, float) and not np.isfinite(value):
            yield Problem("unsupported-attribute", where, f"{key} is not finite")
    if node.op_type == "Constant":
        why = f"{', '.join(node.attributes)} is not supported"
        yield Problem("unsupported-attribute", where, why, "store it as a tensor")
    if node.op_type == "Concat" and "" in node.inputs:
        yield Problem("dangling-input", where, "has an input without a name")
    for why in _shape_problems(node, constants):
        yield Problem("shape-mismatch", where, why)


def _shape_problems(node: OnnxNode, constants: Mapping[str, Array]) -> Iterator[str]:
    """What is wrong with the shapes of constants, where ONNX's inference does not look."""
    kernel, bias = (constants[name].shape if name in constants else None for name in (node.input(1), node.input(2)))
    if node.op_type == "Gemm" and bias and (len(bias) > 2 or any(size != 1 for size in bias[:-1])):
        yield f"bias {bias} is not one row"
    if node.op_type == "Conv" and kernel:
        if bias not in (None, kernel[:1]):
            yield f"bias {bias} for kernel {kernel}"
        if tuple(node.attributes.get("kernel_shape", kernel[2:])) != kernel[2:]:
            yield f"kernel_shape {node.attributes['kernel_shape']} for kernel {kernel}"


def _constant_problems(name: str, array: Array) -> Iterator[Problem]:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        yield Problem("weight-not-finite", f"initializer '{name}'", "holds NaN or infinity")
    if array.dtype.kind == "f" and array.size == 0:
        yield Problem("empty-weight", f"initializer '{name}'", f"shape {array.shape} holds no elements")


_MASK = "masked"  # an operator that no rewrite and no rule knows


def _masked(nodes: Iterable[OnnxNode], refused: Collection[str], known: set[str]) -> list[OnnxNode]:
    """Nodes that are refused keep their place alone, as do those that ONNX has not checked, for it did not know all of
    their inputs."""
    return [
        replace(node, op_type=_MASK) if node.name in refused or not known.issuperset(node.inputs) else node
        for node in nodes
    ]


# --- the import -------------------------------------------------------------------------------------------------------


def _imported(
    flat: onnx.ModelProto, nodes: list[OnnxNode], constants: dict[str, Array], keeps_norms: bool, told: _Told
) -> Graph:
    """The graph; `constants` gets those that rewriting and folding make. Raises ModelError with all that was told, and
    what the rules of operators say against nodes."""
    outputs = {value.name for value in flat.graph.output}
    initializers = {each.name for each in flat.graph.initializer}
    shapes = static_shapes(flat)
    if told.problems:
        nodes = _masked(nodes, told.refused, {"", *constants, *shapes})
    found = rewritten(nodes, constants, initializers, shapes, outputs)
    folded = fold_batch_normalization(found.nodes, found.constants, outputs, keeps_norms)
    importer = Importer(found.constants | folded.constants, initializers, folded.affine, found.views)
    _begin(importer, flat.graph)
    told.problems += _run_rules(importer, folded.nodes, found.shapes, turned=len(found.shapes) > len(shapes))
    told.raise_any(_size_problems(importer.build.types, importer.build.nodes))
    constants |= folded.constants
    return _import(flat.graph, importer, folded.nodes)


def _begin(importer: Importer, graph: onnx.GraphProto) -> None:
    # No value that an operator names may take the name of an initializer that is read later.
    importer.build.types.update((tensor.name, TensorType(())) for tensor in graph.initializer)
    for source in _sources(graph):
        shape = _shape(source)
        importer.bind(source.name, importer.build.input(source.name, TensorType(stored_shape(shape))), shape)


def _run_rules(
    importer: Importer, nodes: Iterable[OnnxNode], shapes: Mapping[str, Shape], turned: bool
) -> list[Problem]:
    """Import every node; returns all that is wrong with those that cannot be.

    A value stands in for what such a node computes, in the shape that ONNX knows, so that nodes behind it can be looked
    at. Where the shape is not known they are passed over: what a rule would say of them might be wrong. So it might if
    the node made a constant, which some rules ask for, and of axes that would be `turned` if the node were another.
    """
    problems: list[Problem] = []
    computed, masked = {*importer.build.inputs}, set[str]()  # what depends on the input, and on a masked node
    for node in nodes:
        is_computed, is_masked = not computed.isdisjoint(node.inputs), not masked.isdisjoint(node.inputs)
        computed.update(node.outputs if is_computed else ())
        masked.update(node.outputs if is_masked or node.op_type == _MASK else ())
        if node.op_type != _MASK and all(map(importer.knows, node.inputs)):
            found = importer.run(node)
            if not found:
                continue
            follows = ("unsupported-broadcast",) if turned and is_masked else ()
            problems += [problem for problem in found if problem.code not in follows]
        for name in node.outputs if is_computed else ():
            if _can_stand(shapes.get(name, ())):
                importer.stand_in(name, shapes[name])
    return problems


def _can_stand(shape: Shape) -> bool:
    """Whether rules meet such shapes."""
    return 0 < len(shape) <= 4 and all(shape)


def _import(graph: onnx.GraphProto, importer: Importer, nodes: Iterable[OnnxNode]) -> Graph:
    """The graph of an import that has run."""
    (source,), (output,) = _sources(graph), graph.output
    if not any(output.name in node.outputs for node in nodes) or importer.is_constant(output.name):
        raise ModelError("constant-output", f"output '{output.name}'", "it does not depend on the input")
    result = importer.value(output.name)
    if result in importer.build.inputs:
        raise ModelError("empty-graph", f"output '{output.name}'", "the output is the input")
    model = prune(importer.build.graph("model", (result,)))
    if not any(source.name in node.inputs for node in model.nodes):
        raise ModelError("constant-output", f"output '{output.name}'", "it does not depend on the input")
    if problems := list(_size_problems(model.types, model.nodes)):
        raise ModelError.of(problems)
    return _without_lost_origins(model)


def _size_problems(types: Mapping[str, TensorType], nodes: Iterable[Node]) -> Iterator[Problem]:
    """Tensors, and windows over padded images, whose elements cannot be counted in 32 bits."""
    for name, type_ in types.items():
        if type_.n_elems > MOST_ELEMS:
            yield Problem("tensor-too-large", name, f"{type_} has more than 2^29 elements")
    for node in nodes:
        for window in (value for f in fields(node.op) if isinstance(value := getattr(node.op, f.name), Window)):
            _, height, width, channels = types[node.inputs[0]].shape
            top, left, bottom, right = window.pads
            padded = (top + height + bottom, left + width + right, channels)
            if prod(padded) > MOST_ELEMS or max(window.stride) > MOST_ELEMS:
                yield Problem("tensor-too-large", node.layer, f"its padded input is {padded}")


def _without_lost_origins(model: Graph) -> Graph:
    """The graph in which a weight that is scaled by zero, and so could not go back into the file, is not trained."""
    held = {
        name: replace(tensor, origin=None) if tensor.origin and not np.all(tensor.origin.scale) else tensor
        for name, tensor in model.persistent.items()
    }
    return replace(model, persistent=held)


def _vanished(model: Graph, constants: Mapping[str, Array]) -> dict[str, int]:
    found = {}
    for name, tensor in model.persistent.items():
        if tensor.origin is not None:
            exact = tensor.origin.store(constants[name])
            count = int(((exact != 0).ravel() & (tensor.initial == 0).ravel()).sum())
            if count:
                found[name] = count
    return found
