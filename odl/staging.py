"""Output that is written whole or not at all: files, and folders, these never over a folder that is not ours."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR

from odl.errors import UsageError
from odl.signals import deferred

_HINT = "choose another folder"
_TRIES = 100  # runs that may put their folder in this place at the same time


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all. Raises UsageError `file-unwritable`."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with deferred():
        try:
            part.write_bytes(content)
            part.replace(path)
        except OSError as error:
            raise UsageError("file-unwritable", str(path), str(error.strerror), "choose another file") from error
        finally:
            with contextlib.suppress(OSError):
                part.unlink()


@contextlib.contextmanager
def scratch(prefix: str = "odl-", folder: Path | None = None) -> Iterator[Path]:
    """A fresh folder in `folder`, or where temporary ones are, that is gone when the block ends, by whatever way."""
    with deferred():  # from then on the object removes it, at the latest when the process ends
        made = tempfile.TemporaryDirectory(prefix=prefix, dir=folder, ignore_cleanup_errors=True)
    try:
        yield Path(made.name)
    finally:
        with deferred():
            made.cleanup()


def claim(folder: Path, marker: str, content: bytes) -> None:
    """Make `folder`, or take it where it is empty or holds a file `marker`, and put `content` into that file: a folder
    that is filled one piece after the other. Raises UsageError `foreign-folder`, `folder-unwritable` or
    `file-unwritable`."""
    try:
        place = folder.resolve()
        _check(place, marker)
        place.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise _unwritable(folder, error) from error
    write_whole(place / marker, content)


@contextlib.contextmanager
def staged(folder: Path, marker: str) -> Iterator[Path]:
    """A fresh folder to fill, which takes the place of `folder` when the block ends well and vanishes when it does not.

    `marker` is a file that every folder of this kind holds; an existing `folder` must be empty or hold it. Of runs that
    end at once the last one's folder stays, whole. Raises UsageError `foreign-folder` or `folder-unwritable`.
    """
    with contextlib.ExitStack() as stack:
        try:
            place = folder.resolve()
            _check(place, marker)
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary = stack.enter_context(scratch(f".{place.name}.", place.parent))
        except (OSError, ValueError) as error:
            raise _unwritable(folder, error) from error
        try:
            inside = temporary / "new"
            inside.mkdir()
            yield inside
            with deferred():
                _put(inside, place, temporary, marker)
        except OSError as error:
            raise _unwritable(folder, error) from error


def _put(inside: Path, place: Path, temporary: Path, marker: str) -> None:
    """Move `inside` to `place`, and what was there out of the way, also where other runs do the same."""
    for number in range(_TRIES):
        old = temporary / f"old{number}"
        _check(place, marker)
        try:
            with contextlib.suppress(FileNotFoundError):
                place.rename(old)
            inside.rename(place)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        finally:
            if old.exists() and not place.exists():
                with contextlib.suppress(OSError):
                    old.rename(place)
    raise UsageError("folder-unwritable", str(place), "other runs keep writing it", _HINT)


def _check(folder: Path, marker: str) -> None:
    while True:
        try:
            seen = folder.stat()
            names = {entry.name for entry in folder.iterdir()} if S_ISDIR(seen.st_mode) else {folder.name}
            # Another run may have put its folder here, and be removing the one that was just looked into.
            changed = folder.stat().st_ino != seen.st_ino
        except FileNotFoundError:
            return
        if not names or marker in names:
            return
        if not changed:
            why = f"exists and was not written by odl (it has no {marker})"
            raise UsageError("foreign-folder", str(folder), why, _HINT)


def _unwritable(folder: Path, error: Exception) -> UsageError:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UsageError("folder-unwritable", str(folder), why, _HINT)
