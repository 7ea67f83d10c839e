"""How an operator's file reads ONNX: the node, its operands, and the registry of import rules.

Layout: activations of rank 4 are kept channels last, (1, H, W, C), whatever ONNX says; all others as ONNX has them.
An import rule sees ONNX shapes and axes (`shape`), asks for values in storage order (`value`) or for weights in the
order its kernel wants (`weight`), appends operators, and binds the ONNX outputs to what they return.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from odl import fp16
from odl.errors import ModelError, OdlError, Problem
from odl.graph import Builder, Operator, Origin, Persistent, fresh
from odl.types import Array, DType, Shape, TensorType

CHANNELS_LAST = (0, 2, 3, 1)
CHANNELS_FIRST = (0, 3, 1, 2)
BATCH_HINT = "export the model with a static batch of 1; mini-batches are made on the device (--batch)"


@dataclass(frozen=True)
class OnnxNode:
    """One ONNX node, already free of protobuf. Absent optional inputs are empty strings."""

    op_type: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def input(self, index: int) -> str:
        """The name of an input, or "" where the node leaves it out."""
        return self.inputs[index] if index < len(self.inputs) else ""


@dataclass(frozen=True)
class Sample:
    """A test case of an operator: one ONNX node over inputs of these shapes.

    `constants` are the input positions that are initializers; `low`, `high` bound the random values; a value given in
    `values` (by position) is used as it is. Each sample is checked for its shape against ONNX's inference, its values
    and gradients against ONNX's reference evaluator in binary64, and its bits on every target. `ulps` bounds the
    distance of one operator from the exact value, in units of binary16's last place: more than a half only where a
    constant attribute is rounded too.
    """

    op_type: str
    shapes: tuple[Shape, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: tuple[int, ...] = ()
    values: Mapping[int, Array] = field(default_factory=dict)
    low: float = -1.0
    high: float = 1.0
    ulps: float = 0.51
    opset: int = 17


ImportRule = Callable[["Importer", OnnxNode], None]


@dataclass(frozen=True)
class Imported:
    """An import rule with what `odl ops` tells about it."""

    rule: ImportRule
    samples: Callable[[], Iterable[Sample]]
    limits: str


IMPORTS: dict[str, Imported] = {}


def imports(
    *op_types: str, samples: Callable[[], Iterable[Sample]], limits: str = ""
) -> Callable[[ImportRule], ImportRule]:
    """Register an import rule for ONNX operators; `limits` says in a few words what is refused."""

    def register(rule: ImportRule) -> ImportRule:
        for op_type in op_types:
            IMPORTS[op_type] = Imported(rule, samples, limits)
        return rule

    return register


# For each axis of what is seen of a tensor, the tensor's own axis, or None: a new one of size 1. Axes of the tensor
# that are in no place are of size 1.
Axes = tuple[int | None, ...]


@dataclass(frozen=True)
class View:
    """How a constant of this shape is seen."""

    axes: Axes
    shape: Shape

    def of(self, array: Array) -> Array:
        """What is seen of the constant."""
        kept = [axis for axis in self.axes if axis is not None]
        rest = [axis for axis in range(array.ndim) if axis not in kept]
        turned: Array = array.transpose(kept + rest)
        return turned.reshape([1 if axis is None else array.shape[axis] for axis in self.axes])

    def then(self, axes: Axes) -> View:
        """What is seen of what is seen."""
        return View(tuple(None if axis is None else self.axes[axis] for axis in axes), self.shape)

    def back(self, array: Array) -> Array:
        """What broadcasts against the constant, from what broadcasts against what is seen of it."""
        if not array.ndim:
            return array
        assert array.ndim == len(self.axes), (array.shape, self)
        places = [self.axes.index(axis) for axis in range(len(self.shape)) if axis in self.axes]
        turned: Array = array.transpose(places + [place for place in range(array.ndim) if place not in places])
        sizes = iter(array.shape[place] for place in places)
        return turned.reshape([next(sizes) if axis in self.axes else 1 for axis in range(len(self.shape))])

    def origin(self, seen: Origin) -> Origin:
        """The origin in the constant of what has this origin in what is seen of it."""
        perm = [axis for place in seen.perm if (axis := self.axes[place]) is not None]
        perm += [axis for axis in range(len(self.shape)) if axis not in perm]
        return Origin(seen.initializer, self.shape, tuple(perm), self.back(seen.scale), self.back(seen.offset))


def stored_shape(shape: Shape) -> Shape:
    """The storage shape of an activation with this ONNX shape."""
    return tuple(shape[axis] for axis in CHANNELS_LAST) if len(shape) == 4 else shape


def onnx_shape(stored: Shape) -> Shape:
    """The ONNX shape of an activation with this storage shape."""
    return tuple(stored[axis] for axis in CHANNELS_FIRST) if len(stored) == 4 else stored


class Importer:
    """The state of an import: ONNX names bound to constants or to graph values."""

    def __init__(
        self,
        constants: Mapping[str, Array],
        initializers: Iterable[str],
        affine: Mapping[str, tuple[Array, Array]],
        views: Mapping[str, View] | None = None,
    ) -> None:
        self.build = Builder()
        self.constants: dict[str, Array] = dict(constants)
        self.initializers = frozenset(initializers)
        self.affine = affine
        self.views = views or {}
        self.node = OnnxNode("", "", (), (), {})
        self._noted: list[Problem] = []
        self._values: dict[str, str] = {}
        self._shapes: dict[str, Shape] = {}

    # What a rule asks

    def is_constant(self, name: str) -> bool:
        return name in self.constants

    def constant(self, name: str, what: str) -> Array:
        """The value of an operand that must be constant; `what` names it in the refusal."""
        if name not in self.constants:
            self.refuse("not-constant", f"{what} must be a constant, but '{name}' is computed")
        return self.constants[name]

    def shape(self, name: str) -> Shape:
        """The ONNX shape of an operand."""
        return tuple(self.constants[name].shape) if name in self.constants else self._shapes[name]

    def value(self, name: str) -> str:
        """The graph value of an operand, in storage order; a constant becomes a weight."""
        self._settle()
        if name not in self.constants:
            return self._values[name]
        rank = self.constants[name].ndim
        return self.weight(name, CHANNELS_LAST if rank == 4 else tuple(range(rank)))

    def weight(self, name: str, perm: Sequence[int], shape: Shape | None = None, scale: float = 1.0) -> str:
        """A constant as a binary16 weight: scaled, transposed by `perm`, reshaped; one and the same if asked twice."""
        self._settle()
        array = self.constant(name, "a weight")
        factor, offset = self.affine.get(name, (np.ones(()), np.zeros(())))
        origin = Origin(name, tuple(array.shape), tuple(perm), factor * scale, offset * scale)
        stored = origin.store(array)
        if name in self.views:
            origin = self.views[name].origin(origin)
        if not np.isfinite(fp16.half(stored)).all():
            self.refuse("weight-overflow", f"'{name}' holds {np.abs(stored).max():g}, beyond binary16's 65504")
        values = fp16.half(stored).reshape(stored.shape if shape is None else shape)
        type_ = TensorType(tuple(values.shape), DType.F16)
        tensor = Persistent(name, type_, values, origin=origin if name in self.initializers else None)
        held = self.build.persistent.get(name)
        if held is None:
            return self.build.hold(tensor)
        same_place = held.type == type_ and held.origin == tensor.origin
        if not same_place or not np.array_equal(fp16.bits(held.initial), fp16.bits(values)):
            self.refuse(
                "shared-weight-layout", f"'{name}' is shared by nodes that want it in different layouts",
                "give each node its own copy of the initializer",
            )  # fmt: skip
        return name

    def refuse(self, code: str, why: str, hint: str = "") -> NoReturn:
        """Refuse the model on account of the current node, with all that was noted of it."""
        raise ModelError.of([*self._noted, self._problem(code, why, hint)])

    def require(self, condition: bool, why: str, hint: str = "") -> None:
        """Refuse the node as `unsupported-attribute` unless `condition` holds."""
        if not condition:
            self.refuse("unsupported-attribute", why, hint)

    def expect(self, condition: bool, why: str, hint: str = "") -> None:
        """The same where the checks behind do not build on it: they are made first, so that all that is wrong with the
        node is told at once. No value or weight is handed out any more, and nothing is added."""
        if not condition:
            self._noted.append(self._problem("unsupported-attribute", why, hint))

    def _problem(self, code: str, why: str, hint: str) -> Problem:
        return Problem(code, f"{self.node.op_type} '{self.node.name}'", why, hint)

    def _settle(self) -> None:
        """Refuse the node if anything was noted."""
        if self._noted:
            raise ModelError.of(self._noted)

    # What a rule does

    def add(self, op: Operator, inputs: Sequence[str]) -> str:
        """Append an operator; its output is named after the node's ONNX output."""
        self._settle()
        return self.build.add(op, inputs, self.node.outputs[0])

    def bind(self, name: str, value: str, shape: Shape) -> None:
        """Say which graph value an ONNX name stands for, and its ONNX shape."""
        assert self.build.types[value].shape == stored_shape(shape), (name, self.build.types[value], shape)
        self._values[name] = value
        self._shapes[name] = shape

    def bind_constant(self, name: str, array: Array) -> None:
        self.constants[name] = array

    def alias(self, name: str, source: str) -> None:
        """Bind an ONNX name to what another one stands for."""
        if source in self.constants:
            self.constants[name] = self.constants[source]
        else:
            self.bind(name, self._values[source], self._shapes[source])

    # What the import does

    def run(self, node: OnnxNode) -> tuple[Problem, ...]:
        """Import a node by its rule; returns what is wrong with it."""
        self.node, self.build.layer, self._noted = node, node.name, []
        try:
            IMPORTS[node.op_type].rule(self, node)
            self._settle()
        except OdlError as error:
            return error.problems
        return ()

    def knows(self, name: str) -> bool:
        """Whether a rule can ask for an operand; one that is left out is no trouble."""
        return not name or name in self.constants or name in self._values

    def stand_in(self, name: str, shape: Shape) -> None:
        """A value of this shape in place of one that cannot be computed, so that what reads it can be looked at."""
        self.bind(name, self.build.input(fresh(name, self.build.types), TensorType(stored_shape(shape))), shape)
