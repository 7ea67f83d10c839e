"""python -m campaigns.conformance_report: all of campaigns/conformance.py, on NumPy's executor and in C on the host.

Prints a table, and writes campaigns/conformance.json, docs/CONFORMANCE.md and their parts of README.md and
docs/RELIABILITY.md.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from benchmarks.models import ROOT
from benchmarks.pages import fill
from benchmarks.report import markdown
from campaigns.conformance import Result, result, same_bits_in_c
from campaigns.onnx_cases import KINDS, LOSSES, UPDATES, OnnxCase, select
from odl.version import VERSION

RESULTS = "campaigns/conformance.json"
PAGE = "docs/CONFORMANCE.md"
WIDE = 0.25  # a bound that is such a share of the numbers says little

Found = dict[str, Any]  # what conformance.json holds
Row = dict[str, Any]  # one case of it

_PAGE = """\
<!-- Made by `make conformance` from campaigns/conformance.json; do not edit. -->

# ONNX's backend tests

{headline}
Each case is compiled as a user would compile it, after what `campaigns/onnx_models.py` does to make one input and one
sample of it, of which ONNX's own evaluator must compute the same. The bound of each number follows from the roundings
to binary16 that lie on its way (`campaigns/near.py`). What a recipe says instead of an operator, the losses and the
optimizers, is trained (`campaigns/onnx_training.py`). `tests/test_conformance.py` runs every case again on NumPy's
executor, and compares with this table both ways.

{wide}
## Left out

Of the {n_all:,} cases that the package holds and that need no download, these do not concern odl, by the first
reason that holds: {left_out}.

## By operator

{operators}
## What is refused

The codes are those of [RELIABILITY.md](RELIABILITY.md#codes). `no-recipe-word` is the campaign's own: no recipe says
what the case asks for.

{refused}"""

_WIDE = """\
Of the cases that pass, {count} say little: {names}. Their
inputs are neighbours that binary16 cannot tell apart, and the bound says so: it is a quarter of the numbers and more.
"""


def run(cases: Sequence[OnnxCase]) -> list[Result]:
    return [result(case) for case in cases]


def in_c(cases: Iterable[OnnxCase]) -> list[str]:
    """The names of cases of which the generated C computes other bits."""
    chosen = list(cases)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [case.name for case, same in zip(chosen, pool.map(same_bits_in_c, chosen), strict=True) if not same]


def measured() -> Found:
    cases, left_out = select()
    results = run(cases)
    passed = {each.name for each in results if each.verdict == "passed"}
    compiled = [case for case in cases if case.name in passed]
    return {
        "schema_version": 1, "odl_version": VERSION, "onnx_version": onnx.__version__,
        "left_out": dict(sorted(left_out.items())), "compiled": len(compiled), "other_bits": in_c(compiled),
        "cases": [row(each) for each in results],
    }  # fmt: skip


def row(each: Result) -> Row:
    """What is kept of a result: of a refusal its code and reason, else how near it came."""
    kept = ("code", "why") if each.verdict == "refused" else ("worst", "width")
    return {
        name: value for name, value in asdict(each).items() if name in ("name", "kind", "operator", "verdict", *kept)
    }


# --- pages ------------------------------------------------------------------------------------------------------------


def headline(found: Found) -> str:
    """What README.md says."""
    counts = Counter(case["verdict"] for case in found["cases"])
    failed = f", {counts['failed']} fail" if counts["failed"] else ""
    bits = f"all but {len(found['other_bits'])}" if found["other_bits"] else "the same bits"
    return (
        f"Of ONNX's own backend tests (onnx {found['onnx_version']}), {len(found['cases'])} concern odl:\n"
        f"{counts['passed']} pass within the bound that follows from binary16, with {bits} from NumPy and from C; "
        f"{counts['refused']} are refused, each\nwith a code{failed}.\n"
    )


def summary(found: Found) -> str:
    """What docs/RELIABILITY.md says, in Markdown."""
    groups: dict[str, list[Row]] = {name: [] for name in (*_OF_NODES, *_OF_MODELS)}
    for case in found["cases"]:
        groups[_group(case)].append(case)
    rows = [[name, *_counts(cases)] for name, cases in groups.items()]
    return markdown(["cases", "tried", "passed", "refused", "failed"], [*rows, ["all", *_counts(found["cases"])]])


_OF_NODES = ("operators", "losses", "optimizers", "gradients")
_OF_MODELS = tuple(f"models of kind {kind}" for kind in KINDS if kind != "node")


def _group(case: Row) -> str:
    operators = case["operator"].split()
    if "Gradient" in operators:
        return "gradients"
    if case["kind"] != "node":
        return f"models of kind {case['kind']}"
    return "losses" if operators[0] in LOSSES else "optimizers" if operators[0] in UPDATES else "operators"


def _counts(cases: Sequence[Row]) -> list[str]:
    counts = Counter(case["verdict"] for case in cases)
    return [f"{n:,}" for n in (len(cases), counts["passed"], counts["refused"], counts["failed"])]


def page(found: Found) -> str:
    """docs/CONFORMANCE.md."""
    left_out = ", ".join(f"{n:,} by their {reason}" for reason, n in _reasons(found["left_out"]))
    wide = [f"`{case['name']}`" for case in found["cases"] if case.get("width", 0) >= WIDE]
    return _PAGE.format(
        headline=headline(found), left_out=left_out,
        wide=_WIDE.format(count=len(wide), names=" and ".join(wide)) if wide else "",
        n_all=len(found["cases"]) + sum(found["left_out"].values()), operators=_operators(found["cases"]),
        refused=markdown(["case", "operator", "code", "why"], [_refusal(c) for c in found["cases"] if c.get("code")]),
    )  # fmt: skip


def _reasons(left_out: dict[str, int]) -> list[tuple[str, int]]:
    words = {"more than one node": "number of nodes", "operator": "operators", "type": "types", "rank": "rank"}
    return [(words[reason], n) for reason, n in left_out.items()]


def _operators(cases: Sequence[Row]) -> str:
    groups: dict[str, list[Row]] = {}
    for case in cases:
        groups.setdefault(case["operator"] if " " not in case["operator"] else "several", []).append(case)
    rows = []
    for name in sorted(groups, key=lambda name: (name == "several", name)):
        codes = Counter(case["code"] for case in groups[name] if case.get("code"))
        told = ", ".join(f"{n} `{code}`" for code, n in sorted(codes.items()))
        rows.append([name, *_counts(groups[name])[:2], told])
    return markdown(["operator", "cases", "passed", "refused"], rows)


def _refusal(case: Row) -> list[str]:
    return [f"`{case['name']}`", case["operator"], f"`{case['code']}`", case["why"].replace("|", "\\|")]


def main(write: Callable[[str, str, str], None] = fill) -> None:
    found = measured()
    Path(ROOT, RESULTS).write_text(json.dumps(found, indent=1) + "\n")
    Path(ROOT, PAGE).write_text(page(found))
    write("docs/RELIABILITY.md", "onnx cases", summary(found))
    write("README.md", "onnx cases", headline(found))
    print(summary(found))
    wrong = [case["name"] for case in found["cases"] if case["verdict"] == "failed"]
    if wrong or found["other_bits"]:
        sys.exit(f"beyond the bound: {wrong}; other bits in C: {found['other_bits']}")


if __name__ == "__main__":
    main()
