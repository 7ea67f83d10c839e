"""Signals: what is begun or put away is whole, whenever one comes, and a second one changes nothing."""

from __future__ import annotations

import gc
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from odl import signals, subprocesses
from odl.staging import scratch, staged, write_whole

ENDINGS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit}


@pytest.fixture(autouse=True)
def caught() -> Iterator[None]:
    """Signals are caught in the test and as before behind it."""
    before = {number: signal.getsignal(number) for number in ENDINGS}
    signals.catch()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    assert signals._state == signals._State()


def after(function: Any, number: int = signal.SIGINT) -> Any:
    """The function, with a signal as it returns."""

    def signalled(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        signal.raise_signal(number)
        return result

    return signalled


@pytest.mark.parametrize("number", ENDINGS)
def test_a_signal_waits_for_the_end_of_the_block(number: int) -> None:
    done = []
    with pytest.raises(ENDINGS[number]) as raised:  # noqa: PT012
        with signals.deferred():
            with signals.deferred():
                signal.raise_signal(number)
                done.append("inner")
            done.append("outer")
        done.append("behind")
    assert done == ["inner", "outer"]
    assert number == signal.SIGINT or raised.value.code == 143  # type: ignore[attr-defined]


def test_without_a_block_it_comes_at_once_and_the_next_ones_not_at_all() -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)


def test_other_threads_defer_nothing() -> None:
    depths = []

    def look() -> None:
        with signals.deferred():
            depths.append(signals._state.depth)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert depths == [0]


def test_a_folder_that_is_just_made_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "mkdtemp", after(tempfile.mkdtemp))
    with pytest.raises(KeyboardInterrupt), scratch(folder=tmp_path):
        pytest.fail("the block does not begin")
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_removed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the signal comes while that is done."""
    with pytest.raises(KeyboardInterrupt), scratch(folder=tmp_path) as folder:  # noqa: PT012
        for name in "abc":
            (folder / name).touch()
        monkeypatch.setattr("os.unlink", after(__import__("os").unlink))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", [1, 2])
def test_a_folder_takes_its_place_whole_or_not_at_all(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one is moved away, then the new one moved in; the signal comes behind one or the other."""
    place = tmp_path / "out"
    place.mkdir()
    (place / "mark").write_text("old")
    renames, rename = [], Path.rename

    def counted(self: Path, target: Path) -> Path:
        renames.append(target)
        return (after(rename) if len(renames) == moment else rename)(self, target)

    monkeypatch.setattr(Path, "rename", counted)
    with pytest.raises(KeyboardInterrupt), staged(place, "mark") as inside:
        (inside / "mark").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (place / "mark").read_text() == "new"


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_bytes", after(Path.write_bytes))
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "file", b"all of it")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"all of it"}


def test_a_child_that_has_just_begun_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    class Signalled(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            begun.append(self.pid)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Signalled)
    with pytest.raises(KeyboardInterrupt):
        subprocesses.run(["sleep", "600"], timeout_s=60)
    gc.collect()
    assert begun
    assert not any(Path(f"/proc/{pid}").exists() for pid in begun)


def test_a_thread_that_heeds_ends_its_child_soon() -> None:
    stop, ended = threading.Event(), []

    def wait() -> None:
        subprocesses.heed(stop)
        try:
            subprocesses.run(["sleep", "600"], timeout_s=600)
        except subprocesses.Stopped:
            ended.append("stopped")

    thread = threading.Thread(target=wait)
    thread.start()
    stop.set()
    thread.join(timeout=60)
    assert ended == ["stopped"]
