"""The line of a terminal that says what is being done."""

from __future__ import annotations

import io

from odl.stages import stage, told
from odl.status import Bar, Status


def screen(written: str) -> list[str]:
    """The lines that a terminal shows of what was written, without spaces at their ends."""
    lines, column = [""], 0
    for character in written:
        if character == "\r":
            column = 0
        elif character == "\n":
            lines.append("")
            column = 0
        else:
            lines[-1] = lines[-1].ljust(column)[:column] + character + lines[-1][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


def test_a_shorter_text_leaves_nothing_of_the_longer_one() -> None:
    stream = io.StringIO()
    status = Status(stream)
    status.show("a long text")
    status.show("short")
    assert screen(stream.getvalue()) == ["short"]
    status.clear()
    assert screen(stream.getvalue()) == [""]
    assert stream.getvalue().endswith("\r")


def test_what_a_terminal_echoes_is_cleared_too() -> None:
    stream = io.StringIO()
    status = Status(stream)
    status.show("working")
    stream.write("^C")
    status.clear()
    assert screen(stream.getvalue()) == [""]


def test_it_never_wraps() -> None:
    stream = io.StringIO()
    Status(stream).show("x" * 500)
    assert len(screen(stream.getvalue())[0]) < 80


def test_other_lines_come_between() -> None:
    stream = io.StringIO()
    status = Status(stream)
    status.show("working")
    with status.hidden():
        stream.write("a note\n")
    assert screen(stream.getvalue()) == ["a note", "working"]


def test_a_bar_tells_how_far_it_is() -> None:
    stream = io.StringIO()
    bar = Bar(Status(stream), "step")
    bar.at(1, 4)
    assert screen(stream.getvalue()) == ["step [######------------------] 1/4, 0 s left"]
    bar.at(4, 4)
    assert screen(stream.getvalue()) == [f"step [{'#' * 24}] 4/4, 0 s left"]


def test_stages_go_to_who_listens() -> None:
    heard: list[str] = []
    stage("nobody")
    with told(heard.append):
        stage("somebody")
    stage("nobody again")
    assert heard == ["somebody"]
