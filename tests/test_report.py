"""`odl report`: what it finds out about a run, and that its page tells it; in a browser: test_report_page.py."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import answer, odl, save_data, save_model

from odl.errors import ExitCode
from odl.recipe import Recipe
from odl.report import pictures
from odl.report.facts import recipe_flags
from odl.report.page import page
from odl.report.text import report as report_text
from odl.scores import classified, most_confused

STEPS = 6


@pytest.fixture(scope="module")
def runs(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on each of three targets; the cluster's is played by one core of the host."""
    folder = tmp_path_factory.mktemp("runs")
    for target, on in (("host", "host"), ("qemu-zhinx", "qemu"), ("pulp-open", "host")):
        steps = ["-t", target, "--on", on, "--data", data, "--steps", STEPS, "--lr", 0.05, "--momentum", 0.9]
        assert odl("run", model, *steps, "-o", folder / target).exit_code == 0
    return folder


@pytest.fixture(scope="module")
def reported(runs: Path) -> Any:
    return answer("report", runs / "qemu-zhinx")["runs"][0]


class Page(HTMLParser):
    """What a page asks for, and whether its elements close in their order."""

    VOID = frozenset({"meta", "link", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.asks: list[str] = []
        self.scripts = 0
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.asks += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]
        self.scripts += tag == "script"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_run_is_compared_with_numpy(reported: Any) -> None:
    assert reported["reference"]["loss_equal"]
    assert reported["reference"]["tensors"] == reported["reference"]["tensors_equal"] > 0
    assert reported["reference"]["loss"] == reported["loss"]
    assert reported["verification"]["equal"]
    assert reported["verification"]["steps"] == 2
    assert reported["verification"]["on"] == "qemu"
    assert reported["accuracy"]["before"]["samples"] == 12
    assert not reported["accuracy"]["held_out"]
    assert reported["flash"]["text"] > 1000
    assert reported["stack_bytes"] > 100
    step = reported["per_step"]["instructions"]
    assert reported["time"] == {"clock_hz": 1e8, "unit": "instructions", "count": step, "seconds": step / 1e8}
    assert reported["environment"].keys() >= {"odl", "Python", "NumPy", "ONNX", "compiler", "QEMU"}


def test_accuracy_is_of_the_weights_before_and_after(runs: Path, tmp_path: Path) -> None:
    test = save_data(tmp_path / "test.npz")
    found = answer("report", runs / "host", "--test", test, "--steps", 0)["runs"][0]["accuracy"]
    assert found["held_out"]
    assert found["before"] == _only_scores(answer("eval", runs / "host" / "model.onnx", "--data", test))
    assert found["after"] == _only_scores(answer("eval", runs / "host", "--data", test))


def _only_scores(result: Any) -> Any:
    words = ("samples", "correct", "accuracy", "undecided", "class_accuracy", "confusion")
    return {word: result[word] for word in words}


@pytest.mark.parametrize("broken", ["loss", "weights"])
def test_other_bits_are_told(broken: str, runs: Path, tmp_path: Path) -> None:
    run, html = tmp_path / "run", tmp_path / "report.html"
    shutil.copytree(runs / "host", run)
    if broken == "loss":
        note = json.loads((run / "odl.json").read_text())
        note["loss"][3] = float(np.nextafter(np.float32(note["loss"][3]), np.float32(9)))
        (run / "odl.json").write_text(json.dumps(note))
    else:
        arrays = dict(np.load(run / "weights.npz"))
        flat = arrays["w0"].reshape(-1).view(np.uint16)
        flat[0] ^= 1
        np.savez(run / "weights.npz", **arrays)
    result = odl("report", run, "-o", html)
    assert result.exit_code == ExitCode.BITS_DIFFER
    assert "DIFFERENT" in result.stdout
    assert "other bits than NumPy" in html.read_text()
    assert "same bits as NumPy" not in html.read_text()


def test_without_its_data_a_report_says_so(runs: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "host", run)
    note = json.loads((run / "odl.json").read_text())
    (run / "odl.json").write_text(json.dumps({**note, "data": "gone.npz"}))
    html = tmp_path / "report.html"
    result = odl("report", run, "-o", html)
    assert result.exit_code == ExitCode.OK
    assert "gone.npz: what the run learned from is not there; give with --data the file" in result.stdout
    assert "bits not compared" in html.read_text()
    assert answer("report", run, "--data", data)["runs"][0]["reference"]["loss_equal"]
    other = tmp_path / "other.npz"
    np.savez(other, x=np.zeros((3, 2, 6, 6)), y=np.arange(3))
    assert (
        "is not what the run learned from" in answer("report", run, "--data", other)["runs"][0]["reference"]["missing"]
    )


def test_a_run_that_went_on_cannot_be_repeated(runs: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "more"
    assert odl("run", runs / "host", "--continue", "--data", data, "--steps", 2, "-o", run).exit_code == 0
    assert "went on from another" in answer("report", run, "--steps", 0)["runs"][0]["reference"]["missing"]


def test_a_run_on_numpy_is_verified_on_the_target(model: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert odl("run", model, "-t", "host", "--on", "numpy", "--data", data, "--steps", 2, "-o", run).exit_code == 0
    found = answer("report", run)["runs"][0]
    assert found["verification"]["equal"]
    assert found["verification"]["on"] == "host"


def test_the_commands_make_the_same_run(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    for command in answer("report", "qemu-zhinx", "--steps", 0)["runs"][0]["commands"]:
        assert odl(*shlex.split(command)[1:]).exit_code == 0, command
    one, again = (answer("report", name, "--steps", 0)["runs"][0] for name in ("qemu-zhinx", "qemu-zhinx-again"))
    other = {"name": "", "commands": [], "model_sha256": ""}  # a copy has other bytes than the file that it is of
    assert one | other == again | other


# --- what was taken for what ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tested(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A report with a test set of one's own: twenty samples, of which two classes have all."""
    test = tmp_path_factory.mktemp("test") / "test.npz"
    np.savez(test, x=np.random.default_rng(2).normal(size=(20, 2, 6, 6)), y=np.arange(20) % 2)
    return answer("report", runs / "host", "--test", test, "--steps", 0)


def matrices(text: str) -> list[list[list[int]]]:
    """The counts of every matrix of a page."""
    found = []
    for matrix in re.findall(r'<table class="confusion">.*?</thead>(.*?)</table>', text, re.S):
        rows = [re.findall(r"<td(?! class=.n)[^>]*>(.*?)</td>", row) for row in matrix.split("</tr>")[:-1]]
        found.append([[int(cell or 0) for cell in row] for row in rows])
    return found


def test_a_page_has_the_matrices_of_what_gives_the_accuracy(tested: Any) -> None:
    (run,) = tested["runs"]
    found = [run["accuracy"][when] for when in ("before", "after")]
    for scores in found:
        assert sum(scores["confusion"][at][at] for at in range(3)) == scores["correct"]
        assert sum(map(sum, scores["confusion"])) == scores["samples"] == 20
    text = page(tested)
    assert matrices(text) == [scores["confusion"] for scores in found]
    for when, scores in zip(("before", "after"), found, strict=True):
        assert f"<h4>{when} training: {scores['accuracy']:.1%}</h4>" in text
    assert matrices(page({"runs": [run, run]})) == matrices(text) * 2
    counts = found[1]["confusion"][0]
    for at, n in enumerate(counts):
        style = f'class="at {"miss" if at else "hit"}" style="--share:{n / sum(counts):.2f}">{n}<'
        assert (style in text) == (n > 0)


def test_a_terminal_has_the_matrix_behind_all_else(tested: Any) -> None:
    (run,) = tested["runs"]
    text = report_text(tested)
    lines = text.split("\nconfusion after training, what was taken for what: 20 samples of test.npz\n")[1].splitlines()
    assert lines[0].split()[:4] == ["class", "samples", "before", "right"]
    shares = [run["accuracy"][when]["class_accuracy"] for when in ("before", "after")]
    assert lines[1].split()[:4] == ["0", "10", f"{shares[0][0]:.4f}", f"{shares[1][0]:.4f}"]
    assert lines[3].split()[:2] == ["2", "0"]
    assert len(lines) == 4
    both = report_text({"runs": [run, {**run, "name": "other"}]})
    assert "\nhost: confusion after training" in both
    assert "\nother: confusion after training" in both


def test_of_many_classes_the_most_confused_pairs_are_told(tested: Any) -> None:
    labels = np.arange(300) % 30
    outputs = np.eye(30, dtype=np.float16)[labels]
    before, after = classified(outputs, labels), outputs.copy()
    after[labels == 7] = outputs[8]
    after[3, :] = outputs[29]
    after[4, 0] = np.nan
    (run,) = tested["runs"]
    run = {**run, "accuracy": {**run["accuracy"], "before": before, "after": classified(after, labels)}}
    text = page({"runs": [run]})
    assert matrices(text) == []
    section = text.split("<h2>Confusion")[1].split("</section>")[0]
    rows = [re.findall(r'<td class="n">(\d+)</td>', row) for row in section.split("</tr>")]
    assert [row for row in rows if row] == [["7", "8", "0", "10", "10"], ["3", "29", "0", "1", "10"]]
    assert "1 samples have NaN" in text
    told = report_text({"runs": [run]}).split("the most frequent pairs of 30 classes")[1].splitlines()
    assert [line.split() for line in told[2:4]] == [["7", "8", "0", "10", "10"], ["3", "29", "0", "1", "10"]]
    worst = classified(np.eye(30, dtype=np.float16)[(labels * 7 + 1) % 30], labels)
    assert len(most_confused(worst["confusion"], 20)) == 20


def test_without_a_test_set_there_is_no_matrix(reported: Any, tested: Any) -> None:
    text = page({"runs": [reported]})
    assert matrices(text) == []
    assert "Not here: no test set was given (--test)." in text
    assert "confusion" not in report_text({"runs": [reported]})
    (run,) = tested["runs"]
    gone = {**run, "accuracy": {"missing": "test.npz: gone"}}
    assert "Not here: test.npz: gone." in page({"runs": [gone]})
    errors = {word: {"samples": 20, "mean_squared_error": 0.5} for word in ("before", "after")}
    other = {**run, "recipe": {**run["recipe"], "loss": "mse"}, "accuracy": {**run["accuracy"], **errors}}
    assert "<h2>Confusion" not in page({"runs": [other]})
    assert "confusion" not in report_text({"runs": [other]})


# --- what is typed ----------------------------------------------------------------------------------------------------


def test_flags_make_the_recipe() -> None:
    assert recipe_flags(Recipe()) == []
    recipe = Recipe(lr=0.5, nesterov=True, momentum=0.5, trainable=("a*", "b"))
    words = recipe_flags(recipe)
    assert words == ["--lr", "0.5", "--momentum", "0.5", "--nesterov", "--trainable", "a*", "--trainable", "b"]


@pytest.mark.parametrize(
    ("words", "code"),
    [(["--layer", "nothing"], "no-such-layer"), (["--clock", 0], None), (["--steps", -1], None)],
)
def test_bad_wishes(words: list[object], code: str | None, runs: Path) -> None:
    result = odl("report", runs / "pulp-open", *words)
    assert result.exit_code == (ExitCode.USAGE if code else 2)
    assert (code or "Invalid value") in result.stderr


def test_no_run_no_report(model: Path, tmp_path: Path) -> None:
    assert odl("report").exit_code == 2
    assert "not-a-project" in odl("report", tmp_path).stderr
    assert odl("build", model, "-t", "host", "-o", tmp_path / "c").exit_code == 0
    assert "not-a-run" in odl("report", tmp_path / "c").stderr


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [["host"], ["qemu-zhinx"], ["pulp-open"], ["host", "qemu-zhinx", "pulp-open"]])
def test_a_page_is_whole_and_asks_for_nothing(names: list[str], runs: Path, tmp_path: Path) -> None:
    html = tmp_path / "report.html"
    result = odl("report", *(runs / name for name in names), "-o", html)
    assert result.exit_code == 0, result.output
    text = html.read_text()
    found = Page(text)
    assert found.asks == ["data:,"]
    assert found.scripts == 1
    assert "http://" not in text
    assert "https://" not in text
    assert html.stat().st_size < 500_000
    assert text.count("✓") == len(names)
    layers = answer("report", runs / names[0], "--steps", 0)["runs"][0]["layers"]
    assert all(layer["layer"] in text for layer in layers)


def test_a_page_is_the_same_each_time(runs: Path) -> None:
    result = answer("report", runs / "pulp-open", "--steps", 0)
    assert page(result) == page(json.loads(json.dumps(result)))


def test_names_are_text_and_nothing_else(data: Path, tmp_path: Path) -> None:
    evil = "</title><script>alert(1)</script>\x1b[31m&amp;'\""
    model, run, html = save_model(tmp_path / "evil.onnx", name=evil), tmp_path / "run", tmp_path / "report.html"
    assert odl("run", model, "-t", "host", "--data", data, "--steps", 2, "-o", run).exit_code == 0
    assert odl("report", run, "-o", html).exit_code == 0
    text = html.read_text()
    assert Page(text).scripts == 1
    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert "\x1b" not in text


def test_a_tiled_layer_has_a_picture(runs: Path) -> None:
    found = answer("report", runs / "pulp-open", "--layer", "fc")["runs"][0]
    assert found["tiles"]["layer"] == "fc"
    picture = pictures.tiles(found["tiles"])
    assert len(picture.y_ticks) == len(found["tiles"]["nodes"]) > 0
    for node in found["tiles"]["nodes"]:
        ranges = node["cuts"]
        if node["axis"] is not None:
            assert ranges[0][0] == 0
            assert all(a[1] == b[0] for a, b in pairwise(ranges))
            assert ranges[-1][1] == node["shape"][node["axis"]]
    assert answer("report", runs / "host", "--steps", 0)["runs"][0]["tiles"].keys() == {"missing"}


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_blocks_of_a_map_stay_apart_and_in_the_frame(reported: Any) -> None:
    picture = pictures.memory_map(reported["memory"], "train_step", "arena")
    rects = picture.rects
    assert len(rects) > 10
    assert {rect.style for rect in rects} >= {"kept", "forward", "input_gradient", "weight_gradient"}
    for rect in rects:
        assert rect.x >= picture.left
        assert rect.x + rect.width <= picture.right + 0.11
        assert rect.y >= picture.top - 0.11
        assert rect.y + rect.height <= picture.bottom + 0.11
    for at, a in enumerate(rects):
        for b in rects[at + 1 :]:
            across = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
            along = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
            assert across < 0.2 or along < 0.2, (a.says, b.says)


def test_maps_that_are_compared_have_the_same_scale(runs: Path) -> None:
    """A block of so many bytes is so high in both, whichever run is the larger one, and stays in the frame."""
    kept, small = (answer("report", runs / name, "--steps", 0)["runs"][0] for name in ("host", "pulp-open"))
    assert kept["memory"]["arena_bytes"]["arena"] != small["memory"]["arena_bytes"]["arena"]
    tall = {}
    for order in ([kept, small], [small, kept]):
        text = page({"runs": order})
        assert "to the same scale" in text
        figures = [found for found in text.split("<figure>") if "arena while train_step runs" in found]
        drawn = re.findall(r'<text class="tick end" x="\d+" y="([\d.]+)">(\d+)</text>', figures[0])
        assert drawn == re.findall(r'<text class="tick end" x="\d+" y="([\d.]+)">(\d+)</text>', figures[1])
        for run, figure in zip(order, figures, strict=True):
            rects = re.findall(r'y="([\d.]+)" width="[\d.]+" height="([\d.]+)"><title>[^:]*: ([\d,]+) bytes', figure)
            assert min(float(y) for y, _, _ in rects) >= 12
            sizes = [(float(height), int(n.replace(",", ""))) for _, height, n in rects]
            tall[run["target"]] = max(sizes, key=lambda found: found[1])
        (a, of_a), (b, of_b) = tall.values()
        assert a / of_a == pytest.approx(b / of_b, rel=0.03)
    assert "to the same scale" not in page({"runs": [kept]})


def test_a_loss_that_is_not_finite_breaks_the_line() -> None:
    assert pictures.path([(0, 1.0), (1, 2.0), (2, float("nan")), (3, float("inf")), (4, 1.5)]) == "M0 1L1 2M4 1.5"
    assert pictures.losses([("a", "run0", [float("nan")] * 3)]).lines[0].d == ""


def test_a_long_line_keeps_its_spikes() -> None:
    values = [1.0] * 50_000
    values[12_345] = 2.5
    picture = pictures.losses([("a", "run0", values)])
    assert len(picture.lines[0].d) < 20_000
    assert f" {picture.top}" in picture.lines[0].d


@pytest.mark.parametrize(
    ("high", "wanted"),
    [(1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (7, [0, 2, 4, 6]), (0, [0]), (250, [0, 50, 100, 150, 200, 250])],
)
def test_ticks_are_round(high: float, wanted: list[float]) -> None:
    assert pictures.round_steps(high) == pytest.approx(wanted)


def test_a_roofline_bounds_its_points() -> None:
    points = [
        {"layer": "a", "phase": "forward", "mac_per_byte": 0.25, "mac_per_cycle": 1.9},
        {"layer": "b", "phase": "update", "mac_per_byte": None, "mac_per_cycle": 4.0},
        {"layer": "c", "phase": "weight_gradient", "mac_per_byte": 90.0, "mac_per_cycle": 7.7},
    ]
    picture = pictures.roofline({"mac_per_cycle": 8.0, "dma_bytes_per_cycle": 8, "points": points})
    assert len(picture.dots) == 2
    (roof,) = picture.lines
    xs = [float(word.split(" ")[0]) for word in roof.d[1:].split("L")]
    ys = [float(word.split(" ")[1]) for word in roof.d[1:].split("L")]
    assert ys[1] == ys[2] < ys[0]
    for dot in picture.dots:
        assert dot.y >= np.interp(dot.x, xs, ys) - 0.1


def test_several_runs_are_told_below_each_other(runs: Path) -> None:
    text = odl("report", runs / "host", runs / "qemu-zhinx", "--steps", 0).stdout
    lines = text.splitlines()
    at = lines.index("a training step")
    assert lines[at + 1].startswith("  host        ")
    assert lines[at + 2].startswith("  qemu-zhinx  ")
    assert "instructions" in lines[at + 2]


def test_training_that_came_to_nothing_is_told_first(model: Path, data: Path, tmp_path: Path) -> None:
    run, html = tmp_path / "run", tmp_path / "report.html"
    wild = ["-t", "host", "--data", data, "--steps", 20, "--lr", 3e4, "--master", "none"]
    assert odl("run", model, *wild, "-o", run).exit_code == 0
    assert odl("report", run, "-o", html, "--steps", 0).exit_code == 0
    assert re.search(r'class="verdict bad">diverged: \d+ of 20 updates were not finite', html.read_text())


def test_mistakes_are_told_before_the_work(runs: Path, tmp_path: Path) -> None:
    for words in (["--test", tmp_path / "no.npz"], ["-o", tmp_path / "no/report.html"], [tmp_path / "no"]):
        result = odl("report", runs / "host", *words)
        assert result.exit_code in (ExitCode.USAGE, ExitCode.MODEL_REFUSED)
        assert "in NumPy" not in result.stderr
