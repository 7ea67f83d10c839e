"""Trainings, two at a time. A finished one stays in a file that is named after all that decides it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.accuracy.task import BUILT, Case, Changes, digest
from benchmarks.models import ROOT

Result = dict[str, Any]

HALF, FLOAT32 = "half", "float32"
CONTINUAL, INSTRUCTIONS, CYCLES = "continual", "instructions", "cycles"
WORKERS = 2
_EDGE = 10  # of so many parts of a training, the mean losses of the first and of the last are kept

# The sources and packages that decide an engine's numbers.
_ON_DEVICES = ("odl/**/*.py", "templates/**/*.j2", "firmware/**/*.[ch]", "benchmarks/accuracy/continual.py")
_SOURCES = {HALF: ("odl/**/*.py", "benchmarks/accuracy/half.py"),
            FLOAT32: ("benchmarks/accuracy/float32.py", "examples/torch_graph.py", "odl/data.py"),
            **dict.fromkeys((CONTINUAL, INSTRUCTIONS, CYCLES), _ON_DEVICES)}  # fmt: skip
_PACKAGES = {FLOAT32: ("torch",)}


@dataclass(frozen=True)
class Job:
    """One training, or with 0 `steps` only the accuracy before it. `n_test`: judged by so many, None is all."""

    engine: str
    case: Case
    changes: Changes
    steps: int
    n_test: int | None = None

    def key(self) -> str:
        """A hash of everything that decides the result."""
        sources = sorted(path for pattern in _SOURCES[self.engine] for path in ROOT.glob(pattern))
        packages = [version(name) for name in _PACKAGES.get(self.engine, ())]
        said = [self.engine, dict(self.changes), self.steps, self.n_test, packages]
        return digest(*said, self.case.model, self.case.train, self.case.test, *sources)


def run(job: Job) -> Result:
    """Train and judge; the mean loss of the first and of the last tenth of all updates, and the seconds it took."""
    from benchmarks.accuracy import continual, float32, half  # PyTorch takes seconds to load

    began = time.perf_counter()
    do = {HALF: half.run, FLOAT32: float32.run, CONTINUAL: continual.run, INSTRUCTIONS: continual.instructions,
          CYCLES: continual.cycles}[job.engine]  # fmt: skip
    found = do(job.case, job.changes, job.steps, job.n_test)
    losses = found.pop("losses")
    if losses:
        updates = job.steps // job.changes.get("batch", 1)
        n = max(1, updates // _EDGE) * (len(losses) // updates)
        found |= {"first_loss": sum(losses[:n]) / n, "last_loss": sum(losses[-n:]) / n}
    return {**found, "seconds": round(time.perf_counter() - began, 1)}


class Jobs:
    """Runs jobs whose results are not in `folder` yet."""

    def __init__(self, folder: Path = BUILT / "results", do: Callable[[Job], Result] = run) -> None:
        self.folder = folder
        self.do = do

    def path(self, job: Job) -> Path:
        return self.folder / f"{job.key()[:24]}.json"

    def run(self, jobs: Iterable[Job], tell: Callable[[str], None], workers: int = WORKERS) -> None:
        """Afterwards every job has its result. Raises what a job raised, when all others are done."""
        by_path = {self.path(job): job for job in jobs}
        missing = {path: job for path, job in by_path.items() if not path.exists()}
        tell(f"{len(by_path)} trainings, {len(by_path) - len(missing)} of them done before")
        self.folder.mkdir(parents=True, exist_ok=True)
        errors = []
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            running = {pool.submit(self.do, job): path for path, job in missing.items()}
            for number, future in enumerate(as_completed(running), 1):
                path = running[future]
                if error := future.exception():
                    errors.append(error)
                else:
                    self._keep(path, future.result())
                tell(f"{number} of {len(missing)}: {_told(missing[path])}: {error or path.read_text().strip()}")
        if errors:
            raise errors[0]

    def result(self, job: Job) -> Result:
        found: Result = json.loads(self.path(job).read_text())
        return found

    def _keep(self, path: Path, result: Result) -> None:
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(result) + "\n")
        part.replace(path)


def _told(job: Job) -> str:
    words = " ".join(f"{name}={value}" for name, value in job.changes.items())
    return f"{job.engine} {job.case.name}, {job.steps} steps, {words}"
