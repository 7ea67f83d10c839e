"""The planner against its independent checker, and the checker against plans that are wrong on purpose."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_schedule import (
    Fresh,
    Update,
    View,
    chain,
    entry,
    fresh,
    graphs,
    halves,
    reader,
    resnet8,
    tensor,
    total,
    unary,
)

from odl.errors import ModelError
from odl.graph import Builder, Graph
from odl.memory import ARENA, FLASH, Block, Place, Plan, _lay, _Packing, _relay, blocks, live_bytes, plan, timeline
from odl.memory_check import check
from odl.schedule import schedule
from odl.types import TensorType


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

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4), st.integers(1, 5)), min_size=1, max_size=12))
    def test_each_box_lies_at_the_least_free_offset(self, raw: list[tuple[int, int, int]]) -> None:
        boxes = [(first, first + lasts, size) for first, lasts, size in raw]
        used: set[tuple[int, int]] = set()  # (node, granule)
        offsets = []
        for first, last, size in boxes:
            for offset in range(100):
                cells = {(at, cell) for at in range(first, last + 1) for cell in range(offset, offset + size)}
                if not used & cells:
                    break
            offsets.append(offset)
            used |= cells
        assert [begin for begin, _ in _lay(boxes, range(len(boxes))).spans] == offsets

    @settings(deadline=None)
    @given(
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4), st.integers(1, 5)), min_size=1, max_size=12),
        st.randoms(use_true_random=False), st.integers(0, 12),
    )  # fmt: skip
    def test_a_move_is_laid_anew_or_counts_for_nothing(
        self, raw: list[tuple[int, int, int]], chance: Random, goal: int
    ) -> None:
        """As `_lay` lays it, whatever was laid before; None exactly where more of it stands out above the goal."""
        boxes = [(first, first + lasts, size) for first, lasts, size in raw]
        meets = [
            {j for j, (f, to, _) in enumerate(boxes) if j != i and f <= last and first <= to}
            for i, (first, last, _) in enumerate(boxes)
        ]
        before = _lay(boxes, chance.sample(range(len(boxes)), len(boxes)))
        turn, to = chance.randrange(len(boxes)), chance.randrange(len(boxes))
        order = list(before.order)
        order.insert(to, order.pop(turn))
        whole = _lay(boxes, order)

        def excess(packing: _Packing) -> int:
            return sum(max(0, top - goal) for _, top in packing.spans)

        wanted = whole if excess(whole) <= excess(before) else None
        assert _relay(boxes, meets, before, turn, to, goal) == wanted

    def test_ten_thousand_blocks(self) -> None:
        chance = Random(0)
        boxes = [(first, first + chance.randint(1, 50), 2 * chance.randint(1, 500)) for first in range(10_000)]
        found = planned(of_boxes(boxes))
        assert found.n_bytes[ARENA] <= 1.2 * found.lower_bound

    def test_the_plan_is_the_same_under_any_hash_seed(self) -> None:
        code = "from test_schedule import *; g = schedule(resnet8()); print(g, plan([g, reader(g)]))"
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

    def test_a_persistent_tensor_changed_but_not_carried(self) -> None:
        silent = entry([(Update(), "w x", "w1")])
        carrier = replace(entry([(Update(), "w x", "w1")], w="w1"), name="carrier")
        graphs = (silent, carrier)
        assert check(graphs, plan(graphs)) == [
            "entry: w is not whole at the end, where w lives: byte 0 of arena holds w1"
        ]

    def test_a_tensor_that_only_another_graph_knows(self) -> None:
        other = Builder()
        other.input("x", halves(4))
        other.add(fresh(8), ("x",), "y")
        graphs = (self.train, other.graph("other", ("y",)))
        spoilt = moved_to(planned(*graphs), ["y"], Place(ARENA, 0), "other")
        assert "other: .fresh writes y over w" in check(graphs, spoilt)

    def test_a_value_may_have_the_name_of_a_tensor_that_only_another_graph_knows(self) -> None:
        other = Builder()
        other.input("x", halves(4))
        other.add(fresh(8), ("x",), "w")
        assert planned(self.train, other.graph("other", ("w",))).places["other"]["w"] == Place(ARENA, 8)

    def test_two_persistent_tensors_in_one_place(self) -> None:
        graph = entry([], w="w", c="c")
        spoilt = moved_to(planned(graph), ["c"], Place(ARENA, 0), "entry")
        assert check([graph], spoilt)[0] == "entry: w is not whole before the first node: byte 0 of arena holds c"

    def test_an_order_that_reads_what_is_gone_or_not_yet_there(self) -> None:
        nodes = [(Update(), "w x", "w1"), (fresh(8), "w", "a"), (fresh(8), "a", "y")]
        late = entry(nodes, "y", w="w1")
        early = replace(late, nodes=(late.nodes[0], *late.nodes[:0:-1]))
        found = planned(schedule(late))
        assert "entry: w is not whole when at a.fresh reads it: byte 0 of arena holds w1" in check([late], found)
        assert any(problem.startswith("entry: a is not whole when at y.fresh") for problem in check([early], found))
