"""The line of a terminal that says what is being done: written over again and again, and gone in the end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from odl.signals import deferred

_WIDTH = 80  # of a terminal that does not tell
_ECHO = 2  # columns of the ^C that a terminal adds
_BAR = 24
_PAUSE_S = 0.1  # between two states of a bar: no eye is faster


class Status:
    """A line on `stream`, a terminal; on None, nothing. It has no escape codes: what is gone is written over."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream, self._shown = stream, ""

    def show(self, text: str) -> None:
        if self._stream:
            text = text[: self._columns() - _ECHO - 1]
            with deferred():  # or Ctrl-C leaves what nobody knows to be there
                self._write("\r" + text.ljust(len(self._shown)))
                self._shown = text

    def clear(self) -> None:
        if self._shown:
            self._write("\r" + " " * (len(self._shown) + _ECHO) + "\r")
            self._shown = ""

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """In the block other lines can be written."""
        shown = self._shown
        self.clear()
        yield
        if shown:
            self.show(shown)

    def _columns(self) -> int:
        assert self._stream
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or _WIDTH
        except OSError:
            return _WIDTH

    def _write(self, text: str) -> None:
        assert self._stream
        self._stream.write(text)
        self._stream.flush()


class Bar:
    """How far something is that can be counted, as a status: a bar, the numbers, and how long the rest may take."""

    def __init__(self, status: Status, what: str) -> None:
        self._status, self._what, self._began, self._next = status, what, time.monotonic(), 0.0

    def at(self, done: int, of: int) -> None:
        now = time.monotonic()
        if now >= self._next or done >= of:
            self._next = now + _PAUSE_S
            full = _BAR * done // max(1, of)
            left = round((now - self._began) * (of - done) / max(1, done))
            self._status.show(f"{self._what} [{'#' * full}{'-' * (_BAR - full)}] {done}/{of}, {left} s left")
