"""`odl sweep`: its grid, its front, its jobs in a pool, what is kept, and its page. On Dask: test_sweep_dask.py."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from commands import answer, odl, save_model
from test_cli_process import process, started
from test_report import Page

from odl.errors import ExitCode, OdlError
from odl.recipe import Recipe
from odl.report import pictures
from odl.report.labels import Label, labels
from odl.sweep import pool, sweeping
from odl.sweep.grid import MOST_POINTS, points_of
from odl.sweep.jobs import Inputs, Job, Outcome, work
from odl.sweep.page import page
from odl.sweep.pareto import front
from odl.version import VERSION

STEPS = 3
GRID = """
target = ["host", "qemu-zhinx"]
lr = [0.05, 0.1]
momentum = [0.9, 0]
nesterov = true
"""


def save_grid(path: Path, text: str = GRID) -> Path:
    path.write_text(text)
    return path


def words(model: Path, data: Path, grid: Path, folder: Path, steps: int = STEPS) -> list[object]:
    """A sweep on NumPy in a pool of two."""
    given = ["--data", data, "--test", data, "--steps", steps, "--grid", grid]
    return ["sweep", model, *given, "--on", "numpy", "-j", 2, "-o", folder]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def swept(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four points that were run, and four that were refused: nesterov without momentum."""
    folder = tmp_path_factory.mktemp("sweep")
    grid = save_grid(folder / "of_the_user.toml")
    result = odl(*words(model, data, grid, folder / "out"))
    assert result.exit_code == 0, result.output
    assert result.stderr.count("\n") == 8
    return folder / "out"


def test_a_batch_that_is_open_is_fixed_on_request(model: Path, data: Path, tmp_path: Path) -> None:
    proto = onnx.load(model)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(proto, tmp_path / "open.onnx")
    given = words(tmp_path / "open.onnx", data, save_grid(tmp_path / "grid.toml", "lr = 0.1\n"), tmp_path / "out")
    assert "--fix-batch" in odl(*given).stderr
    (point,) = answer(*given, "--fix-batch")["points"]
    assert point["refused"] is None
    assert odl("eval", tmp_path / "out" / point["point"], "--data", data).exit_code == 0


@pytest.fixture
def wanted(model: Path, data: Path) -> sweeping.Sweep:
    points = points_of({"lr": [0.05, 0.1, 0.2], "seed": 3}, "grid", Recipe())
    return sweeping.plan(model, data, data, points, STEPS, "numpy")


def here(inputs: Inputs, jobs: Sequence[Job]) -> Iterator[Outcome]:
    """Jobs one after the other in this process."""
    for job in jobs:
        yield work(inputs, job)


# --- the grid ---------------------------------------------------------------------------------------------------------


def test_points_are_the_product_of_all_axes() -> None:
    grid = {
        "target": "pulp-open", "lr": [1, 0.5], "trainable": [["fc*"], ["conv*", "fc*"]], "ram": ["64K", 100_000],
        "channels": ["fc=0.5"], "master": "kahan",
    }  # fmt: skip
    points = points_of(grid, "grid", Recipe(seed=7))
    assert len(points) == 8
    assert {point.target for point in points} == {"pulp-open"}
    assert [point.recipe["lr"] for point in points] == [1.0] * 4 + [0.5] * 4
    assert [point.ram_bytes for point in points[:2]] == [65536, 100_000]
    assert points[2].recipe["trainable"] == ("conv*", "fc*")
    assert {(point.recipe["channels"], point.recipe["seed"]) for point in points} == {(("fc=0.5",), 7)}
    assert Recipe(**points[0].recipe) == Recipe(
        seed=7, lr=1.0, trainable=("fc*",), channels=("fc=0.5",), master="kahan"
    )
    assert list(points[0].chosen) == ["lr", "trainable", "ram"]
    assert points[2].words == "lr1-trainable-conv_+fc_-ram65536"


def test_a_grid_without_axes_is_one_point() -> None:
    (point,) = points_of({"lr": 0.5}, "grid", Recipe())
    assert (point.words, point.recipe["lr"], point.target, point.ram_bytes) == ("point", 0.5, "qemu-zhinx", 0)


def test_all_that_is_wrong_with_a_grid_is_told_at_once() -> None:
    grid = {
        "targets": ["host"], "target": ["host", "moon"], "lr": [], "momentum": [0.5, 0.5, 1], "ram": "lots",
        "batch": [1, "two"], "seed": list(range(MOST_POINTS + 1)), "more": {"lr": 1}, "trainable": [["a"], "b"],
    }  # fmt: skip
    with pytest.raises(OdlError) as caught:
        points_of(grid, "g.toml", Recipe())
    found = [(problem.code, problem.where.removeprefix("g.toml: ")) for problem in caught.value.problems]
    assert found == [
        ("grid-word", "targets"), ("unknown-target", "target"), ("grid-empty", "lr"), ("grid-duplicate", "momentum"),
        ("recipe-value", "momentum"), ("grid-ram", "ram"), ("recipe-type", "batch"), ("grid-word", "more"),
        ("recipe-type", "trainable"),
    ]  # fmt: skip
    assert "target" in caught.value.problems[0].hint


def test_a_sweep_has_a_limit() -> None:
    axes = {"lr": [0.1, 0.2, 0.3], "seed": list(range(MOST_POINTS // 3))}
    assert len(points_of(axes, "grid", Recipe())) == MOST_POINTS // 3 * 3
    with pytest.raises(OdlError, match="too-many-points"):
        points_of({**axes, "momentum": [0, 0.5]}, "grid", Recipe())


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("lr = ", "grid-syntax"), ("lr = [0.1, 0.1]", "grid-duplicate"), (f"lr = {'[' * 5000}", "grid-syntax"),
        ("lr = -1", "recipe-value"), (f'ram = "{"9" * 5000}"', "grid-ram"), ("nesterov = [true, true]", "grid-dup"),
        ("[lr]\na = 1", "grid-word"), ("ram = [true]", "grid-ram"), ("target = 3", "unknown-target"),
    ],
)  # fmt: skip
def test_a_bad_grid_starts_nothing(text: str, code: str, model: Path, data: Path, tmp_path: Path) -> None:
    grid, out = save_grid(tmp_path / "grid.toml", text), tmp_path / "out"
    result = odl(*words(model, data, grid, out))
    assert result.exit_code == ExitCode.USAGE
    assert f"error: {code}" in result.stderr
    assert not out.exists()


def test_other_bad_inputs_start_nothing(model: Path, data: Path, tmp_path: Path) -> None:
    grid, out = save_grid(tmp_path / "grid.toml"), tmp_path / "out"
    few = tmp_path / "few.npz"
    np.savez(few, x=np.zeros((2, 2, 5, 6)), y=[0, 1])
    assert "grid-unreadable" in odl(*words(model, data, tmp_path / "none.toml", out)).stderr
    assert "file-missing" in odl(*words(tmp_path / "none.onnx", data, grid, out)).stderr
    assert odl(*words(model, few, grid, out)).stderr.count("data-shape") == 2  # of --data and of --test
    on_qemu = [word if word != "numpy" else "qemu" for word in words(model, data, grid, out)]
    assert "unknown-simulator" in odl(*on_qemu).stderr
    assert not out.exists()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    assert "foreign-folder" in odl(*words(model, data, grid, foreign)).stderr
    assert [path.name for path in foreign.iterdir()] == ["thesis.txt"]


# --- the front --------------------------------------------------------------------------------------------------------


def test_the_front() -> None:
    best, small, fast = (0.9, 100, 100), (0.5, 50, 100), (0.5, 100, 50)
    worse, nothing = (0.9, 100, 101), (0.4, 100, 100)
    assert front([best, worse, small, best, fast, nothing]) == [True, False, True, True, True, False]
    assert front([(float("nan"), 1, 1), (0.1, 9, 9), (0.2, float("inf"), 1)]) == [False, True, False]
    assert front([]) == []


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_what_its_words_say(seed: int) -> None:
    """Small numbers, so that many are equal; the definition, read once more."""
    draw = random.Random(seed)
    points = [(draw.randrange(4), draw.randrange(4), draw.randrange(4)) for _ in range(40)]

    def beaten(point: tuple[int, int, int]) -> bool:
        gains = [(a - point[0], point[1] - b, point[2] - c) for a, b, c in points]
        return any(min(gain) >= 0 and max(gain) > 0 for gain in gains)

    assert front(points) == [not beaten(point) for point in points]


def row(name: str, after: float, ram: int, **more: Any) -> dict[str, Any]:
    return {
        "point": name, "settings": {"lr": 0.1}, "target": "host", "on": "numpy", "refused": None,
        "measure": "accuracy", "before": 0.1, "after": after, "samples": 12, "ram_bytes": ram, "macs": 1000,
        "cycles": None, "instructions": None, "unit": "", "front": False, "diverged": False, **more,
    }  # fmt: skip


def test_units_are_not_compared_with_each_other() -> None:
    """The second is worse than the first in every number, but counts something else; the third is simply worse."""
    rows = [
        row("a", 0.9, 10, cycles=5), row("b", 0.8, 20, instructions=50), row("c", 0.8, 30, instructions=60),
        row("d", 0.01, 9, cycles=5, measure="mean_squared_error"),
        row("e", 0.02, 9, cycles=5, measure="mean_squared_error"),
        row("f", 1.0, 1, cycles=1, diverged=True),
    ]  # fmt: skip
    assert sweeping.mark_fronts(rows) == [
        {"measure": "accuracy", "unit": "cycles", "points": ["a"]},
        {"measure": "accuracy", "unit": "instructions", "points": ["b"]},
        {"measure": "mean_squared_error", "unit": "cycles", "points": ["d"]},
    ]
    assert [each["point"] for each in rows if each["front"]] == ["a", "b", "d"]


def test_where_one_counts_nothing_macs_are_compared() -> None:
    rows = [row("a", 0.9, 10, cycles=5), row("b", 0.9, 10, macs=999), row("c", 1.0, 99)]
    assert sweeping.mark_fronts(rows) == [{"measure": "accuracy", "unit": "macs", "points": ["b", "c"]}]


# --- points -----------------------------------------------------------------------------------------------------------


def test_a_point_is_what_odl_run_leaves(swept: Path, model: Path, data: Path, tmp_path: Path) -> None:
    (point,) = swept.glob("qemu-zhinx-lr0.1-momentum0.9-*")
    recipe = ["--lr", 0.1, "--momentum", 0.9, "--nesterov"]
    run = ["run", model, *recipe, "--data", data, "--steps", STEPS, "--on", "numpy", "-o", tmp_path / "run"]
    assert odl(*run).exit_code == 0
    by_sweep, by_run = contents(point), contents(tmp_path / "run")
    assert by_sweep.keys() == by_run.keys()
    assert by_sweep["weights.npz"] == by_run["weights.npz"]
    assert by_sweep["model.onnx"] == by_run["model.onnx"]
    note = json.loads(by_sweep["odl.json"])
    told = note.pop("sweep")
    assert note == json.loads(by_run["odl.json"])
    for when, what in (("before", model), ("after", point)):
        scores = answer("eval", what, "--data", data)
        assert {word: scores[word] for word in told[when]} == told[when]
    assert answer("report", point, "--steps", 0)["runs"][0]["reference"]["loss_equal"]
    planned = answer("plan", point)
    assert told["ram_bytes"] == planned["arena_bytes"]["arena"] + planned["stack_bytes"]


def test_a_refused_point_is_a_row(swept: Path) -> None:
    result = json.loads((swept / "sweep.json").read_text())
    refused = [each for each in result["points"] if each["refused"]]
    assert len(refused) == 4
    for each in refused:
        assert each["settings"]["momentum"] == 0
        assert [problem["code"] for problem in each["refused"]["problems"]] == ["recipe-value"]
        assert each["refused"]["exit_code"] == ExitCode.USAGE
        assert not each["front"]
    names = {path.name for path in swept.iterdir()}
    ran = {each["point"] for each in result["points"]} - {each["point"] for each in refused}
    assert names == {"grid.toml", "sweep.json", "sweep.html", *ran}


@pytest.fixture
def without_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs in this process: the pool's own tests are others, and processes take seconds to start."""
    monkeypatch.setattr(pool, "in_pool", lambda inputs, jobs, _processes: here(inputs, jobs))


@pytest.mark.usefixtures("without_pool")
def test_where_all_are_refused_the_sweep_is(model: Path, data: Path, tmp_path: Path) -> None:
    grid = save_grid(tmp_path / "grid.toml", 'ram = "9K"\nmaster = ["fp32", "kahan"]')
    result = odl(*words(model, data, grid, tmp_path / "out"))
    assert result.exit_code == ExitCode.DOES_NOT_FIT
    assert result.stdout.count("does-not-fit") == 2
    assert (tmp_path / "out" / "sweep.html").is_file()


def test_json_is_the_file_and_text_has_every_point(swept: Path, model: Path, data: Path) -> None:
    grid = swept.parent / "of_the_user.toml"
    before = contents(swept)
    assert answer(*words(model, data, grid, swept)) == json.loads(before["sweep.json"])
    again = odl(*words(model, data, grid, swept))
    assert contents(swept) == before
    assert again.stderr.count("done before") == 4
    for each in json.loads(before["sweep.json"])["points"]:
        (line,) = [line for line in again.stdout.splitlines() if line.startswith(each["point"])]
        assert line.endswith("refused: recipe-value") == bool(each["refused"])
        assert (line.split()[-1] == "yes") == each["front"]
        assert ("  trained" in line) == (not each["refused"])
    on_front = len(json.loads(before["sweep.json"])["fronts"][0]["points"])
    assert again.stdout.splitlines()[-2:] == [
        f"Pareto front of accuracy, RAM and MACs of a step: {on_front} of 4 points", "refused: 4 of 8 points",
    ]  # fmt: skip


@pytest.mark.usefixtures("without_pool")
def test_what_is_broken_or_made_of_other_things_is_run_again(
    swept: Path, model: Path, data: Path, tmp_path: Path
) -> None:
    out, grid = tmp_path / "out", swept.parent / "of_the_user.toml"
    shutil.copytree(swept, out)
    before = contents(swept)
    points = sorted(path for path in out.iterdir() if path.is_dir())
    raw = bytearray((points[0] / "weights.npz").read_bytes())
    raw[len(raw) // 2] ^= 1
    (points[0] / "weights.npz").write_bytes(raw)
    (points[1] / "odl.json").write_text(
        (points[1] / "odl.json").read_text().replace('"made_from": "', '"made_from": "0')
    )
    shutil.rmtree(points[2])
    (out / "sweep.json").unlink()
    assert odl(*words(model, data, grid, out)).stderr.count("done before") == 1
    assert contents(out) == before
    other = tmp_path / "other.npz"
    np.savez(other, x=np.load(data)["x"][:6], y=np.load(data)["y"][:6])
    more = odl(*words(model, other, grid, out))
    assert more.exit_code == 0
    assert "done before" not in more.stderr
    assert {name: held for name, held in contents(out).items() if name in before and "/" in name} == {
        name: held for name, held in before.items() if "/" in name
    }


def test_an_interrupted_sweep_goes_on(wanted: sweeping.Sweep, tmp_path: Path) -> None:
    done: list[str] = []

    def cut_off(inputs: Inputs, jobs: Sequence[Job]) -> Iterator[Outcome]:
        for job in jobs[:2]:
            yield work(inputs, job)
        raise KeyboardInterrupt

    def counted(inputs: Inputs, jobs: Sequence[Job]) -> Iterator[Outcome]:
        done.extend(job.name for job in jobs)
        return here(inputs, jobs)

    with pytest.raises(KeyboardInterrupt):
        sweeping.sweep(wanted, tmp_path / "cut", cut_off)
    result = sweeping.sweep(wanted, tmp_path / "cut", counted)
    assert done == [wanted.jobs[2].name]
    assert result == sweeping.sweep(wanted, tmp_path / "whole", here)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_longer_axis_keeps_what_is_there(wanted: sweeping.Sweep, model: Path, data: Path) -> None:
    points = points_of({"lr": [0.01, 0.05, 0.1, 0.2], "seed": 3}, "grid", Recipe())
    more = sweeping.plan(model, data, data, points, STEPS, "numpy")
    assert [job.name for job in wanted.jobs] == [job.name for job in more.jobs][1:]
    longer = sweeping.plan(model, data, data, points, STEPS + 1, "numpy")
    assert not {job.name for job in more.jobs} & {job.name for job in longer.jobs}


def test_a_job_of_another_odl_is_refused(wanted: sweeping.Sweep) -> None:
    outcome = work(wanted.inputs, replace(wanted.jobs[0], version="0.0"))
    assert outcome.refused
    assert outcome.refused["problems"][0]["code"] == "worker-version"
    assert not outcome.files
    assert wanted.jobs[0].version == VERSION


def test_no_message_names_a_temporary_folder(wanted: sweeping.Sweep) -> None:
    """Or the same point would be told in other words by each process."""
    broken = replace(wanted.inputs, data=replace(wanted.inputs.data, name="a/b.npz", content=b"none"))
    refused = work(broken, wanted.jobs[0]).refused
    assert refused
    assert refused["problems"][0]["where"] == "data/b.npz"


# --- processes --------------------------------------------------------------------------------------------------------


def family(pid: int) -> set[int]:
    """The processes that descend from one."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found: set[int] = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def is_alive(pid: int) -> bool:
    """Whether it runs, and does not only wait for someone who asks how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_signal_leaves_no_child(number: int, exit_code: int, model: Path, data: Path, tmp_path: Path) -> None:
    """Nor a simulator of a process of the pool, even where the client can tell nobody. One that never ends stands in
    for QEMU; the third job never begins."""
    grid, scratch, never = (
        save_grid(tmp_path / "grid.toml", "lr = [0.1, 0.2, 0.3]"),
        tmp_path / "scratch",
        tmp_path / "q",
    )
    scratch.mkdir()
    asked = 'if [ "$1" = --version ]; then echo "QEMU emulator version 9.0.0"; exit; fi'
    never.write_text(f"#!/bin/sh\n{asked}\necho $$ >> {tmp_path}/pids\nexec sleep 600\n")
    never.chmod(0o755)
    command = [word for word in words(model, data, grid, tmp_path / "out") if word not in ("--on", "numpy")]
    environment = {"TMPDIR": str(scratch), "ODL_QEMU": str(never)}
    with process(*command, stderr=subprocess.PIPE, env=environment) as child:
        deadline = time.monotonic() + 60
        while len(started(tmp_path)) < 2 and time.monotonic() < deadline and child.poll() is None:
            time.sleep(0.1)
        assert len(started(tmp_path)) == 2
        children = family(child.pid)
        assert len(children) >= 4  # two of the pool, two simulators
        child.send_signal(number)
        child.communicate(timeout=60)
    assert child.returncode == exit_code
    deadline = time.monotonic() + 20
    while (left := [pid for pid in children if is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    assert len(started(tmp_path)) == 2
    assert list(scratch.iterdir()) == []
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["grid.toml"]


@pytest.mark.qemu
def test_on_a_target_instructions_are_compared(model: Path, data: Path, tmp_path: Path) -> None:
    grid = save_grid(tmp_path / "grid.toml", 'target = ["qemu-zhinx", "qemu-zfh"]\nlr = 0.1')
    given = ["--data", data, "--test", data, "--steps", 2, "--grid", grid, "-o", tmp_path / "out"]
    result = answer("sweep", model, *given)
    assert [each["unit"] for each in result["points"]] == ["instructions"] * 2
    assert [each["on"] for each in result["points"]] == ["qemu"] * 2
    assert all(each["instructions"] > each["macs"] for each in result["points"])
    assert [each["unit"] for each in result["fronts"]] == ["instructions"]
    (weights, others) = (path.read_bytes() for path in (tmp_path / "out").glob("*/weights.npz"))
    assert weights == others


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_is_whole_and_asks_for_nothing(swept: Path) -> None:
    text = (swept / "sweep.html").read_text()
    found = Page(text)
    assert found.asks == ["data:,"]
    assert found.scripts == 1
    assert "http" not in text.replace("http-equiv", "")
    result = json.loads((swept / "sweep.json").read_text())
    assert page(result) == text
    assert all(each["point"] in text for each in result["points"])
    assert text.count('<circle class="front"') == 2 * len(result["fronts"][0]["points"]) > 0
    assert text.count("<circle") == 2 * 4
    assert "Accuracy against RAM" in text
    assert "Accuracy against MACs" in text


def rows_of(text: str) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of the table of all points."""
    table = text.split("<h2>All points</h2>")[1].split("</table>")[0]
    head, *body = re.findall(r"<tr.*?>(.*?)</tr>", table)
    cell = r">([^<]*)</t[hd]>"
    return re.findall(cell, head), [re.findall(cell, row) for row in body]


def result_of(rows: list[dict[str, Any]], steps: int = 5) -> dict[str, Any]:
    """A sweep of rows, with losses out of the air."""
    about = {"file": "data.npz", "sha256": "0" * 64}
    loss = np.random.default_rng(0).random(steps).tolist()
    return {
        "model": "m", "model_sha256": "0" * 64, "data": about, "test": about, "steps": steps, "points": rows,
        "fronts": sweeping.mark_fronts(rows), "curves": {each["point"]: loss for each in rows},
    }  # fmt: skip


REFUSED = {"exit_code": 4, "problems": [{"code": "does-not-fit", "where": "host", "why": "it is small", "hint": ""}]}


def small_sweep() -> dict[str, Any]:
    nothing = dict.fromkeys(("on", "measure", "before", "after", "samples", "ram_bytes", "macs"))
    large = row("large", 0, 0, refused=REFUSED, settings={"ram": 96 << 10}) | nothing
    rows = [
        large, row("poor", 0.5, 30_000), row("wild", 0.95, 20_000, diverged=True), row("lean", 0.8, 10_000),
        row("best", 0.9, 20_000), row("same", 0.9, 20_000), row("lost", float("nan"), 20_000, diverged=True),
    ]  # fmt: skip
    return result_of(rows)


def test_the_table_is_sorted_and_has_a_status_of_its_own() -> None:
    text = page(small_sweep())
    header, rows = rows_of(text)
    assert header[:3] == ["no.", "status", "front"]
    assert [(each[0], each[-1], *each[1:3]) for each in rows] == [
        ("1", "best", "trained", "yes"), ("2", "same", "trained", "yes"), ("3", "lean", "trained", "yes"),
        ("4", "poor", "trained", ""), ("5", "wild", "diverged", ""), ("6", "lost", "diverged", ""),
        ("7", "large", "refused: does-not-fit", ""),
    ]  # fmt: skip
    assert rows[-1][header.index("ram")] == "96 KiB"
    assert text.index("<h2>All points</h2>") < text.index("<svg") < text.index("<h2>Refused</h2>")
    assert '<tr><th scope="row">refused</th><td>1 of 7 points</td></tr>' in text
    assert '<tr><th scope="row" class="n">7</th><td class="name">large</td><td>does-not-fit</td>' in text


def test_points_have_the_numbers_of_their_rows() -> None:
    text = page(small_sweep())
    numbers = {each[-1]: each[0] for each in rows_of(text)[1]}
    told = dict(re.findall(r"<title>(\d+), (\w+): [\d.]+%, ", text))
    assert told == {numbers[name]: name for name in ("best", "same", "lean", "poor", "wild")}
    for picture in text.split('<svg viewBox="0 0 720 340"')[1:3]:
        named = re.findall(r'<text class="label \w+"[^>]*>([^<]*)</text>', picture)
        assert sorted(named) == ["1, 2", "3", "4", "5"]  # two points are in the same place
    assert ">1, best</span>" in text


def test_an_error_is_better_the_smaller_it_is() -> None:
    rows = [row(f"e{at}", error, 9, measure="mean_squared_error") for at, error in enumerate((0.3, 0.1, 0.2))]
    assert [each[-1] for each in rows_of(page(result_of(rows)))[1]] == ["e1", "e2", "e0"]


def test_the_largest_page_is_small_enough() -> None:
    name = "pulp-open-stochastic-lr0.000123-momentum0.95-batch16-fp32-{:04}-12345678"
    settings = {"target": "pulp-open", "master": "stochastic", "lr": 0.000123, "momentum": 0.95, "batch": 16}
    rows = [
        row(name.format(at), at / MOST_POINTS, 200_000 + at, cycles=19_000_000 + at, settings=settings)
        for at in range(MOST_POINTS)
    ]  # fmt: skip
    result = result_of(rows, 5000)
    assert len(result["fronts"][0]["points"]) == MOST_POINTS
    text = page(result)
    assert len(text.encode()) < 500_000
    assert "The 492 points of the front that score lower are left out." in text


def test_names_are_text_and_nothing_else(data: Path, tmp_path: Path) -> None:
    evil = "</title><script>alert(1)</script>\x1b[31m"
    model = save_model(tmp_path / "<b>evil.onnx", name=evil)
    points = points_of({"trainable": [["fc*"], ["<script>*"]]}, "grid", Recipe())
    result = sweeping.sweep(sweeping.plan(model, data, data, points, 1, "numpy"), tmp_path / "out", here)
    result["model"] = evil
    text = page(result)
    assert Page(text).scripts == 1
    assert "alert(1)" in text
    assert "&lt;script&gt;*" in text
    assert "\x1b" not in text


def test_losses_without_single_steps_fill_their_frame() -> None:
    """The axis ends at what is drawn, not at steps that are not."""
    values = [0.0, 10.0] * 100
    both, means = (pictures.losses([("a", "run0", values)], raw=raw) for raw in (True, False))
    assert [len(chart.lines) for chart in (both, means)] == [2, 1]
    assert float(means.y_ticks[-1].text) < float(both.y_ticks[-1].text)


def test_a_scatter_stays_in_its_frame() -> None:
    spots = [pictures.Dot(x, y, "front", "") for x, y in ((1000, 0.2), (3000, 0.9), (2000, float("nan")))]
    chart = pictures.scatter("t", "x", "y", spots, str, str)
    assert len(chart.dots) == 2
    low, high = chart.dots
    assert chart.left < low.x < high.x < chart.right
    assert chart.top < high.y < low.y < chart.bottom
    assert [tick.text for tick in chart.x_ticks] == ["1000.0", "1500.0", "2000.0", "2500.0", "3000.0"]
    (alone,) = pictures.scatter("t", "x", "y", spots[:1], str, str).dots
    assert chart.left < alone.x < chart.right
    assert pictures.scatter("t", "x", "y", [], str, str).dots == ()


def boxes(found: Sequence[Label]) -> list[tuple[float, float, float, float]]:
    """Where labels are, in a font whose letters are seven wide and nine high."""
    shift = {"start": 0.0, "middle": 0.5, "end": 1.0}
    lefts = [label.x - shift[label.anchor] * 7 * len(label.text) for label in found]
    return [(x, f.y - 9, x + 7 * len(f.text), f.y) for x, f in zip(lefts, found, strict=True)]


def meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@pytest.mark.parametrize("n", [1, 20, 300])
def test_labels_hide_nothing(n: int) -> None:
    draw = random.Random(n)
    spots = [(draw.uniform(70, 700), draw.uniform(20, 290), str(at)) for at in range(n)]
    frame = (64.0, 12.0, 704.0, 300.0)
    found = labels(spots, frame)
    assert len(found) >= min(n, 60) * 0.9
    assert found[0].text == "0"
    for at, box in enumerate(boxes(found)):
        assert frame[0] <= box[0]
        assert box[2] <= frame[2]
        assert frame[1] <= box[1]
        assert box[3] <= frame[3]
        assert not any(meet(box, other) for other in boxes(found[:at]))
        assert not any(meet(box, (x - 4, y - 4, x + 4, y + 4)) for x, y, name in spots if name != found[at].text)


def test_points_in_one_place_have_one_label() -> None:
    spots = [(100.0, 100.0, str(at)) for at in range(1, 6)] + [(200.0, 100.0, ""), (101.0, 101.5, "6")]
    (label,) = labels(spots, (0.0, 0.0, 400.0, 200.0))
    assert label.text == "1, 2, 3 +3"
    assert labels(spots[:1], (95.0, 95.0, 110.0, 110.0)) == ()
