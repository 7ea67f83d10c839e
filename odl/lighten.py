"""Fewer live bytes: values that are kept as masks, and values that are computed again, in exchange for multiplications.

A value that lives at the peak, and that the node there does not touch, need not live: whoever reads it later can read
a copy, which nodes of the forward pass compute right before from values that live anyway. Where the later readers ask
for a sign alone, they can read a mask. Which choices cost the fewest multiply-accumulates is a hard problem (Jain et
al., Checkmate, 2020). Here a greedy search takes, at the highest peak, the one that costs the fewest for each byte that
it takes away from above a goal somewhat lower, then lowers the goal, and at the end undoes what was not needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from odl.graph import Graph, Node, Phase
from odl.memory import blocks, live_bytes
from odl.passes.fuse_movers import apart, fuse_movers, with_movers
from odl.passes.mask_signs import can_mask, comes_in_time, mask_sign
from odl.passes.recompute import keep, recompute
from odl.schedule import floor, listed, schedule

STEP = 0.9  # of the peak: the goal that the search goes for next
_MOST_CHOICES = 200  # for one goal
_MANY_NODES = 2000  # beyond this, no search


@dataclass(frozen=True)
class Lighter:
    """A scheduled graph, the most transient bytes that live in it, and what each value equals that is a copy."""

    graph: Graph
    peak: int
    copies: Mapping[str, str]

    @property
    def recomputed(self) -> tuple[str, ...]:
        """The values of which others than copies read a copy, each as often as it is computed again; sorted."""
        read = {value for node in self.graph.nodes if node.outputs[0] not in self.copies for value in node.inputs}
        return tuple(sorted(self._original(copy) for copy in self.copies if copy in read))

    def _original(self, value: str) -> str:
        while value in self.copies:
            value = self.copies[value]
        return value


def lighten(graph: Graph, goal: int, fused: bool = False) -> Lighter:
    """A scheduled graph with masks and copies such that `goal` transient bytes or fewer live, or as few as are found.

    `fused`: what only moves bytes (`Operator.moves`) does so right before its reader, and takes none. No bit changes.
    Deterministic; a lower goal goes the same way further, but for its last steps.
    """
    state = _State(graph, {}, goal, fused)
    if fused and state.peak > goal:
        state = min(state, state.rescheduled(), key=lambda each: each.peak)
    state = _descended(state, goal)
    state = _without_needless(state.aiming(max(goal, state.peak)))
    return Lighter(state.graph, state.peak, state.copies)


def with_masks(graph: Graph) -> Lighter:
    """A scheduled graph with masks where they lower the peak; the same graph where none does. No bit changes."""
    state = _State(graph, {}, 0, fused=False)
    lower = _descended(state, 0, masks_alone=True)
    return Lighter((lower if lower.peak < state.peak else state).graph, lower.peak, {})


def _descended(state: _State, goal: int, masks_alone: bool = False) -> _State:
    """The state with a peak of `goal` or less, or the lowest that is found; one goal after another on the way."""
    if len(state.graph.nodes) > _MANY_NODES:
        return state
    least = max(goal, floor(state.plain))
    while state.peak > least:
        lower = _lowered(state.aiming(max(least, int(STEP * state.peak))), masks_alone)
        if lower.peak >= state.peak:
            break
        state = lower
    return state


def _lowered(state: _State, masks_alone: bool) -> _State:
    """The state that keeps to its goal, or at which no choice is left."""
    for _ in range(_MOST_CHOICES):
        if state.peak <= state.goal:
            break
        better = _best_choice(state, masks_alone)
        if better is None and not masks_alone:
            better = state.rescheduled()
        if better is None or better.rank() >= state.rank():
            break
        state = better
    return state


class _State:
    """A graph in an order, and how far its live bytes are above the goal."""

    def __init__(self, graph: Graph, copies: Mapping[str, str], goal: int, fused: bool) -> None:
        self.graph, self.copies, self.goal, self.fused = graph, copies, goal, fused
        self.plain = fuse_movers(graph) if fused else graph
        self.live = live_bytes(self.plain)
        self.macs = graph.macs()
        self.peak = max(self.live, default=0)
        self.excess = sum(max(0, each - goal) for each in self.live)

    @property
    def at_peak(self) -> Node:
        return self.plain.nodes[self.live.index(self.peak)]

    def rank(self) -> tuple[int, int]:
        """What is to become less."""
        return max(self.peak, self.goal), self.excess

    def aiming(self, goal: int) -> _State:
        return _State(self.graph, self.copies, goal, self.fused)

    def rescheduled(self) -> _State:
        """The same graph in the order of least peak."""
        return self._with(schedule(self.plain), self.graph, self.copies)

    def masked(self, value: str, signs: Sequence[Node], others: Collection[str]) -> _State | None:
        """With a mask for these readers; the others read the value as soon as they may. None where that is too late."""
        early = self._with(listed(_hoisted(self.plain, others)), self.graph, self.copies) if others else self
        if not comes_in_time(early.graph, value, signs):
            return None
        graph = mask_sign(early.graph, value, signs)
        return self._with(listed(fuse_movers(graph) if self.fused else graph), graph, self.copies)

    def again(self, chain: Collection[str], readers: Collection[str]) -> _State:
        """With the nodes of a chain run again for these readers, which run behind the peak."""
        if self.fused:
            at = next(at for at, node in enumerate(self.graph.nodes) if node.name == self.at_peak.name)
            behind = {node.name for node in self.graph.nodes[at:]}  # what moves bytes for several may run before
            chain, readers = with_movers(self.graph, chain), with_movers(self.graph, readers) & behind
        graph, copies = recompute(self.graph, [n.name for n in self.graph.nodes if n.name in chain], readers)
        return self._with(listed(fuse_movers(graph) if self.fused else graph), graph, {**self.copies, **copies})

    def kept(self, values: Collection[str]) -> _State:
        """Without these copies."""
        graph = keep(self.graph, {copy: value for copy, value in self.copies.items() if copy in values})
        return self._with(listed(fuse_movers(graph) if self.fused else graph), graph, self.copies)

    def _with(self, ordered: Graph, graph: Graph, copies: Mapping[str, str]) -> _State:
        if self.fused:
            ordered = apart(ordered, graph)
        there = {value for node in ordered.nodes for value in node.outputs}
        return _State(ordered, {copy: of for copy, of in copies.items() if copy in there}, self.goal, self.fused)


def _best_choice(state: _State, masks_alone: bool) -> _State | None:
    """The state with one more mask or copy, which costs the fewest MACs for each byte above the goal that it saves."""
    best: tuple[float, int, _State] | None = None
    for after in _choices(state, masks_alone):
        gain = state.excess - after.excess
        if gain <= 0 or after.peak > state.peak:
            continue
        rank = (after.macs - state.macs) / gain, -gain
        if best is None or rank < best[:2]:
            best = (*rank, after)
    return best[2] if best else None


def _choices(state: _State, masks_alone: bool) -> Iterator[_State]:
    """The states in which one of the blocks that are idle at the peak need not live there.

    Its later readers read a copy, or, where they are gradients that only ask for the sign, a mask.
    """
    graph = state.plain
    peak = state.live.index(state.peak)
    node = graph.nodes[peak]
    touched = {*node.inputs, *node.outputs}
    fixed = {*graph.inputs, *graph.persistent, *graph.outputs, *graph.carries.values()}
    last = {value: at for at, each in enumerate(graph.nodes) for value in each.inputs}
    alive = {value for value, at in last.items() if at >= peak} | fixed
    for block in blocks(graph):
        values = set(block.values)
        if not block.first < peak <= block.last or values & (touched | fixed):
            continue
        lost = {value for value in values if last.get(value, -1) > peak}
        later = [each for each in graph.nodes[peak + 1 :] if lost.intersection(each.inputs)]
        chain = set() if masks_alone else _chain(graph, lost, peak, alive - values)
        if chain:
            yield state.again(chain, {each.name for each in later})
        for value in lost if len(lost) == 1 else ():
            signs = [each for each in later if can_mask(graph, value, [each])]
            if can_mask(graph, value, signs):
                after = state.masked(value, signs, {each.name for each in later if each not in signs})
                yield from [after] if after else []


def _chain(graph: Graph, lost: set[str], peak: int, alive: Collection[str]) -> set[str]:
    """The nodes of the forward pass that make the values from what lives at the peak; none if others would."""
    needed, chain = set(lost), set[str]()
    for node in reversed(graph.nodes[:peak]):
        if needed.isdisjoint(node.outputs):
            continue
        shows = node.op.view or node.op.moves  # made for a reader, in the reader's phase
        if (node.phase is not Phase.FORWARD and not shows) or len(node.outputs) > 1 or node.op.overwrites:
            return set()
        chain.add(node.name)
        needed.update(value for value in node.inputs if value not in alive)
        needed.difference_update(node.outputs)
    return set() if needed else chain


def _hoisted(graph: Graph, names: Collection[str]) -> Graph:
    """The nodes in an order in which those named come right behind the last of their inputs."""
    ready = {value: -1 for value in (*graph.inputs, *graph.persistent)}
    ready.update((value, at) for at, node in enumerate(graph.nodes) for value in node.outputs)
    ranks = [
        (max(ready[value] for value in node.inputs), 1, at) if node.name in names else (at, 0, at)
        for at, node in enumerate(graph.nodes)
    ]  # fmt: skip
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    return replace(graph, nodes=tuple(graph.nodes[at] for at in order))


def _without_needless(state: _State) -> _State:
    """Without the copies that the goal does not need after all, the most expensive ones first."""
    macs = {value: state.graph.node_macs(node) for node in state.graph.nodes for value in node.outputs}
    for copy in sorted(state.copies, key=lambda copy: -macs[copy]):
        if copy in state.copies:
            less = state.kept({copy})
            if less.rank() <= state.rank():
                state = less
    return state
