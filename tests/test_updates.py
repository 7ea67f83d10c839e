"""What the recipe's optimizer does: small steps arrive, steps that are not sound touch nothing, and all is counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import cnn, compiled, mlp, save
from updates import UNSOUND, Stepper, held, operands

from odl.api import Compiled, compile_model, verify
from odl.compare import Reference
from odl.errors import UsageError
from odl.executor import Executor
from odl.fp16 import bits, half
from odl.masters import Master, random_bits, round_stochastic
from odl.ops._updates import Update
from odl.ops.adam import AdamUpdate
from odl.ops.sgd import SgdUpdate
from odl.ops.square_sums import SquareSums
from odl.program import ARENA
from odl.recipe import Recipe
from odl.types import Array

RATES = np.array([1, 1, 0, 0], np.float32)


# --- weights that take small steps


def test_small_steps_are_lost_without_a_master_and_arrive_with_one() -> None:
    """2,000 steps of a 64th of a place: none of them moves a weight that remembers nothing."""
    start = np.full(1000, 1.0, np.float16)
    way = np.full(1000, 2.0**-17, np.float32)
    for master in Master:
        device = Stepper(SgdUpdate(master=master, salt=3), start, lr=1.0)
        for _ in range(2000):
            device.step(way)
        exact = 1 - 2000 * 2.0**-17
        if master is Master.NONE:
            assert (device.weight == 1).all()
            assert device.lost == 2000 * 1000
        elif master is Master.STOCHASTIC:
            # A step moves a weight by a place of 2^-11 with probability 2^-6: sd 0.2 places of 31 in the mean.
            assert abs(device.weight.astype(np.float64).mean() - exact) < 4 * 2.0**-11 * 5.6 / np.sqrt(1000)
            assert device.lost == 2000 * 1000 - round((1 - device.weight.astype(np.float64)).sum() * 2**11)
        else:
            assert (device.weight == half(exact)).all()
            assert device.lost == 0


def test_kahan_holds_22_bits_also_of_small_weights() -> None:
    """Without its scale the rest of a weight near 2^-10 would have three bits."""
    rng = np.random.default_rng(2)
    start = (rng.uniform(1, 2, 500) * 2.0**-10).astype(np.float16)
    device, exact = Stepper(SgdUpdate(master=Master.KAHAN), start, lr=1.0), start.astype(np.float64)
    for _ in range(200):
        way = rng.uniform(-1, 1, 500).astype(np.float32) * np.float32(2.0**-24)
        device.step(way)
        exact -= way
    held_value = device.weight.astype(np.float64) + device.held[0].astype(np.float64) * 2.0**-11
    assert np.abs(held_value - exact).max() < 200 * 2.0**-32


def test_stochastic_rounding_takes_each_neighbour_as_often_as_it_should() -> None:
    """Over all 8,192 draws, the mean of what is taken is the number itself, to the last bit: normal or subnormal."""
    rng = np.random.default_rng(0)
    drawn = np.concatenate([rng.standard_normal(200) * scale for scale in (1, 1e-3, 2.0**-14, 1e-6)])
    x = (np.round(drawn * 2.0**37) * 2.0**-37).astype(np.float32)[:, None]
    cut = round_stochastic(np.broadcast_to(x, (800, 8192)), np.arange(8192, dtype=np.uint32)[None])
    place = np.abs(np.spacing(cut[:, :1]).astype(np.float64))
    error = cut.astype(np.float64).mean(axis=1, keepdims=True) - x.astype(np.float64)
    assert (np.abs(error) <= place / 8192).all()
    assert (np.abs(cut.astype(np.float64) - x) < place * 1.0001).all()


def test_exact_numbers_and_the_ends_are_rounded_to_themselves() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    for draw in (0, 1, 8191):
        assert (bits(round_stochastic(every.astype(np.float32), np.uint32(draw))) == bits(every)).all()


def test_random_bits_are_even_and_change_with_counter_and_key() -> None:
    """Each of 32 bits is set half of the time, and neighbours in counter and in key agree in half of their bits."""
    counters = np.arange(20_000, dtype=np.uint32)
    keys = [random_bits(step, 5) for step in range(3)]
    draws = [random_bits(counters, key) for key in keys]
    for one, other in ((draws[0], 0), (draws[0], draws[1]), (draws[1], draws[2]), (draws[0][1:], draws[0][:-1])):
        for bit in range(32):
            share = float(((one ^ np.uint32(other)) >> np.uint32(bit) & np.uint32(1)).mean())
            assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(20_000), bit


def test_a_seed_is_a_run(tmp_path: Path) -> None:
    """Stochastic rounding is the same for the same seed, and another for another."""

    def weights(seed: int) -> Array:
        network = compiled(tmp_path, mlp(), master="stochastic", seed=seed, lr=1e-3)
        return walk(network, 30)[1].persistent("w1")

    assert (weights(1) == weights(1)).all()
    assert (weights(1) != weights(2)).any()


# --- what is not sound touches nothing

RULES = [SgdUpdate(), SgdUpdate(momentum=0.9), AdamUpdate()]


@pytest.mark.parametrize("rule", RULES, ids=lambda op: f"{op.name}{op.n_states}")
@pytest.mark.parametrize("master", Master)
def test_a_guard_that_is_not_finite_keeps_everything(rule: Update, master: Master) -> None:
    op = replace(rule, master=master)
    w = np.ones(9, np.float16)
    before = operands(op, w, held(op, w, np.float16), np.ones(9, np.float32), RATES, UNSOUND)
    for old, new in zip(before, op.evaluate(before), strict=False):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("rule", RULES, ids=lambda op: f"{op.name}{op.n_states}")
@pytest.mark.parametrize("master", Master)
def test_an_element_that_would_overflow_stays_on_its_own(rule: Update, master: Master) -> None:
    op = replace(rule, master=master)
    w = np.full(3, 60000, np.float16)
    g = np.array([1, -1e9, 2], np.float32)
    rates = np.array([1, 1e4, 1e3, 1], np.float32)
    w_new, *others = op.evaluate(operands(op, w, held(op, w, np.float16), g, rates))
    assert np.isfinite(w_new).all()
    assert all(np.isfinite(each).all() for each in others)
    assert w_new[1] == w[1]
    assert (w_new[[0, 2]] != w[[0, 2]]).all()


def test_one_bad_number_anywhere_makes_the_sums_of_squares_bad() -> None:
    rng = np.random.default_rng(3)
    for shape in ((1, 9, 7, 3), (1, 1, 5, 1), (30,), (1, 3)):
        x = half(rng.standard_normal(shape))
        assert np.isfinite(SquareSums().evaluate([x])[0]).all()
        for value in (np.inf, -np.inf, np.nan):
            at = rng.integers(x.size)
            bad = x.copy()
            bad.reshape(-1)[at] = value
            assert not np.isfinite(SquareSums().evaluate([bad])[0]).all()


def walk(
    network: Compiled, steps: int, spoil: int = -1, value: float = np.inf
) -> tuple[list[dict[str, Array]], Executor]:
    """All persistent tensors after each step on random samples, of which number `spoil` is not finite."""
    rng = np.random.default_rng(1)
    reference = Reference(network.program, network.training)
    shape = network.training.step.inputs[network.training.sample].shape
    names = [resident.tensor.name for resident in network.program.residents if resident.buffer.space == ARENA]
    seen = []
    for step in range(steps):
        x = half(rng.standard_normal(shape))
        if step == spoil:
            x = np.full_like(x, value)
        reference.step(x, np.array([step % 3], np.int32), lambda *_: None)
        seen.append({name: reference.executor.persistent(name) for name in names})
    return seen, reference.executor


@pytest.mark.parametrize("recipe", [
    {}, {"updates": "kept"}, {"updates": "kept", "momentum": 0.9, "master": "kahan"},
    {"optimizer": "adam", "updates": "kept"}, {"batch": 3}, {"batch": 3, "gradients": "fp16"},
])  # fmt: skip
def test_a_step_that_is_not_sound_is_skipped_and_counted(tmp_path: Path, recipe: dict[str, Any]) -> None:
    network = compiled(tmp_path, mlp(), lr=0.1, **recipe)
    batch = network.recipe.batch
    seen, _ = walk(network, 3 * batch, spoil=batch)
    before, after, later = (seen[batch * step - 1] for step in (1, 2, 3))
    for name in before:
        if name != "progress":
            np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    assert after["progress"].tolist()[:2] == [2, 1]
    assert later["progress"].tolist()[:2] == [3, 1]
    assert (later["w1"] != after["w1"]).any()


@pytest.mark.parametrize("gradients", ["fp32", "fp16"])
def test_a_gradient_that_overflows_skips_its_weight_and_not_others(tmp_path: Path, gradients: str) -> None:
    """Products of 60000 are far inside binary32, and beyond binary16: the weight moves in one type and not in the
    other, and the bias, whose gradient is a sum of 1s, in both."""
    network = compiled(tmp_path, mlp(), lr=1e-6, gradients=gradients, loss_scale=512.0, master="fp32")
    reference = Reference(network.program, network.training)
    reference.executor.load("w1", np.zeros((5, 4), np.float16))
    before = {name: reference.executor.persistent(f"{name}.fp32") for name in ("w1", "b1", "w2", "b2")}
    reference.step(np.full((1, 4), 60000, np.float16), np.array([0], np.int32), lambda *_: None)
    moved = {name: (reference.executor.persistent(f"{name}.fp32") != old).any() for name, old in before.items()}
    assert moved == {"w1": gradients == "fp32", "b1": True, "w2": True, "b2": True}
    assert reference.executor.persistent("progress")[1] == (gradients == "fp16")


def test_kept_gradients_cost_memory_and_plan_says_so(tmp_path: Path) -> None:
    arenas = {each: compiled(tmp_path, mlp(), updates=each).program.spaces[ARENA] for each in ("immediate", "kept")}
    assert arenas["kept"] > arenas["immediate"]


# --- the loss scale


def test_dynamic_scale_backs_off_grows_and_ends_in_divergence(tmp_path: Path) -> None:
    network = compiled(
        tmp_path,
        mlp(),
        lr=0.01,
        loss_scaling="dynamic",
        loss_scale=8.0,
        scale_interval=2,
        scale_floor=4.0,
        updates="kept",
    )
    seen, executor = walk(network, 6)
    assert [float(state["loss_scale"][0]) for state in seen] == [8, 16, 16, 32, 32, 64]
    seen, executor = walk(network, 4, spoil=1)
    assert [float(state["loss_scale"][0]) for state in seen] == [8, 4, 4, 8]
    assert executor.persistent("progress").tolist() == [4, 1, 0, 0]
    reference = Reference(network.program, network.training)
    for diverged in (0, 1, 1):
        reference.step(np.full((1, 4), np.nan, np.float16), np.array([0], np.int32), lambda *_: None)
        assert reference.executor.persistent("loss_scale")[0] == 4
        assert reference.executor.persistent("progress")[3] == diverged


def test_a_power_of_two_as_scale_changes_no_step(tmp_path: Path) -> None:
    """Where nothing under- or overflows: constant or dynamic, the scale is divided out exactly."""
    plain = walk(compiled(tmp_path, mlp(), lr=0.1), 5)[1]
    for recipe in ({"loss_scale": 64.0}, {"loss_scaling": "dynamic", "loss_scale": 64.0, "scale_interval": 2}):
        scaled = walk(compiled(tmp_path, mlp(), lr=0.1, **recipe), 5)[1]
        for name in ("w1", "b1", "w2", "b2"):
            np.testing.assert_array_equal(scaled.persistent(name), plain.persistent(name))


# --- every recipe, everywhere

RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "fp32 copy": {"master": "fp32", "weight_decay": 0.01},
    "kahan, momentum, warm-up": {"master": "kahan", "momentum": 0.9, "warmup": 5},
    "stochastic, nesterov": {"master": "stochastic", "momentum": 0.9, "nesterov": True, "state": "fp32", "seed": 9},
    "dynamic scale, kept, clipped norm": {
        "loss_scaling": "dynamic", "loss_scale": 2.0**16, "scale_interval": 3, "updates": "kept", "clip_norm": 0.5,
        "momentum": 0.5,
    },
    "dynamic scale, immediate": {"loss_scaling": "dynamic", "loss_scale": 2.0**16, "scale_interval": 2},
    "adam, batch, cosine": {
        "optimizer": "adam", "batch": 3, "lr_schedule": "cosine", "lr_period": 4, "weight_decay": 0.01,
    },
    "adamw, kahan": {"optimizer": "adamw", "state": "fp32", "weight_decay": 0.1, "master": "kahan", "clip_value": 0.1},
    "adam, halves": {
        "optimizer": "adam", "gradients": "fp16", "accumulate": "fp16", "lr_schedule": "step", "lr_period": 3,
        "master": "stochastic", "loss_scaling": "dynamic", "loss_scale": 2.0**10, "batch": 2, "clip_norm": 1.0,
    },
}  # fmt: skip
MACHINES = [("host", ""), ("qemu-zhinx", ""), ("pulp-open", "qemu")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(5)
    path = tmp_path_factory.mktemp("data") / "data.npz"
    x = rng.standard_normal((40, 2, 6, 6)).astype(np.float32)
    x[7] = 6e4  # gradients that overflow at a large loss scale
    np.savez(path, x=x, y=rng.integers(0, 3, 40))
    return path


@pytest.mark.parametrize(("target", "on"), MACHINES, ids=["host", "qemu", "pulp"])
@pytest.mark.parametrize("name", RECIPES)
def test_recipes_give_the_same_bits_everywhere(tmp_path: Path, data: Path, name: str, target: str, on: str) -> None:
    network = compile_model(save(tmp_path, cnn()), Recipe(lr=0.01, **RECIPES[name]), target)
    verdict = verify(network, data, 12, on)
    assert verdict.equal, verdict.first_difference


# --- bad recipes


@pytest.mark.parametrize(("key", "value"), [
    ("lr", 0.0), ("lr", np.inf), ("lr", np.nan), ("momentum", 1.0), ("momentum", -0.1), ("beta1", 1.0), ("beta2", -1.0),
    ("epsilon", 0.0), ("weight_decay", 1.0), ("master", "fp64"), ("state", "bf16"), ("optimizer", "lion"),
    ("lr_schedule", "linear"), ("warmup", -1), ("lr_period", 0), ("lr_gamma", 0.0), ("lr_gamma", 1.5),
    ("lr_least", -1.0),
    ("loss_scaling", "auto"), ("loss_scale", 0.0), ("loss_scale", 2.0**17), ("scale_growth", 1.0),
    ("scale_backoff", 1.0),
    ("scale_interval", 0), ("scale_floor", 0.0), ("clip_value", -1.0), ("clip_norm", np.nan), ("updates", "later"),
    ("batch", 0), ("seed", -1),
])  # fmt: skip
def test_a_value_out_of_range_is_refused(key: str, value: object) -> None:
    with pytest.raises(UsageError) as caught:
        Recipe(**{key: value})
    assert caught.value.code == "recipe-value"
    assert caught.value.problems[0].where == key


@pytest.mark.parametrize("recipe", [
    {"nesterov": True}, {"optimizer": "adam", "momentum": 0.9}, {"clip_norm": 1.0},
    {"loss_scaling": "none", "loss_scale": 2.0}, {"loss_scaling": "dynamic", "loss_scale": 3.0},
    {"loss_scaling": "dynamic", "loss_scale": 2.0, "scale_floor": 4.0},
    {"loss_scaling": "dynamic", "scale_growth": 3.0}, {"lr_schedule": "cosine", "lr": 0.1, "lr_least": 0.2},
])  # fmt: skip
def test_keys_that_contradict_each_other_are_refused(recipe: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        Recipe(**recipe)
    assert caught.value.code == "recipe-value"


@pytest.mark.parametrize("value", [1, "yes"])
def test_a_switch_is_true_or_false(value: object) -> None:
    with pytest.raises(UsageError) as caught:
        Recipe(nesterov=value, momentum=0.9)  # type: ignore[arg-type]
    assert caught.value.code == "recipe-type"
