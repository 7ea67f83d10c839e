"""The command line as a process: streams, terminals, pipes, signals, and what the environment changes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from models import cnn

from odl import results
from odl.cli import cli
from odl.errors import ExitCode

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "cnn.onnx"
    onnx.save(cnn(), path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, x=np.random.default_rng(1).normal(size=(12, 2, 6, 6)), y=np.arange(12) % 3)
    return path


def process(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "odl", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.Popen(command, env=environment, text=True, **options)


def test_completion_offers_the_stages() -> None:
    asked = {"_ODL_COMPLETE": "bash_complete", "COMP_WORDS": "odl dump --stage p", "COMP_CWORD": "3"}
    with process(env=asked, stdout=subprocess.PIPE) as child:
        said, _ = child.communicate(timeout=60)
    assert [line.split(",")[1] for line in said.split()] == ["plan", "program"]


@pytest.mark.parametrize("stage", list(results.STAGES))
def test_dump_is_the_same_under_any_hash_seed(model: Path, stage: str) -> None:
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    command = ("dump", model, "--stage", stage)
    with process(*command, stdout=subprocess.PIPE, env={"PYTHONHASHSEED": seed}) as child:
        text, _ = child.communicate(timeout=60)
    assert len(text.splitlines()) > 5
    assert text == CliRunner().invoke(cli, list(map(str, command))).stdout


def test_results_and_progress_part_ways(model: Path, data: Path) -> None:
    """On a terminal a bar moves on stderr; stdout is JSON and nothing else; -q silences the bar."""
    command = ("run", model, "-t", "host", "--data", data, "--steps", 3, "--json")
    for quiet in ((), ("-q",)):
        with Terminal() as terminal, process(*command, *quiet, stdout=subprocess.PIPE, stderr=terminal.slave) as child:
            said, _ = child.communicate(timeout=60)
            assert json.loads(said)["steps"] == 3
            assert ("3/3" in terminal.text()) == (not quiet)


@pytest.mark.parametrize("no_color", ["", "1"])
def test_no_color(no_color: str) -> None:
    with (
        Terminal() as terminal,
        process("check", "none.onnx", stderr=terminal.slave, env={"NO_COLOR": no_color}) as child,
    ):
        assert child.wait(timeout=60) == ExitCode.MODEL_REFUSED
        assert ("\x1b[" in terminal.text()) == (not no_color)


class Terminal:
    """A pseudo-terminal for a child to write to."""

    def __enter__(self) -> Terminal:
        self.master, self.slave = pty.openpty()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.master)
        os.close(self.slave)

    def text(self) -> str:
        """What was written; to be asked once the child has ended."""
        os.set_blocking(self.master, False)
        try:
            return os.read(self.master, 1 << 16).decode()
        except BlockingIOError:
            return ""


def test_a_broken_pipe_is_quiet(model: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with process("dump", model, "--stage", "graph", stdout=writer, stderr=subprocess.PIPE) as child:
        os.close(writer)
        _, complaint = child.communicate(timeout=60)
    assert (child.returncode, complaint) == (141, "")


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_no_child(model: Path, data: Path, tmp_path: Path, number: int, exit_code: int) -> None:
    command = ("run", model, "-t", "host", "--data", data, "--steps", 200_000)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": {"TMPDIR": str(tmp_path)}}
    with process(*command, **options) as child:
        assert child.stdout is not None
        assert child.stdout.readline().startswith("0 ")
        assert list(running(tmp_path)), "the program under way should be seen"
        child.send_signal(number)
        child.communicate(timeout=60)
    assert child.returncode == exit_code
    assert list(running(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


def test_a_signal_ends_the_simulators_of_tune(tmp_path: Path) -> None:
    """One that never ends stands in for GVSoC, two at once."""
    path, never = tmp_path / "cnn.onnx", tmp_path / "gvrun"
    onnx.save(cnn(), path)
    never.write_text(f"#!/bin/sh\necho $$ >> {tmp_path}/pids\nexec sleep 600\n")
    never.chmod(0o755)
    (tmp_path / "scratch").mkdir()
    environment = {"ODL_GVSOC": str(never), "TMPDIR": str(tmp_path / "scratch")}
    with process("tune", path, "-j", 2, stderr=subprocess.PIPE, env=environment) as child:
        deadline = time.monotonic() + 60
        while len(started(tmp_path)) < 2 and time.monotonic() < deadline and child.poll() is None:
            time.sleep(0.1)
        pids = started(tmp_path)
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=20)
    assert (child.returncode, len(pids)) == (143, 2)
    assert [pid for pid in started(tmp_path) if Path(f"/proc/{pid}").exists()] == []
    assert list((tmp_path / "scratch").iterdir()) == []


def started(folder: Path) -> list[str]:
    """The processes that noted themselves."""
    return (folder / "pids").read_text().split() if (folder / "pids").exists() else []


def running(folder: Path) -> Iterator[str]:
    """Command lines of living processes that were started from `folder`."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if command.startswith(f"{folder}/"):
            yield command
