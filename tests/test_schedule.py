"""Orders against rules stated anew, and small graphs against every order that there is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from test_memory import (
    Update,
    View,
    chain,
    entry,
    fresh,
    graphs,
    halves,
    resnet8,
    tensor,
)

from odl.graph import Builder, Graph, Node, verify
from odl.memory import live_bytes, plan
from odl.memory_check import check
from odl.schedule import schedule


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
