"""The notebook: it runs from its first cell to its last, what it shows are cards, and it is kept without outputs."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import onnx
import pytest

import odl

ROOT = Path(__file__).parent.parent
NOTEBOOK = json.loads((ROOT / "examples/adapt.ipynb").read_text())
CELLS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def run_cell(source: str, names: dict[str, Any]) -> object:
    """As a notebook does it: what the last line is, if it is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    shown = [result for source in CELLS if (result := run_cell(source, names)) is not None]
    kinds = [odl.Compiled, odl.Verdict, odl.Scores, odl.Run, odl.Scores, odl.BuildResult]
    assert [type(result) for result in shown] == kinds
    assert all(result._repr_html_() for result in shown)  # type: ignore[attr-defined]
    assert names["verdict"].equal
    assert names["before"]["accuracy"] < 0.4 < 0.8 < names["after"]["accuracy"]
    out = tmp_path / "build/notebook"
    assert "same bits as NumPy" in (out / "report.html").read_text()
    onnx.checker.check_model(onnx.load(out / "tuned.onnx"))
    assert (out / "c/include/odl_model.h").is_file()
    said = capsys.readouterr().out
    assert "does-not-fit" in said
    assert "losses equal: True" in said


def test_the_notebook_is_kept_without_outputs() -> None:
    assert NOTEBOOK["nbformat"] == 4
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
    ids = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(ids)) == len(ids)
