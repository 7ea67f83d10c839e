"""python -m benchmarks: measure, print a table, write benchmarks/results.json and docs/BENCHMARKS.md.

Measured are MLPerf Tiny's ResNet8 and DS-CNN where they are (`$ODL_REAL`, or a folder `shared` beside the checkout),
and else the examples' own. What is required is told beside the numbers, and fails nothing.
"""

from __future__ import annotations

import json
import sys

from benchmarks import report, tool_speed
from benchmarks.measure import made_on, measured
from benchmarks.models import ROOT, chosen

SCHEMA = 1


def main() -> None:
    models = []
    for name, subject in chosen().items():
        print(f"measuring {subject.title}", file=sys.stderr)
        models.append(measured(name, subject))
    results = {"schema_version": SCHEMA, "made_on": made_on(), "models": models}
    (ROOT / "benchmarks/results.json").write_text(json.dumps(results, indent=1) + "\n")
    (ROOT / "docs/BENCHMARKS.md").write_text(report.page(results) + tool_speed.section())
    print(report.text(results))


if __name__ == "__main__":
    main()
