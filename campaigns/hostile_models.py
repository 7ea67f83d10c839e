"""Hostile models: small valid ones of every operator, and what chance does to their bytes and to their structure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from random import Random
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import TensorProto, helper, numpy_helper

from benchmarks.models import ROOT
from campaigns.mutations import FLOATS, NUMBERS, TEXTS, mangled
from odl.ops._importer import IMPORTS, Sample
from odl.types import Array

Proto = onnx.ModelProto
Harm = Callable[[Random, Proto], None]

# --- what is sound ----------------------------------------------------------------------------------------------------


def draw(*shape: int) -> Array:
    return np.random.default_rng([7, *shape]).normal(0, 0.5, shape).astype(np.float32)


def node(op_type: str, inputs: str, outputs: str, name: str = "", **attributes: object) -> onnx.NodeProto:
    """`inputs` and `outputs` are words."""
    return helper.make_node(op_type, inputs.split(), outputs.split(), name=name, **attributes)


def value(name: str, shape: Sequence[int] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def model(
    nodes: Sequence[onnx.NodeProto], x: Sequence[int], functions: Sequence[onnx.FunctionProto] = (), **weights: Array
) -> Proto:
    """From an input of shape `x` to an output `y`."""
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(list(nodes), "small", [value("x", x)], [value("y", None)], tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("custom", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8)


def mlp() -> Proto:
    nodes = [
        node("Gemm", "x w1 b1", "h", "fc1", transB=1), node("Relu", "h", "r", "relu"),
        node("Gemm", "r w2 b2", "y", "fc2", transB=1),
    ]  # fmt: skip
    return model(nodes, (1, 4), w1=draw(5, 4), b1=draw(5), w2=draw(3, 5), b2=draw(3))


def cnn() -> Proto:
    nodes = [
        node("Conv", "x w b", "c", "conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("BatchNormalization", "c gamma beta mean var", "n", "bn"), node("Relu", "n", "r", "relu"),
        node("MaxPool", "r", "p", "pool", kernel_shape=[2, 2], strides=[2, 2]), node("Flatten", "p", "f", "flat"),
        node("Gemm", "f v c0", "y", "fc", transB=1),
    ]  # fmt: skip
    norm = {"gamma": 1 + draw(5) ** 2, "beta": draw(5), "mean": draw(5), "var": 1 + draw(5) ** 2}
    return model(nodes, (1, 2, 6, 6), w=draw(5, 2, 3, 3), b=draw(5), v=draw(3, 45), c0=draw(3), **norm)


def residual() -> Proto:
    """A depthwise convolution, a branch, constants as nodes, a Reshape."""
    half = helper.make_tensor("half", TensorProto.FLOAT, (), [0.5])
    nodes = [
        node("Conv", "x w", "a", "dw", group=4, pads=[1, 1, 1, 1]), node("Clip", "a low high", "c", "clip"),
        node("Constant", "", "half", "const", value=half), node("Mul", "c half", "m", "mul"),
        node("Add", "m x", "s", "add"), node("Transpose", "s", "t", "turn", perm=[0, 2, 3, 1]),
        node("Reshape", "t shape", "f", "flat"), node("MatMul", "f v", "y", "fc"),
    ]  # fmt: skip
    low, high = np.array(0, np.float32), np.array(6, np.float32)
    return model(
        nodes, (1, 4, 4, 4), w=draw(4, 1, 3, 3), low=low, high=high, shape=np.array([1, -1]), v=draw(64, 3)
    )  # fmt: skip


def functions() -> Proto:
    """Local functions, one in another, and a control flow that nothing needs."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("custom", 1)]
    inner = helper.make_function("custom", "Act", ["a"], ["b"], [node("Relu", "a", "b")], opsets)
    body = [node("Gemm", "a k", "c", "fc"), helper.make_node("Act", ["c"], ["b"], domain="custom")]
    outer = helper.make_function("custom", "Layer", ["a", "k"], ["b"], body, opsets)
    calls = [
        helper.make_node("Layer", ["x", "w1"], ["h"], "one", domain="custom"),
        helper.make_node("Layer", ["h", "w2"], ["y"], "two", domain="custom"),
    ]
    branch = helper.make_graph([node("Relu", "x", "z")], "branch", [], [value("z", (1, 4))])
    dead = node("If", "yes", "unused", "if", then_branch=branch, else_branch=branch)
    weights = {"w1": draw(4, 5), "w2": draw(5, 3), "yes": np.array(True)}
    return model([*calls, dead], (1, 4), [inner, outer], **weights)


def external() -> Proto:
    """A weight in another file; `hostile_kinds` puts one there."""
    proto = mlp()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in {"location": "weights.bin", "offset": "16", "length": "80"}.items():
        tensor.external_data.add(key=key, value=text)
    return proto


def of_sample(sample: Sample) -> Proto:
    """One node of an operator behind a trained scale."""
    names = [f"i{at}" for at in range(len(sample.shapes))]
    names[0] = "s"
    weights: dict[str, Array] = {"scale": np.array(1.5, np.float32)}
    for at, shape in enumerate(sample.shapes[1:], 1):
        weights[names[at]] = sample.values.get(at, 1 + draw(*shape) ** 2)
    nodes = [
        node("Mul", "x scale", "s", "scale"),
        helper.make_node(sample.op_type, names, ["y"], "n", **sample.attributes),
    ]
    made = model(nodes, sample.shapes[0], **weights)
    made.opset_import[0].version = sample.opset
    return made


@cache
def seeds() -> tuple[bytes, ...]:
    """Networks, and a model for each sample of each operator."""
    samples = [sample for imported in IMPORTS.values() for sample in imported.samples() if sample.shapes]
    singles = [
        of_sample(sample) for sample in samples if len(sample.shapes[0]) in (2, 3, 4) and sample.shapes[0][0] == 1
    ]
    networks = [mlp(), cnn(), residual(), functions(), external()]
    return tuple(proto.SerializeToString() for proto in (*networks * (1 + len(singles) // 5), *singles))


@cache
def large_seeds() -> tuple[bytes, ...]:
    """The models of examples/."""
    return tuple(path.read_bytes() for path in sorted((ROOT / "examples").glob("*/model.onnx")))


# --- bytes ------------------------------------------------------------------------------------------------------------


def harmed_bytes(chance: Random) -> bytes:
    """Most of a small model; of an example's, one in twenty-five."""
    return mangled(chance, chance.choice(large_seeds() if chance.random() < 0.04 else seeds()))


# --- structure --------------------------------------------------------------------------------------------------------

_INTEGERS = (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
_REALS = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)


def messages(message: Message) -> list[Message]:
    """A message and all below it."""
    found = [message]
    for at in found:
        for field, content in at.ListFields():
            if field.type == field.TYPE_MESSAGE:
                found += [content] if isinstance(content, Message) else list(content)
    return found


def scalar(chance: Random, field: FieldDescriptor) -> Any:
    """A value that the field can hold."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return chance.choice([each.number for each in field.enum_type.values])
    if field.cpp_type in _INTEGERS:
        wide, unsigned = field.cpp_type != FieldDescriptor.CPPTYPE_INT32, field.cpp_type == _INTEGERS[2]
        number, bits = chance.choice(NUMBERS), 64 if wide else 32
        wrapped = number % 2**bits
        return wrapped if unsigned or wrapped < 2 ** (bits - 1) else wrapped - 2**bits
    if field.cpp_type in _REALS:
        return float(np.float32(chance.choice(FLOATS[:12]))) if chance.random() < 0.7 else chance.choice(FLOATS[-3:])
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return chance.random() < 0.5
    text = chance.choice(TEXTS)
    return text.encode() if field.type == field.TYPE_BYTES else text


def any_field(chance: Random, proto: Proto) -> None:
    """Any field of any message: set, cleared, one item more, or less, or two exchanged."""
    message = chance.choice(messages(proto))
    field = chance.choice(message.DESCRIPTOR.fields)
    is_message = field.type == field.TYPE_MESSAGE
    content = getattr(message, field.name)
    if hasattr(content, "append") or hasattr(content, "add"):
        _change_items(chance, content, field, is_message)
    elif is_message:
        content.SetInParent()
    elif chance.random() < 0.2:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, scalar(chance, field))


def _change_items(chance: Random, items: Any, field: FieldDescriptor, is_message: bool) -> None:
    what = chance.randrange(5)
    if what == 0 and len(items):
        del items[chance.randrange(len(items))]
    elif what == 1 and len(items):
        items.extend([items[chance.randrange(len(items))]] * chance.choice((1, 1, 1, 2, 30)))
    elif what == 2 and len(items) > 1:
        copies = [each for each in items]
        chance.shuffle(copies)
        copies = [type(each).FromString(each.SerializeToString()) for each in copies] if is_message else copies
        del items[:]
        items.extend(copies)
    elif not is_message and what == 3 and len(items):
        items[chance.randrange(len(items))] = scalar(chance, field)
    elif is_message:
        items.add()
    else:
        items.append(scalar(chance, field))


def renamed(chance: Random, proto: Proto) -> None:
    """A name that the graph uses, by another: everywhere, or in one place."""
    graph, new = proto.graph, chance.choice(TEXTS)
    places: list[tuple[Any, Any]] = [(each.input, at) for each in graph.node for at in range(len(each.input))]
    places += [(each.output, at) for each in graph.node for at in range(len(each.output))]
    places += [(each, "name") for each in (*graph.input, *graph.output, *graph.initializer, *graph.node)]
    if not places:
        return
    holder, key = chance.choice(places)
    old, alone = _read(holder, key), chance.random() < 0.3
    for place, where in [(holder, key)] if alone else places:
        if _read(place, where) == old:
            if isinstance(where, int):
                place[where] = new
            else:
                place.name = new


def _read(holder: Any, key: Any) -> str:
    return str(holder[key] if isinstance(key, int) else holder.name)


_TYPES: Sequence[tuple[int, str]] = (
    (onnx.AttributeProto.INT, "i"), (onnx.AttributeProto.FLOAT, "f"), (onnx.AttributeProto.STRING, "s"),
    (onnx.AttributeProto.INTS, "ints"), (onnx.AttributeProto.FLOATS, "floats"),
    (onnx.AttributeProto.STRINGS, "strings"),
)  # fmt: skip
_ATTRIBUTES = (
    "kernel_shape", "pads", "strides", "dilations", "group", "auto_pad", "axis", "axes", "perm", "keepdims", "alpha",
    "beta", "transA", "transB", "epsilon", "ceil_mode", "count_include_pad", "to", "mode", "value", "value_float",
    "value_ints", "value_string", "allowzero", "num_outputs", "training_mode", "momentum", "min", "max",
)  # fmt: skip


def attribute(chance: Random, proto: Proto) -> None:
    """An attribute of a node: one that it has, of new value or type, or one that it has not."""
    target = chance.choice(list(proto.graph.node) or [onnx.NodeProto()])
    if target.attribute and chance.random() < 0.7:
        found = chance.choice(list(target.attribute))
        kind = found.type
    else:
        found = target.attribute.add(name=chance.choice(_ATTRIBUTES))
        kind = chance.choice(_TYPES)[0]
    name = dict(_TYPES).get(kind if chance.random() < 0.8 else chance.choice(_TYPES)[0], "i")
    field = found.DESCRIPTOR.fields_by_name[name]
    if name.endswith("s") and name != "s":
        found.ClearField(name) if chance.random() < 0.3 else None
        getattr(found, name).extend(scalar(chance, field) for _ in range(chance.randrange(5)))
    else:
        setattr(found, name, scalar(chance, field))
    found.type = next(kind for kind, each in _TYPES if each == name)


def operator(chance: Random, proto: Proto) -> None:
    """Another operator: one that odl knows, any that ONNX knows, or a word."""
    target = chance.choice(list(proto.graph.node) or [onnx.NodeProto()])
    target.op_type = chance.choice(
        (*[chance.choice(sorted(IMPORTS))] * 4, chance.choice(_operators()), chance.choice(TEXTS))
    )


@cache
def _operators() -> tuple[str, ...]:
    return tuple(schema.name for schema in onnx.defs.get_all_schemas())


def tensor(chance: Random, proto: Proto) -> None:
    """A weight of another shape, type, or content: whole, or not as its shape says."""
    tensors = [each for each in messages(proto) if isinstance(each, TensorProto)]
    if not tensors:
        return
    found = chance.choice(tensors)
    what = chance.randrange(6)
    if what == 0:
        rank = chance.randrange(6)
        shape = tuple(chance.choice((0, 1, 1, 2, 3, 4, 5)) for _ in range(rank))
        kind = chance.choice((np.float32, np.float32, np.float64, np.float16, np.int64, np.int32, np.bool_, np.uint8))
        found.CopyFrom(numpy_helper.from_array(draw(*shape).astype(kind), found.name))
    elif what == 1 and found.data_type == TensorProto.FLOAT and found.raw_data:
        numbers = np.frombuffer(found.raw_data[: len(found.raw_data) // 4 * 4], np.float32).copy()
        numbers[chance.randrange(4) :: 7] = np.float32(chance.choice(FLOATS[:12] + FLOATS[-3:]))
        found.raw_data = numbers.tobytes()
    elif what == 2 and found.dims:
        found.dims[chance.randrange(len(found.dims))] = chance.choice([n for n in NUMBERS if -(2**63) <= n < 2**63])
    elif what == 3:
        found.data_type = chance.randrange(-1, 30)
    elif what == 4:
        found.raw_data = mangled(chance, found.raw_data)
    else:
        found.data_location = TensorProto.EXTERNAL
        _external(chance, found)


_PLACES = (
    "weights.bin", "../outside.bin", "/etc/passwd", "..", ".", "", "model.onnx", "a/../weights.bin", "./weights.bin",
    "link.bin", "fifo", "w" * 300, "w/" * 3000, "a\0b", "weights.bin/", "//weights.bin", "~", "\n", "/dev/zero",
)  # fmt: skip


def _external(chance: Random, found: TensorProto) -> None:
    if chance.random() < 0.5:
        found.ClearField("raw_data")
    for key, texts in {
        "location": _PLACES, "offset": ("0", "16", "-1", "x", "9" * 30, "1e3", " 16 ", "0x10", "9" * 5000, "١"),
        "length": ("80", "0", "-1", "", "9" * 30, "x"), "checksum": ("", "0" * 40), chance.choice(TEXTS)[:50]: TEXTS,
    }.items():  # fmt: skip
        if chance.random() < 0.6:
            found.external_data.add(key=key, value=chance.choice(texts))


def shape(chance: Random, proto: Proto) -> None:
    """An input or output of another shape."""
    described = chance.choice([*proto.graph.input, *proto.graph.output] or [onnx.ValueInfoProto()])
    dims = described.type.tensor_type.shape.dim
    if chance.random() < 0.3 or not dims:
        dims.add()
    one = chance.choice(list(dims))
    if chance.random() < 0.15:
        one.dim_param = chance.choice(TEXTS)
    else:
        one.dim_value = chance.choice((1, 1, 2, 3, 4, 5, 8, chance.choice([n for n in NUMBERS if n < 2**63])))


def wiring(chance: Random, proto: Proto) -> None:
    """A node reads something else, more or less; or is there twice, or not at all."""
    nodes = proto.graph.node
    names = [
        *(each.name for each in proto.graph.initializer),
        *(name for each in nodes for name in each.output),
        "x",
        "",
    ]
    target = chance.choice(list(nodes) or [onnx.NodeProto()])
    what = chance.randrange(5)
    if what == 0 and target.input:
        target.input[chance.randrange(len(target.input))] = chance.choice(names)
    elif what == 1:
        target.input.extend(chance.choices(names, k=chance.choice((1, 2, 300))))
    elif what == 2 and nodes:
        nodes.add().CopyFrom(target)
        if chance.random() < 0.7:
            nodes[-1].output[:] = [f"{name}'" for name in nodes[-1].output]
    elif what == 3 and nodes:
        del nodes[chance.randrange(len(nodes))]
    else:
        target.output.append(chance.choice([*names, *TEXTS[:20]]))


def branches(chance: Random, proto: Proto) -> None:
    """Graphs in attributes of nodes in graphs, up to beyond what protobuf reads; or two in each of two."""
    graphs, wide = [proto.graph], chance.random() < 0.5
    for _ in range(chance.choice((1, 4, 8)) if wide else chance.choice((1, 10, 24, 30, 40))):
        nodes = [
            graph.node.add(op_type="If", name="if", input=["x"], output=[chance.choice(("z", "b"))]) for graph in graphs
        ]
        graphs = [
            each.attribute.add(name=name, type=onnx.AttributeProto.GRAPH).g
            for each in nodes for name in ("then_branch", "else_branch")[: 1 + wide]
        ]  # fmt: skip
    for graph in graphs:
        graph.name = chance.choice(TEXTS)[:50]
        graph.node.add(op_type=chance.choice(("Relu", "F0", "F1", "Layer")), input=["x"], output=["z"], domain="custom")
        graph.output.append(value("z", (1, 4)))


def calls(chance: Random, proto: Proto) -> None:
    """Functions that call, in a branch too, themselves, each other, or others twice."""
    n, wild = chance.choice((1, 3, 20, 60)), chance.random() < 0.3
    for at in range(n):
        made = proto.functions.add(name=f"F{at}", domain="custom", input=["a"], output=["b"])
        made.opset_import.extend([helper.make_opsetid("", 17), helper.make_opsetid("custom", 1)])
        callee = f"F{max(at - 1, 0) if not wild else chance.randrange(n)}"
        if not at and not wild:
            made.node.add(op_type="Relu", input=["a"], output=["b"])
            continue
        made.node.add(op_type=callee, domain="custom", input=["a"], output=["c"])
        made.node.add(op_type=callee, domain="custom", input=["c"], output=["b"])
        if chance.random() < 0.2:
            inside = made.node.add(op_type="If", input=["a"], output=["d"])
            graph = inside.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g
            graph.node.add(op_type=chance.choice((callee, f"F{at}")), domain="custom", input=["a"], output=["e"])
        if chance.random() < 0.1:
            made.overload = chance.choice(TEXTS)[:50]
    proto.graph.node.add(op_type=f"F{n - 1}", domain="custom", input=["x"], output=["called"])
    if chance.random() < 0.5:
        proto.graph.node[0].input[:1] = ["called"]


def imports(chance: Random, proto: Proto) -> None:
    """Versions and domains."""
    what = chance.randrange(4)
    if what == 0:
        proto.ir_version = chance.choice((0, 1, 3, 7, 10, 13, 14, 99, 2**40))
    elif what == 1 and proto.opset_import:
        proto.opset_import[0].version = chance.choice(
            (-1, 0, 6, 12, 13, 14, 15, 18, 19, 20, 21, 22, 24, 26, 27, 99, 2**60)
        )
    elif what == 2:
        proto.opset_import.add(domain=chance.choice(TEXTS), version=chance.choice((0, 1, 17, 2**40)))
    elif proto.graph.node:
        chance.choice(list(proto.graph.node)).domain = chance.choice(("ai.onnx", "custom", "ai.onnx.ml", *TEXTS))


_HARMS: Sequence[Harm] = (
    any_field, any_field, renamed, renamed, attribute, attribute, attribute, operator, operator, tensor, tensor, shape,
    shape, wiring, wiring, branches, calls, imports,
)  # fmt: skip


def harmed_structure(chance: Random) -> bytes:
    """A sound file of protobuf, whatever it says."""
    proto = Proto.FromString(chance.choice(seeds()))
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5))):
        chance.choice(_HARMS)(chance, proto)
    return proto.SerializeToString()
