"""What is computed: values in single static assignment, operators, the verifier and the text form.

A `Graph` says nothing of time or place: no order beyond data dependence, no address. Persistent tensors (weights,
optimizer state) enter a graph under their own name and leave it, where it changes them, under another: `carries`
names the value that the persistent tensor holds when the graph has run. An operator that changes a tensor
(`overwrites`) works on the tensor's own memory, so every other reader of the old value runs before it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import ClassVar

import numpy as np

from odl.types import Array, Shape, TensorType


class Phase(Enum):
    """The part of a training step that a node belongs to, as reports count it."""

    FORWARD = "forward"
    WEIGHT_GRADIENT = "weight_gradient"
    INPUT_GRADIENT = "input_gradient"
    UPDATE = "update"


@dataclass(frozen=True)
class Kernel:
    """The C function of a node and what it is told besides its tensors.

    `scalars` are arguments in order, or, where `struct` names a C struct, the fields of one constant of that type;
    `extra` are arguments behind it, for calls that share the struct.
    """

    name: str
    scalars: Mapping[str, int | float] = field(default_factory=dict)
    struct: str = ""
    extra: Mapping[str, int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Slice:
    """Indices `first` .. `last - 1` of one axis of a tensor, and everything of the others."""

    axis: int
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first

    def of(self, type_: TensorType) -> TensorType:
        """The type of this slice of a tensor."""
        shape = (*type_.shape[: self.axis], len(self), *type_.shape[self.axis + 1 :])
        return TensorType(shape, type_.dtype)

    def __str__(self) -> str:
        return f"[{':, ' * self.axis}{self.first}:{self.last}]"


@dataclass(frozen=True)
class Tile:
    """Part of an operator's work: an operator on slices of the operands. None is a whole operand."""

    op: Operator
    inputs: tuple[Slice | None, ...]
    outputs: tuple[Slice | None, ...]


@dataclass(frozen=True)
class Operator(ABC):
    """One operator with its attributes. Subclasses are frozen dataclasses whose fields are the attributes.

    `arity` is the number of input tensors of the C kernel, where a node may have fewer: NULL stands for the rest.
    `in_place` lists (output, input) pairs that may share memory; `overwrites` those that must, as far as the node has
    them. A `view` has no
    kernel: its output is its input's bytes under another shape. `moves`: it only arranges bytes anew, and costs less
    than keeping its output does. `stacked` lists sets of inputs that may hold several samples, one behind the other
    along axis 0, which `evaluate` then treats each by itself and gives out so.
    """

    name: ClassVar[str]
    arity: ClassVar[int] = 0
    in_place: ClassVar[tuple[tuple[int, int], ...]] = ()
    overwrites: ClassVar[tuple[tuple[int, int], ...]] = ()
    view: ClassVar[bool] = False
    moves: ClassVar[bool] = False
    stacked: ClassVar[tuple[tuple[int, ...], ...]] = ()
    phase: ClassVar[Phase | None] = None

    @abstractmethod
    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Output types from input types; raises ModelError where the operator does not apply."""

    @abstractmethod
    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """The definition of the operator, in bits."""

    def evaluate_many(self, inputs: Sequence[Array], many: Sequence[bool], n_samples: int) -> tuple[Array, ...]:
        """`evaluate` for several samples at once, in bits as for one after the other.

        Input i has a leading axis of samples where many[i]; all samples share the others. So have the outputs, but for
        those that overwrite a shared input (`folds`): that takes up the samples in order, and what is returned is what
        the last one left. Subclasses have other ways where those are faster.
        """
        if tuple(i for i, is_many in enumerate(many) if is_many) in self.stacked:
            flat = [x.reshape(-1, *x.shape[2:]) if is_many else x for x, is_many in zip(inputs, many, strict=True)]
            return tuple(y.reshape(n_samples, -1, *y.shape[1:]) for y in self.evaluate(flat))
        operands, results = list(inputs), list[tuple[Array, ...]]()
        for at in range(n_samples):
            results.append(self.evaluate([x[at] if is_many else x for x, is_many in zip(operands, many, strict=True)]))
            for output, into in self.overwrites:
                if into < len(many) and not many[into]:
                    operands[into] = results[-1][output]
        return tuple(
            results[-1][output] if self.folds(output, many) else np.stack([each[output] for each in results])
            for output in range(len(results[0]))
        )

    def folds(self, output: int, many: Sequence[bool]) -> bool:
        """Whether an output has no axis of samples because it overwrites an input that has none."""
        return any(output == each and not many[into] for each, into in self.overwrites if into < len(many))

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        """The C function and its scalars. A view has none."""
        raise NotImplementedError(f"{self.name} has no kernel")

    def gradient(self, build: Builder, node: Node, grad: str, wanted: Sequence[bool]) -> Sequence[str | None]:
        """Append the backward nodes of `node`, whose first output has the gradient `grad`.

        Returns one gradient an input, None where it is not `wanted`.
        """
        raise NotImplementedError(f"{self.name} has no gradient")

    def macs(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """Multiply-accumulates of one execution, taps on padding included; 0 for an elementwise operator."""
        return 0

    def split(self, first: int, count: int) -> Operator | None:
        """The operator that computes only outputs `first` .. `first + count - 1` of axis 0, if there is one."""
        return None

    def is_piece(self, inputs: Sequence[TensorType]) -> bool:
        """Whether `split` made it, so that nodes beside it read the same operands for the rest of the outputs."""
        return False

    def goes(self, inputs: Sequence[TensorType], n_goes: int) -> Sequence[Operator]:
        """About `n_goes` operators that compute the same one after another, from slices of the operands, with the same
        bits; none where there is no such way.

        Each reads the operands, and behind them what the one before made; their tile of everything says which slices.
        """
        return ()

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """The operator that computes slice `cut` of the outputs from slices of the inputs, with the same bits.

        None as `cut` is all that this operator computes: it may still need and change only slices of its operands.
        Returns None where it cannot be cut so.
        """
        return None if cut else Tile(self, (None,) * len(inputs), (None,) * len(outputs))

    def cut_shape(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Shape:
        """What slices for `tile` are of: the first output, unless the operator changes only a part of that."""
        return outputs[0].shape

    def attributes(self) -> str:
        """The attributes as text dumps show them."""
        shown = ((f.name, getattr(self, f.name)) for f in fields(self))
        return ", ".join(f"{name}={_attribute_text(value)}" for name, value in shown)


@dataclass(frozen=True)
class Node:
    """One application of an operator. `layer` is the ONNX node that it stems from."""

    op: Operator
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layer: str
    phase: Phase


def present(node: Node, pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The (output, input) pairs of an operator whose operands this node has."""
    return [(output, source) for output, source in pairs if output < len(node.outputs) and source < len(node.inputs)]


@dataclass(frozen=True)
class Origin:
    """How a stored tensor came from an ONNX initializer, so that it can go back.

    stored = transpose(initializer * scale + offset, perm) reshaped to the storage shape, where `scale` and `offset`
    are float64 and broadcast against the initializer (batch normalisation folds into them).
    """

    initializer: str
    shape: Shape
    perm: tuple[int, ...]
    scale: Array = field(default_factory=lambda: np.ones(()), compare=False)
    offset: Array = field(default_factory=lambda: np.zeros(()), compare=False)

    def store(self, initializer: Array) -> Array:
        """The initializer (ONNX shape) in storage order, float64."""
        affine = initializer.astype(np.float64) * self.scale
        if np.any(self.offset):  # adding +0 would make -0 positive
            affine = affine + self.offset
        stored: Array = affine.transpose(self.perm)
        return stored

    def restore(self, stored: Array) -> Array:
        """The stored tensor as the ONNX file wants it, float32."""
        permuted = tuple(self.shape[axis] for axis in self.perm)
        back = stored.astype(np.float64).reshape(permuted).transpose(np.argsort(self.perm))
        restored: Array = ((back - self.offset) / self.scale).astype(np.float32)
        return restored


class Role(Enum):
    """What a persistent tensor is for."""

    WEIGHT = "weight"
    MASTER = "master"
    STATE = "state"
    GRADIENT = "gradient"
    COUNTER = "counter"
    RATES = "rates"
    REPLAY = "replay"


@dataclass(frozen=True)
class Persistent:
    """A tensor that outlives a step: its type, first value, role, and, for a weight, its ONNX origin."""

    name: str
    type: TensorType
    initial: Array = field(compare=False)
    role: Role = Role.WEIGHT
    origin: Origin | None = None


@dataclass(frozen=True)
class Graph:
    """Nodes in a valid order over typed values. `outputs` and the values of `carries` are wanted at the end."""

    name: str
    inputs: Mapping[str, TensorType]
    persistent: Mapping[str, Persistent]
    nodes: tuple[Node, ...]
    types: Mapping[str, TensorType]
    outputs: tuple[str, ...]
    carries: Mapping[str, str] = field(default_factory=dict)

    def producer(self) -> dict[str, Node]:
        """Value name -> the node that computes it."""
        return {value: node for node in self.nodes for value in node.outputs}

    def consumers(self) -> dict[str, list[Node]]:
        """Value name -> the nodes that read it, in order; a node that reads it twice stands twice."""
        found: dict[str, list[Node]] = {name: [] for name in self.types}
        for node in self.nodes:
            for value in node.inputs:
                found[value].append(node)
        return found

    def macs(self) -> int:
        return sum(self.node_macs(node) for node in self.nodes)

    def node_macs(self, node: Node) -> int:
        return node.op.macs(self.types_of(node.inputs), self.types_of(node.outputs))

    def types_of(self, values: Sequence[str]) -> tuple[TensorType, ...]:
        return tuple(self.types[value] for value in values)

    def __str__(self) -> str:
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield f"graph {self.name}"
        for name, type_ in self.inputs.items():
            yield f"  input {name}: {type_}"
        for name, tensor in self.persistent.items():
            yield f"  {tensor.role.value} {name}: {tensor.type}"
        for node in self.nodes:
            outputs = ", ".join(f"{value}: {self.types[value]}" for value in node.outputs)
            attributes = node.op.attributes()
            braces = f" {{{attributes}}}" if attributes else ""
            yield f"  {outputs} = {node.op.name}({', '.join(node.inputs)}){braces}  # {node.layer}, {node.phase.value}"
        for name, value in self.carries.items():
            yield f"  carry {name} <- {value}"
        yield f"  return {', '.join(self.outputs)}"


class Builder:
    """Appends nodes to a graph under construction and keeps names unique.

    `configure` sees every operator before it is added: that is how a recipe reaches operators that gradient rules make.
    """

    def __init__(self, graph: Graph | None = None, configure: Callable[[Operator], Operator] = lambda op: op) -> None:
        self._configure = configure
        self.inputs: dict[str, TensorType] = dict(graph.inputs) if graph else {}
        self.persistent: dict[str, Persistent] = dict(graph.persistent) if graph else {}
        self.nodes: list[Node] = list(graph.nodes) if graph else []
        self.types: dict[str, TensorType] = dict(graph.types) if graph else {}
        self.layer = ""
        self.phase = Phase.FORWARD
        self._node_names = {node.name for node in self.nodes}

    def input(self, name: str, type_: TensorType) -> str:
        self.inputs[name] = self.types[name] = type_
        return name

    def hold(self, tensor: Persistent) -> str:
        """Add a persistent tensor; returns the name under which the graph reads it."""
        self.persistent[tensor.name] = tensor
        self.types[tensor.name] = tensor.type
        return tensor.name

    def add(self, op: Operator, inputs: Sequence[str], name: str = "") -> str:
        """Append a node with one output and return the output's name."""
        return self.add_many(op, inputs, (name,) if name else ())[0]

    def add_many(self, op: Operator, inputs: Sequence[str], names: Sequence[str] = ()) -> tuple[str, ...]:
        """Append a node; outputs take `names` where given, made unique."""
        op = self._configure(op)
        types = op.infer(tuple(self.types[value] for value in inputs))
        wanted = list(names) + [f"{self.layer}.{op.name}"] * (len(types) - len(names))
        outputs = []
        for type_, base in zip(types, wanted, strict=True):
            unique = fresh(base, self.types)
            self.types[unique] = type_
            outputs.append(unique)
        node_name = fresh(f"{self.layer}.{op.name}", self._node_names)
        self._node_names.add(node_name)
        phase = op.phase or self.phase
        self.nodes.append(Node(op, node_name, tuple(inputs), tuple(outputs), self.layer, phase))
        return tuple(outputs)

    def graph(self, name: str, outputs: Sequence[str], carries: Mapping[str, str] | None = None) -> Graph:
        """The finished graph, verified."""
        built = Graph(name, self.inputs, self.persistent, tuple(self.nodes), self.types, tuple(outputs), carries or {})
        verify(built)
        return built


def fresh(base: str, taken: Mapping[str, object] | set[str]) -> str:
    """`base`, or `base` with a number behind it that makes it new: the smallest, unless there are dozens."""
    if base not in taken:
        return base
    number = 1
    while number < _FEW and f"{base}.{number}" in taken:
        number += 1
    if number < _FEW:
        return f"{base}.{number}"
    step = 1  # one after the other, thousands of one name would take millions of looks
    while f"{base}.{number + step}" in taken:
        step *= 2
    while step:
        number += step if f"{base}.{number + step}" in taken else 0
        step //= 2
    return f"{base}.{number + 1}" if f"{base}.{number}" in taken else f"{base}.{number}"


_FEW = 64


def verify(graph: Graph) -> None:
    """Assert that every value is defined once, before its use, with the type its operator infers, and that no two nodes
    have the same name.

    A failure is a bug of a pass, never of a user's model, hence an AssertionError.
    """
    known = set(graph.inputs) | set(graph.persistent)
    names = {node.name for node in graph.nodes}
    assert len(names) == len(graph.nodes), "two nodes have the same name"
    for node in graph.nodes:
        missing = [value for value in node.inputs if value not in known]
        assert not missing, f"{node.name} reads {missing} before definition"
        inferred = node.op.infer(graph.types_of(node.inputs))
        assert inferred == graph.types_of(node.outputs), f"{node.name}: {inferred} is not what the graph says"
        twice = [value for value in node.outputs if value in known]
        assert not twice, f"{node.name} defines {twice} again"
        known.update(node.outputs)
    wanted = [*graph.outputs, *graph.carries.values()]
    assert all(value in known for value in wanted), "an output is never computed"
    assert all(name in graph.persistent for name in graph.carries), "a carried name is not persistent"


def prune(graph: Graph) -> Graph:
    """The graph without nodes and persistent tensors that no wanted value needs."""
    needed = {*graph.outputs, *graph.carries.values()}
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    used = {*needed, *(value for node in kept for value in node.outputs)}
    held = {name: tensor for name, tensor in graph.persistent.items() if name in used}
    types = {name: t for name, t in graph.types.items() if name in used or name in graph.inputs}
    nodes = tuple(reversed(kept))
    return Graph(graph.name, graph.inputs, held, nodes, types, graph.outputs, graph.carries)


def _attribute_text(value: object) -> str:
    if isinstance(value, tuple):
        return "x".join(str(item) for item in value)
    if isinstance(value, Enum):
        return str(value.value)
    return str(value)
