"""`odl check` stops where the model ends and the chip begins (docs/decisions/28-check-stops-early.md)."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from commands import odl
from models import draw, node, value
from models import model as small_model

from odl.errors import ExitCode


def test_check_neither_orders_nor_places(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it tells is decided by then, and ordering and placing are most of a plan's time."""

    def placed(*_: object) -> None:
        raise MemoryError

    for name in ("_fitted", "schedule", "lower"):
        monkeypatch.setattr(f"odl.api.{name}", placed)
    assert odl("check", model).exit_code == ExitCode.OK
    assert odl("plan", model).exit_code == ExitCode.BUG


def test_check_is_of_the_model_and_plan_of_the_chip(tmp_path: Path) -> None:
    """An image of a gigabyte can be trained, on no target; a name that a memory has can on none either."""
    layers = [
        node("Relu", "x", "h"),
        node("GlobalMaxPool", "h", "m"),
        node("Flatten", "m", "f"),
        node("Gemm", "f w", "y"),
    ]
    onnx.save(small_model(*layers, x=(1, 1, 2**14, 2**14), w=draw(1, 3)), tmp_path / "large.onnx")
    assert odl("check", tmp_path / "large.onnx").exit_code == ExitCode.OK
    assert "does-not-fit" in odl("plan", tmp_path / "large.onnx").stderr
    proto = small_model(node("Gemm", "arena w", "y"), inputs=[value("arena", (1, 4))], w=draw(4, 3))
    onnx.save(proto, tmp_path / "arena.onnx")
    assert "error: reserved-name: arena" in odl("check", tmp_path / "arena.onnx").stderr
