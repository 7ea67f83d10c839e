"""When each node runs: an order in which few bytes live at once.

Two rules bind the order: a node runs after those that compute its inputs, and one that overwrites a tensor runs after
all other readers of the old value, under its own name or through a view. The least peak is NP-hard to find (Sethi
1975), so several orders compete: the given one, a greedy one and, unless the graph is large, those of a beam search. In
all of them a node that takes no new memory, such as the update of a weight, runs as soon as it may: live bytes are then
never more than if it ran later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from heapq import heapify, heappop, heappush, nsmallest
from itertools import islice
from operator import or_

from odl.graph import Graph, Phase, present
from odl.memory import live_bytes, offers, roots, taken

_BEAM_WIDTH = 4  # states of one length from which the search goes on
_BEAM_CHOICES = 16  # ready nodes that it tries from one state
_SEARCH_WORK = 1_000_000  # nodes that it tries in all before it gives up
_SEARCH_NODES = 2000  # beyond this, no search


def schedule(graph: Graph) -> Graph:
    """The graph with its nodes in the order of least peak (`live_bytes`) of those tried; of equals, the first tried.

    Deterministic. Rules that contradict each other are a bug of a pass, hence an AssertionError.
    """
    work = _Work(graph)
    orders = [_listed(work, greedy=False), _listed(work, greedy=True)]
    if len(graph.nodes) <= _SEARCH_NODES:
        orders += _searched(work, min(_peak(graph, order) for order in orders))
    return _ordered(graph, min(orders, key=lambda order: _peak(graph, order)))


def listed(graph: Graph) -> Graph:
    """The graph in its own order as far as the rules let it, but for nodes that take no memory: as soon as they may."""
    return _ordered(graph, _listed(_Work(graph), greedy=False))


def floor(graph: Graph) -> int:
    """What the largest node needs by itself: no order has a lower peak."""
    return _Search(_Work(graph)).floor()


def promptly(graph: Graph) -> Graph:
    """The graph in an order that takes milliseconds to find: the given one, but whatever belongs to a weight runs as
    soon as its update can, and a piece of its gradient not before. For estimates of what `schedule` comes to."""
    needs = _needs(graph)
    consumers = graph.consumers()
    place = {node.name: at for at, node in enumerate(graph.nodes)}
    for at, node in enumerate(graph.nodes):
        readers = {place[reader.name] for reader in consumers[node.outputs[0]]}
        if node.phase is Phase.WEIGHT_GRADIENT and not node.op.overwrites and len(readers) == 1:
            (update,) = readers
            needs[at] |= needs[update] - {at}
    waiting = [len(needed) for needed in needs]
    feeds: list[list[int]] = [[] for _ in needs]
    for at, needed in enumerate(needs):
        for earlier in needed:
            feeds[earlier].append(at)
    later = (Phase.FORWARD, Phase.INPUT_GRADIENT)
    ready = [(node.phase in later, at) for at, node in enumerate(graph.nodes) if not waiting[at]]
    heapify(ready)
    order: list[int] = []
    while ready:
        order.append(heappop(ready)[1])
        for at in feeds[order[-1]]:
            waiting[at] -= 1
            if not waiting[at]:
                heappush(ready, (graph.nodes[at].phase in later, at))
    assert len(order) == len(graph.nodes), "nodes wait for each other"
    return _ordered(graph, order)


def _ordered(graph: Graph, order: Sequence[int]) -> Graph:
    return replace(graph, nodes=tuple(graph.nodes[at] for at in order))


def _peak(graph: Graph, order: Sequence[int]) -> int:
    return max(live_bytes(_ordered(graph, order)), default=0)


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
        self.new = [sum(self.size[v] for v in node.outputs if self.root[v] == v) for node in graph.nodes]
        self.touched = [
            sorted({self.root[value] for value in (*node.inputs, *node.outputs)} & self.size.keys())
            for node in graph.nodes
        ]
        self.offers = [
            [(output, root) for output, root in offers(graph, node, self.root) if root in self.size]
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
        """How many more bytes live during a node and after it than before, where `dies` tells which roots it frees."""
        kept = sum(self.size[output] for output in taken(self.offers[at], dies)) if self.offers[at] else 0
        freed = sum(self.size[root] for root in self.touched[at] if dies(root))
        return self.new[at] - kept, self.new[at] - freed


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
        rank[at] = (work.new[at] > 0, growth, at)
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


def _searched(work: _Work, peak: int) -> list[list[int]]:
    """Orders of less than `peak`, each better than the one before, by bisection of the bytes that a search may use."""
    search = _Search(work)
    orders: list[list[int]] = []
    least = search.floor()
    while least < peak:
        budget = (least + peak) // 2
        order = search.within(budget)
        if order is None:
            least = budget + 1
        else:
            orders.append(order)
            peak = _peak(work.graph, order)
            assert peak <= budget, "the search and `live_bytes` count differently"
    return orders


@dataclass(frozen=True)
class _State:
    """The nodes that have run and those that are ready, as bit masks; the bytes that live; the way here."""

    live: int
    done: int
    ready: int
    ran: tuple[int, ...] = ()
    before: _State | None = None


class _Search:
    """Beam search for an order that never has more live bytes than a budget."""

    def __init__(self, work: _Work) -> None:
        self.work = work
        self.users = {root: sum(1 << at for at in users) for root, users in work.users.items()}
        self.needs = [sum(1 << at for at in needed) for needed in work.needs]
        self.near = [
            reduce(or_, (self.users[root] for root in touched), sum(1 << later for later in feeds))
            for touched, feeds in zip(work.touched, work.feeds, strict=True)
        ]
        # What a node's growth depends on of what has run, and its growth by that.
        self.asks = [reduce(or_, (self.users[root] for root in touched), 0) for touched in work.touched]
        self.found: list[dict[int, tuple[int, int]]] = [{} for _ in work.touched]
        self.tried = 0

    def floor(self) -> int:
        """What the largest node needs by itself: no order has a lower peak."""
        floor = 0
        for at, touched in enumerate(self.work.touched):
            during, _ = self._growth(at, (1 << len(self.needs)) - 1)
            floor = max(floor, during - self.work.new[at] + sum(self.work.size[root] for root in touched))
        return floor

    def within(self, budget: int) -> list[int] | None:
        """An order of peak `budget` or less, or None where the search finds none.

        Of the states in which k nodes have run, those with the fewest live bytes go on.
        """
        found: list[dict[int, _State]] = [{} for _ in range(len(self.needs) + 1)]
        found[0][0] = _State(0, 0, sum(1 << at for at, needed in enumerate(self.needs) if not needed))
        for states in found[:-1]:
            for state in nsmallest(_BEAM_WIDTH, states.values(), key=lambda state: state.live):
                for grown in self._grow(state, budget):
                    found[grown.done.bit_count()].setdefault(grown.done, grown)
            states.clear()
        return next(map(_way, found[-1].values()), None)

    def _grow(self, state: _State, budget: int) -> list[_State]:
        """The states that follow; one alone if it has no more live bytes.

        What leads there can as well run now. The live bytes of a set of nodes are a submodular function: nodes that add
        none to this set add none to a larger one, so whatever else would have run first has no fewer to live with.
        """
        grown: list[_State] = []
        for at in islice(_bits(state.ready), _BEAM_CHOICES):
            if self.tried > _SEARCH_WORK:
                return []
            during, _ = self._growth(at, state.done)
            if state.live + during <= budget:
                grown.append(self._run(state, at, budget))
                if grown[-1].live <= state.live:
                    return grown[-1:]
        return grown

    def _run(self, state: _State, at: int, budget: int) -> _State:
        """Run a ready node, and then what it makes free: neighbours that keep to the budget and add no live bytes."""
        live, done, ready, near = state.live, state.done, state.ready, 0
        ran: list[int] = []
        free: int | None = at
        while free is not None:
            live += self._growth(free, done)[1]
            done |= 1 << free
            ran.append(free)
            for later in self.work.feeds[free]:
                ready |= (not self.needs[later] & ~done) << later
            ready &= ~done
            near |= self.near[free]
            free = self._free(near & ready, done, budget - live)
        return _State(live, done, ready, tuple(ran), state)

    def _free(self, ready: int, done: int, room: int) -> int | None:
        """The first of the ready nodes that adds no live bytes and, while it runs, no more than there is room for."""
        for at in _bits(ready):
            during, after = self._growth(at, done)
            if during <= room and after <= 0:
                return at
        return None

    def _growth(self, at: int, done: int) -> tuple[int, int]:
        """`_Work.growth`, kept: most of a search goes by here, 31 of 32 times (ResNet8) for what was asked before."""
        self.tried += 1
        found, asked = self.found[at], done & self.asks[at]
        growth = found.get(asked)
        if growth is None:
            left = ~(done | 1 << at)
            growth = found[asked] = self.work.growth(at, lambda root: not self.users[root] & left)
        return growth


def _bits(mask: int) -> Iterator[int]:
    """The positions of the ones, lowest first."""
    while mask:
        yield (mask & -mask).bit_length() - 1
        mask &= mask - 1


def _way(state: _State) -> list[int]:
    """The order that leads to a state."""
    runs = []
    while state.before is not None:
        runs.append(state.ran)
        state = state.before
    return [at for run in reversed(runs) for at in run]
