"""When each node runs: an order in which few bytes live at once.

Two rules bind the order: a node runs after those that compute its inputs, and one that overwrites a tensor runs after
all other readers of the old value, under its own name or through a view. The least peak is NP-hard to find (Sethi
1975), so three orders compete: the given one, a greedy one and, unless the graph is large, that of a beam search. In
all of them a node that takes no new memory, such as the update of a weight, runs as soon as it may: live bytes are then
never more than if it ran later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from heapq import heappop, heappush, nsmallest

from odl.graph import Graph
from odl.memory import live_bytes, present, reused, roots

_BEAM_NODES = 2000  # beyond this, no beam search
_BEAM_WIDTH = 64  # states kept of one length
_BEAM_STATES = 20_000  # states kept of all lengths
_BEAM_CHOICES = 16  # ready nodes tried from one state


def schedule(graph: Graph) -> Graph:
    """The graph with its nodes in the order of least peak (`live_bytes`) of those tried; of equals, the first tried.

    Deterministic. Rules that contradict each other are a bug of a pass, hence an AssertionError.
    """
    work = _Work(graph)
    orders = [_listed(work, greedy=False), _listed(work, greedy=True)]
    if len(graph.nodes) <= _BEAM_NODES:
        orders.append(_beamed(work))
    ordered = [replace(graph, nodes=tuple(graph.nodes[at] for at in order)) for order in orders]
    return min(ordered, key=lambda candidate: max(live_bytes(candidate), default=0))


class _Work:
    """What binds the order, and what it costs, by index of node and by root (`memory.roots`) of transient bytes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.root = roots(graph)
        self.needs = _needs(graph)
        self.feeds: list[list[int]] = [[] for _ in graph.nodes]
        for at, needed in enumerate(self.needs):
            for earlier in sorted(needed):
                self.feeds[earlier].append(at)
        fixed = {*graph.inputs, *graph.persistent}
        self.size = {root: graph.types[root].n_bytes for root in self.root.values() if root not in fixed}
        self.new = [[value for value in node.outputs if self.root[value] == value] for node in graph.nodes]
        self.touched = [
            sorted({self.root[value] for value in (*node.inputs, *node.outputs)} & self.size.keys())
            for node in graph.nodes
        ]
        self.users: dict[str, list[int]] = {root: [] for root in self.size}
        for at, touched in enumerate(self.touched):
            for root in touched:
                self.users[root].append(at)
        # One user that never runs keeps an output alive.
        for root in {self.root[value] for value in graph.outputs} & self.size.keys():
            self.users[root].append(len(graph.nodes))

    def growth(self, at: int, dies: Callable[[str], bool]) -> tuple[int, int]:
        """How many more bytes live during the node and after it than before, where `dies` tells what it is last to use.

        Roots that are not transient never die.
        """
        new = sum(self.size[value] for value in self.new[at])
        reusing = reused(self.graph, self.graph.nodes[at], self.root, lambda root: root in self.size and dies(root))
        kept = sum(self.size[value] for value in reusing)
        freed = sum(self.size[root] for root in self.touched[at] if dies(root))
        return new - kept, new - freed


def _needs(graph: Graph) -> list[set[int]]:
    """For each node, the nodes that must run before it."""
    producer = {value: at for at, node in enumerate(graph.nodes) for value in node.outputs}
    same: dict[str, str] = {}  # view -> what it shows
    readers: dict[str, list[int]] = {}
    for at, node in enumerate(graph.nodes):
        if node.op.view:
            same[node.outputs[0]] = same.get(node.inputs[0], node.inputs[0])
        for value in node.inputs:
            readers.setdefault(same.get(value, value), []).append(at)
    needs = [{producer[value] for value in node.inputs if value in producer} for node in graph.nodes]
    for at, node in enumerate(graph.nodes):
        for _, source in present(node, node.op.overwrites):
            old = same.get(node.inputs[source], node.inputs[source])
            needs[at].update(reader for reader in readers[old] if reader != at)
    return needs


def _listed(work: _Work, greedy: bool) -> list[int]:
    """List scheduling: of the ready nodes, the greedy order takes the one after which the fewest bytes live.

    Nodes that take no memory come first, ties go to the node given first. n log n: a node's growth changes only when it
    becomes the last user of a root.
    """
    waiting = [len(needed) for needed in work.needs]
    left = {root: len(users) for root, users in work.users.items()}
    last = {root: sum(users) for root, users in work.users.items()}  # the index of the last user once it is alone
    ready: list[tuple[bool, int, int]] = []
    rank: dict[int, tuple[bool, int, int]] = {}

    def push(at: int) -> None:
        growth = work.growth(at, lambda root: left[root] == 1)[1] if greedy else 0
        rank[at] = (bool(work.new[at]), growth, at)
        heappush(ready, rank[at])

    for at, count in enumerate(waiting):
        if not count:
            push(at)
    order: list[int] = []
    while ready:
        entry = heappop(ready)
        at = entry[2]
        if rank.get(at) != entry:
            continue
        del rank[at]
        order.append(at)
        for root in work.touched[at]:
            left[root] -= 1
            last[root] -= at
            if left[root] == 1 and last[root] in rank:
                push(last[root])
        for later in work.feeds[at]:
            waiting[later] -= 1
            if not waiting[later]:
                push(later)
    stuck = [node.name for node, count in zip(work.graph.nodes, waiting, strict=True) if count]
    assert not stuck, f"these nodes wait for each other: {stuck[:10]}"
    return order


@dataclass(frozen=True)
class _State:
    """The nodes run so far, as a bit mask: the bytes that lived at most, the bytes that live, and the way here."""

    peak: int
    live: int
    done: int
    ready: Sequence[int]
    at: int = -1
    before: _State | None = None


def _beamed(work: _Work) -> list[int]:
    """Beam search: of all orders of k nodes, those of least peak, then of fewest live bytes, grow to k + 1."""
    n_nodes = len(work.graph.nodes)
    beam = _Beam(work)
    states = [beam.start()]
    for _ in range(n_nodes):
        found: dict[int, _State] = {}
        for state in states:
            for grown in beam.grow(state):
                if grown.done not in found or grown.peak < found[grown.done].peak:
                    found[grown.done] = grown
        width = min(_BEAM_WIDTH, _BEAM_STATES // n_nodes)
        states = nsmallest(width, found.values(), key=lambda state: (state.peak, state.live))
    best, order = states[0], []
    while best.before is not None:
        order.append(best.at)
        best = best.before
    return order[::-1]


class _Beam:
    """States and their successors, with sets of nodes as bit masks."""

    def __init__(self, work: _Work) -> None:
        self.work = work
        self.users = {root: sum(1 << at for at in users) for root, users in work.users.items()}
        self.needs = [sum(1 << at for at in needed) for needed in work.needs]

    def start(self) -> _State:
        """Nothing has run. The peak begins at what the largest node needs by itself, since no order goes below that."""
        peak = 0
        for at, touched in enumerate(self.work.touched):
            during, _ = self.work.growth(at, lambda root: not self.users[root] >> len(self.needs))
            peak = max(peak, during + sum(self.work.size[root] for root in touched if root not in self.work.new[at]))
        return _State(peak, 0, 0, [at for at, needed in enumerate(self.needs) if not needed])

    def grow(self, state: _State) -> Iterator[_State]:
        """The states one node on; one alone if some node raises neither the peak nor the live bytes.

        That node can as well run now: what it takes and frees, it takes and frees now or later, and whatever runs in
        between has no fewer bytes to live with.
        """
        grown = []
        for at in state.ready[:_BEAM_CHOICES]:
            done = state.done | 1 << at
            during, after = self.work.growth(at, partial(self._dead, done))
            later = [later for later in self.work.feeds[at] if not self.needs[later] & ~done]
            ready = sorted({*state.ready, *later} - {at})
            peak = max(state.peak, state.live + during)
            grown.append(_State(peak, state.live + after, done, ready, at, state))
            if peak == state.peak and after <= 0:
                return iter(grown[-1:])
        return iter(grown)

    def _dead(self, done: int, root: str) -> bool:
        return not self.users[root] & ~done
