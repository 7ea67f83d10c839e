"""From tasks to numbers: which trainings are needed, and what they say together."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from multiprocessing import get_context
from typing import Any

from benchmarks.accuracy.float32 import twin
from benchmarks.accuracy.jobs import FLOAT32, HALF, WORKERS, Job, Jobs, Result
from benchmarks.accuracy.task import Case, Task
from benchmarks.accuracy.variants import Plan, plans
from odl.version import VERSION

SCHEMA = 1
SEEDS = (0, 1, 2)
_QUICK_TEST = 100

# The counts that an engine may tell of a training, added up over seeds and cases.
COUNTS = ("updates", "lost_updates", "skipped_steps")


@dataclass(frozen=True)
class Measuring:
    """How much of it is measured, and where results lie."""

    seeds: tuple[int, ...] = SEEDS
    n_test: int | None = None
    is_quick: bool = False
    jobs: Jobs = field(default_factory=Jobs)

    @classmethod
    def quick(cls) -> Measuring:
        return cls(seeds=SEEDS[:1], n_test=_QUICK_TEST, is_quick=True)

    def cases(self, task: Task) -> tuple[str, ...]:
        return task.cases[:1] if self.is_quick else task.cases

    def steps(self, task: Task) -> int:
        return task.quick_steps if self.is_quick else task.steps


@dataclass(frozen=True)
class Prepared:
    """A task with its cases on disk and its variants as they will run."""

    task: Task
    cases: tuple[Case, ...]
    plans: tuple[Plan, ...]
    how: Measuring

    def before(self, engine: str) -> Iterator[Job]:
        """One a case: what the network can do untrained."""
        for case in self.cases:
            yield Job(engine, case, {}, 0, self.how.n_test)

    def trainings(self, plan: Plan, engine: str, seed: int) -> Iterator[Job]:
        """One a case."""
        changes = {**(twin(plan.changes) if engine == FLOAT32 else plan.changes), "seed": seed}
        for case in self.cases:
            yield Job(engine, case, changes, self.how.steps(self.task), self.how.n_test)

    def all(self) -> Iterator[Job]:
        for engine in (FLOAT32, HALF):
            yield from self.before(engine)
            for plan in self.plans:
                if not plan.skipped:
                    for seed in self.how.seeds:
                        yield from self.trainings(plan, engine, seed)


def measured(wanted: Sequence[Task], how: Measuring, tell: Callable[[str], None]) -> Result:
    """Train everything that is not trained yet; the whole of benchmarks/accuracy.json."""
    prepared = [_prepare(task, how, tell) for task in wanted]
    how.jobs.run([job for each in prepared for job in each.all()], tell)
    return {
        "schema_version": SCHEMA,
        "made_on": made_on(),
        "seeds": list(how.seeds),
        "quick": how.is_quick,
        "tasks": [_task(each) for each in prepared],
    }


def made_on() -> dict[str, str]:
    """What the numbers depend on: binary16's on odl alone, whatever the machine."""
    packages = ", ".join(f"{name} {version(package)}" for name, package in (("NumPy", "numpy"), ("ONNX", "onnx")))
    return {"odl": VERSION, "PyTorch": version("torch"), "Python": f"{platform.python_version()}, {packages}"}


def _prepare(task: Task, how: Measuring, tell: Callable[[str], None]) -> Prepared:
    tell(f"{task.key}: models and samples")
    names = how.cases(task)
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        cases = tuple(pool.map(_write, [task.key] * len(names), names))
    steps = how.steps(task)
    batch = task.recipe.get("batch", 1)
    assert steps % batch == 0, f"{task.key}: the last of {steps} samples are in no whole batch of {batch}"
    chosen = tuple(plans(task, cases[0].model, steps))
    for plan in chosen:
        if plan.skipped:
            tell(f"{task.key}, {plan.variant.key}: skipped, {plan.skipped}")
    return Prepared(task, cases, chosen, how)


def _write(key: str, name: str) -> Case:
    from benchmarks.accuracy.task import tasks

    return tasks()[key].prepare(name)


def _task(prepared: Prepared) -> Result:
    task, how = prepared.task, prepared.how
    return {
        "task": task.key,
        "title": task.title,
        "about": task.about,
        "cases": [case.name for case in prepared.cases],
        "steps": how.steps(task),
        "before": {engine: _over_cases(prepared, prepared.before(engine)) for engine in (FLOAT32, HALF)},
        "variants": [_variant(prepared, plan) for plan in prepared.plans],
    }


def _variant(prepared: Prepared, plan: Plan) -> Result:
    said = {"variant": plan.variant.key, "title": plan.variant.title, "recipe": dict(plan.changes)}
    if plan.skipped:
        return {**said, "skipped": plan.skipped}
    how = prepared.how
    found = {engine: [list(prepared.trainings(plan, engine, seed)) for seed in how.seeds] for engine in (FLOAT32, HALF)}
    accuracies = {engine: spread([_over_cases(prepared, jobs) for jobs in seeds]) for engine, seeds in found.items()}
    results = [how.jobs.result(job) for jobs in found[HALF] for job in jobs]
    ram = {name: results[0][name] for name in ("arena_bytes", "persistent_bytes")}
    counts = {name: sum(each[name] for each in results) for name in COUNTS if all(name in each for each in results)}
    points = 100 * (accuracies[HALF]["mean"] - accuracies[FLOAT32]["mean"])
    return {**said, **accuracies, "difference_points": round(points, 3), **ram, **counts}


def _over_cases(prepared: Prepared, jobs: Iterator[Job] | Sequence[Job]) -> Result:
    """The accuracy of each case, and their mean."""
    each = {job.case.name: prepared.how.jobs.result(job)["accuracy"] for job in jobs}
    return {"mean": sum(each.values()) / len(each), "cases": each}


def spread(seeds: Sequence[Result]) -> Result:
    """Mean, least and most over the seeds; all of them in order."""
    means = [seed["mean"] for seed in seeds]
    return {"mean": sum(means) / len(means), "least": min(means), "most": max(means), "seeds": list(seeds)}


def best(variants: Sequence[dict[str, Any]], keys: Sequence[str]) -> dict[str, Any] | None:
    """The measured variant among `keys` whose binary16 comes closest to its binary32, or goes furthest beyond."""
    known = [each for each in variants if each["variant"] in keys and "skipped" not in each]
    return max(known, key=lambda each: each["difference_points"], default=None)
