"""What is learned: a task is one or more cases, each a model with samples to learn from and samples to be judged by."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.models import REAL, ROOT

Array = npt.NDArray[Any]
Changes = Mapping[str, Any]

SHARED = REAL.parent
BUILT = ROOT / "build/accuracy"
_FILES = ("model.onnx", "train.npz", "test.npz")


@dataclass(frozen=True)
class Case:
    """A folder with `model.onnx`, `train.npz` and `test.npz`, all as odl takes them."""

    name: str
    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "model.onnx"

    @property
    def train(self) -> Path:
        return self.folder / "train.npz"

    @property
    def test(self) -> Path:
        return self.folder / "test.npz"


@dataclass(frozen=True)
class Task:
    """`recipe`: changes to `Recipe()` that all variants share; `changes`: more of them, by variant.

    Every case trains for `steps` samples, `quick_steps` where time is short. `needs` are files in the folder of real
    models and data; `write(case, needed, folder)` writes the files of one of `cases` into an empty folder.
    """

    key: str
    title: str
    about: str
    needs: tuple[str, ...]
    cases: tuple[str, ...]
    write: Callable[[str, Mapping[str, Path], Path], None]
    recipe: Changes
    steps: int
    quick_steps: int
    changes: Mapping[str, Changes] = field(default_factory=dict)

    def missing(self, shared: Path = SHARED) -> list[str]:
        """What it needs and cannot find."""
        return [name for name in self.needs if not (shared / name).is_file()]

    def prepare(self, name: str, shared: Path = SHARED, built: Path = BUILT) -> Case:
        """The case of that name; written the first time, and again whenever what it is made of has changed."""
        needed = {Path(each).name: shared / each for each in self.needs}
        made_of = [*needed.values(), Path(self.write.__code__.co_filename), Path(__file__)]
        folder = built / f"{self.key}-{name}-{digest(*made_of)[:12]}"
        return written(name, folder, lambda scratch: self.write(name, needed, scratch))


def written(name: str, folder: Path, write: Callable[[Path], None]) -> Case:
    """The case in `folder`, which is there whole or not at all: `write` writes its files into an empty folder."""
    if not folder.exists():
        scratch = folder.with_name(f"{folder.name}.{os.getpid()}")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        write(scratch)
        assert sorted(path.name for path in scratch.iterdir()) == sorted(_FILES)
        with suppress(OSError):  # another process was faster
            scratch.rename(folder)
        shutil.rmtree(scratch, ignore_errors=True)
    assert folder.exists()
    return Case(name, folder)


def digest(*parts: object) -> str:
    """SHA-256 of files' contents (paths) and of anything that JSON can say."""
    said = [
        hashlib.sha256(part.read_bytes()).hexdigest() if isinstance(part, Path) else json.dumps(part, sort_keys=True)
        for part in parts
    ]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()


def judged_by(n_samples: int, n_test: int | None) -> Array:
    """Which `n_test` samples of a test set are asked, evenly spread since it may be sorted; None is all."""
    n = n_samples if n_test is None else min(n_test, n_samples)
    return np.arange(n) * n_samples // n


def write_split(folder: Path, x: Array, y: Array, learned: Array) -> None:
    """train.npz from the samples that the mask `learned` (N,) marks, test.npz from all others."""
    np.savez(folder / "train.npz", x=x[learned], y=y[learned])
    np.savez(folder / "test.npz", x=x[~learned], y=y[~learned])


def tasks() -> dict[str, Task]:
    """All of them, by key."""
    from benchmarks.accuracy import images, keywords, speakers

    return {task.key: task for task in (images.TASK, keywords.TASK, speakers.TASK)}
