"""Results in a notebook: what their cards show, that they are HTML that asks for nothing, and that they stay in their
place; and `repr`, for where there are no cards."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from commands import answer, save_model
from models import cnn, node
from models import model as small_model
from test_report import Page

import odl
from odl import render
from odl.compare import Difference, Verdict
from odl.report.cards import CARDS, SCOPE, scoped
from odl.scores import approximated, classified
from odl.share import share
from odl.shown import Shown
from odl.sizes import size_text
from odl.toolchain import BuildResult
from odl.types import DType

EVIL = "</title></style><script>alert(1)</script>\x1b[31m&amp;'\""


def html(result: Any) -> str:
    """A card, once it is sound: whole, without a script, asking for nothing, no longer than a notebook can bear."""
    text: str = result._repr_html_()
    found = Page(text)
    assert (found.asks, found.scripts) == ([], 0)
    assert "http://" not in text
    assert "https://" not in text
    assert len(text) < 300_000
    return text


@pytest.fixture(scope="module", params=["host", "pulp-open"])
def compiled(request: pytest.FixtureRequest, model: Path) -> odl.Compiled:
    return odl.compile_model(model, odl.Recipe(lr=0.05), request.param)


@pytest.fixture(scope="module")
def run(compiled: odl.Compiled, data: Path) -> odl.Run:
    return odl.train(compiled, data, 30, "numpy")


# --- what they show ---------------------------------------------------------------------------------------------------


def test_a_compiled_model_shows_layers_and_memory(compiled: odl.Compiled) -> None:
    text = html(compiled)
    assert all(f"<td>{layer}</td>" in text for layer in ("conv", "relu", "pool", "fc"))
    assert "arena while train_step runs" in text
    assert ('<th scope="row">L1</th>' in text) == (compiled.target.name == "pulp-open")
    assert text.count("<rect") >= 10
    assert f"arena {size_text(compiled.program.spaces['arena'])}" in text
    assert "✗" not in text


def test_sizes_are_for_people_and_a_bound_is_one(model: Path, compiled: odl.Compiled) -> None:
    """What QEMU or this machine has is no chip's; a cluster's L2 and a budget are."""
    (told,) = re.findall(r'<th scope="row">RAM</th><td>(.*?)</td>', html(compiled))
    needed = size_text(compiled.ram_bytes_needed)
    of = " of 1.5 MiB" if compiled.target.name == "pulp-open" else ""
    assert told.startswith(f"{needed}{of}: arena ")
    assert ("MiB" in told) == bool(of)
    bounded = odl.compile_model(model, target="qemu-zhinx", ram_bytes=256 << 10)
    assert " of 256 KiB: arena " in html(bounded)
    assert not re.search(r"\d,\d{3} bytes", html(bounded).split('<div class="scroll">')[1])


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 bytes"), (1, "1 byte"), (1023, "1,023 bytes"), (1024, "1 KiB"), (1536, "1.5 KiB"), (172_880, "168.8 KiB"),
     ((1 << 20) - 1, "1 MiB"), (1536 << 10, "1.5 MiB"), (112 << 20, "112 MiB"), (1 << 30, "1,024 MiB")],
)  # fmt: skip
def test_sizes_as_people_read_them(n_bytes: int, text: str) -> None:
    assert size_text(n_bytes) == text


def test_what_does_not_fit_is_told(model: Path) -> None:
    small = odl.compile_model(model, target="qemu-zhinx", ram_bytes=4096, must_fit=False)
    assert f"✗ does not fit: {size_text(small.missing_bytes)} too many" in html(small)
    assert "which it has not" in repr(small)


def test_a_run_shows_its_loss_and_costs(run: odl.Run) -> None:
    text = html(run)
    assert "Loss of each step" in text
    assert "30 training steps" in text
    assert "In MACs of a step." in text
    assert text.count('<div class="bar">') == 6
    assert "diverged" not in text


def test_a_run_that_diverged_or_did_nothing(run: odl.Run) -> None:
    assert "Loss of each step" not in html(replace(run, loss=()))
    control = run.compiled.training.control.progress
    diverged = {**run.weights, control: np.ones_like(run.weights[control])}
    assert "✗ diverged" in html(replace(run, weights=diverged))


def test_a_verdict(compiled: odl.Compiled, data: Path) -> None:
    verdict = odl.verify(compiled, data, 1, "host")
    assert "✓ same bits as NumPy" in html(verdict)
    assert f"{verdict.values:,} values" in html(verdict)
    first = Difference(3, "fc", "odl_dense", "fc.out", (0, 2), 0x3F800000, 0x3F800001, DType.F32)
    text = html(replace(verdict, equal=False, first_difference=first))
    assert "✗ other bits than NumPy" in text
    assert "fc.out[0, 2]" in text
    assert "0x3f800001 (1)" in text


def test_scores(run: odl.Run, data: Path) -> None:
    scores = odl.evaluate(run.compiled, data, run.weights)
    text = html(scores)
    filled = sum(n > 0 for row in scores["confusion"] for n in row)
    assert text.count("<rect") == 1 + filled
    assert f"accuracy {scores['accuracy']:.2%}" in text
    assert sum(int(n) for n in re.findall(r'class="inside middle"[^>]*>(\d+)<', text)) == scores["samples"]
    assert "mean squared error" in html(approximated(np.ones((2, 3), np.float16), np.zeros((2, 3))))


def test_scores_of_many_classes_name_the_worst() -> None:
    labels = np.arange(900) % 300
    outputs = np.eye(300, dtype=np.float16)[labels]
    outputs[labels == 7] = np.eye(300, dtype=np.float16)[8]
    outputs[0, 0] = np.nan
    text = html(classified(outputs, labels))
    rows = re.findall(r'<tr><td class="n">(\d+)</td><td class="n">(\d+)</td><td>([\d.]+%)</td><td>(.*?)</td>', text)
    assert rows[0] == ("7", "3", "0.00%", "8: 3")
    assert len(rows) == 60
    assert "240 more." in text
    assert "1 samples have NaN" in text


def test_a_runner_shows_its_sizes(tmp_path: Path) -> None:
    assert "text 68.4 KiB, data 16 bytes, bss 8.8 KiB" in html(BuildResult(tmp_path / "runner.elf", 70000, 16, 9000))
    assert "sections" not in html(BuildResult(tmp_path / "runner", 0, 0, 0)).split("</style>")[1]


def test_large_models_are_cut(tmp_path: Path) -> None:
    names = [f"v{at}" for at in range(700)] + ["y"]
    layers = [node("Sigmoid", source, result, f"sigmoid_{result}") for source, result in pairwise(names)]
    network = small_model(node("Gemm", "x w", "v0", "fc"), *layers, w=np.ones((4, 3), np.float32))
    onnx.save(network, tmp_path / "long.onnx")
    text = html(odl.compile_model(tmp_path / "long.onnx", odl.Recipe(loss="mse"), "host"))
    assert "641 more." in text
    assert text.count("<rect") == 400
    assert re.search(r"\d smaller blocks are not drawn\.", text)


# --- what they do not do ----------------------------------------------------------------------------------------------


def test_names_are_text_and_nothing_else(data: Path, tmp_path: Path) -> None:
    compiled = odl.compile_model(save_model(tmp_path / "evil.onnx", name=EVIL), target="host")
    first = Difference(0, EVIL, EVIL, EVIL, (0,), 0, 1)
    run = odl.train(compiled, data, 2, "numpy")
    for result in (compiled, run, Verdict(False, 1, 9, 99, (1.0,), first), BuildResult(Path(EVIL), 1, 1, 1)):
        text = html(result)
        assert "alert(1)" in text
        assert "<script" not in text
        assert "\x1b" not in text
        assert "\x1b" not in repr(result)


def test_a_card_styles_itself_alone(run: odl.Run) -> None:
    style = html(run).split("<style>")[1].split("</style>")[0]
    selectors = [word.strip() for found in re.findall(r"([^{}]+)\{(?![^{}]*\{)", style) for word in found.split(",")]
    assert len(selectors) > 60
    assert [word for word in selectors if not (word == SCOPE or word.startswith(f"{SCOPE} "))] == []
    assert style.count("{") == style.count("}")
    whole = (share("templates") / "report/style.css").read_text()
    assert scoped(whole, SCOPE).count("{") == whole.count("{")


def test_a_card_is_the_same_each_time_and_its_ids_its_own(compiled: odl.Compiled, run: odl.Run) -> None:
    assert html(run) == html(run)
    ids = [re.findall(r' id="([^"]+)"', html(each)) for each in (compiled, run)]
    assert not set(ids[0]) & set(ids[1])


def test_every_result_has_a_card() -> None:
    assert set(CARDS) == set(Shown.__subclasses__())
    assert {kind.__name__ for kind in CARDS} <= set(odl.__all__)


def test_without_a_painter_results_are_text(run: odl.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shown, "drawn_by", None)
    assert run._repr_html_() is None  # type: ignore[no-untyped-call]


def test_a_program_without_a_notebook_pays_for_no_drawing() -> None:
    asks = "import sys, odl; odl.train, odl.evaluate; print([n for n in sys.modules if n.startswith('odl.report')])"
    done = subprocess.run([sys.executable, "-c", asks], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n"


# --- repr -------------------------------------------------------------------------------------------------------------


def test_repr_is_one_short_line(compiled: odl.Compiled, run: odl.Run, data: Path) -> None:
    equal = Verdict(True, 2, 10, 1000, (1.0, 2.0), None)
    first = Difference(3, "fc", "odl_dense", "fc.out", (0, 2), 0x3C00, 0xBC00)
    scores = odl.evaluate(compiled, data, run.weights)
    for result in (compiled, run, equal, scores):
        assert re.fullmatch(r"<odl\.\w+ [^\n]{10,120}>", repr(result)), repr(result)
    assert repr(replace(equal, equal=False, first_difference=first)) == (
        "<odl.Verdict different: step 3, layer 'fc', tensor 'fc.out'[0, 2]: 0xbc00, not 0x3c00>"
    )
    assert f"{scores['accuracy']:.4f}" in repr(scores)
    assert f"{run.loss[-1]:.4g}" in repr(run)


def test_scores_are_words_of_json(compiled: odl.Compiled, data: Path) -> None:
    scores = odl.evaluate(compiled, data)
    assert json.loads(json.dumps(scores)) == scores == dict(scores)
    assert render.evaluated({"on": "numpy", **scores}).startswith("accuracy ")


# --- what the library leaves behind -----------------------------------------------------------------------------------


def test_the_library_writes_what_the_commands_read(run: odl.Run, data: Path, tmp_path: Path) -> None:
    odl.save_run(run, tmp_path / "run", data)
    found = answer("report", tmp_path / "run", "--steps", 0)
    assert found["runs"][0]["reference"]["loss_equal"]
    told = odl.write_report(tmp_path / "run", tmp_path / "report.html", steps=0)
    assert json.loads(json.dumps(told))["runs"] == found["runs"]
    assert "same bits as NumPy" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "run/odl.json").read_text())["walked"] == 30


def test_infer_takes_a_file(tmp_path: Path) -> None:
    onnx.save(cnn(), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(1).normal(size=(5, 2, 6, 6)), y=np.arange(5) % 3)
    compiled = odl.compile_model(str(tmp_path / "model.onnx"), target="host")
    outputs = odl.infer(compiled, str(tmp_path / "data.npz"))
    assert (outputs.shape, outputs.dtype) == ((5, 3), np.float16)
    assert classified(outputs, np.arange(5) % 3) == odl.evaluate(compiled, tmp_path / "data.npz")
