"""Latent replay: what the memory keeps and gives, where a model can be cut, and the same bits everywhere."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from models import cnn, compiled, draw, mlp, model, node, save
from test_many import check as check_many

from odl import api, results
from odl.api import compile_model, verify
from odl.compare import Reference
from odl.data import load_data
from odl.errors import FitError, UsageError
from odl.fp16 import bits, half
from odl.graph import Role
from odl.ops.replay import FILLED, N_COUNTS, SEEN, Recall, Remember, pack, unpack
from odl.program import ARENA, FLASH
from odl.recipe import Recipe
from odl.replay import ENCODE
from odl.training import INFER, STEP
from odl.types import Array

# --- the memory


class Memory:
    """Slots of one number each, which say what sample is in them."""

    def __init__(self, slots: int, classes: int, salt: int, *, balanced: bool) -> None:
        self.op = Remember(balanced, salt)
        self.state = [np.zeros((slots, 1), np.float16), np.zeros(slots, np.int32), np.zeros(3, np.int32)]
        self.state += [np.zeros(classes, np.int32)] if balanced else []

    def offer(self, value: float, label: int) -> None:
        latent, of_class = np.array([[value]], np.float16), np.array([label], np.int32)
        self.state = list(self.op.evaluate([*self.state, latent, of_class]))

    @property
    def kept(self) -> list[float]:
        return self.state[0][: self.state[2][FILLED], 0].tolist()

    @property
    def labels(self) -> list[int]:
        return self.state[1][: self.state[2][FILLED]].tolist()


def test_free_slots_are_taken_in_order() -> None:
    memory = Memory(4, 1, 0, balanced=False)
    for value in range(4):
        memory.offer(value, 0)
        assert memory.kept == list(range(value + 1))


@pytest.mark.parametrize(("balanced", "label"), [(False, 0), (True, 1)], ids=["reservoir", "inside a class"])
def test_a_reservoir_keeps_every_sample_as_likely(balanced: bool, label: int) -> None:
    """Of 40 samples in 10 slots each is kept in a quarter of 1,500 runs: sd 1.1 %."""
    counts = np.zeros(40)
    for salt in range(1500):
        memory = Memory(10, label + 1, salt, balanced=balanced)
        for value in range(40):
            memory.offer(value, label)
        counts[np.array(memory.kept, int)] += 1
    assert np.abs(counts / 1500 - 0.25).max() < 4.5 * 0.0112


def test_a_balanced_memory_gives_a_rare_class_its_share() -> None:
    """200 samples of class 0, then 6 of class 1 and 100 of class 2, in 12 slots."""
    memory = Memory(12, 3, 7, balanced=True)
    for at, label in enumerate([0] * 200 + [1] * 6 + [2] * 100):
        memory.offer(at, label)
    assert [memory.labels.count(label) for label in range(3)] == [4, 4, 4]
    assert all(value < 200 for value, label in zip(memory.kept, memory.labels, strict=True) if label == 0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_latent_that_is_not_finite_is_not_offered(value: float) -> None:
    memory = Memory(2, 1, 0, balanced=False)
    memory.offer(value, 0)
    assert memory.kept == []
    assert memory.state[2][SEEN] == 0


def test_every_slot_in_use_is_recalled() -> None:
    memory = np.arange(8, dtype=np.float16).reshape(8, 1)
    state = [np.zeros((1, 1), np.float16), np.zeros(1, np.int32), np.array([5, 9, 0], np.int32)]
    seen = []
    for _ in range(500):
        state = list(Recall(3).evaluate([*state, memory, np.arange(8, dtype=np.int32)]))
        assert state[0][0, 0] == state[1][0]
        seen.append(int(state[1][0]))
    counts = np.bincount(seen)
    assert len(counts) == 5
    assert counts.min() > 60


@pytest.mark.parametrize("kind", ["positive", "signed", "constant", "zeros", "tiny", "wide"])
def test_bytes_are_off_by_half_a_step(kind: str) -> None:
    rng = np.random.default_rng(1)
    x = half({
        "positive": np.abs(rng.standard_normal(300)) * (rng.random(300) < 0.5), "signed": rng.standard_normal(300),
        "constant": np.full(300, 3.25), "zeros": np.where(np.arange(300) % 2, 0.0, -0.0),
        "tiny": rng.standard_normal(300) * 1e-7, "wide": rng.uniform(-65504, 65504, 300),
    }[kind])  # fmt: skip
    q, scale = pack(x)
    back = unpack(q, scale).astype(np.float64)
    place = np.abs(np.spacing(x)).astype(np.float64)
    assert (np.abs(back - x) <= 0.5001 * scale[1] + place).all()
    assert bits(scale[0]) == bits(np.float32(0)) or kind not in ("positive", "zeros"), "+0, whatever zeros there are"


# --- where a model can be cut


def residual() -> Any:
    """A layer whose input is read again behind it."""
    return model(
        node("Gemm", "x w1", "h", "first", transB=1), node("Relu", "h", "r", "relu"),
        node("Gemm", "r w2", "s", "second", transB=1), node("Add", "s r", "t", "sum"),
        node("Gemm", "t w3", "u", "head", transB=1), node("Softmax", "u", "y", "softmax"),
        w1=draw(4, 4), w2=draw(4, 4), w3=draw(3, 4),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "code"), [("second", "no-cut"), ("head", "no-cut"), ("softmax", "no-cut"), ("third", "no-such-layer")]
)
def test_a_layer_that_cuts_nothing_is_refused(tmp_path: Path, layer: str, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        compiled(tmp_path, residual(), replay_layer=layer, replay_slots=3)
    assert caught.value.code == code


@pytest.mark.parametrize("layer", ["relu", "sum", "first"])
def test_a_layer_that_every_path_goes_through_is_a_cut(tmp_path: Path, layer: str) -> None:
    network = compiled(tmp_path, residual(), replay_layer=layer, replay_slots=3)
    assert network.training.trainable == {"relu": ("w2", "w3"), "sum": ("w3",), "first": ("w2", "w3")}[layer]


def test_the_last_layers_are_those_above(tmp_path: Path) -> None:
    """Whatever lies below is frozen, and no layer that could be the last but one."""
    words = {"replay_layer": "relu", "replay_slots": 3}
    assert compiled(tmp_path, residual(), **words, last=1).training.trainable == ("w3",)
    with pytest.raises(UsageError, match="2 have weights") as caught:
        compiled(tmp_path, residual(), **words, last=3)
    assert caught.value.code == "too-few-layers"


def test_what_is_below_stays_in_flash_and_what_is_kept_in_ram(tmp_path: Path) -> None:
    network = compiled(tmp_path, cnn(), replay_layer="relu", replay_slots=10)
    spaces = {each.tensor.name: each.buffer.space for each in network.program.residents}
    assert (spaces["w"], spaces["v"]) == (FLASH, ARENA)
    kept = sum(each.buffer.type.n_bytes for each in network.program.residents if each.tensor.role is Role.REPLAY)
    assert kept == 10 * (5 * 36 * 2 + 4) + 5 * 36 * 2 + 4 + 12
    packed = compiled(tmp_path, cnn(), replay_layer="relu", replay_slots=10, replay_type="int8")
    saved = network.program.spaces[ARENA] - packed.program.spaces[ARENA]
    assert saved >= 10 * (5 * 36 - 8) - 64


def test_a_memory_beyond_all_bounds_is_refused_before_it_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        compiled(tmp_path, cnn(), replay_layer="relu", replay_slots=10**9)
    assert caught.value.code == "replay-too-large"


def test_a_memory_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FitError) as caught:
        compile_model(save(tmp_path, cnn()), Recipe(replay_layer="relu", replay_slots=1000), ram_bytes=128 << 10)
    assert caught.value.code == "does-not-fit"
    assert "--replay-slots" in str(caught.value)


@pytest.mark.parametrize(("recipe", "said"), [
    ({"master": "fp32"}, "--master"), ({"optimizer": "adam", "state": "fp32"}, "--state"),
    ({"batch": 2, "master": "none"}, "--gradients"), ({"master": "none"}, "--channels"),
])  # fmt: skip
def test_a_refusal_names_what_takes_most(tmp_path: Path, recipe: dict[str, Any], said: str) -> None:
    dense = model(node("Gemm", "x w", "y", "fc", transB=1), x=(1, 64), w=draw(64, 64))
    with pytest.raises(FitError) as caught:
        compile_model(save(tmp_path, dense), Recipe(**recipe), ram_bytes=9 << 10)
    assert said in str(caught.value)


# --- training


def train(network: Any, steps: int, forgets: bool = False) -> Reference:
    """`forgets`: before each step the memory is empty, so that nothing is recalled."""
    rng = np.random.default_rng(4)
    shape = network.program.inputs["x"].shape
    reference = Reference(network.program, network.training)
    for step in range(steps):
        if forgets:
            reference.executor.load(network.training.replay.count, np.zeros(N_COUNTS, np.int32))
        reference.step(half(rng.standard_normal(shape)), np.array([step % 3], np.int32), None)
    return reference


def test_without_replayed_samples_it_is_training_the_layers_above(tmp_path: Path) -> None:
    plain = train(compiled(tmp_path, cnn(), trainable=("fc",), momentum=0.9), 12).executor
    network = compiled(tmp_path, cnn(), replay_layer="relu", replay_slots=3, momentum=0.9)
    replayed = train(network, 12, forgets=True)
    for name in ("v", "c0", "v.velocity"):
        np.testing.assert_array_equal(replayed.executor.persistent(name), plain.persistent(name))


def test_old_samples_count_into_the_batch(tmp_path: Path) -> None:
    """Two old ones before each new one, and none before the first: 1 + 3 + 3 + 3 samples are two batches of 4."""
    network = compiled(tmp_path, mlp(), replay_layer="relu", replay_slots=8, replay_ratio=2, batch=4)
    device = train(network, 4).executor
    assert device.persistent("progress")[0] == 2
    assert device.persistent("samples_seen") == 2
    replay = network.training.replay
    assert replay
    assert device.persistent(replay.count).tolist() == [4, 4, 6]


def test_a_latent_is_what_inference_computes(tmp_path: Path) -> None:
    """With one slot, the memory holds the last sample's activation: the head of the model on it is its output."""
    network = compiled(tmp_path, mlp(), replay_layer="relu", replay_slots=1, lr=1e-30)
    reference = train(network, 1)
    replay = network.training.replay
    assert replay
    x = half(np.random.default_rng(4).standard_normal((1, 4)))
    (output,) = reference.executor.run(INFER, {"x": x})
    latent = reference.executor.persistent(replay.memory)[0].astype(np.float64)
    w2, b2 = (reference.executor.persistent(name).astype(np.float64) for name in ("w2", "b2"))
    np.testing.assert_allclose(output[0], w2 @ latent + b2, rtol=2e-3, atol=1e-3)


RECIPES: list[dict[str, Any]] = [
    {"replay_layer": "relu", "replay_slots": 5, "replay_ratio": 2, "momentum": 0.5},
    {"replay_layer": "relu", "replay_slots": 4, "replay_type": "int8", "replay_policy": "balanced", "batch": 3,
     "master": "kahan"},
    {"replay_layer": "pool", "replay_slots": 4, "replay_policy": "balanced"},
    {"replay_layer": "pool", "replay_slots": 3, "replay_type": "int8", "loss_scaling": "dynamic", "loss_scale": 8.0},
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(6)
    path = tmp_path_factory.mktemp("data") / "data.npz"
    x = rng.standard_normal((30, 2, 6, 6)).astype(np.float32)
    x[3] = 6e4  # infinite activations, which no memory may take
    np.savez(path, x=x, y=rng.integers(0, 3, 30))
    return path


@pytest.mark.parametrize(("target", "on"), [("host", ""), ("qemu-zhinx", ""), ("pulp-open", "qemu")])
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: f"{recipe['replay_layer']}-{len(recipe)}")
def test_bits_are_the_same_everywhere(tmp_path: Path, data: Path, recipe: dict[str, Any], target: str, on: str) -> None:
    network = compile_model(save(tmp_path, cnn()), Recipe(lr=0.02, **recipe), target)
    verdict = verify(network, data, 15, on)
    assert verdict.equal, verdict.first_difference


@pytest.mark.parametrize("target", ["host", "pulp-open"])
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: f"{recipe['replay_layer']}-{len(recipe)}")
def test_many_samples_at_once_have_the_bits_of_one_after_the_other(
    tmp_path: Path, data: Path, recipe: dict[str, Any], target: str
) -> None:
    network = compile_model(save(tmp_path, cnn()), Recipe(lr=0.02, **recipe), target)
    samples = load_data(data, network.training).steps(15, 0)
    with np.errstate(all="ignore"):
        check_many(network.program, network.training, samples, 4)


@pytest.mark.parametrize("on", ["", "numpy"])
def test_a_run_goes_on_with_what_another_left(tmp_path: Path, data: Path, on: str) -> None:
    """In the middle of a batch, with a memory half full, on the device and in NumPy: as one run over all samples."""
    recipe = {**RECIPES[1], "momentum": 0.9, "batch": 4, "replay_slots": 9}
    network = compile_model(save(tmp_path, cnn()), Recipe(lr=0.02, **recipe), "host")
    with np.load(data) as arrays:
        order = np.random.default_rng(0).permutation(12)
        np.savez(tmp_path / "whole.npz", x=arrays["x"][6:18], y=arrays["y"][6:18])
        walk = {name: arrays[name][6:18][order] for name in ("x", "y")}
    whole = api.train(network, tmp_path / "whole.npz", 12, on)
    weights, losses = None, list[float]()
    for part in (walk["x"][:5], walk["y"][:5]), (walk["x"][5:], walk["y"][5:]):
        inverse = np.argsort(np.random.default_rng(0).permutation(len(part[1])))
        np.savez(tmp_path / "part.npz", x=part[0][inverse], y=part[1][inverse])
        run = api.train(network, tmp_path / "part.npz", len(part[1]), on, weights=weights)
        weights, losses = run.weights, [*losses, *run.loss]
    assert tuple(losses) == whole.loss
    assert {name: value.tobytes() for name, value in run.weights.items()} == {
        name: value.tobytes() for name, value in whole.weights.items()
    }


@pytest.mark.parametrize("on", ["", "numpy"])
def test_the_products_of_a_step_are_those_of_all_that_it_runs(tmp_path: Path, data: Path, on: str) -> None:
    """The new sample's way up, and a training step for it and for each old one."""
    network = compile_model(save(tmp_path, cnn()), Recipe(replay_layer="relu", replay_slots=5, replay_ratio=3), "host")
    graphs = network.training.graphs
    macs = graphs[ENCODE].macs() + 4 * graphs[STEP].macs()
    assert graphs[ENCODE].macs() > 0
    assert results.checked(network)["macs"]["step"] == macs
    told = results.ran(api.train(network, data, 3, on))
    assert told["per_step"]["macs"] == macs == sum(layer["macs"] for layer in told["layers"])
    assert results.planned(network)["savings"]["chosen"]["macs"] == macs


@pytest.mark.parametrize(("recipe", "n_profiled"), [
    ({}, 1), ({"batch": 3}, 3), ({"replay_layer": "relu", "replay_slots": 4}, 2),
    ({"replay_layer": "relu", "replay_slots": 4, "batch": 3}, 4),
])  # fmt: skip
def test_cycles_are_profiled_with_old_samples(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any], n_profiled: int
) -> None:
    """Of which the first step has none."""
    network, jobs = compile_model(save(tmp_path, cnn()), Recipe(**recipe), "pulp-open"), []

    def run(_compiled: object, _on: str, job: Any, *_: object) -> SimpleNamespace:
        jobs.append(job)
        weights = [held.tensor.initial.tobytes() for held in network.program.held]
        told = {"profile": None, "counters": (), "counts": None, "stack_bytes": 0, "first": 0, "saves": ()}
        return SimpleNamespace(losses=[], weights=weights, **told)

    monkeypatch.setattr(api, "_run", run)
    api.train(network, data, 6, "gvsoc")
    assert [(job.profile, len(job.samples), len(job.targets)) for job in jobs] == [
        (False, 6, 6), (True, n_profiled, n_profiled)
    ]  # fmt: skip


def test_a_wrong_draw_is_found_and_named(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that runs twice in a step, and is wrong the second time: the reference is spoiled instead."""
    network = compile_model(save(tmp_path, cnn()), Recipe(replay_layer="relu", replay_slots=5, replay_ratio=2), "host")
    original, calls = Recall.evaluate, [0]

    def spoiled(self: Recall, inputs: list[Array]) -> tuple[Array, ...]:
        latent, label, count = original(self, inputs)
        calls[0] += 1
        if calls[0] % 7 == 6:
            latent = latent.copy()
            latent[0, 0, 0, 0] += np.float16(1)
        return latent, label, count

    monkeypatch.setattr(Recall, "evaluate", spoiled)
    with pytest.raises(Exception, match="not-repeatable"):
        verify(network, data, 15)


@pytest.mark.parametrize("recipe", [
    {"replay_layer": "relu"}, {"replay_slots": 3}, {"replay_layer": "relu", "replay_slots": -1},
    {"replay_layer": "relu", "replay_slots": 3, "loss": "mse"},
    {"replay_layer": "relu", "replay_slots": 3, "replay_ratio": -1},
    {"replay_layer": "relu", "replay_slots": 3, "replay_type": "int4"},
    {"replay_layer": "relu", "replay_slots": 3, "replay_policy": "fifo"},
])  # fmt: skip
def test_recipes_that_make_no_sense_are_refused(recipe: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        Recipe(**recipe)
    assert caught.value.code == "recipe-value"
