"""What was compiled once: objects, found again by everything that decides what a compiler makes of a source.

Two projects differ in a few files and share the rest; one that is written again differs in none. Objects are kept in
the user's cache folder ($XDG_CACHE_HOME, else ~/.cache); once a day those go that nobody asked for in a month, and the
longest unused while all take more than LIMIT_BYTES.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

LIMIT_BYTES = 256 << 20
_DAY_S = 24 * 3600.0
_INCLUDES = re.compile(rb'^\s*#\s*include\s+"([^"]+)"', re.M)
# A function's declaration, with the comment above it.
_DECLARATION = re.compile(rb"^(?:/\*(?:[^*]|\*(?!/))*\*/\n)?void (\w+)\([^;{}#]*\);\n+", re.M)
_WORDS = re.compile(rb"\w+")


def cache_folder() -> Path:
    """odl's part of the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "odl")


@dataclass(frozen=True)
class Objects:
    """The objects of a project, each compiled by `command` with `macros`.

    Quoted names are looked for beside a source, then in `folders` of the project; other headers are the compiler's, of
    which `compiler` is the name and version. A macro decides about a source if its name stands in one of its texts, a
    function's declaration if the source names it: kernels of many models share one header.
    """

    project: Path
    compiler: str
    command: Sequence[str]
    folders: Sequence[str]
    macros: Mapping[str, object]
    _texts: dict[Path, bytes] = field(default_factory=dict)

    def kept(self, source: str) -> Path:
        """The file in which the object of a source lies, or will."""
        texts = self._texts_of(source)
        macros = [item for item in self.macros.items() if any(item[0].encode() in text for text in texts)]
        said = [self.compiler, _stamp(self.command[0]), *self.command, source, repr(sorted(map(str, macros)))]
        parts = [hashlib.sha256(part).digest() for part in (*(word.encode() for word in said), *texts)]
        digest = hashlib.sha256(b"".join(parts)).hexdigest()
        return _pruned(cache_folder() / "objects") / digest[:2] / f"{digest[2:]}.o"

    def _texts_of(self, source: str) -> list[bytes]:
        """The source, and what it includes without the declarations of functions that it does not name."""
        own = self._text(self.project / source)
        named, pastes = set(_WORDS.findall(own)), b"##" in own

        def wanted(declaration: re.Match[bytes]) -> bytes:
            return declaration[0] if pastes or declaration[1] in named else b""

        return [_DECLARATION.sub(wanted, self._text(path)) for path in sorted(self._closure(self.project / source))]

    def _closure(self, source: Path) -> set[Path]:
        """The source, and what it includes."""
        found: set[Path] = set()
        left = [source]
        while left:
            path = left.pop()
            if path not in found:
                found.add(path)
                left += self._included(path)
        return found

    def _included(self, path: Path) -> Iterator[Path]:
        places = (path.parent, *(self.project / folder for folder in self.folders))
        for name in _INCLUDES.findall(self._text(path)):
            wanted = (place / name.decode() for place in places)
            yield from [each for each in wanted if each.exists()][:1]

    def _text(self, path: Path) -> bytes:
        if path not in self._texts:
            self._texts[path] = path.read_bytes()
        return self._texts[path]


def fetch(kept: Path, output: Path) -> bool:
    """Copy a kept object to `output`; whether there was one."""
    try:
        shutil.copyfile(kept, output)
        kept.touch()
    except OSError:
        return False
    return True


def keep(output: Path, kept: Path) -> None:
    """Keep an object. Where the disk is full or read-only, nothing is kept."""
    part = kept.with_suffix(f".{os.getpid()}.{time.monotonic_ns()}")
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(output, part)
        part.replace(kept)


def prune(store: Path, now: float) -> None:
    """Remove what was not asked for in thirty days before `now`, seconds of the epoch, or lies beyond the limit."""
    n_bytes = 0
    found = [(path.stat(), path) for path in store.glob("*/*")]
    for stat, path in sorted(found, key=lambda item: -item[0].st_mtime):
        n_bytes += stat.st_size
        if n_bytes > LIMIT_BYTES or now - stat.st_mtime > 30 * _DAY_S:
            path.unlink(missing_ok=True)


@cache
def _pruned(store: Path) -> Path:
    """The store, pruned if that was not done today."""
    mark, now = store / "pruned", time.time()
    with suppress(OSError):
        store.mkdir(parents=True, exist_ok=True)
        if not mark.exists() or now - mark.stat().st_mtime > _DAY_S:
            mark.touch()
            prune(store, now)
    return store


@cache
def _stamp(program: str) -> str:
    """Another file under a compiler's name is another compiler, whatever version it tells."""
    path = shutil.which(program)
    stat = Path(path).stat() if path else None
    return f"{path} {stat.st_size} {stat.st_mtime_ns}" if stat else program
