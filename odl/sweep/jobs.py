"""One point of a sweep as a value: what it takes and what it gives are plain data, and no file is shared.

So it does not matter where it runs: in this process, in one of a pool, or on another machine. The client alone writes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from odl import api
from odl.errors import OdlError, Problem, ToolError
from odl.program import ARENA
from odl.project import MARKER, MODEL, WEIGHTS
from odl.recipe import Recipe
from odl.saved import save_run
from odl.staging import scratch
from odl.tuning import tuning_from_json
from odl.version import VERSION

SWEEP = "sweep"  # the part of a run folder's odl.json that a sweep adds

Result = dict[str, Any]


@dataclass(frozen=True)
class File:
    """A file's bytes under the name that messages call it."""

    name: str
    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Inputs:
    """What all jobs of a sweep share. `model` has its external data inside; `model_sha256` is the user's file's.
    `fix_batch`: a batch that it leaves open is 1."""

    model: File
    model_sha256: str
    data: File
    test: File
    fix_batch: bool = False


@dataclass(frozen=True)
class Job:
    """One point: compiled for `target`, trained for `steps` samples `on` a simulator (empty: the target's own) or
    numpy, and evaluated before and after.

    `recipe` has every word; `tuning` is as JSON. `made_from` is the hash of all that decides the result.
    """

    name: str
    target: str
    ram_bytes: int
    recipe: Mapping[str, Any]
    tuning: Mapping[str, Any]
    steps: int
    on: str
    made_from: str
    timeout_s: float = 120.0
    version: str = VERSION


@dataclass(frozen=True)
class Outcome:
    """Of a job: the files of its run folder by name, or `refused`: an exit code and problems, as JSON has them."""

    name: str
    files: Mapping[str, bytes]
    refused: Result | None = None


def made_from(inputs: Inputs, **settings: Any) -> str:
    """A hash of inputs and settings: equal ones give equal bits."""
    hashes = {"model": inputs.model_sha256, "data": inputs.data.sha256, "test": inputs.test.sha256}
    about = {"odl": VERSION, **hashes, **settings}
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def work(inputs: Inputs, job: Job) -> Outcome:
    """Do a job. A refusal is a result; what is raised is a bug, or a signal."""
    if job.version != VERSION:  # of a worker that came after the others were asked
        return Outcome(job.name, {}, refusal(other_version("a worker", VERSION, job.version)))
    with scratch() as folder:
        try:
            return Outcome(job.name, _run_folder(inputs, job, folder))
        except OdlError as error:
            return Outcome(job.name, {}, refusal(error, f"{folder}/"))


def other_version(where: str, version: str, wanted: str) -> ToolError:
    hint = "install the same odl wherever a job may run"
    return ToolError("worker-version", where, f"has odl {version}, this is {wanted}", hint)


def refusal(error: OdlError, place: str = "") -> Result:
    """An error as JSON has it, without the names of temporary folders."""
    problems = [asdict(_without(problem, place)) for problem in error.problems]
    return {"exit_code": int(error.exit_code), "problems": problems}


def _without(problem: Problem, place: str) -> Problem:
    if not place:
        return problem
    where, why, hint = (text.replace(place, "") for text in (problem.where, problem.why, problem.hint))
    return replace(problem, where=where, why=why, hint=hint)


def _run_folder(inputs: Inputs, job: Job, place: Path) -> dict[str, bytes]:
    """The files of the folder that `odl run -o` would leave, with what a sweep adds."""
    model, data, test = (
        _put(place / folder, file)
        for folder, file in (("model", inputs.model), ("data", inputs.data), ("test", inputs.test))
    )
    tuning = tuning_from_json(job.tuning, {})
    compiled = api.compile_model(
        model, Recipe(**job.recipe), job.target, tuning, job.ram_bytes, fix_batch=inputs.fix_batch
    )
    before = api.evaluate(compiled, test)
    run = api.train(compiled, data, job.steps, job.on, timeout_s=job.timeout_s)
    after = api.evaluate(compiled, test, run.weights)
    more: dict[str, Any] = {
        "data": inputs.data.name, "data_sha256": inputs.data.sha256, "walked": job.steps, "continued": False,
        "model_sha256": inputs.model_sha256,
    }  # fmt: skip
    swept = {
        "made_from": job.made_from, "test": inputs.test.name, "test_sha256": inputs.test.sha256,
        "before": before, "after": after, "ram_bytes": compiled.plan.n_bytes[ARENA] + compiled.target.stack_bytes,
    }  # fmt: skip
    folder = place / "run"
    save_run(run, folder, None, **more, **{SWEEP: swept})
    return {name: (folder / name).read_bytes() for name in (MARKER, MODEL, WEIGHTS)}


def _put(folder: Path, file: File) -> Path:
    folder.mkdir()
    path = folder / (Path(file.name).name or "file")
    path.write_bytes(file.content)
    return path
