"""The command line as a process: streams, terminals, pipes, signals, and what the environment changes."""

from __future__ import annotations

import json
import os
import pty
import shutil
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
from test_status import screen

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


def test_a_terminal_sees_what_is_done_and_nothing_of_it_stays(model: Path) -> None:
    for quiet in ((), ("-q",)):
        command = ("plan", model, *quiet)
        with Terminal() as terminal, process(*command, stdout=subprocess.PIPE, stderr=terminal.slave) as child:
            child.communicate(timeout=60)
            written = terminal.text()
        told = [word for word in ("reading cnn.onnx", "ordering nodes", "placing values") if word in written]
        assert len(told) == (0 if quiet else 3)
        assert screen(written) == [""]


def test_help_needs_nothing_that_takes_long_to_import() -> None:
    look = "import atexit, sys; from odl.cli import main; sys.argv = ['odl', '--help']; "
    look += "atexit.register(lambda: print([m for m in ('numpy', 'onnx', 'jinja2', 'odl.api') if m in sys.modules])); "
    look += "main()"
    done = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("Usage: odl")
    assert done.stdout.endswith("\n[]\n")


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
        """What was written since it was last asked."""
        os.set_blocking(self.master, False)
        try:
            return os.read(self.master, 1 << 16).decode()
        except BlockingIOError:
            return ""

    def until(self, wanted: str, child: subprocess.Popen[str]) -> str:
        """What was written, as soon as `wanted` is in it or the child has ended."""
        found, deadline = self.text(), time.monotonic() + 120
        while wanted not in found and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
            found += self.text()
        return found


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


@pytest.mark.skipif(not shutil.which("setpriv"), reason="util-linux is not here")
@pytest.mark.parametrize("target", ["host", "qemu-zhinx"])
def test_a_simulator_does_not_outlive_one_that_is_killed(target: str, model: Path, data: Path, tmp_path: Path) -> None:
    command = ("run", model, "-t", target, "--data", data, "--steps", 200_000)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "env": {"TMPDIR": str(tmp_path)}}
    with process(*command, **options) as child:
        assert child.stdout is not None
        assert child.stdout.readline().startswith("0 ")
        assert len(list(touching(tmp_path))) == 1, "the program under way should be seen"
        child.kill()
    deadline = time.monotonic() + 60
    while list(touching(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(touching(tmp_path)) == []


@pytest.fixture(scope="module")
def trained(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "trained"
    said = CliRunner().invoke(
        cli, ["run", str(model), "-t", "host", "--on", "numpy", "--data", str(data), "--steps", "2", "-o", str(folder)]
    )
    assert said.exit_code == 0, said.output
    return folder


# What a terminal says when Ctrl-C comes: while orders are searched, while compilers run, while NumPy computes.
INTERRUPTED = {
    "plan": ("ordering nodes", "examples/digits_resnet8/model.onnx"),
    "build": ("compiling C", "MODEL", "-t", "qemu-zhinx", "-o", "OUT"),
    "verify": ("compiling C", "MODEL", "-t", "host", "--data", "DATA", "--steps", "3"),
    "run": ("compiling C", "MODEL", "-t", "host", "--data", "DATA", "--steps", "3", "-o", "OUT"),
    "eval": ("sample [", "MODEL", "--data", "MANY"),
    "report": ("verification of", "TRAINED", "--steps", "2", "-o", "OUT"),
    "select": ("compiling C", "MODEL", "--data", "DATA", "--time", "1", "-o", "OUT"),
}


@pytest.mark.parametrize("verb", INTERRUPTED)
def test_ctrl_c_leaves_nothing_behind(verb: str, model: Path, data: Path, trained: Path, tmp_path: Path) -> None:
    """No folder, no file, no child, and no line on the terminal but one; objects of C are kept only when whole."""
    moment, *arguments = INTERRUPTED[verb]
    for name in ("tmp", "cache", "here"):
        (tmp_path / name).mkdir()
    many = tmp_path / "many.npz"
    np.savez(many, x=np.zeros((20_000, 2, 6, 6), np.float32), y=np.zeros(20_000, int))
    places = {"MODEL": model, "DATA": data, "MANY": many, "TRAINED": trained, "OUT": tmp_path / "here/out"}
    words = [places.get(word, ROOT / word if word.startswith("examples/") else word) for word in arguments]
    environment = {"TMPDIR": str(tmp_path / "tmp"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    options = {"stdout": subprocess.DEVNULL, "cwd": tmp_path / "here", "env": environment}
    with Terminal() as terminal, process(verb, *words, stderr=terminal.slave, **options) as child:
        written = terminal.until(moment, child)
        assert moment in written
        child.send_signal(signal.SIGINT)
        child.wait(timeout=60)
        written += terminal.text()
    assert child.returncode == 130
    assert screen(written)[-2:] == ["interrupted", ""]
    assert list((tmp_path / "tmp").iterdir()) == []
    assert list((tmp_path / "here").iterdir()) == []
    assert not [path for path in (tmp_path / "cache/odl").rglob("*.o.*")]
    assert list(touching(tmp_path)) == []


def touching(folder: Path) -> Iterator[str]:
    """Command lines of living processes that name `folder` or work in it."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
            if str(folder) in command or str(folder) in str((entry / "cwd").readlink()):
                yield command
        except OSError:
            continue


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
