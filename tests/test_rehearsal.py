"""Programs with tiles, with one thing made wrong: compiling such a program must fail, wherever the mistake is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from odl import compile_model
from odl.program import LOCAL, Barrier, Call, Move, Program, Statement, Wait
from odl.rehearsal import rehearse
from odl.training import STEP

MODEL = Path(__file__).parent.parent / "examples/words_dscnn/model.onnx"
N_PLACES = 12

Mistake = Callable[[list[Statement], int], list[Statement] | None]


@cache
def program() -> Program:
    return compile_model(MODEL, target="pulp-open").program


def without_a_wait(statements: list[Statement], at: int) -> list[Statement] | None:
    return statements[:at] + statements[at + 1 :] if isinstance(statements[at], Wait) else None


def without_a_barrier(statements: list[Statement], at: int) -> list[Statement] | None:
    return statements[:at] + statements[at + 1 :] if isinstance(statements[at], Barrier) else None


def without_a_transfer(statements: list[Statement], at: int) -> list[Statement] | None:
    move = statements[at]
    if not isinstance(move, Move):
        return None
    return [each for each in statements if each != move and each != Wait(move.number)]


def waiting_before_the_transfer(statements: list[Statement], at: int) -> list[Statement] | None:
    move = statements[at]
    if not isinstance(move, Move):
        return None
    end = statements.index(Wait(move.number))
    return [*statements[:at], Wait(move.number), *statements[at:end], *statements[end + 1 :]]


def an_operand_elsewhere(statements: list[Statement], at: int) -> list[Statement] | None:
    call = statements[at]
    if not isinstance(call, Call) or not call.kernel:
        return None
    first, *others = call.inputs
    moved = replace(first, offset=first.offset + 8)
    return [*statements[:at], replace(call, inputs=(moved, *others)), *statements[at + 1 :]]


def a_result_elsewhere(statements: list[Statement], at: int) -> list[Statement] | None:
    call = statements[at]
    if not isinstance(call, Call) or not call.kernel:
        return None
    *others, last = call.outputs
    moved = replace(last, offset=program().spaces[LOCAL] - last.type.n_bytes + 8)
    return [*statements[:at], replace(call, outputs=(*others, moved)), *statements[at + 1 :]]


def a_transfer_of_other_bytes(statements: list[Statement], at: int) -> list[Statement] | None:
    move = statements[at]
    if not isinstance(move, Move):
        return None
    beyond = replace(move.region, offset=move.remote.type.n_bytes)
    return [*statements[:at], replace(move, region=beyond), *statements[at + 1 :]]


MISTAKES: tuple[Mistake, ...] = (
    without_a_wait, without_a_barrier, without_a_transfer, waiting_before_the_transfer, an_operand_elsewhere,
    a_result_elsewhere, a_transfer_of_other_bytes,
)  # fmt: skip


def wrong(mistake: Mistake) -> Iterator[Program]:
    """The program with the mistake at some of the places where it can be made, the first and the last among them."""
    statements = list(program().entries[STEP])
    found = [made for at in range(len(statements)) if (made := mistake(statements, at))]
    for at in np.unique(np.linspace(0, len(found) - 1, N_PLACES).astype(int)):
        yield replace(program(), entries={**program().entries, STEP: tuple(found[at])})


def test_nothing_is_wrong() -> None:
    rehearse(program())


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_it_is_seen_wherever_it_is(mistake: Mistake) -> None:
    for each in wrong(mistake):
        with pytest.raises((AssertionError, KeyError)):
            rehearse(each)


def test_memory_that_is_too_small_is_seen() -> None:
    spaces = {**program().spaces, LOCAL: program().spaces[LOCAL] - 64}
    with pytest.raises(AssertionError):
        rehearse(replace(program(), spaces=spaces))
