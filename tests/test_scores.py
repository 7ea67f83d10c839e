"""What an evaluation says: classes, ties, NaN, the matrix, and the same of it everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from models import cnn, draw, mlp, model, node, save

from odl import Recipe, compile_model, render
from odl.api import evaluate, train
from odl.fp16 import bits
from odl.scores import approximated, classified, predictions
from odl.types import Array

NAN, INF = np.nan, np.inf


def outputs(*rows: tuple[float, ...]) -> Array:
    return np.array(rows, np.float16)


def test_the_first_of_equals_wins_and_nan_is_no_class() -> None:
    rows = outputs((1, 3, 3), (0.0, -0.0, -1), (-INF, -INF, -INF), (1, INF, 2), (NAN, 9, 1), (1, 9, NAN), (NAN,) * 3)
    assert predictions(rows).tolist() == [1, 0, 0, 1, -1, -1, -1]


def test_scores_of_classes() -> None:
    """Rows are labels, columns what samples were taken for; an undecided sample is wrong, and in no column."""
    rows = outputs((5, 1, 1, 1), (5, 1, 1, 1), (1, 5, 1, 1), (1, 1, 5, 1), (NAN, 1, 5, 1), (1, 1, 5, 1))
    found = classified(rows[:, None], np.array([0, 1, 1, 1, 2, 2]))
    assert found["confusion"] == [[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert found["class_accuracy"] == [1.0, 1 / 3, 0.5, None]
    assert (found["samples"], found["correct"], found["undecided"], found["accuracy"]) == (6, 3, 1, 0.5)


def test_mean_of_squares() -> None:
    found = approximated(outputs((1, 2), (3, 4)), np.array([[1, 0], [3, 1]], np.float16))
    assert found == {"samples": 2, "mean_squared_error": (4 + 9) / 4}


def text(n_classes: int, n_samples: int, undecided: int = 0) -> str:
    rng = np.random.default_rng(n_classes)
    rows = rng.standard_normal((n_samples, n_classes)).astype(np.float16)
    rows[:undecided, 0] = NAN
    return render.evaluated({"on": "numpy", **classified(rows, rng.integers(0, n_classes, n_samples))})


def test_text_of_a_few_classes_is_the_matrix() -> None:
    lines = text(12, 4000).splitlines()
    assert max(map(len, lines)) <= 110
    assert lines[2].split() == ["class", "samples", "right", *(f"as {c}" for c in range(12))] or "as 11" in lines[2]
    assert len(lines) == 3 + 12
    assert "NaN" not in text(12, 4000)
    assert "2 of them have NaN" in text(12, 4000, undecided=2)


def test_text_of_many_classes_names_the_most() -> None:
    lines = text(100, 5000).splitlines()
    assert max(map(len, lines)) <= 110
    assert lines[2].split() == ["class", "samples", "right", "taken", "for"]
    assert len(lines) == 3 + 100
    assert lines[3].endswith("...")


def _pictures(folder: Path, n: int = 40) -> Path:
    rng = np.random.default_rng(5)
    np.savez(folder / "data.npz", x=rng.standard_normal((n, 2, 6, 6)), y=rng.integers(0, 3, n))
    return folder / "data.npz"


@pytest.mark.parametrize("target", ["host", pytest.param("qemu-zhinx", marks=pytest.mark.qemu)])
def test_the_matrix_is_the_same_on_a_target(target: str, tmp_path: Path) -> None:
    """Also where outputs are NaN or equal: scores are made of the same bits."""
    data = _pictures(tmp_path)
    seen: list[tuple[int, int]] = []
    for weight in (draw(3, 45), np.full((3, 45), 1e38), np.zeros((3, 45))):
        proto = cnn()
        for tensor in proto.graph.initializer:
            if tensor.name == "v":
                clipped = np.clip(weight, -60000, 60000).astype(np.float32)
                clipped[1] *= -1
                tensor.raw_data = clipped.tobytes()
        compiled = compile_model(save(tmp_path, proto), target=target)
        numpy = evaluate(compiled, data, progress=lambda done, of: seen.append((done, of)))
        assert evaluate(compiled, data, on=compiled.target.simulator) == numpy
    assert seen[:2] == [(32, 40), (40, 40)]


def test_softmax_of_infinite_logits_decides_nothing(tmp_path: Path) -> None:
    huge = np.array([[60000.0, 60000, 0, 0], [60000, 60000, 0, 0], [0, 0, 0, 0]], np.float32)
    network = model(node("Gemm", "x w", "l", "fc", transB=1), node("Softmax", "l", "y", "softmax"), w=huge)
    np.savez(tmp_path / "data.npz", x=np.array([[2.0, 2, 0, 0], [-1, 0, 0, 0]]), y=np.array([0, 2]))
    compiled = compile_model(save(tmp_path, network), target="host")
    for on in ("numpy", "host"):
        found = evaluate(compiled, tmp_path / "data.npz", on=on)
        assert (found["undecided"], found["correct"]) == (1, 1)


def test_progress_comes_from_a_device_too(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    compiled = compile_model(save(tmp_path, cnn()), target="host")
    evaluate(compiled, _pictures(tmp_path, 3), on="host", progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("recipe", [
    Recipe(lr=0.1), Recipe(lr=0.1, batch=3, momentum=0.9),
    Recipe(lr=0.1, batch=40, accumulate="fp16", gradients="fp16"),
])  # fmt: skip
def test_training_in_numpy_is_training_on_a_target(recipe: Recipe, tmp_path: Path) -> None:
    data, streams = _pictures(tmp_path), []
    compiled = compile_model(save(tmp_path, cnn()), recipe, "host")
    runs = []
    for on in ("numpy", "host"):
        stream: list[tuple[int, float]] = []
        runs.append(train(compiled, data, 50, on, lambda step, loss, to=stream: to.append((step, loss))))
        streams.append(stream)
    numpy, host = runs
    assert streams[0] == streams[1] == list(enumerate(numpy.loss))
    assert (numpy.on, numpy.loss, numpy.counters) == ("numpy", host.loss, ())
    assert list(numpy.weights) == list(host.weights)
    for name, value in host.weights.items():
        np.testing.assert_array_equal(bits(numpy.weights[name]), bits(value), err_msg=name)


def test_training_in_numpy_takes_mean_squared_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "data.npz", x=rng.standard_normal((9, 4)), y=rng.standard_normal((9, 3)))
    compiled = compile_model(save(tmp_path, mlp()), Recipe(loss="mse", batch=4, lr=0.05), "host")
    numpy, host = (train(compiled, tmp_path / "data.npz", 30, on) for on in ("numpy", "host"))
    assert numpy.loss == host.loss
    scores = [evaluate(compiled, tmp_path / "data.npz", numpy.weights, on) for on in ("numpy", "host")]
    assert scores[0] == scores[1]
