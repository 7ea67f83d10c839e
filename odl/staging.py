"""Output folders that are written whole or not at all, and never over a folder that is not ours."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from odl.errors import UsageError


@contextlib.contextmanager
def staged(folder: Path, marker: str) -> Iterator[Path]:
    """A fresh folder to fill, which takes the place of `folder` when the block ends well and vanishes when it does not.

    `marker` is a file that every folder of this kind holds; an existing `folder` must be empty or hold it. Raises
    UsageError `foreign-folder` or `folder-unwritable`.
    """
    _check(folder, marker)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise UsageError("folder-unwritable", str(folder), str(error.strerror), "choose another folder") from error
    try:
        inside = temporary / "new"
        inside.mkdir()
        yield inside
        _check(folder, marker)
        if folder.exists():
            folder.rename(temporary / "old")
        inside.rename(folder)
    except OSError as error:
        raise UsageError("folder-unwritable", str(folder), str(error), "choose another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check(folder: Path, marker: str) -> None:
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / marker).is_file()):
        raise UsageError(
            "foreign-folder",
            str(folder),
            f"exists and was not written by odl (it has no {marker})",
            "choose another folder",
        )
