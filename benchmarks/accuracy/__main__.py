"""python -m benchmarks.accuracy: train in binary16 and in binary32 on real data, print what is reached.

Without words it measures all tasks with three seeds and writes benchmarks/accuracy.json, benchmarks/continual.json and
docs/ACCURACY_BENCHMARKS.md; with `continual` alone, what is of that. With names of other tasks (`images`, `keywords`,
`speakers`), which are then the only ones, or with `--quick`, which takes one seed, one case a task, few steps and few
test samples, it prints alone. What was trained stays in build/accuracy, so that a run that broke off goes on. Real
models and data are where `$ODL_REAL` says, or in a folder `shared` beside the checkout: models/ and data/.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from benchmarks.accuracy import continual, report
from benchmarks.accuracy.measure import Measuring, measured
from benchmarks.accuracy.task import SHARED, tasks
from benchmarks.models import ROOT

RESULTS = ROOT / "benchmarks/accuracy.json"


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    known = {**tasks(), continual.TASK.key: continual.TASK}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("task", nargs="*", choices=[*known, []], help="all of them if none is named")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    wanted = [known[key] for key in arguments.task or known]
    present = [task for task in wanted if not task.missing()]
    for task in wanted:
        for name in task.missing():
            tell(f"{task.key}: {SHARED / name} is not here; set ODL_REAL to a folder with models/ and data/")
    if not present:
        sys.exit("nothing can be measured")
    how = Measuring.quick() if arguments.quick else Measuring()
    learned = [task for task in present if task is not continual.TASK]
    results = measured(learned, how, tell)
    print(report.text(results))
    more = continual.measured(how.seeds, how.jobs, tell) if continual.TASK in present else None
    if more:
        print(continual.text(more))
    if not arguments.quick:
        keep(results if learned == list(tasks().values()) else None, more)


def keep(results: dict[str, Any] | None, more: dict[str, Any] | None) -> None:
    """Writes what was measured whole, and the page of it and of what was measured before."""
    for path, found in ((RESULTS, results), (continual.RESULTS, more)):
        if found:
            path.write_text(json.dumps(found, indent=1) + "\n")
    if RESULTS.exists():
        further = continual.read()
        page = report.page(json.loads(RESULTS.read_text()), continual.section(further) if further else "")
        (ROOT / "docs/ACCURACY_BENCHMARKS.md").write_text(page)


if __name__ == "__main__":
    main()
