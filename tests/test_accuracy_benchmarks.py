"""The accuracy benchmark on a small network: both engines do the same, splits are clean, a broken run goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from benchmarks.accuracy import task as tasks
from benchmarks.accuracy.jobs import FLOAT32, HALF, Job, Jobs, Result, run
from benchmarks.accuracy.task import Case, Task, write_split
from benchmarks.accuracy.variants import VARIANTS, Plan, Variant, arena, plans, weighted_layers, with_period
from benchmarks.models import ROOT
from odl import Recipe, compile_model

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
pytestmark = pytest.mark.torch

from benchmarks.accuracy import continual, float32, half, measure, rates, report  # noqa: E402  they need PyTorch
from examples.network import Network  # noqa: E402
from examples.torch_graph import TorchGraph  # noqa: E402

RESULTS = ROOT / "benchmarks/accuracy.json"
N_SAMPLES, N_TEST = 48, 24
BATCH = 4


def small_model() -> onnx.ModelProto:
    """A convolution and a dense layer: (1, 1, 6, 6) to 3 classes."""
    net = Network("small", "image", (1, 1, 6, 6), 0)
    x = net.relu(net.conv("image", "first", (8, 1, 3, 3), stride=1, pads=(1, 1, 1, 1)), "relu1")
    x = net.relu(net.conv(x, "second", (8, 8, 3, 3), stride=2, pads=(0, 0, 1, 1)), "relu2")
    return net.classify(x, (3, 3), 8, 3)


def small_samples(seed: int, n_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright third: which one is the class."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n_samples)
    x = rng.normal(0, 0.5, (n_samples, 1, 6, 6))
    for sample, label in zip(x, y, strict=True):
        sample[0, 2 * label : 2 * label + 2] += 1
    return x.astype(np.float16), y


def write_small(case: str, _needed: Mapping[str, Path], folder: Path) -> None:
    x, y = small_samples(len(case), N_SAMPLES + N_TEST)
    onnx.save(small_model(), folder / "model.onnx")
    write_split(folder, x, y, np.arange(len(y)) < N_SAMPLES)


SMALL = Task(
    key="small", title="Small", about="Bright thirds.", needs=(), cases=("a", "bb"), write=write_small,
    recipe={"lr": 0.05, "momentum": 0.9, "batch": BATCH}, steps=192, quick_steps=8, changes={"last": {"lr": 0.1}},
)  # fmt: skip


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return SMALL.prepare("a", built=tmp_path)


# --- tasks ------------------------------------------------------------------------------------------------------------


def rows(path: Path) -> set[bytes]:
    with np.load(path) as arrays:
        return {x.tobytes() + bytes([y]) for x, y in zip(arrays["x"], arrays["y"], strict=True)}


def test_a_split_is_disjoint_and_whole(case: Case) -> None:
    x, y = small_samples(1, N_SAMPLES + N_TEST)
    learned, judged = rows(case.train), rows(case.test)
    assert (len(learned), len(judged)) == (N_SAMPLES, N_TEST)
    assert not learned & judged
    assert learned | judged == {a.tobytes() + bytes([b]) for a, b in zip(x, y, strict=True)}


def test_a_case_is_written_once_and_again_for_other_data(tmp_path: Path) -> None:
    source = tmp_path / "data.txt"
    source.write_text("one")
    task = replace(SMALL, needs=("data.txt",))
    first = task.prepare("a", tmp_path, tmp_path / "built")
    before = first.model.stat().st_mtime_ns
    assert task.prepare("a", tmp_path, tmp_path / "built") == first
    assert first.model.stat().st_mtime_ns == before
    source.write_text("two")
    assert task.prepare("a", tmp_path, tmp_path / "built").folder != first.folder
    assert task.missing(tmp_path / "nowhere") == ["data.txt"]


def test_the_speakers_recordings_are_divided(real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the pre-training, which takes a minute: everything of one speaker, nothing of the others."""
    from benchmarks.accuracy import speakers

    monkeypatch.setattr("examples.fit.fit", lambda model, *_, **__: TorchGraph(model))
    needed = {Path(name).name: real / name for name in speakers.TASK.needs}
    with np.load(needed["spoken_digits_mfcc.npz"]) as arrays:
        x, y, speaker = arrays["x"], arrays["y"], arrays["speaker"]
    speakers.write("theo", needed, tmp_path)
    with np.load(tmp_path / "train.npz") as train, np.load(tmp_path / "test.npz") as test:
        assert np.bincount(train["y"]).tolist() == [speakers.LEARNED] * 10
        both = np.concatenate([train["x"], test["x"]])
    own = x[speaker == "theo"]
    assert sorted(a.tobytes() for a in both) == sorted(a.tobytes() for a in own)
    assert len(own) == len(y) / len(speakers.SPEAKERS)


def test_fewer_samples_are_spread_over_all() -> None:
    assert tasks.judged_by(5, None).tolist() == tasks.judged_by(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert tasks.judged_by(380, 4).tolist() == [0, 95, 190, 285]


@pytest.mark.parametrize("key", tasks.tasks())
def test_tasks_make_sense(key: str) -> None:
    task = tasks.tasks()[key]
    batch = task.recipe["batch"]
    assert task.steps % batch == task.quick_steps % batch == 0
    assert task.changes.keys() <= {variant.key for variant in VARIANTS}
    float32.twin(task.recipe)


# --- engines ----------------------------------------------------------------------------------------------------------


def test_both_engines_see_the_same_samples_in_the_same_order(case: Case) -> None:
    """With a rate that changes nothing, the loss of each update is the mean of its samples' losses."""
    changes = {"lr": 1e-12, "batch": BATCH, "seed": 3}
    steps = N_SAMPLES + 2 * BATCH
    single = half.run(case, changes, steps, None)["losses"]
    updates = float32.run(case, changes, steps, None)["losses"]
    means = np.array(single).reshape(-1, BATCH).mean(axis=1)
    assert len(updates) == steps // BATCH
    np.testing.assert_allclose(updates, means, rtol=0.01)
    assert np.ptp(means) > 0.1  # so that another order would be seen


@pytest.mark.parametrize("more", [{}, {"trainable": ("second", "fc*")}, {"weight_decay": 0.01}])
def test_both_engines_learn_alike(case: Case, more: dict[str, Any]) -> None:
    changes = {**SMALL.recipe, **more, "seed": 1}
    ours, theirs = half.run(case, changes, SMALL.steps, None), float32.run(case, changes, SMALL.steps, None)
    means = np.array(ours["losses"]).reshape(-1, BATCH).mean(axis=1)
    for wanted, found in zip(theirs["losses"][:12], means[:12], strict=True):
        assert math.isclose(wanted, found, rel_tol=0.02)
    assert abs(ours["accuracy"] - theirs["accuracy"]) <= 2 / N_TEST
    assert means[-4:].mean() < 0.8 * means[:4].mean()
    assert np.mean(theirs["losses"][-4:]) < 0.8 * np.mean(theirs["losses"][:4])


def test_patterns_choose_what_odl_chooses(case: Case) -> None:
    for patterns in (("*",), ("fc*",), ("second",), ("*.bias",), ("first", "second.weight")):
        training = compile_model(case.model, Recipe(trainable=patterns)).training
        network = TorchGraph(onnx.load(case.model))
        float32.chosen(network, patterns)
        assert set(network.parameters) == set(training.trainable)


@pytest.mark.parametrize("changes", [
    {"optimizer": "adamw", "weight_decay": 0.01}, {"optimizer": "adam"}, {"momentum": 0.9, "nesterov": True},
    {"clip_norm": 0.1}, {"clip_value": 0.1},
])  # fmt: skip
def test_the_twin_takes_its_words_seriously(case: Case, changes: dict[str, Any]) -> None:
    plain = float32.run(case, {"lr": 0.01, "batch": BATCH}, 24, None)["losses"]
    other = float32.run(case, {"lr": 0.01, "batch": BATCH, **changes}, 24, None)["losses"]
    assert plain[0] == other[0]
    assert plain[-1] != other[-1]


def test_the_twin_refuses_what_it_would_leave_out() -> None:
    assert float32.twin({"lr": 0.1, "master": "kahan", "loss_scale": 8.0}) == {"lr": 0.1}
    for changes in ({"lora_rank": 2}, {"loss": "mse"}):
        with pytest.raises(ValueError, match="no twin"):
            float32.twin(changes)


def test_learning_rates() -> None:
    words = {"lr": 0.1, "warmup": 4, "lr_gamma": 0.5, "lr_least": 0.02, "lr_period": 10}
    step, cosine = ({**words, "lr_schedule": schedule} for schedule in ("step", "cosine"))
    assert [float32.rate(step, update) for update in (0, 3, 4, 13, 14, 24)] == [0.025, 0.1, 0.1, 0.1, 0.05, 0.025]
    for update, wanted in ((4, 0.1), (9, 0.06), (14, 0.02), (99, 0.02)):
        assert math.isclose(float32.rate(cosine, update), wanted)
    assert float32.rate({**words, "lr_schedule": "constant"}, 50) == 0.1


def test_what_is_kept_of_the_losses(case: Case) -> None:
    """The same samples' in both engines, though one tells a loss for each sample and the other for each update."""
    changes = {"lr": 1e-12, "batch": BATCH}
    ours, theirs = (run(Job(engine, case, changes, N_SAMPLES)) for engine in (HALF, FLOAT32))
    for edge in ("first_loss", "last_loss"):
        assert math.isclose(ours[edge], theirs[edge], rel_tol=0.01)
    assert "losses" not in ours


def test_both_engines_are_judged_by_the_same_samples(case: Case) -> None:
    """Of a test set whose labels tell which eight those are."""
    with np.load(case.test) as arrays:
        x = arrays["x"]
    network = TorchGraph(onnx.load(case.model))
    answers = network.logits(torch.from_numpy(x.astype(np.float32))).argmax(1).numpy()
    asked = np.isin(np.arange(N_TEST), tasks.judged_by(N_TEST, 8))
    np.savez(case.test, x=x, y=np.where(asked, answers, (answers + 1) % 3))
    for engine in (half, float32):
        assert engine.run(case, {}, 0, 8)["accuracy"] == 1
        assert engine.run(case, {}, 0, None)["accuracy"] == 8 / N_TEST


# --- variants ---------------------------------------------------------------------------------------------------------


def by_key(case: Case, task: Task = SMALL) -> dict[str, Plan]:
    return {plan.variant.key: plan for plan in plans(task, case.model, task.steps)}


def test_layers_that_have_weights(case: Case) -> None:
    assert weighted_layers(case.model) == ("first", "second", "fc")


def test_what_a_variant_changes(case: Case) -> None:
    found = by_key(case)
    assert list(found) == [variant.key for variant in VARIANTS]
    assert found["none"].changes == {**SMALL.recipe, "master": "none"}
    last = {"lr": 0.1, "trainable": ("fc",), "master": "stochastic"}
    assert found["last"].changes == {**SMALL.recipe, **last}
    assert found["last"].recipe(7) == Recipe(momentum=0.9, batch=BATCH, seed=7, **last)


def test_words_that_recipes_do_not_know_are_told(case: Case) -> None:
    odd = replace(SMALL, recipe={**SMALL.recipe, "spin": "left"})
    for plan in by_key(case, odd).values():
        assert "spin" in plan.skipped


def test_a_cosine_ends_with_the_training() -> None:
    assert with_period({"lr_schedule": "cosine", "batch": 8}, 80)["lr_period"] == 10
    assert with_period({"lr_schedule": "cosine", "batch": 8, "lr_period": 3}, 80)["lr_period"] == 3
    assert "lr_period" not in with_period({"batch": 8}, 80)


def test_a_share_of_the_ram_is_the_most_that_fits(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers where they fit, with smaller sums where they then fit, and else one."""
    small = {"gradients": "fp16"}
    arenas = [
        arena(compile_model(case.model, Recipe(**{**SMALL.recipe, **more})))
        for more in ({}, {"trainable": ("second", "fc")}, {"trainable": ("second", "fc"), **small})
    ]
    for least, layers, sums in (
        (arenas[1], ("second", "fc"), {}), (arenas[2], ("second", "fc"), small), (arenas[2] - 1, ("fc",), {}),
    ):  # fmt: skip
        variant = Variant("part", "a part", share=arenas[0] / (least + 0.5), ways=({}, small))
        monkeypatch.setattr("benchmarks.accuracy.variants.VARIANTS", (variant,))
        (plan,) = plans(SMALL, case.model, SMALL.steps)
        assert plan.changes == {**SMALL.recipe, "trainable": layers, **sums}
        assert arena(compile_model(case.model, plan.recipe(0))) <= least
    monkeypatch.setattr("benchmarks.accuracy.variants.VARIANTS", (Variant("part", "a part", share=1000),))
    (plan,) = plans(SMALL, case.model, SMALL.steps)
    assert "not even the last layer" in plan.skipped


# --- jobs and results -------------------------------------------------------------------------------------------------


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads start at once and see what is patched here."""
    monkeypatch.setattr("benchmarks.accuracy.jobs.ProcessPoolExecutor", lambda n, **_: ThreadPoolExecutor(n))


def done_by_name(job: Job) -> Result:
    """Instead of training: a number that tells the job; fails where a file says so."""
    if (job.case.folder.parent / f"fail-{job.steps}").exists():
        raise RuntimeError("broken off")
    return {"accuracy": job.steps / 1000}


@pytest.mark.usefixtures("in_threads")
def test_a_broken_run_goes_on(case: Case, tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "results", done_by_name)
    wanted = [Job(HALF, case, {"lr": 0.1}, steps) for steps in (1, 2, 3)]
    broken = case.folder.parent / "fail-2"
    broken.touch()
    with pytest.raises(RuntimeError, match="broken off"):
        jobs.run(wanted, lambda _line: None, workers=1)
    assert [jobs.path(job).exists() for job in wanted] == [True, False, True]
    broken.unlink()
    for path in (jobs.path(wanted[0]), jobs.path(wanted[2])):
        path.write_text('{"accuracy": 0.5}')
    lines: list[str] = []
    jobs.run(wanted, lines.append, workers=1)
    assert [jobs.result(job)["accuracy"] for job in wanted] == [0.5, 0.002, 0.5]
    assert lines[0] == "3 trainings, 2 of them done before"


def test_a_result_is_of_everything_that_decides_it(case: Case) -> None:
    job = Job(HALF, case, {"lr": 0.1}, 8)
    others = [replace(job, engine=FLOAT32), replace(job, changes={"lr": 0.2}), replace(job, steps=9),
              replace(job, n_test=5), replace(job, case=SMALL.prepare("bb", built=case.folder.parent))]  # fmt: skip
    assert len({each.key() for each in (job, *others)}) == 1 + len(others)
    assert replace(job, changes={"lr": 0.1}).key() == job.key()
    before = job.key()
    for path in (case.model, case.train, case.test):
        path.write_bytes(path.read_bytes() + b" ")
        assert job.key() != before
        before = job.key()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("accuracy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "_write", lambda _key, name: SMALL.prepare(name, built=folder))
        for module in ("measure", "jobs"):
            patch.setattr(f"benchmarks.accuracy.{module}.ProcessPoolExecutor", lambda n, **_: ThreadPoolExecutor(n))
        how = measure.Measuring(seeds=(0, 1), jobs=Jobs(folder / "results"))
        return json.loads(json.dumps(measure.measured([replace(SMALL, steps=96)], how, lambda _line: None)))


VARIANT_KEYS = {"variant", "title", "recipe"}
MEASURED_KEYS = {"float32", "half", "difference_points", "arena_bytes", "persistent_bytes"}


def check_schema(found: Result) -> None:
    """What readers of accuracy.json may rely on."""
    assert found.keys() == {"schema_version", "made_on", "seeds", "quick", "tasks"}
    assert found["schema_version"] == measure.SCHEMA
    assert found["made_on"].keys() == {"odl", "PyTorch", "Python"}
    for task in found["tasks"]:
        assert task.keys() == {"task", "title", "about", "cases", "steps", "before", "variants"}
        assert [each["variant"] for each in task["variants"]] == [variant.key for variant in VARIANTS]
        for each in task["variants"]:
            if "skipped" in each:
                assert each.keys() == {*VARIANT_KEYS, "skipped"}
            else:
                check_measured(each, task["cases"], len(found["seeds"]))


def check_measured(variant: Result, cases: list[str], n_seeds: int) -> None:
    assert VARIANT_KEYS | MEASURED_KEYS <= variant.keys() <= VARIANT_KEYS | MEASURED_KEYS | set(measure.COUNTS)
    for engine in ("float32", "half"):
        told = variant[engine]
        means = [seed["mean"] for seed in told["seeds"]]
        assert len(means) == n_seeds
        assert all(list(seed["cases"]) == cases for seed in told["seeds"])
        assert all(math.isclose(seed["mean"], np.mean(list(seed["cases"].values()))) for seed in told["seeds"])
        assert (told["least"], told["most"]) == (min(means), max(means))
        assert math.isclose(told["mean"], np.mean(means))
    difference = 100 * (variant["half"]["mean"] - variant["float32"]["mean"])
    assert math.isclose(variant["difference_points"], difference, abs_tol=1e-3)
    assert variant["persistent_bytes"] < variant["arena_bytes"]


def test_results_are_whole(results: Result) -> None:
    check_schema(results)
    (task,) = results["tasks"]
    variants = {each["variant"]: each for each in task["variants"]}
    none, last = variants["none"], variants["last"]
    assert none["half"]["mean"] > task["before"]["half"]["mean"] + 0.1
    assert last["arena_bytes"] < none["arena_bytes"]


def test_text_and_page_tell_all_results(results: Result) -> None:
    (task,) = results["tasks"]
    for made in (report.text(results), report.page(results)):
        assert "Small" in made
        assert made.count("Wanted: ") == len(report.WANTED)
        for each in task["variants"]:
            assert each["title"] in made
            assert ("skipped" in each) or f"{each['arena_bytes']:,}" in made
            assert each.get("skipped", "") in made


@pytest.mark.parametrize(("points", "told"), [(-0.5, "met, -0.50"), (-0.51, "NOT MET, -0.51"), (0.3, "met, +0.30")])
def test_what_was_wanted(points: float, told: str) -> None:
    variants = [{"variant": "fp32", "title": "copies", "difference_points": points},
                {"variant": "none", "title": "nothing", "difference_points": -2.0},
                {"variant": "last", "title": "the last", "difference_points": 9.0}]  # fmt: skip
    first, second = report.wanted({"variants": variants})
    assert told in first
    assert "by copies" in first
    assert "not measured" in second


# --- learning rates ---------------------------------------------------------------------------------------------------


def test_rates_are_judged_by_samples_that_are_neither_trained_on_nor_tested_with(case: Case) -> None:
    held_out = rates.held_out(case)
    trained, judged = rows(held_out.train), rows(held_out.test)
    assert (len(trained), len(judged)) == (N_SAMPLES * 3 // 4, N_SAMPLES // 4)
    assert not trained & judged
    assert trained | judged == rows(case.train)


@pytest.mark.usefixtures("in_threads")
def test_the_best_rate_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that learns, between one that does nothing and one that breaks everything."""
    monkeypatch.setattr(rates, "RATES", (1e-12, 0.05, 1e30))
    monkeypatch.setattr(rates, "_WAYS", ("none",))
    prepare = partial(Task.prepare, built=tmp_path)
    monkeypatch.setattr(Task, "prepare", lambda task, name: prepare(task, name))
    (row,) = rates.search(SMALL, Jobs(tmp_path / "results"))
    assert (row[0], row[-1]) == ("nothing beside the weights", "0.05")
    assert rates.best({0.3: 0.5, 0.1: 0.5, 0.9: 0.4}) == 0.3


# --- what is checked in -----------------------------------------------------------------------------------------------

checked_in = pytest.mark.skipif(not RESULTS.exists(), reason="make bench-accuracy has not been run")


@checked_in
def test_the_page_is_made_of_the_numbers() -> None:
    found = json.loads(RESULTS.read_text())
    check_schema(found)
    assert not found["quick"]
    further = continual.read()
    page = report.page(found, continual.section(further) if further else "")
    assert (ROOT / "docs/ACCURACY_BENCHMARKS.md").read_text() == page
