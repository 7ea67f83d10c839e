"""python -m benchmarks.accuracy: train in binary16 and in binary32 on real data, print what is reached.

Without words it measures all tasks with three seeds and writes benchmarks/accuracy.json and
docs/ACCURACY_BENCHMARKS.md. With names of tasks (`images`, `keywords`, `speakers`), which are then the only ones, or
with `--quick`, which takes one seed, one case a task, few steps and few test samples, it prints alone. What was trained
stays in build/accuracy, so that a run that broke off goes on. Real models and data are where `$ODL_REAL` says, or in a
folder `shared` beside the checkout: models/ and data/.
"""

from __future__ import annotations

import argparse
import json
import sys

from benchmarks.accuracy import report
from benchmarks.accuracy.measure import Measuring, measured
from benchmarks.accuracy.task import SHARED, tasks
from benchmarks.models import ROOT


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    known = tasks()
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
    results = measured(present, Measuring.quick() if arguments.quick else Measuring(), tell)
    if not arguments.quick and present == list(known.values()):
        (ROOT / "benchmarks/accuracy.json").write_text(json.dumps(results, indent=1) + "\n")
        (ROOT / "docs/ACCURACY_BENCHMARKS.md").write_text(report.page(results))
    print(report.text(results))


if __name__ == "__main__":
    main()
