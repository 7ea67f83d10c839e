"""Children: every one runs under a time limit, in a process group of its own, and never outlives its caller."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO

from odl.signals import deferred

_thread = threading.local()
_HEED_S = 0.1  # how long a thread that heeds waits before it looks


class Stopped(Exception):  # noqa: N818  not an error: another thread wants this one's child to end
    """Raised where a thread waits for its child after the event that it heeds was set."""


def heed(stop: threading.Event) -> None:
    """From now on this thread's waits for a child raise Stopped once `stop` is set, so that no block outlasts it.

    A signal unwinds the main thread alone; each other one has to end its own child, which it alone may wait for.
    """
    _thread.stop = stop


@dataclass(frozen=True)
class Finished:
    """How a child ended: its exit status (negative: minus the signal) and its stdout and stderr together."""

    status: int
    output: str


class Child:
    """A running child as a context manager: leaving the block, by whatever way, kills its whole process group.

    `output` gets its stdout and stderr. It has no stdin, and a session of its own, so that Ctrl-C reaches it only
    through its parent. `inherits` are descriptors that it holds as long as it lives. Raises OSError if the program
    cannot be started.
    """

    def __init__(
        self, argv: Sequence[str], *, output: IO[bytes], cwd: Path | None = None, env: Mapping[str, str] | None = None,
        inherits: Sequence[int] = (),
    ) -> None:  # fmt: skip
        with deferred():  # from then on there is someone who ends it
            self._process = subprocess.Popen(
                argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                pass_fds=inherits,
            )  # fmt: skip
            self._end = weakref.finalize(self, _end, self._process)

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with deferred():
            self._end()

    def wait(self, timeout_s: float) -> int | None:
        """The exit status, or None if the child still runs after `timeout_s`. Raises Stopped: see `heed`."""
        stop, patience = getattr(_thread, "stop", None), time.monotonic() + timeout_s
        while True:
            if stop and stop.is_set():
                raise Stopped
            left = max(0.0, patience - time.monotonic())
            try:
                return self._process.wait(min(left, _HEED_S) if stop else left)
            except subprocess.TimeoutExpired:
                if time.monotonic() >= patience:
                    return None


def bound(argv: Sequence[str]) -> list[str]:
    """A command line that the kernel ends with the thread that starts it, even one that is killed, where util-linux is.

    Where the program cannot be started, a status of 126 or 127 says so instead of an OSError.
    """
    return [*_setpriv(), *argv]


@cache
def _setpriv() -> tuple[str, ...]:
    path = shutil.which("setpriv")
    return (path, "--pdeathsig", "KILL", "--") if path else ()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a child and all that it started, unless it has ended."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run(
    argv: Sequence[str], *, timeout_s: float, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Finished:
    """Runs a child to its end. Raises TimeoutError after `timeout_s`, OSError if it cannot be started."""
    with tempfile.TemporaryFile() as output:
        with Child(argv, output=output, cwd=cwd, env=env) as child:
            status = child.wait(timeout_s)
        if status is None:
            raise TimeoutError(f"{argv[0]} did not end within {timeout_s:g} s")
        output.seek(0)
        return Finished(status, output.read().decode(errors="replace"))
