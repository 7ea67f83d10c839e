"""python -m campaigns.hostile_sandbox: hostile inputs of one kind in a process of their own, within bounds.

Each ends well or with a refusal of a code that docs/RELIABILITY.md knows. Anything else is a failure: another
exception, a warning, more time or memory than allowed, a file written or removed outside of the case's own folder, one
left behind, a program started, a socket, an unpickled object. Prints a line of JSON for each, as it begins and as it
ends.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.models import ROOT
from campaigns.hostile_kinds import KINDS, Kind
from odl.console import printable
from odl.errors import OdlError

SECONDS, BYTES = 20, 2 << 30  # of a processor, for one case; of the process, beyond what it has when it starts
ACCEPTED, REFUSED, FAILED = "accepted", "refused", "failed"


@dataclass(frozen=True)
class Verdict:
    """How a case ended. `codes` are those of a refusal, its first one first; `why` a failure failed, in words."""

    outcome: str
    codes: tuple[str, ...] = ()
    why: str = ""
    seconds: float = 0.0


class OutOfTime(BaseException):
    """No Exception: nothing may catch it."""


@cache
def documented() -> frozenset[str]:
    """The codes in the tables of docs/RELIABILITY.md."""
    text = (ROOT / "docs/RELIABILITY.md").read_text()
    cells = re.findall(r"^\| (`[^|]*) \|", text, re.M)
    return frozenset(re.findall(r"`([a-z0-9-]+)`", " ".join(cells)))


# --- what nobody may do -----------------------------------------------------------------------------------------------

# What changes files, and which of its arguments are those.
_CHANGES = {
    **dict.fromkeys(("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "os.chown", "os.utime"), slice(1)),
    **dict.fromkeys(("os.symlink", "os.link", "shutil.copyfile", "shutil.copytree"), slice(1, 2)),
    **dict.fromkeys(("os.rename", "shutil.move"), slice(2)), "shutil.rmtree": slice(1),
}  # fmt: skip
_BELOW = ("os.mkdir", "os.remove", "os.rmdir")  # a folder that a descriptor is of, their last argument
_NEVER = ("os.system", "os.spawn", "socket.", "pickle.find_class")
_STARTS = ("subprocess.Popen", "os.fork", "os.exec", "os.posix_spawn")


@dataclass
class Watch:
    """Looks at what the interpreter does while `on`, and remembers what it may not have done."""

    allowed: tuple[Path, ...]
    may_start: bool = False
    on: bool = False
    seen: list[str] = field(default_factory=list)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = set(str(mode or "")) & set("wax+") or int(flags) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and not isinstance(path, int):
                self._require_inside(event, path)
        elif event in _CHANGES:
            descriptor = arguments[-1] if event in _BELOW else -1
            for path in arguments[_CHANGES[event]]:
                if isinstance(path, str | bytes | os.PathLike):
                    below = f"/proc/self/fd/{descriptor}" if descriptor != -1 else ""
                    self._require_inside(event, Path(below, os.fsdecode(path)))
        elif event.startswith(_NEVER) or (event.startswith(_STARTS) and not self.may_start):
            self.seen.append(f"{event} {arguments[:1]!r}")

    def _require_inside(self, event: str, path: Any) -> None:
        """`path` as the system would take it; a symbolic link is what it leads to, not its own place."""
        self.on = False
        place = os.fsdecode(path)
        real = Path(os.path.realpath(Path(place).parent), Path(place).name)
        # The interpreter keeps what it compiles of modules that it imports.
        if place != os.devnull and "__pycache__" not in place and not any(map(real.is_relative_to, self.allowed)):
            self.seen.append(f"{event} {place!r}")
        self.on = True


# --- one case ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sandbox:
    """Folders: `case`, where a case lies and writes; `home`, where nothing may appear; `scratch`, where nothing may
    stay."""

    kind: Kind
    case: Path
    home: Path
    scratch: Path
    watch: Watch
    tools: Any

    def judge(self, content: bytes) -> Verdict:
        """What becomes of one input."""
        for folder in (self.case, self.home, self.scratch):
            _empty(folder)
        (self.case / self.kind.file).write_bytes(content)
        self.watch.seen.clear()
        started = _spent()
        with _time_limit(SECONDS):
            verdict = self._feed()
        seconds = round(_spent() - started, 4)
        left = [path.name for path in (*self.home.iterdir(), *self.scratch.iterdir())]
        if self.watch.seen or left:
            why = "; ".join((*self.watch.seen, *(f"left {name!r} behind" for name in left)))
            verdict = Verdict(FAILED, verdict.codes, f"{why} {verdict.why}")
        return Verdict(verdict.outcome, verdict.codes, verdict.why, seconds)

    def _feed(self) -> Verdict:
        try:
            self.watch.on = True
            self.kind.feed(self.case, self.tools)
        except OdlError as error:
            return _refused(error)
        except OutOfTime:
            return Verdict(FAILED, (), f"more than {SECONDS} s\n{_where()}")
        except Exception as error:
            return Verdict(FAILED, (), f"{type(error).__name__}: {error}"[:500] + f"\n{_where()}")
        finally:
            self.watch.on = False
        return Verdict(ACCEPTED)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _refused(error: OdlError) -> Verdict:
    """A refusal, which must be of known codes, in sentences that a terminal can show."""
    codes = tuple(dict.fromkeys(problem.code for problem in error.problems))
    unknown = [code for code in codes if code not in documented()]
    shown = printable(str(error))
    if unknown:
        return Verdict(FAILED, codes, f"not in docs/RELIABILITY.md: {unknown}")
    if not all(problem.why for problem in error.problems) or not all(c.isprintable() or c == "\n" for c in shown):
        return Verdict(FAILED, codes, f"says nothing, or what steers a terminal: {shown[:200]!r}")
    if len(shown) > 2_000_000:
        return Verdict(FAILED, codes, f"{len(shown):,} characters are no message")
    return Verdict(REFUSED, codes)


def _where() -> str:
    return "".join(traceback.format_exc().splitlines(keepends=True)[-12:])[-1500:]


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def stop(_number: int, _frame: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _spent() -> float:
    """Seconds of a processor, with those of children that have ended."""
    return sum(os.times()[:4])


@contextmanager
def sandbox(kind: Kind) -> Iterator[Sandbox]:
    """Folders, limits and the watch, for the rest of the process."""
    base = Path(os.path.realpath(tempfile.mkdtemp(prefix="odl-hostile-")))
    try:
        folders = {name: base / name for name in ("case", "home", "scratch")}
        for folder in folders.values():
            folder.mkdir()
        (base / "outside.bin").write_bytes(bytes(4096))
        with kind.open() as tools:
            os.chdir(folders["home"])
            os.environ |= {"HOME": str(folders["home"]), "TMPDIR": str(folders["scratch"])}
            tempfile.tempdir = None
            watch = Watch((folders["case"], folders["scratch"]), kind.starts)
            sys.addaudithook(watch.hook)
            warnings.simplefilter("error")
            if not kind.starts:  # a sanitizer wants address space without end
                limit = _address_space() + BYTES
                resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            yield Sandbox(kind, folders["case"], folders["home"], folders["scratch"], watch, tools)
            os.chdir(base)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _address_space() -> int:
    (pages, *_) = Path("/proc/self/statm").read_text().split()
    return int(pages) * resource.getpagesize()


def drawn(kind: Kind, seed: int, number: int) -> bytes:
    """The input of this kind, seed and number: the same everywhere."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of those who make broken files
        return kind.draw(Random(f"{seed} {kind.name} {number}"))


# --- the process ------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--cases", type=int, default=0)
    parser.add_argument("--files", type=Path, nargs="*", default=[])
    wishes = parser.parse_args()
    kind = KINDS[wishes.kind]
    files = [path.resolve() for path in wishes.files]
    numbers = range(wishes.first, wishes.cases or len(files))
    contents = {number: kind.adopt(files[number].read_bytes()) for number in numbers} if files else {}
    with sandbox(kind) as box:
        for number in numbers:
            print(json.dumps({"begins": number}), flush=True)
            verdict = box.judge(contents[number] if files else drawn(kind, wishes.seed, number))
            print(json.dumps({"number": number, **asdict(verdict)}), flush=True)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"most_kib": most}), flush=True)


if __name__ == "__main__":
    main()
