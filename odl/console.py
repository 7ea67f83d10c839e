"""The terminal's side of a command: results on stdout, all else on stderr, every way to end an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

import click

from odl import json_text
from odl.errors import ExitCode, OdlError
from odl.status import Bar, Status
from odl.version import VERSION

SCHEMA = 1
BROKEN_PIPE = 141  # 128 + the signal's number, as shells have it


@dataclass
class Console:
    """How one command talks: `verbosity` is -1, 0 or 1; `facts` go into every JSON answer."""

    as_json: bool
    verbosity: int
    facts: dict[str, str] = field(default_factory=dict)
    _answered: bool = False

    def __post_init__(self) -> None:
        self._status = Status(sys.stderr if self.verbosity >= 0 and sys.stderr.isatty() else None)

    def answer(self, result: Mapping[str, Any], text: Callable[[Mapping[str, Any]], str]) -> None:
        """The result: JSON, or what `text` makes of it."""
        self._answered = True
        self._status.clear()
        click.echo(self._envelope(result) if self.as_json else printable(text(result)))

    def stream(self, text: str) -> None:
        """A line of a result that comes bit by bit; JSON has it whole, later."""
        if not self.as_json:
            self._status.clear()
            click.echo(printable(text))

    def note(self, text: str) -> None:
        """A line for all but those who said -q."""
        if self.verbosity >= 0:
            self._aside(text)

    def log(self, text: str) -> None:
        """A line for those who said -v."""
        if self.verbosity > 0:
            self._aside(text)

    def _aside(self, text: str) -> None:
        with self._status.hidden():
            click.echo(printable(text), err=True)

    def stage(self, text: str) -> None:
        """What is being done now, on a terminal, until something else is or the command ends."""
        self._status.show(printable(text).replace("\n", " "))

    @contextmanager
    def progress(self, steps: int, *, streams: bool = False) -> Iterator[Callable[[int, float], None]]:
        """A listener for (step, loss) that moves a bar, on a terminal that does not already show a line a step."""
        if streams and not self.as_json and sys.stdout.isatty():
            yield lambda _step, _loss: None
            return
        with self.counting("step") as advance:
            yield lambda step, _loss: advance(step + 1, steps)

    @contextmanager
    def counting(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """A listener for (done, of how many) that moves a bar, on a terminal."""
        bar = Bar(self._status, what)
        yield bar.at
        self._status.clear()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Ends the process as `ExitCode` says when the block raises; click's own exceptions pass."""
        if os.environ.get("NO_COLOR"):
            click.get_current_context().color = False
        try:
            try:
                yield
            finally:
                self._status.clear()
        except OdlError as error:
            self._refuse(error)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit would complain
            raise click.exceptions.Exit(BROKEN_PIPE) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            self._confess(error)

    def _refuse(self, error: OdlError) -> NoReturn:
        for problem in error.problems:
            click.echo(f"{click.style('error', fg='red')}: {printable(str(problem))}", err=True)
        if self.as_json and not self._answered:
            problems = [asdict(problem) for problem in error.problems]
            click.echo(self._envelope({"error": {"exit_code": int(error.exit_code), "problems": problems}}))
        raise click.exceptions.Exit(error.exit_code)

    def _confess(self, error: Exception) -> NoReturn:
        if self.verbosity > 0:
            click.echo(traceback.format_exc(), err=True, nl=False)
        summary = " ".join(f"{type(error).__name__}: {error}".split())
        click.echo(f"bug: {printable(summary)}; please report it, with the output of -v", err=True)
        raise click.exceptions.Exit(ExitCode.BUG)

    def _envelope(self, result: Mapping[str, Any]) -> str:
        answer = {"schema_version": SCHEMA, "odl_version": VERSION, **self.facts, **result}
        return json_text.dumps(answer)


def printable(text: str) -> str:
    """The text without characters that could steer a terminal: names in a model are anyone's."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
