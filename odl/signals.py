"""Ctrl-C and SIGTERM: the first one unwinds, wherever it arrives, and what is begun or put away is never half of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_ENDING = (signal.SIGINT, signal.SIGTERM)


@dataclass
class _State:
    """How many blocks defer signals, and the signal that waits for their end; of the main thread, which gets them."""

    depth: int = 0
    waiting: int = 0


_state = _State()


def catch() -> None:
    """From now on SIGINT raises KeyboardInterrupt and SIGTERM SystemExit, in the main thread, behind `deferred`."""
    for number in _ENDING:
        signal.signal(number, _arrived)


def ignore() -> None:
    """From now on neither does anything: for a process that is about to end, and tidies up."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def deferred() -> Iterator[None]:
    """A signal that arrives in the block is raised when it has ended.

    For what must be whole: a folder is made, or a child started, and then known to whoever removes or ends it. Without
    `catch`, as in a program that uses odl as a library, signals are the program's own.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.depth += 1
    try:
        yield
    finally:
        _state.depth -= 1
        if _state.waiting and not _state.depth:
            number, _state.waiting = _state.waiting, 0
            _unwind(number)


def _arrived(number: int, _frame: object) -> None:
    if _state.depth:
        _state.waiting = _state.waiting or number
    else:
        _unwind(number)


def _unwind(number: int) -> None:
    """Raise, once: those who press Ctrl-C again would interrupt the tidying up."""
    ignore()
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
