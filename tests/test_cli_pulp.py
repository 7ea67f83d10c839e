"""The command line for the cluster: its plans, its refusals, and the verbs on its simulators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import answer, odl
from models import draw, node, refusal, save
from models import model as small_model

from odl import Recipe, compile_model, render, residency
from odl.errors import ExitCode
from odl.program import LOCAL, Move
from odl.targets.pulp import find_gvsoc

ON = [
    pytest.param("qemu", marks=pytest.mark.qemu),
    pytest.param("gvsoc", marks=[
        pytest.mark.gvsoc, pytest.mark.skipif(not find_gvsoc(), reason="GVSoC is not here: set ODL_GVSOC"),
    ]),
]  # fmt: skip
CLUSTER = ("-t", "pulp-open")


def wide() -> onnx.ModelProto:
    """A dense layer whose 80 KB of weights do not fit L1."""
    return small_model(
        node("Gemm", "x w b", "h", "wide", transB=1), node("Relu", "h", "r", "relu"),
        node("Gemm", "r v", "y", "last", transB=1), x=(1, 100), w=draw(400, 100), b=draw(400), v=draw(3, 400),
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model"), wide())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, x=np.random.default_rng(1).normal(size=(6, 100)), y=np.arange(6) % 3)
    return path


def test_plan_tells_tiles_and_all_that_moves(model: Path) -> None:
    told = answer("plan", model, *CLUSTER)
    program = compile_model(model, target="pulp-open").program
    assert told["arena_bytes"] == {space: program.spaces[space] for space in ("arena", LOCAL)}
    assert told["arena_lower_bound"] <= told["arena_bytes"]["arena"]
    assert told["l1"] == {"needed": program.spaces[LOCAL], "available": 52 << 10}
    for entry in told["entries"]:
        moves = [each for each in program.entries[entry["entry"]] if isinstance(each, Move)]
        for word, inward in (("dma_in_bytes", True), ("dma_out_bytes", False)):
            moved = sum(each.region.n_bytes for each in moves if each.inward is inward)
            assert sum(tiles[word] for tiles in entry["tiles"]) == moved
        calls = sum(name == entry["entry"] for _, name, _ in program.calls())
        assert sum(tiles["calls"] for tiles in entry["tiles"]) == calls
        assert all(tiles["l1_bytes"] <= told["l1"]["needed"] for tiles in entry["tiles"])
        assert all(block["space"] != LOCAL for block in entry["blocks"])
    forward = told["entries"][0]["tiles"][0]
    assert (forward["axis"], forward["calls"] > 1, forward["dma_in_bytes"] > 80_000) == (1, True, True)


def test_plan_is_a_table_of_tiles(model: Path) -> None:
    lines = odl("plan", model, *CLUSTER).stdout.splitlines()
    assert any(line.startswith("L1 ") and "train_step moves" in line for line in lines)
    assert any("(axis 1)" in line and line.endswith("wide") for line in lines)
    sizes = {"axis": 1, "l1_bytes": 8, "dma_in_bytes": 8, "dma_out_bytes": 8}
    assert [render._tiled({"calls": n, **sizes})[0] for n in (1, 2)] == ["1", "2 (axis 1)"]
    assert any(line.startswith("L1 ") and line.endswith("flat") for line in odl("plan", model).stdout.splitlines())


def test_a_chip_with_less_l2_is_refused(model: Path) -> None:
    told = answer("plan", model, *CLUSTER, "--ram", "64K", exit_code=ExitCode.DOES_NOT_FIT)
    assert (told["ram"]["available"], told["ram"]["fits"]) == (64 << 10, False)
    told_to_people = odl("plan", model, *CLUSTER, "--ram", "64K").stderr
    assert "does-not-fit" in told_to_people
    assert f"{told['ram']['needed'] - (64 << 10):,} are missing" in told_to_people


def test_a_piece_that_is_too_large_is_named(tmp_path: Path) -> None:
    """A row of the second factor is more than all of L1."""
    proto = small_model(node("Gemm", "x w", "y", "huge", transB=1), x=(1, 30_000), w=draw(2, 30_000))
    result = odl("plan", save(tmp_path, proto), *CLUSTER)
    assert result.exit_code == ExitCode.DOES_NOT_FIT
    assert "tile-too-large: huge: " in result.stderr
    assert "its largest tensor is w, f16[2x30000]" in result.stderr
    assert " are missing" in result.stderr
    assert "hint: give this layer fewer channels or pixels, or put a pool before it" in result.stderr


def test_a_layout_that_finds_no_place_says_what_to_do(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency._Room, "place_all", lambda _: False)
    error = refusal(lambda: compile_model(model, Recipe(), "pulp-open"))
    assert (error.code, error.exit_code) == ("local-memory-full", ExitCode.DOES_NOT_FIT)
    assert "--gradients fp16" in error.problems[0].hint


@pytest.mark.parametrize("on", ON)
def test_verify_run_eval_export(on: str, model: Path, data: Path, tmp_path: Path) -> None:
    flags = (*CLUSTER, "--on", on, "--data", data)
    verdict = answer("verify", model, *flags, "--steps", 2)
    assert (verdict["equal"], verdict["on"], verdict["target"]) == (True, on, "pulp-open")
    run = answer("run", model, *flags, "--steps", 2, "-o", tmp_path / "run")
    assert (run["loss"], run["on"]) == (verdict["loss"], on)
    assert ("cycles" in run["per_step"]) == (on == "gvsoc")
    there = answer("eval", tmp_path / "run", "--on", on, "--data", data)
    here = answer("eval", tmp_path / "run", "--data", data)
    assert (there["on"], there["correct"]) == (on, here["correct"])
    told = answer("export", tmp_path / "run", "-o", tmp_path / "tuned.onnx")
    assert set(told["trained"]) == {"w", "b", "v"}
    assert onnx.load(tmp_path / "tuned.onnx").graph.initializer != onnx.load(model).graph.initializer


@pytest.mark.parametrize("verb", ["verify", "run", "eval"])
def test_a_missing_gvsoc_is_told(verb: str, model: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODL_GVSOC", "/nowhere/gvrun")
    more = ("--on", "gvsoc") if verb == "eval" else ("--steps", 1)
    told = answer(verb, model, *CLUSTER, "--data", data, *more, exit_code=ExitCode.TOOL_MISSING)
    (problem,) = told["error"]["problems"]
    assert problem["code"] == "simulator-missing"
    assert "ODL_GVSOC" in problem["why"]
    assert "ODL_GVSOC" in problem["hint"]
