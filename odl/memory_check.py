"""Replays a plan and says what is wrong with it. It shares no code with the planner, nor the planner's idea of a block.

Every byte of every space knows the value that was last written to it. Each node, in order, must find its inputs whole,
and its outputs may touch only the bytes that its operator's declarations let them touch. Bytes are looked at eight at a
time: where all values begin at multiples of eight, which is looked at first, no two meet that did not meet before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from odl.errors import FitError
from odl.graph import Graph, Node
from odl.memory import Place, Plan

_ALIGNMENT = 8
_WRITABLE = "arena"
_CONSTANT = "flash"
_NOTHING = -1
_UNWRITTEN = -2

MOST_LOOKS = 1 << 38  # half a minute of them


def require_checkable(graphs: Sequence[Graph]) -> None:
    """Raises FitError `too-large-to-check`: the replay of a plan looks at each byte that a node reads or writes."""
    looks = sum(
        graph.types[value].n_bytes
        for graph in graphs
        for node in graph.nodes
        for value in (*node.inputs, *node.outputs)
    )
    if looks > MOST_LOOKS:
        why = f"its nodes read and write {looks:,} bytes in a step, and no more than {MOST_LOOKS:,} are checked"
        raise FitError("too-large-to-check", "model", why, "train fewer layers, or fewer of their channels")


class _Range(NamedTuple):
    space: str
    begin: int
    end: int

    def meets(self, other: _Range) -> bool:
        return self.space == other.space and self.begin < other.end and other.begin < self.end

    @property
    def units(self) -> slice:
        """Which units of _ALIGNMENT bytes it lies in."""
        return slice(self.begin // _ALIGNMENT, _up(self.end))


def _up(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT)


def check(graphs: Sequence[Graph], plan: Plan) -> list[str]:
    """The problems of a plan for scheduled graphs, one sentence each; none is good.

    Wrong offsets and spaces are told first, and alone, since a replay would only repeat them.
    """
    problems = [problem for graph in graphs for problem in _misplaced(graphs, graph, plan)]
    return problems or [problem for graph in graphs for problem in _Replay(graphs, graph, plan).run()]


def _misplaced(graphs: Sequence[Graph], graph: Graph, plan: Plan) -> Iterator[str]:
    """Values without a place or outside their space; inputs and persistent tensors where they do not belong."""
    places = plan.places.get(graph.name, {})
    carried = {name for other in graphs for name in other.carries}
    computed = [value for node in graph.nodes for value in node.outputs]
    for value in (*graph.inputs, *graph.persistent, *computed):
        place = places.get(value)
        if place is None or place.space not in plan.n_bytes:
            yield f"{graph.name}: {value} has no place"
        elif place.offset < 0 or place.offset + graph.types[value].n_bytes > plan.n_bytes[place.space]:
            yield f"{graph.name}: {value} is out of bounds at {place.offset} in {place.space}"
        elif place.offset % _ALIGNMENT:
            yield f"{graph.name}: {value} is not aligned at {place.offset} in {place.space}"
        elif value in graph.inputs and place != Place(value, 0):
            yield f"{graph.name}: input {value} does not lie at the start of its own space"
        elif value in graph.persistent:
            space = _WRITABLE if value in carried else _CONSTANT
            if place.space != space:
                yield f"{graph.name}: {value} belongs in {space}, not in {place.space}"
            if any(
                plan.places.get(other.name, {}).get(value) != place for other in graphs if value in other.persistent
            ):
                yield f"{graph.name}: {value} lies elsewhere for another graph"


class _Replay:
    """One graph's run over spaces whose bytes hold numbers of values."""

    def __init__(self, graphs: Sequence[Graph], graph: Graph, plan: Plan) -> None:
        self.graph, self.plan = graph, plan
        self.names: list[str] = []
        self.owner = {space: np.full(_up(size), _NOTHING, np.int32) for space, size in plan.n_bytes.items()}
        # Those that only other graphs know must survive this one, too.
        self.residents = {name: _range(other, plan, name) for other in graphs for name in other.persistent}
        inputs = {name: self._write(name, _range(graph, plan, name)) for name in graph.inputs}
        self.initial = {name: self._write(name, where) for name, where in self.residents.items()}
        # Value -> what its bytes hold while it is whole.
        self.number = inputs | {name: self.initial[name] for name in graph.persistent}
        self.resident = {space: owner.copy() for space, owner in self.owner.items()}

    def run(self) -> Iterator[str]:
        for name, where in self.residents.items():
            yield from self._whole(name, self.initial[name], where, "before the first node")
        for node in self.graph.nodes:
            for value in node.inputs:
                yield from self._present(value, f"when {node.name} reads it")
            yield from self._undeclared(node)
            for index, value in enumerate(node.outputs):
                if node.op.view:
                    self.number[value] = self.number.get(node.inputs[0], _UNWRITTEN)
                else:
                    yield from self._forbidden(node, index)
                    self.number[value] = self._write(value, self._at(value))
        for value in self.graph.outputs:
            yield from self._present(value, "at the end")
        for name, where in self.residents.items():
            final = self.graph.carries.get(name, name)
            number = self.number[final] if name in self.graph.persistent else self.initial[name]
            yield from self._whole(final, number, where, f"at the end, where {name} lives")

    def _at(self, value: str) -> _Range:
        return _range(self.graph, self.plan, value)

    def _write(self, value: str, where: _Range) -> int:
        """The new number that the bytes hold from now on."""
        self.names.append(value)
        self.owner[where.space][where.units] = len(self.names) - 1
        return len(self.names) - 1

    def _present(self, value: str, when: str) -> Iterator[str]:
        yield from self._whole(value, self.number.get(value, _UNWRITTEN), self._at(value), when)

    def _whole(self, value: str, number: int, where: _Range, when: str) -> Iterator[str]:
        """Whether all bytes hold the number of `value`."""
        found = self.owner[where.space][where.units]
        wrong = np.flatnonzero(found != number)
        if wrong.size:
            other = int(found[wrong[0]])
            holder = "nothing" if other == _NOTHING else self.names[other]
            byte = where.begin + _ALIGNMENT * int(wrong[0])
            yield f"{self.graph.name}: {value} is not whole {when}: byte {byte} of {where.space} holds {holder}"

    def _undeclared(self, node: Node) -> Iterator[str]:
        """Outputs that meet each other, that meet an input undeclared or in part, or that miss one they must be."""
        outputs, inputs = ([self._at(value) for value in values] for values in (node.outputs, node.inputs))
        must = {(0, 0)} if node.op.view else set(node.op.overwrites)
        may = must | set(node.op.in_place)
        for one, two in combinations(range(len(outputs)), 2):
            if outputs[one].meets(outputs[two]):
                yield f"{self.graph.name}: {node.outputs[one]} and {node.outputs[two]} of {node.name} overlap"
        for o, output in enumerate(outputs):
            for i, source in enumerate(inputs):
                same = output == source
                if (o, i) in must and not same:
                    yield f"{self.graph.name}: {node.outputs[o]} must lie on {node.inputs[i]}"
                elif output.meets(source) and not (same and (o, i) in may):
                    yield f"{self.graph.name}: {node.outputs[o]} may not lie on {node.inputs[i]}"

    def _forbidden(self, node: Node, index: int) -> Iterator[str]:
        """Writes to read-only memory, and to a persistent tensor that the operator does not declare to overwrite."""
        value = node.outputs[index]
        where = self._at(value)
        if where.space != _WRITABLE:
            yield f"{self.graph.name}: {node.name} writes {value} to {where.space}, which is read-only"
        declared = [self._at(node.inputs[i]) for o, i in node.op.overwrites if o == index and i < len(node.inputs)]
        owners = self.resident[where.space][where.units]
        # Nearly always one owner: asking for that first is much cheaper than sorting, once for each piece of a weight.
        one = owners[:1] if (owners == owners[:1]).all() else np.unique(owners)
        for number in one.tolist():
            if number != _NOTHING and self.residents.get(self.names[number]) not in declared:
                yield f"{self.graph.name}: {node.name} writes {value} over {self.names[number]}"


def _range(graph: Graph, plan: Plan, value: str) -> _Range:
    place = plan.places[graph.name][value]
    return _Range(place.space, place.offset, place.offset + graph.types[value].n_bytes)
