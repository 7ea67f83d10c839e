"""The file behind a model: ONNX bytes become a ModelProto that is whole, closed, sorted and free of functions.

onnx.load accepts an empty file, and onnx.checker leaves much unsaid, so what the import relies on is looked at here.
Every refusal is a ModelError: `file-missing`, `not-a-file`, `file-unreadable`, `opset`, `empty-graph`; for data in
other files `external-data-outside`, `-missing`, `-short`, `-malformed`; `function-recursion`, `too-many-nodes`;
`duplicate-name`, `dangling-input`, `cycle`, `sparse-initializer`; in ONNX's words `onnx-checker`, `type-mismatch` and
`shape-mismatch`.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from heapq import heappop, heappush
from math import prod
from pathlib import Path

import onnx
import onnx.checker
import onnx.inliner
import onnx.shape_inference
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]

from odl.errors import ModelError, Problem
from odl.graph import fresh

OLDEST_OPSET = 13
NEWEST_OPSET = 26
ONNX_DOMAINS = ("", "ai.onnx")
_MOST_NODES = 20_000  # beyond, planning takes minutes; no device has room for so many
_MOST_READERS = 4_000  # of one value, or operands of one node: all live at once
_MOST_BYTES = 1 << 30  # of a file, of all data in other files, of inlined functions: protobuf writes no 2^31


def read_model(path: Path) -> onnx.ModelProto:
    """The file as it is, with external data brought inside, of an opset that odl knows."""
    proto = _parse(path)
    if not proto.graph.node:
        raise ModelError("empty-graph", str(path), "the file holds no graph with nodes")
    versions = [entry.version for entry in proto.opset_import if entry.domain in ONNX_DOMAINS]
    if not versions or not OLDEST_OPSET <= versions[0] <= NEWEST_OPSET:
        raise ModelError(
            "opset", str(path), f"opset {versions[0] if versions else 'missing'}, not {OLDEST_OPSET} .. {NEWEST_OPSET}",
            "convert it with onnx.version_converter",
        )  # fmt: skip
    left = _MOST_BYTES
    for tensor in _tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            left -= _bring_inside(tensor, path, left)
    return proto


def flatten(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its functions inlined and the nodes that its outputs need, uniquely named, in an order in which
    they can run.

    Of nodes that may run, the one that stands first in the file comes first: a sorted file stays as it is.
    """
    flat = onnx.ModelProto()
    flat.CopyFrom(proto)
    _check_size(flat.graph)
    if flat.functions:
        _check_functions(flat)
        try:
            flat = onnx.inliner.inline_local_functions(flat)
        except (onnx.checker.ValidationError, RuntimeError) as error:
            raise ModelError("onnx-checker", "local functions", first_line(error)) from error
    graph = flat.graph
    _check_size(graph)
    _check_names(graph)
    _check_splits(graph)
    nodes = _named(graph.node)
    kept = _needed(nodes, _sorted(nodes, _given(graph)), {output.name for output in graph.output})
    del graph.node[:]
    graph.node.extend(nodes[at] for at in kept)
    return flat


def _check_splits(graph: onnx.GraphProto) -> None:
    """Refuse a Split that says another number of outputs than it has: ONNX's inference would end the process."""
    for node in _every(graph.node):
        said = [attribute.i for attribute in node.attribute if attribute.name == "num_outputs"]
        if node.op_type == "Split" and any(number != len(node.output) for number in said):
            why = f"num_outputs is {said[0]}, and it has {len(node.output)} outputs"
            raise ModelError("onnx-checker", f"Split '{node.name}'", why)


def check(flat: onnx.ModelProto, refused: Collection[str] = ()) -> dict[str, Problem]:
    """What onnx.checker and ONNX's inference of types and shapes have to say against a flat model, but for the nodes of
    these names: with them something else is wrong, and has been told.

    Returns what nodes, by name, are refused for their shapes; raises ModelError with all else. Shapes that the file
    declares for results are set aside: they decide nothing, and exporters get them wrong.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(flat)
    del bare.graph.value_info[:]
    domains = {node.domain for node in bare.graph.node if node.name in refused}
    for domain in sorted(domains - {entry.domain for entry in bare.opset_import} - {*ONNX_DOMAINS}):
        bare.opset_import.add(domain=domain, version=1)  # without, inference goes no further than to such a node
    for output in bare.graph.output:
        output.type.tensor_type.shape.SetInParent()  # the checker wants one
    try:
        onnx.checker.check_model(bare)
    except (onnx.checker.ValidationError, ValueError) as error:
        found = _checker_problems(bare) or {"": Problem("onnx-checker", "model", first_line(error))}
        _raise_unless(refused, found, error)
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    _raise_unless(refused, *_inferred(bare, "type-mismatch", strict=False))
    found, cause = _inferred(bare, "shape-mismatch", strict=True)
    _raise_unless(refused, {name: problem for name, problem in found.items() if not name}, cause)
    return {name: problem for name, problem in found.items() if name not in refused}


_Told = dict[str, Problem]  # by the name of the node; of the model as a whole by none


def _raise_unless(refused: Collection[str], told: _Told, cause: Exception | None) -> None:
    problems = [problem for name, problem in told.items() if name not in refused]
    if problems:
        raise ModelError.of(problems) from cause


def _checker_problems(model: onnx.ModelProto) -> _Told:
    """The checker's complaints node by node: of a model it tells the first alone."""
    context = onnx.checker.C.CheckerContext()
    try:
        context.ir_version = model.ir_version
        context.opset_imports = {entry.domain: entry.version for entry in model.opset_import}
    except TypeError:  # a version beyond 32 bits
        return {}
    found = {}
    for node in model.graph.node:
        try:
            onnx.checker.check_node(node, context)
        except (onnx.checker.ValidationError, ValueError) as error:
            found[node.name] = Problem("onnx-checker", f"{node.op_type} '{node.name}'", first_line(error))
    return found


def _inferred(model: onnx.ModelProto, code: str, strict: bool) -> tuple[_Told, Exception | None]:
    """ONNX's complaints node by node, without those about inputs that an earlier one left without a type."""
    try:
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=strict)
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        text = str(error)
        found = re.findall(r"\(op_type:([^,)]+)(?:, node name: (.*?))?\): (.*)", text)
        own = [item for item in found if "instead is null" not in item[2]] or found
        told = {name: Problem(code, f"{op_type} '{name}'", why.split("] ")[-1]) for op_type, name, why in own}
        return told or {"": Problem(code, "model", text.strip())}, error
    return {}, None


def inferred_shapes(flat: onnx.ModelProto) -> dict[str, str]:
    """Shapes as text, by value name, as far as ONNX can tell."""
    try:
        graph = onnx.shape_inference.infer_shapes(flat).graph
    except (onnx.shape_inference.InferenceError, ValueError):
        graph = flat.graph
    known = {tensor.name: shape_text(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            known.setdefault(value.name, dims_text(value.type.tensor_type.shape))
    return known


def dims_text(shape: onnx.TensorShapeProto) -> str:
    """A declared shape: numbers, names of dynamic dimensions, or ? where nothing is said."""
    return shape_text(dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else "?") for dim in shape.dim)


def shape_text(sizes: Iterator[object] | Sequence[object]) -> str:
    return f"({', '.join(map(str, sizes))})"


def first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def is_model(path: Path) -> bool:
    """Whether a file, whatever its name, holds an ONNX model."""
    try:
        return bool(_parse(path).graph.node)
    except ModelError:
        return False


def _holds_arrays(content: bytes) -> bool:
    """Whether these are the bytes of an .npy or an .npz file."""
    if content.startswith(b"\x93NUMPY"):
        return True
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except Exception:  # a broken file can raise nearly anything in zipfile
        return False


def _parse(path: Path) -> onnx.ModelProto:
    proto, content = onnx.ModelProto(), b""
    try:
        if not path.exists():
            raise ModelError("file-missing", str(path), "there is no such file")
        if not path.is_file():
            raise ModelError("not-a-file", str(path), "this is a folder or a device, not an ONNX file")
        content = path.read_bytes()
        proto.ParseFromString(content)
        _check_text(proto)
    except (DecodeError, ValueError, OSError) as error:
        if _holds_arrays(content):
            why = "this is a file of NumPy arrays, not an ONNX file"
            raise ModelError(
                "file-unreadable", str(path), why, "MODEL is the ONNX file, data goes to --data"
            ) from error
        raise ModelError("file-unreadable", str(path), f"it cannot be read as ONNX: {first_line(error)}") from error
    return proto


def _check_text(message: Message) -> None:
    """Refuse strings that are not UTF-8; protobuf hands them out as bytes. Messages nest at most a hundred deep."""
    for field, content in message.ListFields():
        items = [content] if isinstance(content, Message | str | bytes | int | float) else content
        if field.type == field.TYPE_MESSAGE:
            for item in items:
                _check_text(item)
        elif field.type == field.TYPE_STRING and not all(isinstance(item, str) for item in items):
            raise ValueError(f"{field.full_name} is not UTF-8")


# --- data in other files ----------------------------------------------------------------------------------------------


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """The tensors that a model is read from: initializers, and attributes of nodes outside of control flow."""
    yield from proto.graph.initializer
    for holder in (proto.graph, *proto.functions):
        for node in holder.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors


def _bring_inside(tensor: onnx.TensorProto, model: Path, most: int) -> int:
    """Read a tensor's bytes, up to `most`, from the file that it names, which must lie in the model's folder; returns
    how many they are."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location, where = entries.get("location", ""), f"tensor '{tensor.name}'"
    folder = model.parent.resolve()
    try:
        file = (folder / location).resolve()
        offset, n_bytes = int(entries.get("offset", "0")), _n_bytes(tensor)
        stated, is_file = int(entries.get("length", n_bytes)), file.is_file()
    except (ValueError, KeyError, OSError) as error:
        raise ModelError("external-data-malformed", where, f"{_cut(entries)}: {_cut(first_line(error))}") from error
    if Path(location).is_absolute() or not file.is_relative_to(folder):
        raise ModelError("external-data-outside", where, f"'{location}' is not in the folder of the model")
    if not is_file:
        raise ModelError("external-data-missing", where, f"there is no file '{location}'", "keep both files together")
    if stated != n_bytes or offset < 0:
        raise ModelError("external-data-malformed", where, f"{stated} bytes at {offset} cannot hold its {n_bytes}")
    if file.stat().st_size < offset + n_bytes:
        raise ModelError("external-data-short", where, f"'{location}' ends before {n_bytes} bytes at {offset}")
    if n_bytes > most:
        raise ModelError("external-data-too-large", where, f"with it, the model's data is beyond {_MOST_BYTES:,} bytes")
    try:
        with file.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(n_bytes)
    except OSError as error:
        raise ModelError("external-data-missing", where, f"'{location}' cannot be read: {error.strerror}") from error
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    return n_bytes


def _cut(what: object) -> str:
    text = str(what)
    return text if len(text) <= 300 else f"{text[:300]}..."


def _n_bytes(tensor: onnx.TensorProto) -> int:
    if any(size < 0 for size in tensor.dims):
        raise ValueError(f"dimensions {list(tensor.dims)}")
    n_bytes: int = prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return n_bytes


# --- size -------------------------------------------------------------------------------------------------------------


def _check_size(graph: onnx.GraphProto) -> None:
    """Refuse what would take minutes to plan."""
    if len(graph.node) > _MOST_NODES:
        raise ModelError("too-many-nodes", "graph", f"it has {len(graph.node):,} nodes, not up to {_MOST_NODES:,}")
    readers = Counter(name for node in graph.node for name in node.input if name)
    name, count = max(readers.items(), key=lambda item: item[1], default=("", 0))
    if count > _MOST_READERS:
        raise ModelError(
            "too-many-nodes", f"value '{name}'", f"it is read {count:,} times, not up to {_MOST_READERS:,}"
        )
    widest = max(graph.node, key=lambda node: len(node.input), default=onnx.NodeProto())
    if len(widest.input) > _MOST_READERS:
        why = f"it reads {len(widest.input):,} values, not up to {_MOST_READERS:,}"
        raise ModelError("too-many-nodes", f"{widest.op_type} '{widest.name}'", why)


# --- functions --------------------------------------------------------------------------------------------------------


def _check_functions(proto: onnx.ModelProto) -> None:
    """Refuse functions that call themselves, and small ones that multiply into a graph too large to handle.

    A function's size is the number of its nodes with those of the functions that it calls.
    """
    functions = {(_domain(each), each.name, each.overload): each for each in proto.functions}
    if len(functions) < len(proto.functions):
        names = _cut(", ".join(f"{domain}.{name}" for domain, name, _ in functions))
        raise ModelError("duplicate-name", names, "of these local functions some are defined more than once")
    calls = {
        key: [callee for callee in map(_callee, _every(function.node)) if callee in functions]
        for key, function in functions.items()
    }
    keys = list(functions)
    order = _topological([calls[key] for key in keys], keys)
    if len(order) < len(functions):
        stuck = _cut(", ".join(f"{domain}.{name}" for domain, name, _ in functions))
        raise ModelError("function-recursion", stuck, "some of these functions call themselves or each other")
    sizes: dict[_Key, _Size] = {}
    for key in (keys[at] for at in order):
        own = sum(1 for _ in _every(functions[key].node)), functions[key].ByteSize()
        sizes[key] = _sum([own, *(sizes[callee] for callee in calls[key])])
    nodes, n_bytes = _sum([sizes.get(_callee(node), (1, 0)) for node in _every(proto.graph.node)])
    if nodes > _MOST_NODES or n_bytes > _MOST_BYTES:
        why = f"inlined, they are {nodes:,} nodes or more in {n_bytes:,} bytes, not {_MOST_NODES:,} in {_MOST_BYTES:,}"
        raise ModelError("too-many-nodes", "local functions", why)


_Size = tuple[int, int]  # nodes, bytes


def _sum(sizes: Sequence[_Size]) -> _Size:
    """The sizes together, as far as anyone would count."""
    return min(sum(nodes for nodes, _ in sizes), 1 << 40), min(sum(n_bytes for _, n_bytes in sizes), 1 << 40)


_Key = tuple[str, str, str]  # domain, name, overload


def _domain(holder: onnx.NodeProto | onnx.FunctionProto) -> str:
    return "" if holder.domain in ONNX_DOMAINS else holder.domain


def _callee(node: onnx.NodeProto) -> _Key:
    return _domain(node), node.op_type, node.overload


def _every(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes, and those of the graphs in their attributes, at any depth."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                waiting.extend(graph.node)


# --- names and order --------------------------------------------------------------------------------------------------


def _given(graph: onnx.GraphProto) -> set[str]:
    """What can be read before any node has run; an input left out is the empty name."""
    return {"", *(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer)}


def _check_names(graph: onnx.GraphProto) -> None:
    """Refuse values with two definitions, and reads of values that have none."""
    if graph.sparse_initializer:
        names = ", ".join(tensor.values.name for tensor in graph.sparse_initializer)
        raise ModelError("sparse-initializer", names, "sparse weights are not supported", "store them as dense tensors")
    given = [value.name for value in graph.input], [tensor.name for tensor in graph.initializer]
    computed = [name for node in graph.node for name in node.output if name]
    known = {"", *computed, *given[0], *given[1]}
    # An initializer with an input's name is that input's default value.
    problems = [*_twice(given[0]), *_twice(given[1]), *_twice([*{*given[0], *given[1]}, *computed])]
    for index, node in enumerate(graph.node):
        where = f"{node.op_type} '{node.name or index}'"
        problems += [
            Problem("dangling-input", where, f"reads '{name}', which nothing computes")
            for name in node.input if name not in known
        ]  # fmt: skip
    problems += [
        Problem("dangling-input", f"output '{value.name}'", "nothing computes it")
        for value in graph.output if value.name not in known
    ]  # fmt: skip
    if problems:
        raise ModelError.of(problems)


def _twice(names: Iterable[str]) -> Iterator[Problem]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield Problem("duplicate-name", f"value '{name}'", "is defined more than once")
        seen.add(name)


def _named(nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes under unique names: their own, or else their operator and place in the file."""
    found = list(nodes)
    taken = {node.name for node in found}
    seen: set[str] = set()
    for index, node in enumerate(found):
        if not node.name or node.name in seen:
            node.name = fresh(node.name or f"{node.op_type}_{index}", taken)
        taken.add(node.name)
        seen.add(node.name)
    return found


def _sorted(nodes: Sequence[onnx.NodeProto], given: set[str]) -> list[int]:
    """Indices of nodes in topological order, the smallest first where there is a choice."""
    maker = {name: at for at, node in enumerate(nodes) for name in node.output if name}
    needs = [[maker[name] for name in _reads(node) - given if name in maker] for node in nodes]
    order = _topological(needs, range(len(nodes)))
    if len(order) < len(nodes):
        stuck = [nodes[at].name for at in sorted({*range(len(nodes))} - {*order})]
        more = f" and {len(stuck) - 5} more" if len(stuck) > 5 else ""
        raise ModelError("cycle", ", ".join(stuck[:5]) + more, "these nodes wait for each other's results")
    return order


def _reads(node: onnx.NodeProto) -> set[str]:
    """What a node reads, and what the graphs inside it do, be it their own."""
    if not any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
        return {*node.input}
    return {name for each in _every([node]) for name in each.input}


def _topological(needs: Sequence[Iterable[Hashable]], keys: Sequence[Hashable]) -> list[int]:
    """Indices of items, each after those whose keys it needs, the smallest first where there is a choice.

    Items on a cycle, and those that need them, are left out.
    """
    index = {key: at for at, key in enumerate(keys)}
    feeds: list[list[int]] = [[] for _ in keys]
    waiting = [0] * len(keys)
    for at, needed in enumerate(needs):
        for key in set(needed):
            feeds[index[key]].append(at)
            waiting[at] += 1
    ready = [at for at, count in enumerate(waiting) if not count]  # ascending, and so a heap
    order = []
    while ready:
        order.append(heappop(ready))
        for later in feeds[order[-1]]:
            waiting[later] -= 1
            if not waiting[later]:
                heappush(ready, later)
    return order


def _needed(nodes: Sequence[onnx.NodeProto], order: Sequence[int], outputs: set[str]) -> list[int]:
    """The nodes of `order` that the outputs need."""
    wanted = outputs - {""}
    kept = []
    for at in reversed(order):
        if wanted.intersection(nodes[at].output):
            wanted.update(_reads(nodes[at]))
            wanted.discard("")
            kept.append(at)
    return kept[::-1]
