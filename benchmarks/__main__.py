"""python -m benchmarks: measure, print a table, write benchmarks/results.json and docs/BENCHMARKS.md.

Measured are MLPerf Tiny's ResNet8 and DS-CNN where they are (`$ODL_REAL`, or a folder `shared` beside the checkout),
and else the examples' own. What is required is told beside the numbers, and fails nothing.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from pathlib import Path

import numpy as np

from benchmarks import report
from benchmarks.measure import compilers, measured
from benchmarks.models import ROOT, chosen
from odl.targets.qemu import find_qemu, qemu_version
from odl.version import VERSION

SCHEMA = 1


def made_on() -> dict[str, str]:
    """What the seconds depend on, and the compilers that the counts depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.M) if cpuinfo.exists() else None
    qemu = find_qemu()
    return {
        "odl": VERSION,
        "compilers": ", ".join(compilers()),
        "QEMU": ".".join(map(str, qemu_version(qemu))) if qemu else "",
        "processor": f"{found[1] if found else platform.machine()}, {os.cpu_count()} cores",
        "Python": f"{platform.python_version()}, NumPy {np.__version__}",
    }


def main() -> None:
    from benchmarks import tool_speed  # which tells what it was made on by what stands above

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
