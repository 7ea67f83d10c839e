"""Orders against rules stated anew, and small graphs against every order that there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odl.graph import Builder, Graph, Node, Operator, Persistent, verify
from odl.memory import live_bytes, plan
from odl.memory_check import check
from odl.schedule import _listed, _Work, schedule
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


def peak(graph: Graph) -> int:
    return max(live_bytes(graph), default=0)


def order(graph: Graph) -> str:
    """The first output of each node."""
    return " ".join(node.outputs[0] for node in graph.nodes)


def lawful_orders(graph: Graph) -> Iterator[Graph]:
    """Every order in which each node reads values that exist and have not been overwritten."""

    def extend(run: tuple[Node, ...], shows: dict[str, str]) -> Iterator[tuple[Node, ...]]:
        if len(run) == len(graph.nodes):
            yield run
        for node in graph.nodes:
            if node not in run and shows.keys() >= set(node.inputs):
                yield from extend((*run, node), after(node, shows))

    start = {name: name for name in (*graph.inputs, *graph.persistent)}
    return (replace(graph, nodes=run) for run in extend((), start))


def after(node: Node, shows: dict[str, str]) -> dict[str, str]:
    """The readable values, each with the first value of the same content, once a node has run."""
    gone = {shows[node.inputs[i]] for o, i in node.op.overwrites if o < len(node.outputs) and i < len(node.inputs)}
    left = {value: content for value, content in shows.items() if content not in gone}
    return left | {value: shows[node.inputs[0]] if node.op.view else value for value in node.outputs}


def is_lawful(graph: Graph) -> bool:
    shows = {name: name for name in (*graph.inputs, *graph.persistent)}
    for node in graph.nodes:
        if not shows.keys() >= set(node.inputs):
            return False
        shows = after(node, shows)
    return True


class TestRules:
    def test_a_weight_is_overwritten_after_its_last_reader(self) -> None:
        given_order = entry([(fresh(8), "x", "g"), (Update(), "w g", "w1"), (fresh(8), "w x", "y")], "y", w="w1")
        assert not is_lawful(given_order)
        assert order(schedule(given_order)) == "g y w1"

    def test_views_of_a_weight_are_readers_too(self) -> None:
        late = [(fresh(8), "x", "g"), (Update(), "w g", "w1"), (View(), "w", "v"), (View(), "v", "vv")]
        assert is_lawful(schedule(entry([*late, (fresh(8), "vv x", "y")], "y", w="w1")))

    def test_overwriting_a_view_waits_for_readers_of_the_weight_and_of_its_other_views(self) -> None:
        nodes = [(View(), "w", "v"), (fresh(8), "x", "g"), (Update(), "v g", "w1")]
        late = [(fresh(8), "w x", "y"), (View(), "w", "u"), (fresh(8), "u x", "z")]
        ordered = schedule(entry([*nodes, *late], "y z", w="w1"))
        assert is_lawful(ordered)
        assert ordered.nodes[-1].outputs == ("w1",)

    def test_readers_of_a_piece_come_before_the_next_piece(self) -> None:
        pieces = [(fresh(8), "x", "g"), (Update(), "w g", "w1"), (Update(), "w1 x", "w2"), (fresh(8), "w1", "y")]
        ordered = schedule(entry(pieces, "y", w="w2"))
        assert order(ordered) == "g w1 y w2"

    def test_a_contradiction_is_a_bug(self) -> None:
        twice = entry([(Update(), "w x", "w1"), (Update(), "w c", "w2")], w="w2")
        new_and_old = entry([(Update(), "w x", "w1"), (fresh(8), "w w1", "y")], "y", w="w1")
        for graph in (twice, new_and_old):
            with pytest.raises(AssertionError, match="wait for each other"):
                schedule(graph)

    def test_reading_before_definition_is_a_bug(self) -> None:
        graph = entry([(fresh(8), "x", "a"), (fresh(8), "a", "b")], "b")
        with pytest.raises(AssertionError, match="before definition"):
            schedule(replace(graph, nodes=graph.nodes[::-1]))


class TestPeak:
    def test_an_update_follows_its_gradient(self) -> None:
        makes = [(fresh(80), "x", "g"), (fresh(80), "x", "h")]
        graph = entry(
            [*makes, (Update(), "w g", "w1"), (fresh(8), "x", "y"), (Update(), "c h", "c1")], "y", w="w1", c="c1"
        )
        assert peak(graph) == 160
        assert order(schedule(graph)) == "g w1 h c1 y"

    def test_the_given_order_stays_where_none_is_better(self) -> None:
        graph = entry([(fresh(8), "x", name) for name in "dabc"] + [(fresh(8), "a b c d", "y")], "y")
        graph = replace(graph, nodes=(*graph.nodes[2:4], *graph.nodes[:2], graph.nodes[4]))
        assert schedule(graph) == graph

    def test_branches_run_one_after_the_other(self) -> None:
        """Each branch needs much inside and leaves little; breadth first needs all of it at once."""
        names = "abdefghi"
        wide = [(fresh(1000), "x", name) for name in names]
        narrow = [(fresh(8), name, f"{name}{name}") for name in names]
        ordered = schedule(entry([*wide, *narrow, (fresh(8), " ".join(n * 2 for n in names), "y")], "y"))
        assert peak(ordered) == 1000 + 8 * 8

    def test_a_branch_that_frees_the_most_runs_first(self) -> None:
        """The branch that needs more while it is made comes first, before the other's result waits beside it."""
        small = [(fresh(100), "x", "a"), (fresh(80), "a", "b")]
        large = [(fresh(300), "x", "e"), (fresh(8), "e", "d")]
        ordered = schedule(entry([*small, *large, (fresh(8), "b d", "y")], "y"))
        assert order(ordered) == "e d a b y"
        assert peak(ordered) == 308

    def test_work_in_place_takes_no_second_buffer(self) -> None:
        small = [(fresh(100), "x", "a"), (fresh(80), "a", "b")]
        large = [(fresh(300), "x", "e"), (unary(300), "e", "f"), (fresh(8), "f", "d")]
        ordered = schedule(entry([*small, *large, (fresh(8), "b d", "y")], "y"))
        assert order(ordered) == "e f d a b y"
        assert peak(ordered) == 308

    def test_what_takes_no_memory_runs_at_once(self) -> None:
        graph = entry(
            [(fresh(8), "x", "a"), (fresh(8), "a", "y"), (View(), "x", "v"), (Update(), "w v", "w1")], "y", w="w1"
        )
        assert order(schedule(graph)) == "v w1 a y"

    def test_outputs_that_live_on_are_made_late(self) -> None:
        graph = entry([(fresh(100), "x", "y"), (fresh(100), "x", "a"), (fresh(8), "a", "b")], "y b")
        assert order(schedule(graph)) == "a b y"

    def test_a_large_graph_still_frees_gradients_early(self) -> None:
        """Beyond the size at which the search stops."""
        count = 1500
        build = Builder()
        build.input("x", halves(1))
        held = [build.hold(tensor(f"w{number}", 4)) for number in range(count)]
        gradients = [build.add(fresh(8), ("x",), f"{name}.grad") for name in held]
        updated = [build.add(Update(), pair, f"{pair[0]}.new") for pair in zip(held, gradients, strict=True)]
        graph = build.graph("wide", (), dict(zip(held, updated, strict=True)))
        assert peak(graph) == 8 * count
        assert peak(schedule(graph)) == 8

    def test_the_greedy_order_takes_the_node_that_leaves_the_fewest_bytes(self) -> None:
        """Once b has run, e is the last to use a, and so leaves less than d does."""
        makes = [(fresh(80), "x", "a"), (fresh(2), "a", "b"), (fresh(20), "b", "d"), (fresh(40), "a", "e")]
        graph = entry([*makes, (fresh(8), "b d e", "y")], "y")
        listed = [_listed(_Work(graph), greedy) for greedy in (False, True)]
        assert listed == [[0, 1, 2, 3, 4], [0, 1, 3, 2, 4]]

    def test_the_search_untangles_what_the_greedy_order_does_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        chance = Random(1)
        build = Builder()
        values = [build.input("x", halves(4))]
        for number in range(100):
            inputs = [chance.choice(values[-30:]) for _ in range(2)]
            values.append(build.add(fresh(2 * chance.randint(1, 99)), inputs, f"v{number}"))
        graph = build.graph("tangle", values[-1:])
        searched = schedule(graph)
        monkeypatch.setattr("odl.schedule._SEARCH_NODES", 0)
        assert peak(searched) < 0.85 * peak(schedule(graph)) < 0.85 * peak(graph)

    def test_resnet8(self) -> None:
        """The given order holds every gradient until the end."""
        graph = resnet8()
        ordered = schedule(graph)
        assert is_lawful(ordered)
        assert peak(graph) > 450_000
        assert peak(ordered) <= 225_284


def test_nothing() -> None:
    graph = entry([], "x")
    assert schedule(graph) == graph


def test_ten_thousand_nodes() -> None:
    graph = chain(2500)
    assert len(graph.nodes) == 10_000
    ordered = schedule(graph)
    assert check([ordered], plan([ordered])) == []


@settings(deadline=None)
@given(graphs())
def test_random_orders_are_lawful(graph: Graph) -> None:
    ordered = schedule(graph)
    verify(ordered)
    assert sorted(node.name for node in ordered.nodes) == sorted(node.name for node in graph.nodes)
    assert is_lawful(ordered)
    assert schedule(graph) == ordered


@settings(deadline=None, max_examples=60)
@given(graphs(max_nodes=6))
def test_no_order_of_a_small_graph_is_better(graph: Graph) -> None:
    assert peak(schedule(graph)) == min(map(peak, lawful_orders(graph)))
