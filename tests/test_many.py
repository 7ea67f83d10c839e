"""Many samples at once: operators, programs and real models give the bits of one sample after the other."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pass_operators
import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st
from models import cnn, compiled, mlp
from team import Work
from test_random_models import compiling, written
from test_random_pulp import compiled as fitted
from whole_program import whole_program

from campaigns import random_clusters
from campaigns.random_models import networks
from odl import Recipe, compile_model
from odl.compare import Reference
from odl.data import Data, load_data
from odl.executor import order_matters
from odl.fp16 import Accumulate, bits
from odl.ops.accumulate import AccumulateGradient
from odl.ops.count import Count
from odl.program import Program
from odl.training import INFER, STEP, Training
from odl.types import Array

RECIPES = st.builds(
    Recipe,
    lr=st.sampled_from([0.01, 0.5]),
    momentum=st.sampled_from([0.0, 0.9]),
    batch=st.integers(1, 5),
    accumulate=st.sampled_from(["fp32", "fp16"]),
    gradients=st.sampled_from(["fp32", "fp16"]),
    loss_scale=st.sampled_from([1.0, 4096.0]),
)


def check(program: Program, training: Training, data: Data, lanes: int) -> None:
    """Train on all of `data`, then infer: one by one, and as many at once as there are lanes."""
    single, many = Reference(program, training), Reference(program, training, lanes)
    losses = [single.step(sample, target, lambda *_: None) for sample, target in data]
    np.testing.assert_array_equal(bits(many.steps(data)), bits(np.array(losses, np.float32)))
    for resident in program.residents:
        name = resident.tensor.name
        expected, actual = (bits(each.executor.persistent(name)) for each in (single, many))
        np.testing.assert_array_equal(actual, expected, err_msg=name)
    outputs = [single.executor.run(INFER, {training.sample: sample})[0] for sample in data.samples]
    np.testing.assert_array_equal(bits(many.infer(data.samples)), bits(np.stack(outputs)))


# --- operators --------------------------------------------------------------------------------------------------------


def _alike(array: Array, n_samples: int, rng: np.random.Generator) -> Array:
    """The operand of several samples: `array`, and others of its elements in another order."""
    others = [rng.permutation(array.ravel()).reshape(array.shape) for _ in range(n_samples - 1)]
    return np.stack([array, *others])


def _one_by_one(work: Work, operands: list[Array], many: tuple[bool, ...], n_samples: int) -> list[Array]:
    """As the docstring of `evaluate_many` has it, written down once more."""
    held = {into: output for output, into in work.op.overwrites if into < len(many) and not many[into]}
    outputs: list[tuple[Array, ...]] = []
    for at in range(n_samples):
        inputs = [x[at] if is_many else x for x, is_many in zip(operands, many, strict=True)]
        for into, output in held.items() if outputs else ():
            inputs[into] = outputs[-1][output]
        outputs.append(work.op.evaluate([x.copy() for x in inputs]))
    last = set(held.values())
    return [outputs[-1][at] if at in last else np.stack([o[at] for o in outputs]) for at in range(len(outputs[0]))]


def _works(accumulate: Accumulate) -> list[Work]:
    rng = np.random.default_rng(3)
    g, n = rng.standard_normal((2, 4, 3)).astype(np.float32), np.array([2], np.int32)
    added = Work(AccumulateGradient(first=2, count=2), (np.vstack([g[0], g[0]]), g[1][:2]))
    return [*samples.works(accumulate), *pass_operators.works(accumulate), added, Work(Count(4), (n,))]


@pytest.mark.parametrize("accumulate", list(Accumulate), ids=lambda mode: mode.value)
def test_every_operator_with_any_operands_shared(accumulate: Accumulate) -> None:
    rng, seen = np.random.default_rng(4), set()
    for work in _works(accumulate):
        if max(array.size for array in work.inputs) > 4096:
            continue
        seen.add(type(work.op))
        for many in product((False, True), repeat=len(work.inputs)):
            operands = [_alike(x, 3, rng) if is_many else x for x, is_many in zip(work.inputs, many, strict=True)]
            expected = _one_by_one(work, operands, many, 3)
            actual = work.op.evaluate_many([x.copy() for x in operands], many, 3)
            for a, b in zip(actual, expected, strict=True):
                assert a.dtype == b.dtype, work.op
                np.testing.assert_array_equal(bits(a), bits(b), err_msg=f"{work.op}, {many}")
    assert len(seen) > 40


# --- programs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", list(Accumulate), ids=lambda mode: mode.value)
def test_what_all_samples_share_is_changed_by_each(accumulate: Accumulate) -> None:
    """All that this program computes before its loss is shared; its sum and its count must go on all the same."""
    program, training, data = whole_program(accumulate)
    assert not order_matters(program, STEP)
    check(program, training, Data(np.repeat(data.samples, 3, axis=0), np.repeat(data.targets, 3, axis=0)), 2)


@given(networks(), RECIPES, st.integers(2, 4))
@compiling
def test_random_networks(network: tuple[onnx.ModelProto, int], recipe: Recipe, lanes: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        model, path = written(*network, Path(scratch))
        program = compile_model(model, recipe)
        data = load_data(path, program.training).steps(7, 0)
        check(program.program, program.training, data, lanes)


@pytest.mark.parametrize("seed", range(12))
def test_random_tiles(seed: int, tmp_path: Path) -> None:
    """Through a local memory and transfers, where sums of a batch come and go in parts."""
    drawn = random_clusters.case(seed)
    found = fitted(replace(drawn, recipe=replace(drawn.recipe, batch=3)), tmp_path)
    if found:
        check(found.program, found.training, load_data(tmp_path / "data.npz", found.training).steps(7, 0), 2)


def _data(n: int, *shape: int) -> Data:
    rng = np.random.default_rng(n)
    return Data(rng.standard_normal((n, 1, *shape)).astype(np.float16), rng.integers(0, 3, (n, 1)).astype(np.int32))


def test_samples_that_are_no_numbers(tmp_path: Path) -> None:
    """NaN and infinity in some samples of a batch reach the sums and nobody else's lane."""
    data = _data(8, 6, 6, 2)
    data.samples[2, 0, 0, 0, 0], data.samples[5, 0, 3, 3, 1] = np.nan, np.inf
    network = compiled(tmp_path, cnn(), batch=4)
    check(network.program, network.training, data, 4)
    outputs = Reference(network.program, network.training, 8).infer(data.samples)
    others = [at for at in range(8) if at not in (2, 5)]
    alone = Reference(network.program, network.training, 8).infer(data.samples[others])
    np.testing.assert_array_equal(outputs[others], alone)
    assert not np.isfinite(outputs[5]).all()


def test_steps_may_come_in_any_portions(tmp_path: Path) -> None:
    network, data = compiled(tmp_path, mlp(), batch=4, lr=0.1), _data(11, 4)
    whole, parts = (Reference(network.program, network.training, 3) for _ in range(2))
    losses = whole.steps(data)
    cut = [parts.steps(Data(data.samples[a:b], data.targets[a:b])) for a, b in ((0, 1), (1, 6), (6, 6), (6, 11))]
    np.testing.assert_array_equal(np.concatenate(cut), losses)
    for name in network.training.trainable:
        np.testing.assert_array_equal(parts.executor.persistent(name), whole.executor.persistent(name))
    assert parts.executor.persistent("samples_seen") == 3


def test_only_a_step_that_does_not_read_what_it_changes_runs_for_many(tmp_path: Path) -> None:
    """With a batch of one the next sample meets other weights: then they run one by one."""
    for batch, matters in ((1, True), (2, False)):
        program = compiled(tmp_path, cnn(), batch=batch).program
        assert (order_matters(program, STEP), order_matters(program, INFER)) == (matters, False)


# --- real models ------------------------------------------------------------------------------------------------------

REAL = {"resnet8_cifar10": ("cifar10_train", 1e-5), "dscnn_kws": ("speech_commands_mfcc", 1e-3)}


@pytest.mark.parametrize("accumulate", ["fp32", "fp16"])
@pytest.mark.parametrize("model", REAL)
def test_real_models(real: Path, model: str, accumulate: str) -> None:
    data, lr = REAL[model]
    network = compile_model(real / f"models/{model}.onnx", Recipe(lr=lr, batch=4, accumulate=accumulate))
    chosen = load_data(real / f"data/{data}.npz", network.training).steps(
        7, 0
    )  # the last three stay in the sums: two of them would come to the same in any order
    check(network.program, network.training, chosen, 4)
