"""A sweep from its inputs to its result: which points are there already, what runs, what is kept, what it comes to."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odl import api
from odl.autotune import tuning_for
from odl.data import load_data
from odl.errors import ModelError, OdlError, Problem, UsageError
from odl.frontend import Model, load_model
from odl.project import MARKER, MODEL, WEIGHTS, read_origins, sha256
from odl.recipe import Recipe
from odl.staging import staged
from odl.sweep.grid import Point
from odl.sweep.jobs import SWEEP, File, Inputs, Job, Outcome, made_from, refusal
from odl.sweep.pareto import front
from odl.targets import find_target, machine_for
from odl.training import build_training

Result = dict[str, Any]
Listener = Callable[[int, int, Result, bool], None]  # which point, of how many, its row, whether it was there already
Runner = Callable[[Inputs, Sequence[Job]], Iterator[Outcome]]

UNITS = ("cycles", "instructions")  # what only some targets count


@dataclass(frozen=True)
class Sweep:
    """What a sweep does: its inputs, and a job for each point."""

    title: str
    inputs: Inputs
    steps: int
    on: str
    points: tuple[Point, ...]
    jobs: tuple[Job, ...]


def plan(
    model: Path, data: Path, test: Path, points: Sequence[Point], steps: int, on: str = "", timeout_s: float = 120.0,
    tell: Callable[[str], None] = lambda _text: None, fix_batch: bool = False,
) -> Sweep:  # fmt: skip
    """Read all that a sweep needs. Raises what is wrong with the model, with the data, or with `on` for a target; a
    recipe that does not go together, or with this model, is refused when its point is run."""
    loaded = load_model(model, fix_batch=fix_batch)
    for target in {point.target: None for point in points}:
        if on != api.NUMPY:
            machine_for(find_target(target), on)
    _require_data(loaded, points, (data, test))
    inputs = Inputs(
        File(model.name, loaded.proto.SerializeToString()), sha256(model), _file(data), _file(test), fix_batch
    )  # fmt: skip
    jobs = [_job(model, inputs, point, steps, on, timeout_s, tell) for point in points]
    title = loaded.proto.graph.name or model.stem
    return Sweep(title, inputs, steps, on, tuple(points), tuple(jobs))


def _file(path: Path) -> File:
    return File(str(path), path.read_bytes())


def _require_data(model: Model, points: Sequence[Point], files: Sequence[Path]) -> None:
    """That the data are for this model, as a recipe that goes with it asks for them; raises ModelError if not."""
    for point in points:
        try:
            training = build_training(model.graph, Recipe(**point.recipe))
        except OdlError:
            continue
        problems: list[Problem] = []
        for path in files:
            try:
                load_data(path, training)
            except ModelError as error:
                problems += error.problems
        if problems:
            raise ModelError.of(problems)
        return
    for path in files:
        if not path.is_file():
            raise ModelError("data-unreadable", str(path), "there is no such file")


def _job(
    model: Path, inputs: Inputs, point: Point, steps: int, on: str, timeout_s: float, tell: Callable[[str], None]
) -> Job:
    tuning: Mapping[str, Any] = {}
    with suppress(UsageError):  # a recipe that does not go together: its own job says so
        recipe = Recipe(**point.recipe)
        tuning = tuning_for(model, recipe, point.target, tell).as_json()
    settings: dict[str, Any] = {
        "target": point.target, "ram_bytes": point.ram_bytes, "recipe": point.recipe, "tuning": tuning,
        "steps": steps, "on": on,
    }  # fmt: skip
    made = made_from(inputs, **settings)
    return Job(name=f"{point.words}-{made[:8]}", made_from=made, timeout_s=timeout_s, **settings)


def sweep(wanted: Sweep, folder: Path, runner: Runner, listen: Listener = lambda *_: None) -> Result:
    """Run the points that are not in `folder` yet, each into a folder of its own there, and compare all of them.

    What was done before an interruption stays, and is found by the next call.
    """
    points = dict(zip((job.name for job in wanted.jobs), wanted.points, strict=True))
    rows: dict[str, Result] = {}

    def keep(name: str, row: Result, was_there: bool) -> None:
        rows[name] = row
        listen(len(rows), len(points), row, was_there)

    missing = []
    for job in wanted.jobs:
        note, refused = done(folder / job.name, job), _unsound(job)
        if note is not None:
            keep(job.name, _row(job.name, points[job.name], note), True)
        elif refused:
            keep(job.name, _refused_row(job.name, points[job.name], refused), False)
        else:
            missing.append(job)
    with closing(runner(wanted.inputs, missing)) as outcomes:  # type: ignore[type-var]  # iterators here are generators
        for outcome in outcomes:
            if not outcome.refused:
                _write(folder / outcome.name, outcome.files)
            keep(outcome.name, _told(folder, outcome, points[outcome.name]), False)
    return compared(wanted, folder, [rows[name] for name in points])


def done(folder: Path, job: Job) -> Result | None:
    """What the run folder of a job notes, if it is there, whole, and made from the same; else None."""
    try:
        _, note = read_origins(folder)
        with zipfile.ZipFile(folder / WEIGHTS) as archive:
            whole = archive.testzip() is None and (folder / MODEL).is_file()
        return note if whole and note[SWEEP]["made_from"] == job.made_from else None
    except (OdlError, OSError, zipfile.BadZipFile, KeyError, TypeError):
        return None


def _unsound(job: Job) -> Result | None:
    """A recipe that does not go together needs no process to be refused."""
    try:
        Recipe(**job.recipe)
    except UsageError as error:
        return refusal(error)
    return None


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    with staged(folder, MARKER) as inside:
        for name, content in files.items():
            (inside / name).write_bytes(content)


def _told(folder: Path, outcome: Outcome, point: Point) -> Result:
    if outcome.refused:
        return _refused_row(outcome.name, point, outcome.refused)
    return _row(outcome.name, point, read_origins(folder / outcome.name)[1])


# --- what it comes to -------------------------------------------------------------------------------------------------


def _row(name: str, point: Point, note: Mapping[str, Any]) -> Result:
    """What the report tells of a point that was run."""
    swept, step = note[SWEEP], note["per_step"]
    measure = "accuracy" if "accuracy" in swept["after"] else "mean_squared_error"
    return {
        "point": name, "settings": dict(point.chosen), "target": point.target, "on": note["on"], "refused": None,
        "measure": measure, "before": swept["before"][measure], "after": swept["after"][measure],
        "samples": swept["after"]["samples"], "ram_bytes": swept["ram_bytes"], "macs": step["macs"],
        **{unit: step.get(unit) for unit in UNITS},
        "unit": "", "front": False, "diverged": note["updates"]["diverged"],
    }  # fmt: skip


def _refused_row(name: str, point: Point, refused: Result) -> Result:
    words = ("on", "measure", "before", "after", "samples", "ram_bytes", "macs", *UNITS)
    return {
        "point": name, "settings": dict(point.chosen), "target": point.target, "refused": refused,
        **dict.fromkeys(words), "unit": "", "front": False, "diverged": False,
    }  # fmt: skip


def compared(wanted: Sweep, folder: Path, rows: Sequence[Result]) -> Result:
    """`odl sweep` as JSON: the same for the same points, however they were run and whenever."""
    fronts = mark_fronts(rows)
    inputs = wanted.inputs
    return {
        "model": wanted.title,
        "model_sha256": inputs.model_sha256,
        "data": {"file": inputs.data.name, "sha256": inputs.data.sha256},
        "test": {"file": inputs.test.name, "sha256": inputs.test.sha256},
        "steps": wanted.steps,
        "points": list(rows),
        "fronts": fronts,
        "curves": {row["point"]: read_origins(folder / row["point"])[1]["loss"] for row in rows if row["front"]},
    }


def mark_fronts(rows: Sequence[Result]) -> list[Result]:
    """Set the `unit` of each row's cost, and `front`; returns what the fronts are of, and their points.

    Cycles and instructions are different things, and so are an accuracy and an error: there is a front for each pair
    of them. Where a point counts neither, on NumPy or on the host, MACs of a step take their place for all.
    """
    whole = [row for row in rows if not row["refused"]]
    counted = all(any(row[unit] is not None for unit in UNITS) for row in whole)
    groups: dict[tuple[str, str], list[Result]] = {}
    for row in whole:
        row["unit"] = next(unit for unit in UNITS if row[unit] is not None) if counted else "macs"
        groups.setdefault((row["measure"], row["unit"]), []).append(row)
    for group in groups.values():
        for row, is_on_it in zip(group, front([_measured(row) for row in group]), strict=True):
            row["front"] = is_on_it
    return [
        {"measure": measure, "unit": unit, "points": [row["point"] for row in group if row["front"]]}
        for (measure, unit), group in sorted(groups.items())
    ]


def _measured(row: Result) -> tuple[float, float, float]:
    """What is compared; of a run that diverged nothing is."""
    good = float(row["after"]) * (1 if row["measure"] == "accuracy" else -1)
    return (good if not row["diverged"] else float("nan"), float(row["ram_bytes"]), float(row[row["unit"]]))
