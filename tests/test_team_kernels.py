"""Each kernel by a team of one to eight cores: the bits of NumPy, and no output computed by two cores."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import updates
from host_c import compilers
from numpy.testing import assert_array_equal
from pass_operators import works as _from_passes
from samples import works as _from_samples
from team import Team, Work, untouched

from odl import fp16
from odl.fp16 import Accumulate, bits
from odl.ops._updates import Update
from odl.ops.accumulate import AccumulateGradient, ClearGradient
from odl.ops.count import Count
from odl.ops.cross_entropy import SoftmaxCrossEntropy, SoftmaxCrossEntropyGradient
from odl.ops.mean_squared_error import MeanSquaredError, MeanSquaredErrorGradient
from odl.ops.relu import Relu, ReluGradient
from odl.ops.row_sum import RowSum
from odl.types import Array, DType

pytestmark = pytest.mark.filterwarnings("error")

# Kernels that every core still does whole.
WHOLE: tuple[str, ...] = ()

# Cores, and whether words are taken as pairs, in each accumulator.
TEAMS = [
    *((1, 0, Accumulate.FP32), (1, 1, Accumulate.FP32), (2, 1, Accumulate.FP32), (3, 0, Accumulate.FP32)),
    *((4, 1, Accumulate.FP16), (5, 1, Accumulate.FP32), (6, 0, Accumulate.FP16), (7, 1, Accumulate.FP32)),
    (8, 1, Accumulate.FP32),
]


def numbers(n: int, seed: int, *, wild: bool = False) -> Array:
    """Binary16 numbers around 1; `wild`: a third of them any bit pattern."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(n).astype(np.float16)
    patterns = rng.integers(0, 1 << 16, n, dtype=np.uint16).view(np.float16)
    return fp16.canonical(np.where(wild & (rng.random(n) < 1 / 3), patterns, values))


def _from_training(accumulate: Accumulate) -> Iterator[Work]:
    """What training adds, and sizes about the ends of shares and words."""
    for n in (1, 2, 7, 16, 61, 130):
        x, w = (numbers(n, seed + n, wild=True) for seed in range(2))
        wide = numbers(n, 9 + n, wild=True).astype(np.float32)
        if n in (7, 130):  # less than a block; some blocks, and a rest
            yield from updates.works(w, np.random.default_rng(n))
        for g in (x, wide):
            yield from updates.sums_of_squares(g)
            total = numbers(n + 3, 4).astype(g.dtype)
            yield Work(AccumulateGradient(first=1, count=n), (total, g))
            yield Work(ClearGradient(), (total,))
        yield Work(Relu(), (x,))
        yield Work(ReluGradient(), (x, w))
        yield Work(MeanSquaredError(accumulate), (numbers(n, 1), numbers(n, 2)))
        yield Work(MeanSquaredErrorGradient(), (x,))
        yield Work(MeanSquaredErrorGradient(), (x, np.array([8.0], np.float32)))
        for label in (0, n - 1, n):
            classes = numbers(n, 3).reshape(1, n)
            yield Work(SoftmaxCrossEntropy(), (classes, np.array([label], np.int32)))
            probabilities = np.abs(numbers(n, 3)).astype(np.float32).reshape(1, n)
            for scale in ((), (np.array([8.0], np.float32),)):
                yield Work(SoftmaxCrossEntropyGradient(scale=3.0), (probabilities, np.array([label], np.int32), *scale))
    for n_rows, n_cols in ((1, 1), (1, 16), (2, 6), (5, 8), (7, 3), (8, 34), (9, 16), (31, 2)):
        x, y = (numbers(n_rows * n_cols, seed).reshape(n_rows, n_cols) for seed in (7, 8))
        for dtype in (DType.F16, DType.F32):
            yield Work(RowSum((n_cols,), accumulate, dtype), (x,))
            yield Work(RowSum((n_cols,), accumulate, dtype), (x, y))
    yield from (Work(Count(limit), (np.array([1], np.int32),)) for limit in (2, 3))
    yield from updates.steering()
    yield from updates.replaying(np.random.default_rng(5))


@cache
def works(accumulate: Accumulate) -> tuple[Work, ...]:
    return (*_from_samples(accumulate), *_from_training(accumulate), *_from_passes(accumulate))


@pytest.fixture(scope="module", params=TEAMS, ids=lambda p: f"{p[0]}-{'pairs' if p[1] else 'single'}-{p[2].value}")
def team(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Team, tuple[Work, ...]]:
    n_cores, pairwise, accumulate = request.param
    folder: Path = tmp_path_factory.mktemp("team")
    chosen = works(accumulate)
    defines = {"ODL_PAIRWISE": pairwise, "ODL_ACCUMULATE_FP16": int(accumulate is Accumulate.FP16)}
    found = compilers()
    compiler = found[n_cores % len(found)]
    return Team(folder, compiler, {work.kernel.name for work in chosen}, n_cores, **defines), chosen


def check(got: tuple[Array, ...], work: Work, what: str) -> None:
    for at, (one, want) in enumerate(zip(got, work.expected(), strict=True)):
        shapes = ", ".join(str(array.shape) for array in work.inputs)
        assert_array_equal(
            bits(one).reshape(want.shape), bits(want), err_msg=f"{work.op} of {shapes}, output {at}, {what}"
        )


def test_bits_are_those_of_numpy(team: tuple[Team, tuple[Work, ...]]) -> None:
    players, chosen = team
    for work in chosen:
        check(players.run(work), work, "in words")


def test_bits_do_not_depend_on_the_place(team: tuple[Team, tuple[Work, ...]]) -> None:
    """Tensors in the middle of a word, and results on top of an operand."""
    players, chosen = team
    for work in chosen:
        check(players.run(work, shift=2), work, "beside words")
        for pair in () if work.kernel.name.startswith(WHOLE) else work.op.in_place:
            if pair[1] < len(work.inputs) and work.inputs[pair[1]].nbytes == work.expected()[pair[0]].nbytes:
                check(players.run(work, shared=pair), work, f"in place {pair}")


def test_cores_share_the_outputs(team: tuple[Team, tuple[Work, ...]]) -> None:
    """Each core alone: no byte is written by two of them."""
    players, chosen = team
    for work in chosen:
        if work.kernel.name.startswith(WHOLE):
            continue
        for at, by_core in enumerate(_changed(players, work)):
            if isinstance(work.op, Update) and at == len(work.expected()) - 1:
                continue  # the count of lost updates, to which each core adds its own
            assert by_core.sum(axis=0).max(initial=0) <= 1, f"{work.op}: several cores write output {at}"


def test_a_large_tensor_keeps_every_core_busy(team: tuple[Team, tuple[Work, ...]]) -> None:
    players, chosen = team
    serial = ("count", "mean_squared_error", "softmax_cross_entropy", "rates", "finish_step")
    seen = set()
    for work in chosen:
        name = work.kernel.name
        n_rows = work.inputs[0].size // work.inputs[0].shape[-1]
        if work.expected()[0].nbytes < 1000 or name in serial or name.startswith(WHOLE):
            continue
        if name.endswith(("softmax", "softmax_gradient")) and n_rows < players.n_cores:
            continue
        # Clusters have PairedGradient in its place; here each core takes pairs of output channels.
        if name.startswith("conv2d_weight_gradient") and len(work.expected()[0]) < 2 * players.n_cores:
            continue
        (by_core, *_) = _changed(players, work)
        assert by_core.any(axis=1).all(), f"{work.op} of {work.inputs[0].shape}: a core does nothing"
        seen.add(name)
    assert {"relu", "relu_gradient", "neg", "sigmoid", "tanh", "clip", "leaky_relu"} <= seen


def _changed(players: Team, work: Work) -> list[Array]:
    """For each output, (cores, bytes): 1 where the core alone writes another byte than was there."""
    before = [array.reshape(-1).view(np.uint8) for array in untouched(work)]
    after = [players.run(work, only=core) for core in range(players.n_cores)]
    return [
        np.array([(outputs[at].reshape(-1).view(np.uint8) != old).astype(np.int32) for outputs in after])
        for at, old in enumerate(before)
    ]
