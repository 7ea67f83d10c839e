"""What is being done now, for whoever wants to tell it: a terminal, in a line that is written over.

Whoever does something that can take seconds says so by `stage`. Nobody has to pass a listener on, and where there is
none, as in a program that uses odl as a library or in a thread of its own, nothing happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def stage(text: str) -> None:
    """From now on `text` is what is being done."""
    listener = _listener.get()
    if listener:
        listener(text)


@contextmanager
def told(listener: Listener) -> Iterator[None]:
    """In the block, in this thread, the stages go to `listener`."""
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)
