"""The benchmark of odl's own commands. No test here measures time."""

from __future__ import annotations

import json
import os

import pytest

from benchmarks import tool_speed
from benchmarks.models import ROOT
from benchmarks.pages import between
from odl.targets import TARGETS


def test_the_page_is_made_of_the_results() -> None:
    results = json.loads(tool_speed.RESULTS.read_text())
    page = (ROOT / tool_speed.PAGE).read_text()
    assert between(page, tool_speed.MARK) == tool_speed.page(results)
    assert page.endswith(tool_speed.section())


def test_each_command_is_timed_on_each_model() -> None:
    told = [(command, title) for command, title, _ in tool_speed.commands()]
    assert told.count(("odl --help", "")) == 1
    for title in ("ResNet8 (digits)", "DS-CNN (words)"):
        assert [command for command, of in told if of == title] == [
            "odl check", *(f"odl plan -t {target}" for target in TARGETS)
        ]  # fmt: skip


def test_a_command_is_run_until_the_clock_is_near_or_often_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run, which compiles Python's files, does not count."""
    runs = iter([(9.0, 9.0), (5.0, 1.0), (3.0, 1.1), (1.1, 1.05), (2.0, 1.0), (2.0, 1.0)])
    monkeypatch.setattr(tool_speed, "once", lambda *_: next(runs))
    assert tool_speed.timed([], {}, least=1, most=9) == [1.1, 1.0, 3]
    monkeypatch.setattr(tool_speed, "once", lambda *_: (2.0, 1.0))
    assert tool_speed.timed([], {}, least=1, most=4) == [2.0, 1.0, 4]


def test_what_is_timed_has_to_end_well() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    wall, processor = tool_speed.once(["--version"], environment)
    assert wall > 0
    assert processor > 0
    with pytest.raises(SystemExit, match="ended with 2"):
        tool_speed.once(["no-such-command"], environment)


@pytest.mark.parametrize(
    ("wall", "processor", "told"),
    [(0.9, 0.8, "< 1 met"), (1.2, 0.8, "< 1 met by the processor alone"), (1.2, 1.1, "< 1 NOT MET")],
)
def test_what_is_required_is_told(wall: float, processor: float, told: str) -> None:
    each = {"required_s": 1.0, "wall_s": wall, "cpu_s": processor}
    assert tool_speed._limit(each) == told
