"""The example and the benchmark of learning one class after the other: what they show is so, in bits and in words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import cnn, save

import odl
from benchmarks.accuracy import continual
from benchmarks.accuracy.jobs import CONTINUAL, CYCLES, INSTRUCTIONS, Job
from benchmarks.accuracy.task import Case
from examples.new_digits import learn
from examples.new_digits.data import NEW, sessions, write
from odl.compare import Reference
from odl.data import load_data

# --- the example ------------------------------------------------------------------------------------------------------


def test_sessions_are_what_they_are_called() -> None:
    found = sessions()
    assert list(found) == list(learn.SESSIONS)
    assert set(found["known"][1]) == set(range(NEW[0]))
    for label in NEW:
        assert set(found[f"digit{label}"][1]) == {label}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new_digits")
    list(write(folder))
    return folder


def test_replay_keeps_what_is_forgotten_without(files: Path) -> None:
    """In NumPy, which computes the bits of every target; the example itself compares them."""
    replayed, plain = ([each.accuracy for each in learn.learn(n, files, "numpy")] for n in learn.networks("host"))
    assert replayed[0] > 0.9
    assert plain[0] > 0.9
    assert min(replayed[1:]) > 0.8
    assert max(plain[2:]) < 0.5


def few(files: Path, folder: Path) -> Path:
    """The first samples of two sessions, and of those that judge."""
    for name, n in {"known": 13, "digit6": 3, "eval": 40}.items():
        with np.load(files / f"{name}.npz") as arrays:
            np.savez(folder / f"{name}.npz", x=arrays["x"][:n], y=arrays["y"][:n])
    return folder


@pytest.fixture
def short(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(learn, "SESSIONS", {name: learn.SESSIONS[name] for name in ("known", "digit6")})
    monkeypatch.setattr(learn, "write", lambda folder: [few(files, folder)])
    return tmp_path


@pytest.mark.qemu
def test_the_example_on_the_microcontroller(short: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learn.tell("qemu-zhinx", short)
    text = capsys.readouterr().out
    assert text.isascii()
    assert "the same bits as in NumPy" in text
    assert "instructions, without replay" in text
    assert "then 6" in text


def test_a_wrong_bit_stops_the_example(
    short: Path, files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = odl.train

    def spoiled(*arguments: Any, **more: Any) -> odl.Run:
        run = train(*arguments, **more)
        changed = run.weights["fc.bias"] + np.float16(arguments[3] == "numpy")
        return replace(run, weights={**run.weights, "fc.bias": changed})

    few(files, short)
    monkeypatch.setattr(odl, "train", lambda *a, **m: spoiled(*a, **m))
    with pytest.raises(SystemExit) as stop:
        list(learn.checked(learn.networks("host")[0], short))
    assert stop.value.code == odl.ExitCode.BITS_DIFFER
    assert "BITS DIFFER" in capsys.readouterr().out


# --- the benchmark ----------------------------------------------------------------------------------------------------

REPLAY = {"replay_layer": "relu", "replay_slots": 5, "replay_ratio": 2, "batch": 3, "lr": 0.05}


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """Two known classes, and a third that is new."""
    monkeypatch.setattr(continual, "N_KNOWN", 2)
    monkeypatch.setattr(continual, "N_CLASSES", 3)
    rng = np.random.default_rng(0)
    path = save(tmp_path, cnn())
    path.rename(tmp_path / "model.onnx") if path.name != "model.onnx" else None
    for name, labels in (("train", [0, 1, 1, 0, 2, 2, 2]), ("test", [0, 1, 2, 2])):
        np.savez(tmp_path / f"{name}.npz", x=rng.standard_normal((len(labels), 2, 6, 6)), y=labels)
    return Case("small", tmp_path)


def test_sessions_on_the_host_are_those_of_numpy(case: Case) -> None:
    """Class by class on one memory, and judged by the classes seen so far."""
    found = continual.run(case, REPLAY, 7, None)
    compiled = odl.compile_model(case.model, odl.Recipe(**REPLAY))
    reference = Reference(compiled.program, compiled.training)
    data, test = (load_data(path, compiled.training) for path in (case.train, case.test))
    labels, losses, accuracies = data.targets.ravel(), list[float](), list[float]()
    for seen in (1, 2):
        rows = np.flatnonzero(labels < 2 if seen == 1 else labels == 2)
        part = type(data)(data.samples[rows], data.targets[rows]).steps(len(rows), 0)
        losses += [float(reference.step(sample, target, None)) for sample, target in part]
        asked = np.flatnonzero(test.targets.ravel() <= seen)
        outputs = reference.infer(test.samples[asked]).reshape(len(asked), -1)
        accuracies.append(float(np.mean(outputs.argmax(axis=1) == test.targets[asked].ravel())))
    assert found == {"accuracies": accuracies, "losses": losses}


class Told:
    """Results without trainings."""

    def run(self, jobs: list[Job], tell: Any) -> None:
        tell(f"{len(jobs)}")

    def result(self, job: Job) -> dict[str, Any]:
        seed = job.changes.get("seed", 0)
        return {
            CONTINUAL: {"accuracies": [0.5 + seed / 10] * 5}, INSTRUCTIONS: {"instructions": 1234567},
            CYCLES: {"cycles": 7654321},
        }[job.engine]  # fmt: skip


def test_results_and_page(real: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(continual, "find_gvsoc", lambda: Path("gvrun"))
    monkeypatch.setattr(type(continual.TASK), "prepare", lambda *_: Case("all", tmp_path))
    (tmp_path / "model.onnx").write_bytes((real / "models/dscnn_kws.onnx").read_bytes())
    found = json.loads(json.dumps(continual.measured((0, 1), Told(), lambda _: None)))  # type: ignore[arg-type]
    check(found)
    assert found["variants"][0]["accuracy"] == [0.55] * 5
    for made in (continual.section(found), continual.text(found)):
        for each in found["variants"]:
            assert each["title"] in made
            assert f"{each['replay_bytes']:,}" in made
        assert made.count("1,234,567") == len(continual.VARIANTS)
        assert made.count("7,654,321") == 2


def check(found: dict[str, Any]) -> None:
    assert found.keys() == {"schema_version", "seeds", "title", "about", "sessions", "variants"}
    assert [each["variant"] for each in found["variants"]] == [variant.key for variant in continual.VARIANTS]
    for each in found["variants"]:
        assert len(each["accuracy"]) == len(found["sessions"])
        assert len(each["seeds"]) == len(found["seeds"])
        assert np.allclose(each["accuracy"], np.mean(each["seeds"], axis=0))
        assert 0 <= each["replay_bytes"] < each["arena_bytes"]
        assert bool(each["replay_bytes"]) == ("replay_layer" in each["recipe"])


def test_what_is_checked_in_is_whole() -> None:
    found = continual.read()
    assert found is not None
    check(found)
    assert len(found["seeds"]) == 3
