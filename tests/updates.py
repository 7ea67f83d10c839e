"""Updates of one weight outside of any graph: their operands, and a device that steps."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
from team import Work

from odl.masters import Master
from odl.ops._updates import Update
from odl.ops.adam import AdamUpdate
from odl.ops.finish_step import FinishStep
from odl.ops.rates import LearningRate, Rates
from odl.ops.replay import Keep, Recall, Remember
from odl.ops.sgd import SgdUpdate
from odl.ops.square_sums import PARTS, SquareSums
from odl.types import Array

SOUND = np.zeros(PARTS, np.float32)
UNSOUND = np.array([0, 1, np.inf, 0, 0, 0, 0, 0], np.float32)


def held(op: Update, w: Array, state: type[np.floating], rng: np.random.Generator | None = None) -> list[Array]:
    """The states and the memory of trained weights `w`, at their beginning or, by `rng`, some way on."""
    states = [np.zeros(w.shape, state) for _ in range(op.n_states)]
    if rng:
        states = [np.abs(rng.standard_normal(w.shape)).astype(state) for _ in states]
    memory = [op.master.begin(w)] if op.master.memory else []
    if rng and op.master is Master.KAHAN:
        memory = [rng.standard_normal(w.shape).astype(np.float16)]
    return [*states, *memory]


def operands(
    op: Update, w: Array, held_: list[Array], g: Array, rates: Array, guard: Array = SOUND, tried: int = 0
) -> list[Array]:
    """What an update reads, in its order."""
    progress = [np.array([tried, 0, 0, 0], np.int32)] if op.master is Master.STOCHASTIC else []
    return [w, *held_, np.zeros(1, np.int32), g, rates, guard, *progress]


class Stepper:
    """One weight and all that lies beside it, updated by `op` at a constant rate."""

    def __init__(self, op: Update, w: Array, lr: float, state: type[np.floating] = np.float16) -> None:
        self.op, self.weight, self.held = op, w, held(op, w, state)
        self.lost, self.tried = 0, 0
        betas = (op.beta1, op.beta2) if isinstance(op, AdamUpdate) else ()
        self.rates = Rates(LearningRate(lr), betas=betas)
        self.powers = [np.ones(2, np.float32)] if betas else []

    def step(self, g: Array) -> None:
        progress = np.array([self.tried, 0, 0, 0], np.int32)
        rates, *self.powers = self.rates.evaluate([*self.powers, progress])
        arrays = operands(self.op, self.weight, self.held, g, rates, tried=self.tried)
        self.weight, *self.held, lost = self.op.evaluate(arrays)
        self.lost += int(lost[0])
        self.tried += 1


def works(numbers: Array, rng: np.random.Generator) -> Iterator[Work]:
    """For cores: every rule, master, type of state and of gradient, of weights `numbers`; pieces; forbidden updates."""
    n = len(numbers)
    rates = np.array([0.125, 0.0625, 0.25, 1.5], np.float32)
    plain = np.array([1, 0.0625, 0, 0], np.float32)
    rules = [
        SgdUpdate(), SgdUpdate(decay=0.01, clip=0.05), SgdUpdate(momentum=0.9), SgdUpdate(momentum=0.9, nesterov=True),
        AdamUpdate(decay=0.01), AdamUpdate(decay=0.01, decoupled=True),
    ]  # fmt: skip
    for number, (rule, master) in enumerate(product(rules, Master)):
        op = type(rule)(**{**rule.__dict__, "master": master, "salt": 77 if master is Master.STOCHASTIC else 0})
        state, kind = ((np.float16, np.float32), (np.float32, np.float16), (np.float32, np.float32))[number % 3]
        g = (rng.standard_normal(n) * np.where(rng.random(n) < 0.3, 1e-4, 1)).astype(kind)
        g[rng.random(n) < 0.05] = rng.choice([np.inf, np.nan, 0, -0.0, 65504])
        beside = held(op, numbers, state, rng)
        for each in (rates, plain) if rule == SgdUpdate() else (rates,):
            yield Work(op, tuple(operands(op, numbers, beside, g, each, tried=number)))
        yield Work(op, tuple(operands(op, numbers, beside, g, rates, UNSOUND)))
        if n > 4:
            piece = type(op)(**{**op.__dict__, "row": 1, "first": 1, "count": n - 3, "index": 5})
            fewer = [each[1:] for each in beside]
            yield Work(piece, tuple(operands(piece, numbers, fewer, g[: n - 3], rates)))


def sums_of_squares(x: Array) -> Iterator[Work]:
    """Of finite numbers and others, from zero and from sums so far; of some of the parts."""
    sums = np.arange(8).astype(np.float32)
    for each in (x, np.where(np.isfinite(x), x, 1).astype(x.dtype), x.reshape(1, -1, 1)):
        yield Work(SquareSums(), (each,))
        yield Work(SquareSums(), (each, sums))
    rows = np.tile(x, 5).reshape(5, -1)[2:]
    yield Work(SquareSums(first=4, count=4, size=5, axis=0), (rows, sums[:4]))


def steering() -> Iterator[Work]:
    """The rates of a step and its end: every schedule and loss scale, at the corners."""
    sound, unsound = np.ones(8, np.float32), np.full(8, np.nan, np.float32)
    rules = [
        LearningRate(0.3), LearningRate(0.3, "step", 3, 4, 0.5), LearningRate(0.3, "cosine", 3, 50, 0.5, 0.01),
        LearningRate(0.3, "step", 0, 1, 0.999),
    ]  # fmt: skip
    scale, powers = np.array([4096.0], np.float32), np.array([0.5, 0.25], np.float32)
    for rule, step in product(rules, (0, 2, 3, 29, 53, 1000, 2**31 - 1)):
        progress = np.array([step, 0, 0, 0], np.int32)
        yield Work(Rates(rule, batch=3, scale=0.5), (progress,))
        yield Work(Rates(rule, betas=(0.9, 0.999)), (powers, progress))
        for squares in (sound, unsound):
            yield Work(Rates(rule, 3, 1.0, True, True, 0.5, (0.9, 0.999)), (powers, progress, scale, squares))
            yield Work(Rates(rule, 3, 1.0, False, True, 1e-4), (progress, squares))
    for squares, streak, value in product((sound, unsound), (0, 1, 2), (1.0, 2.0, 65536.0)):
        progress = np.array([2**31 - 1 if streak else 7, 3, streak, 0], np.int32)
        scale = np.array([value], np.float32)
        yield Work(FinishStep(), (progress, squares))
        yield Work(FinishStep(True, interval=2), (progress, scale, squares))


def replaying(rng: np.random.Generator) -> Iterator[Work]:
    """A replay memory of either type, filling and full, filled by either policy; a latent that is kept."""
    latent = rng.standard_normal((1, 3, 2, 2)).astype(np.float16)
    yield Work(Keep(), (np.zeros_like(latent), latent))
    for packs, n_filled in product((False, True), (2, 5)):
        memory = rng.integers(0, 200, (5, 12)).astype(np.uint8 if packs else np.float16)
        labels, count = rng.integers(0, 3, 5).astype(np.int32), np.array([n_filled, 9, 4], np.int32)
        scales = (rng.random((5, 2)).astype(np.float32),) * packs
        label = np.array([1], np.int32)
        yield Work(Recall(salt=3), (np.zeros_like(latent), label, count, memory, labels, *scales))
        for balanced, salt in product((False, True), range(4)):
            seen = (np.array([4, 2, 3], np.int32),) * balanced
            yield Work(Remember(balanced, salt), (memory, labels, count, *scales, *seen, latent, label))
