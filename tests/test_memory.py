"""The planner against its independent checker, and the checker against plans that are wrong on purpose."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odl.errors import ModelError
from odl.graph import Builder, Graph, Operator, Persistent
from odl.memory import ARENA, FLASH, Block, Place, Plan, blocks, live_bytes, plan, timeline
from odl.memory_check import check
from odl.schedule import schedule
from odl.types import Array, DType, Shape, TensorType


@dataclass(frozen=True)
class Fresh(Operator):
    """Outputs of the given types, in memory of their own."""

    name = "fresh"
    types: tuple[TensorType, ...]

    def infer(self, _: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return self.types

    def evaluate(self, _: Sequence[Array]) -> tuple[Array, ...]:
        raise NotImplementedError


@dataclass(frozen=True)
class Unary(Fresh):
    """May work in place on its first input alone."""

    name = "unary"
    in_place = ((0, 0),)


@dataclass(frozen=True)
class Sum(Fresh):
    """May work in place on either input."""

    name = "sum"
    in_place = ((0, 0), (0, 1))


@dataclass(frozen=True)
class Update(Fresh):
    """Overwrites its first input and, where there is one, its third."""

    name = "update"
    types: tuple[TensorType, ...] = ()
    overwrites = ((0, 0), (1, 2))

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (inputs[0], *inputs[2:])


@dataclass(frozen=True)
class View(Fresh):
    """Its input as a vector."""

    name = "view"
    types: tuple[TensorType, ...] = ()
    view = True

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (TensorType((inputs[0].n_elems,), inputs[0].dtype),)


def halves(*shape: int) -> TensorType:
    return TensorType(shape)


def fresh(*n_bytes: int) -> Fresh:
    """Makes values of these sizes, which are even."""
    return Fresh(tuple(halves(n // 2) for n in n_bytes))


def unary(n_bytes: int) -> Unary:
    return Unary((halves(n_bytes // 2),))


def total(n_bytes: int) -> Sum:
    return Sum((halves(n_bytes // 2),))


def tensor(name: str, *shape: int, dtype: DType = DType.F16) -> Persistent:
    return Persistent(name, TensorType(shape, dtype), np.zeros(shape, dtype.numpy))


def chain(length: int, name: str = "chain") -> Graph:
    """A training chain: `length` layers forward, each output saved; then backward, each weight updated."""
    build = Builder()
    value = build.input("x", halves(8))
    weights = [build.hold(tensor(f"w{layer}", 4)) for layer in range(length)]
    saved = []
    carries = {}
    for layer, weight in enumerate(weights):
        build.layer = f"layer {layer}"
        saved.append(value := build.add(fresh(16), (value, weight), f"y{layer}"))
    for weight, output in reversed(list(zip(weights, saved, strict=True))):
        build.layer = f"{weight} backward"
        gradient = build.add(fresh(16), (output,), f"{weight}.grad")
        value = build.add(fresh(16), (value, output, weight), f"{output}.grad")
        carries[weight] = build.add(Update(), (weight, gradient), f"{weight}.new")
    return build.graph(name, (value,), carries)


class Network:
    """A forward pass that writes down its backward pass."""

    def __init__(self) -> None:
        self.build = Builder()
        self.held: list[str] = []
        self.gradients: dict[str, str] = {}  # value -> its gradient so far
        self.tape: list[Callable[[], None]] = []

    def flow(self, value: str, gradient: str) -> None:
        """One more summand of a value's gradient."""
        if value in self.gradients:
            gradient = self.build.add(Sum((self.build.types[value],)), (self.gradients[value], gradient))
        self.gradients[value] = gradient

    def product(self, x: str, shape: Shape, *weight: int) -> str:
        """A layer with a weight and a bias; the gradients of these are binary32."""
        name = f"layer{len(self.held) // 2}"
        held = [self.build.hold(tensor(f"{name}.w", *weight)), self.build.hold(tensor(f"{name}.b", weight[0]))]
        self.held += held
        y = self.build.add(Fresh((halves(*shape),)), (x, *held), name)

        def backward() -> None:
            dy = self.gradients[y]
            if x not in self.build.inputs:
                self.flow(x, self.build.add(Fresh((self.build.types[x],)), (dy, held[0]), f"{x}.grad"))
            for value, inputs in zip(held, ((dy, x), (dy,)), strict=True):
                type_ = replace(self.build.types[value], dtype=DType.F32)
                self.flow(value, self.build.add(Fresh((type_,)), inputs, f"{value}.grad"))

        self.tape.append(backward)
        return y

    def convolve(self, x: str, size: int, channels: int, kernel: int) -> str:
        shape = (1, size, size, channels)
        return self.product(x, shape, channels, kernel, kernel, self.build.types[x].shape[-1])

    def relu(self, x: str) -> str:
        type_ = self.build.types[x]
        y = self.build.add(Unary((type_,)), (x,), f"{x}.relu")
        self.tape.append(lambda: self.flow(x, self.build.add(Sum((type_,)), (y, self.gradients[y]), f"{x}.grad")))
        return y

    def add(self, one: str, two: str) -> str:
        y = self.build.add(Sum((self.build.types[one],)), (one, two), f"{one}.add")
        self.tape += [lambda value=value: self.flow(value, self.gradients[y]) for value in (one, two)]
        return y

    def reduce(self, op: Fresh, x: str) -> str:
        y = self.build.add(op, (x,), f"{x}.{op.name}")
        self.tape.append(lambda: self.flow(x, self.build.add(Fresh((self.build.types[x],)), (self.gradients[y],))))
        return y

    def train(self, logits: str) -> Graph:
        """The step: the loss, the backward pass, and then all updates."""
        label = self.build.input("label", TensorType((1,), DType.I32))
        loss, self.gradients[logits] = self.build.add_many(fresh(4, 20), (logits, label), ("loss", "logits.grad"))
        for backward in reversed(self.tape):
            backward()
        update = {name: self.build.add(Update(), (name, self.gradients[name]), f"{name}.new") for name in self.held}
        return self.build.graph("train_step", (loss,), update)


def resnet8() -> Graph:
    """A training step with the tensors of the ResNet8 for 32x32 images in MLPerf Tiny."""
    net = Network()
    image = net.build.input("image", halves(1, 32, 32, 3))
    x = net.relu(net.convolve(image, 32, 16, 3))
    x = net.relu(net.add(x, net.convolve(net.relu(net.convolve(x, 32, 16, 3)), 32, 16, 3)))
    for size, channels in ((16, 32), (8, 64)):
        inner = net.convolve(net.relu(net.convolve(x, size, channels, 3)), size, channels, 3)
        x = net.relu(net.add(inner, net.convolve(x, size, channels, 1)))
    pooled = net.reduce(Fresh((halves(1, 1, 1, 64),)), x)
    return net.train(net.product(net.reduce(View(), pooled), (1, 10), 10, 64))


@st.composite
def graphs(draw: st.DrawFn, max_nodes: int = 14) -> Graph:
    """Graphs in an order that keeps to the data alone, and so may read a tensor after it was overwritten."""
    build = Builder()
    sizes = st.sampled_from((2, 6, 8, 24, 64))
    build.input("x", halves(draw(sizes) // 2))
    held = [build.hold(tensor(f"p{number}", draw(sizes) // 2)) for number in range(draw(st.integers(0, 3)))]
    shows = {name: name for name in build.types}  # readable value -> the first value of the same content
    state = {name: name for name in held if name != "p2"}
    for _ in range(draw(st.integers(1, max_nodes))):
        values = st.sampled_from(sorted(shows))
        one, two, changed, more = draw(values), draw(values), draw(values), draw(values)
        n_bytes = build.types[one].n_bytes
        ops = (fresh(draw(sizes)), fresh(draw(sizes), n_bytes), unary(n_bytes), total(n_bytes), View(), Update())
        op = draw(st.sampled_from(ops))
        if op == View():
            shows[build.add(op, (one,))] = shows[one]
        elif op != Update():
            shows |= {value: value for value in build.add_many(op, (one, two))}
        else:
            old = [shows[changed], shows[more]][: draw(st.integers(1, 2))]
            distinct = len({*old, shows[one]}) == len(old) + 1
            if distinct and not {"x", "p2"}.intersection(old):
                new = dict(zip(old, build.add_many(op, (changed, one, more)[: len(old) + 1]), strict=True))
                shows = {value: content for value, content in shows.items() if content not in new}
                shows |= {value: value for value in new.values()}
                state = {name: new.get(content, content) for name, content in state.items()}
    carries = {name: value for name, value in state.items() if value != name or draw(st.booleans())}
    graph = build.graph("random", draw(st.lists(st.sampled_from(sorted(shows)), max_size=3)), carries)
    return shuffled(graph, draw(st.randoms(use_true_random=False)))


def shuffled(graph: Graph, chance: Random) -> Graph:
    """The graph in another order of its data."""
    known = {*graph.inputs, *graph.persistent}
    waiting, nodes = list(graph.nodes), []
    while waiting:
        node = chance.choice([node for node in waiting if known.issuperset(node.inputs)])
        waiting.remove(node)
        nodes.append(node)
        known.update(node.outputs)
    return replace(graph, nodes=tuple(nodes))


def reader(graph: Graph) -> Graph:
    """An inference entry that reads the persistent tensors of `graph` and its input."""
    build = Builder()
    for name, type_ in graph.inputs.items():
        build.input(name, type_)
    for held in graph.persistent.values():
        build.hold(held)
    return build.graph("reader", [build.add(fresh(24), tuple(build.types), "y")])


def of_boxes(boxes: Sequence[tuple[int, int, int]]) -> Graph:
    """A graph whose blocks live from node `first` to a later node `last` and have the given sizes."""
    build = Builder()
    values: dict[int, str] = {}
    born: dict[int, list[int]] = {}
    read: dict[int, list[int]] = {}
    for box, (first, last, _) in enumerate(boxes):
        born.setdefault(first, []).append(box)
        read.setdefault(last, []).append(box)
    for at in sorted({*born, *read}):
        build.layer = f"at {at}"
        made = born.get(at, [])
        names = build.add_many(fresh(*(boxes[box][2] for box in made)), [values[box] for box in read.get(at, [])])
        values.update(zip(made, names, strict=True))
    return build.graph("boxes", ())


def planned(*entries: Graph) -> Plan:
    """A plan that passes the check."""
    found = plan(entries)
    assert check(entries, found) == []
    return found


def shared(graph: Graph) -> list[str]:
    """The blocks of more than one value, each as its values."""
    return [" ".join(block.values) for block in blocks(graph) if len(block.values) > 1]


def entry(nodes: Sequence[tuple[Operator, str, str]], outputs: str = "", **carries: str) -> Graph:
    """A graph "entry" from (operator, inputs, outputs) over the input x (8 bytes) and the tensors w and c (8 bytes)."""
    build = Builder()
    build.input("x", halves(4))
    for name in ("w", "c"):
        build.hold(tensor(name, 4))
    for op, inputs, names in nodes:
        build.layer = f"at {names}"
        build.add_many(op, inputs.split(), names.split())
    return build.graph("entry", outputs.split(), carries)


class TestBlocks:
    def test_a_chain_in_place_is_one_block(self) -> None:
        graph = entry([(fresh(8), "x", "a"), (unary(8), "a", "b"), (unary(8), "b", "c1"), (View(), "c1", "d")], "d")
        assert shared(graph) == ["a b c1 d"]
        assert live_bytes(graph) == [8, 8, 8, 8]

    def test_in_place_needs_a_dying_input_of_the_same_size_in_the_arena(self) -> None:
        later = entry([(fresh(8), "x", "a"), (unary(8), "a", "b"), (fresh(8), "a b", "d")])
        viewed = entry([(fresh(8), "x", "a"), (View(), "a", "v"), (unary(8), "a", "b"), (fresh(8), "v", "d")])
        kept = entry([(fresh(8), "x", "a"), (unary(8), "a", "b")], "a b")
        sizes = entry([(fresh(8), "x", "a"), (unary(16), "a", "b")])
        assert [shared(graph) for graph in (later, viewed, kept, sizes)] == [[], ["a v"], [], []]
        for name in ("x", "w", "c"):
            assert shared(entry([(unary(8), name, "b")], "b")) == []

    def test_in_place_needs_every_operand_of_the_block_declared(self) -> None:
        assert shared(entry([(fresh(8), "x", "a"), (unary(8), "a a", "b")])) == []
        assert shared(entry([(fresh(8), "x", "a"), (total(8), "a a", "b")])) == ["a b"]

    def test_the_first_pair_that_applies_wins(self) -> None:
        makes = [(fresh(8), "x", "a"), (fresh(8), "x", "b")]
        assert shared(entry([*makes, (total(8), "a b", "d")])) == ["a d"]
        assert shared(entry([*makes, (total(8), "a b", "d"), (fresh(8), "a", "e")])) == ["b d"]

    def test_two_outputs_do_not_take_the_same_input(self) -> None:
        @dataclass(frozen=True)
        class Two(Fresh):
            in_place = ((0, 0), (1, 0), (1, 1))

        two = Two((halves(4), halves(4)))
        graph = entry([(fresh(8), "x", "a"), (fresh(8), "x", "b"), (two, "a b", "d e")])
        assert shared(graph) == ["a d", "b e"]
        planned(graph)

    def test_an_output_does_not_take_what_another_output_overwrites(self) -> None:
        @dataclass(frozen=True)
        class Both(Update):
            in_place = ((1, 0),)

            def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
                return (inputs[0], inputs[0])

        graph = entry([(fresh(8), "x", "a"), (Both(), "a x", "d e")])
        assert shared(graph) == ["a d"]
        planned(graph)

    def test_pieces_of_an_update_lie_on_the_weight(self) -> None:
        pieces = [(fresh(4), "x", "g1"), (Update(), "w g1", "w1"), (fresh(4), "x", "g2"), (Update(), "w1 g2", "w2")]
        graph = entry(pieces, w="w2")
        assert shared(graph) == ["w w1 w2"]
        assert live_bytes(graph) == [4, 4, 4, 4]
        assert planned(graph).n_bytes == {ARENA: 16, FLASH: 8, "x": 8}

    def test_residual(self) -> None:
        graph = entry(
            [(fresh(64), "x", "a"), (fresh(64), "a", "b"), (total(64), "a b", "d"), (fresh(2), "d", "e")], "e"
        )
        assert live_bytes(graph) == [64, 128, 128, 66]
        assert [(b.first, b.last) for b in blocks(graph)[3:]] == [(0, 3), (1, 2), (3, 3)]

    def test_an_output_lives_to_the_end_and_a_dead_value_for_one_node(self) -> None:
        graph = entry([(fresh(8, 24), "x", "out dead"), (fresh(8), "x", "b"), (fresh(8), "x", "d")], "out")
        assert live_bytes(graph) == [32, 16, 16]

    def test_a_carried_value_in_other_bytes_is_a_bug(self) -> None:
        with pytest.raises(AssertionError, match="other bytes"):
            plan([entry([(unary(8), "w", "w1")], w="w1")])


class TestSpaces:
    def test_views_lie_where_their_input_does(self) -> None:
        views = [(View(), name, f"{name}v") for name in ("x", "w", "c")]
        graph = entry([*views, (fresh(8), "xv wv cv", "y"), (Update(), "wv y", "w1")], "y", w="w1")
        places = planned(graph).places["entry"]
        for name, place in {"x": Place("x", 0), "w": Place(ARENA, 0), "c": Place(FLASH, 0)}.items():
            assert places[name] == places[f"{name}v"] == place
        assert places["w1"] == places["w"]

    def test_entries_agree_on_persistent_tensors_and_share_the_rest(self) -> None:
        train = entry([(fresh(40), "x", "g"), (Update(), "w g", "w1")], w="w1")
        infer = replace(entry([(fresh(80), "x w c", "y")], "y"), name="infer")
        found = planned(infer, train)
        assert found.places["infer"]["w"] == found.places["entry"]["w"] == Place(ARENA, 0)
        assert found.places["infer"]["c"] == Place(FLASH, 0)
        assert found.places["infer"]["y"] == found.places["entry"]["g"] == Place(ARENA, 8)
        assert (found.n_bytes[ARENA], found.lower_bound, found.persistent_bytes) == (88, 88, 8)

    def test_offsets_are_aligned_and_the_bound_is_not_padded(self) -> None:
        build = Builder()
        build.input("x", halves(1))
        held = [build.hold(tensor(name, 3)) for name in "ab"]
        build.add_many(fresh(2, 2), ("x",), ("t", "u"))
        found = planned(build.graph("entry", (), dict(zip(held, held, strict=True))))
        assert found.places["entry"]["b"] == Place(ARENA, 8)
        assert (found.n_bytes[ARENA], found.lower_bound, found.persistent_bytes) == (32, 16, 16)

    def test_timeline(self) -> None:
        graph = entry([(fresh(8), "x", "a"), (unary(8), "a", "b")], "b")
        found = timeline(graph, planned(graph))
        assert found[-1] == (Block(("a", "b"), 0, 1, 8), Place(ARENA, 0))
        assert [block.values for block, _ in found] == [("x",), ("w",), ("c",), ("a", "b")]

    @pytest.mark.parametrize("name", [ARENA, FLASH])
    def test_an_input_named_like_a_memory_is_refused(self, name: str) -> None:
        build = Builder()
        build.input(name, halves(1))
        with pytest.raises(ModelError, match="reserved-name"):
            plan([build.graph("entry", (name,))])

    def test_nothing(self) -> None:
        assert plan([]) == Plan({}, {ARENA: 0, FLASH: 0}, 0, 0)
        assert planned(entry([], "x")).n_bytes == {ARENA: 0, FLASH: 16, "x": 8}


class TestPacking:
    def test_resnet8_training_comes_within_two_percent_of_the_bound(self) -> None:
        graph = resnet8()
        assert sum(held.type.n_elems for held in graph.persistent.values()) == 77_706
        ordered = schedule(graph)
        found = planned(ordered, reader(graph))
        assert found.lower_bound <= found.n_bytes[ARENA] <= 1.02 * found.lower_bound

    @pytest.mark.parametrize(
        "boxes",
        [
            [(0, 1, 72), (1, 4, 56), (3, 7, 48), (4, 6, 40), (5, 8, 8), (5, 8, 16)],
            [
                *((0, 3, 40), (1, 2, 48), (2, 4, 8), (2, 5, 40), (2, 6, 8), (2, 6, 8)),
                *((4, 5, 48), (5, 6, 32), (5, 8, 24), (6, 8, 24), (6, 9, 72), (7, 9, 16)),
            ],
        ],
    )
    def test_the_search_meets_a_bound_that_the_greedy_orders_miss(
        self, boxes: list[tuple[int, int, int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        graph = of_boxes(boxes)
        found = planned(graph)
        assert found.n_bytes[ARENA] == found.lower_bound
        monkeypatch.setattr("odl.memory._SEARCH_WORK", 0)
        assert planned(graph).n_bytes[ARENA] > found.lower_bound

    def test_ten_thousand_blocks(self) -> None:
        chance = Random(0)
        boxes = [(first, first + chance.randint(1, 50), 2 * chance.randint(1, 500)) for first in range(10_000)]
        found = planned(of_boxes(boxes))
        assert found.n_bytes[ARENA] <= 1.2 * found.lower_bound

    def test_the_plan_is_the_same_under_any_hash_seed(self) -> None:
        code = "from test_memory import *; g = schedule(resnet8()); print(g, plan([g, reader(g)]))"
        path = os.pathsep.join(sys.path)
        plans = {
            subprocess.run(
                [sys.executable, "-c", code],
                cwd=Path(__file__).parent,
                env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path},
                check=True,
                capture_output=True,
                timeout=300,
            ).stdout
            for seed in ("1", "2")
        }
        assert len(plans) == 1
        assert b"train_step" in plans.pop()


@settings(deadline=None)
@given(graphs())
def test_random_plans_hold(graph: Graph) -> None:
    entries = (schedule(graph), reader(graph), schedule(chain(3)))
    found = planned(*entries)
    assert found.n_bytes[ARENA] >= found.lower_bound
    assert found == plan(entries)


@settings(deadline=None)
@given(graphs(), st.data())
def test_the_check_finds_blocks_that_live_together_and_lie_together(graph: Graph, data: st.DataObject) -> None:
    graph = schedule(graph)
    good = planned(graph)
    moving = [block for block in blocks(graph) if not {*graph.inputs, *graph.persistent}.intersection(block.values)]
    pairs = [(a, b) for a, b in combinations(moving, 2) if a.first <= b.last and b.first <= a.last]
    if pairs:
        moved, onto = data.draw(st.permutations(data.draw(st.sampled_from(pairs))))
        assert check([graph], moved_to(good, moved.values, good.places["random"][onto.values[0]], "random"))


def moved_to(found: Plan, values: Sequence[str], place: Place, *entries: str) -> Plan:
    """The plan with some values elsewhere, in spaces that have room for them."""
    places = {name: at | (dict.fromkeys(values, place) if name in entries else {}) for name, at in found.places.items()}
    return replace(found, places=places, n_bytes={space: size + 256 for space, size in found.n_bytes.items()})


class TestCheck:
    """One good plan, and what the check says of each way to spoil it."""

    train = entry(
        [
            *((fresh(16), "x c", "a"), (View(), "a", "v"), (fresh(16), "v", "b"), (total(16), "a b", "d")),
            *((fresh(8), "d w", "g"), (Update(), "w g", "w1"), (fresh(8), "w1", "y")),
        ],
        "y",
        w="w1",
    )
    infer = replace(entry([(fresh(24), "x w c", "y")], "y"), name="infer")

    @pytest.mark.parametrize(
        ("values", "place", "entries", "complaint"),
        [
            ("b", Place(ARENA, 8), "entry", "entry: b may not lie on v"),
            ("v", Place(ARENA, 200), "entry", "entry: v must lie on a"),
            ("w1", Place(ARENA, 200), "entry", "entry: w1 must lie on w"),
            ("d", Place(ARENA, 16), "entry", "entry: d may not lie on a"),
            ("y", Place(ARENA, 0), "entry", "entry: at y.fresh writes y over w"),
            ("a v", Place(ARENA, 0), "entry", "entry: at a.fresh writes a over w"),
            ("y", Place(ARENA, 0), "infer", "infer: y may not lie on w"),
            ("y", Place(FLASH, 0), "infer", "infer: y may not lie on c"),
            ("b", Place(FLASH, 8), "entry", "entry: at b.fresh writes b to flash, which is read-only"),
            ("b", Place("x", 8), "entry", "entry: at b.fresh writes b to x, which is read-only"),
            ("w w1", Place(ARENA, 8), "entry", "entry: w lies elsewhere for another graph"),
            ("w", Place(FLASH, 8), "entry infer", "entry: w belongs in arena, not in flash"),
            ("c", Place(ARENA, 120), "entry infer", "entry: c belongs in flash, not in arena"),
            ("x", Place("x", 8), "entry", "entry: input x does not lie at the start of its own space"),
            ("b", Place(ARENA, 4096), "entry", "entry: b is out of bounds at 4096 in arena"),
            ("b", Place(ARENA, -8), "entry", "entry: b is out of bounds at -8 in arena"),
            ("b", Place(ARENA, 68), "entry", "entry: b is not aligned at 68 in arena"),
            ("b", Place("cache", 0), "entry", "entry: b has no place"),
        ],
    )
    def test_a_value_elsewhere(self, values: str, place: Place, entries: str, complaint: str) -> None:
        graphs = (self.train, self.infer)
        spoilt = moved_to(planned(*graphs), values.split(), place, *entries.split())
        assert complaint in " | ".join(check(graphs, spoilt))
