"""python -m benchmarks.pulp_walk: the calls and transfers of one layer, for docs/PULP.md, from the program itself.

The layer is conv1 of MLPerf Tiny's ResNet8. Nothing is run, so no simulator is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from benchmarks import pages
from benchmarks.models import SUBJECTS
from benchmarks.report import markdown
from odl.graph import Phase
from odl.program import Barrier, Buffer, Call, Move, Program, Statement, Wait
from odl.targets.pulp import PULP_OPEN
from odl.training import STEP

PAGE = "docs/PULP.md"
MODEL = "resnet8_cifar10"
LAYER = "conv1"

_HEADER = ("phase", "calls", "with products", "bytes in", "bytes out")


def program() -> Program:
    return SUBJECTS[MODEL].compile(PULP_OPEN.name).program


def traffic(whole: Program) -> str:
    """A table: the layer's calls by phase, and the bytes that move for them."""
    statements = whole.entries[STEP]
    calls: Counter[Phase] = Counter()
    products: Counter[Phase] = Counter()
    moved: Counter[tuple[Phase, bool]] = Counter()
    for at, it in enumerate(statements):
        if isinstance(it, Call) and it.layer == LAYER and it.kernel:
            calls[it.phase] += 1
            products[it.phase] += it.macs > 0
        elif isinstance(it, Move):
            user = _user(statements, at)
            if user and user.layer == LAYER:
                moved[user.phase, it.inward] += it.region.n_bytes
    rows = [
        (phase.value.replace("_", " "), *(f"{n:,}" for n in (calls[phase], products[phase], moved[phase, True],
                                                             moved[phase, False])))
        for phase in Phase if calls[phase]
    ]  # fmt: skip
    return markdown(_HEADER, rows)


def _user(statements: Sequence[Statement], at: int) -> Call | None:
    """The call that first reads what a move brings, or that wrote what it takes away."""
    move = statements[at]
    assert isinstance(move, Move)
    if move.inward:
        later = (it for it in statements[at + 1 :] if isinstance(it, Call))
        return next((it for it in later if _holds(it.inputs, move.local)), None)
    before = (it for it in reversed(statements[:at]) if isinstance(it, Call))
    return next((it for it in before if _holds(it.outputs, move.local)), None)


def _holds(buffers: Sequence[Buffer], wanted: Buffer) -> bool:
    return any(_is_same(each, wanted) for each in buffers)


def _is_same(one: Buffer, other: Buffer) -> bool:
    """A move and a call name the same bytes, though an updated tensor has another name."""
    return (one.space, one.offset) == (other.space, other.offset) and (
        one.value == other.value or bool(one.held and one.held == other.held)
    )


def excerpt(whole: Program, phase: Phase) -> str:
    """How the first call with products, or the last call of all, gets its operands, and where its result goes."""
    statements = whole.entries[STEP]
    own = [at for at, it in enumerate(statements) if isinstance(it, Call) and (it.layer, it.phase) == (LAYER, phase)]
    at = next((n for n in own if _call(statements[n]).macs), own[-1])
    chosen = {at, *_needed(statements, at, phase)}
    out = _next_out(statements, at, _call(statements[at]).outputs[0])
    chosen |= {out} if out else set()
    return "\n".join(_lines(statements, chosen))


def _call(statement: Statement) -> Call:
    assert isinstance(statement, Call)
    return statement


def _needed(statements: Sequence[Statement], at: int, phase: Phase) -> Iterator[int]:
    """The transfers, and the calls of the same phase without products, that make a call's operands."""
    for wanted in _call(statements[at]).inputs:
        for before in range(at - 1, -1, -1):
            it = statements[before]
            if isinstance(it, Move) and it.inward and _is_same(it.local, wanted):
                yield before
                break
            if isinstance(it, Call) and _holds(it.outputs, wanted):
                if it.phase is phase and not it.macs:
                    yield before
                    yield from _needed(statements, before, phase)
                break


def _next_out(statements: Sequence[Statement], at: int, wanted: Buffer) -> int | None:
    """The transfer that takes a result away, if one does before other bytes take its place."""
    for later in range(at + 1, len(statements)):
        it = statements[later]
        if isinstance(it, Move) and it.local.offset == wanted.offset:
            return later if not it.inward and it.local.value == wanted.value else None
        if isinstance(it, Call) and any(each.offset == wanted.offset for each in it.outputs):
            return None
    return None


def _lines(statements: Sequence[Statement], chosen: set[int]) -> Iterator[str]:
    """The chosen statements, the waits of their transfers, and one barrier where there is one or more in between."""
    numbers = {it.number for n in chosen if isinstance(it := statements[n], Move)}
    barrier = False
    for at in range(min(chosen), max(chosen) + 1):
        it = statements[at]
        if isinstance(it, Barrier):
            barrier = True
        elif at in chosen or (isinstance(it, Wait) and it.number in numbers):
            if barrier:
                yield "barrier"
            barrier = False
            yield str(it).split("; ")[0] + ")" if isinstance(it, Call) else str(it)


def parts(whole: Program) -> dict[str, str]:
    """The marks of docs/PULP.md that this program fills."""
    found = {f"conv1 {phase.value.replace('_', ' ')}": f"\n```\n{excerpt(whole, phase)}\n```\n\n" for phase in Phase}
    return {"conv1 traffic": f"\n{traffic(whole)}\n", **found}


def main() -> None:
    for mark, made in parts(program()).items():
        pages.fill(PAGE, mark, made)


if __name__ == "__main__":
    main()
