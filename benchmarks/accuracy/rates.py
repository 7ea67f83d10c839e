"""python -m benchmarks.accuracy.rates: which learning rates the tasks should have, found without their test samples.

In binary32, since its accuracies are what binary16 is held against: of every four samples to learn from the last is
held out, each way to train takes its steps with every rate of RATES on the others, and the rate that is most accurate
on those held out (means over SEEDS and cases; of equals the highest) belongs into the task. Prints alone.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from benchmarks.accuracy.__main__ import tell
from benchmarks.accuracy.float32 import twin
from benchmarks.accuracy.jobs import FLOAT32, Job, Jobs
from benchmarks.accuracy.task import Case, Task, tasks, write_split, written
from benchmarks.accuracy.variants import Plan, plans
from odl.render import table

RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
SEEDS = (0, 1)
_PART = 4
# The ways of a task that differ in binary32: the others round differently alone.
_WAYS = ("stochastic", "lean", "last", "quarter")


def held_out(case: Case) -> Case:
    """The same case without its test samples: of every four that it learns from, the last judges."""

    def write(folder: Path) -> None:
        shutil.copyfile(case.model, folder / case.model.name)
        with np.load(case.train) as arrays:
            x, y = arrays["x"], arrays["y"]
        write_split(folder, x, y, np.arange(len(y)) % _PART < _PART - 1)

    return written(case.name, case.folder.with_name(f"{case.folder.name}-held-out"), write)


def trainings(task: Task, cases: tuple[Case, ...], plan: Plan, lr: float) -> Iterator[Job]:
    for seed in SEEDS:
        for case in cases:
            yield Job(FLOAT32, case, {**twin(plan.changes), "lr": lr, "seed": seed}, task.steps)


def search(task: Task, jobs: Jobs) -> Iterator[tuple[str, ...]]:
    """A row for each way: its accuracy by rate, and the best rate."""
    cases = tuple(held_out(task.prepare(name)) for name in task.cases)
    ways = [plan for plan in plans(task, cases[0].model, task.steps) if plan.variant.key in _WAYS]
    jobs.run([job for plan in ways for lr in RATES for job in trainings(task, cases, plan, lr)], tell)
    for plan in ways:
        accuracies = {
            lr: float(np.mean([jobs.result(job)["accuracy"] for job in trainings(task, cases, plan, lr)]))
            for lr in RATES
        }
        yield plan.variant.title, *(f"{accuracy:.1%}" for accuracy in accuracies.values()), f"{best(accuracies):g}"


def best(accuracies: Mapping[float, float]) -> float:
    return max(accuracies, key=lambda lr: (round(accuracies[lr], 9), lr))


def main() -> None:
    known = tasks()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy.rates", description=__doc__)
    parser.add_argument("task", nargs="*", choices=[*known, []], help="all of them if none is named")
    for key in parser.parse_args().task or known:
        rows = list(search(known[key], Jobs()))
        print(f"{known[key].title}\n{table(('', *(f'{lr:g}' for lr in RATES), 'best'), rows)}\n", flush=True)


if __name__ == "__main__":
    main()
