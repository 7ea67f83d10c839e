"""python -m campaigns.hostile: inputs that nobody should send, thousands of each kind, each in a bounded sandbox.

Prints a table, and writes campaigns/hostile.json and its part of docs/RELIABILITY.md when it runs as `make fuzz` has it.
Ends with an error if any input did anything but succeed or be refused with a code. The same seed gives the same inputs.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.models import ROOT
from benchmarks.pages import fill
from benchmarks.report import markdown
from campaigns.hostile_kinds import KINDS, Kind
from campaigns.hostile_sandbox import ACCEPTED, BYTES, FAILED, REFUSED, SECONDS, drawn
from odl.version import VERSION

COMMAND = ["-m", "campaigns.hostile_sandbox"]
_SILENCE_S = 3 * SECONDS + 60  # of the sandbox: it stops what it can, and native code cannot be stopped from inside
_MOST_KEPT = 50  # failures that are told


@dataclass
class Outcome:
    """What became of the inputs of a kind: how many were accepted, refused (with which codes) and failed (a sentence
    each); the seconds that the slowest took, and all; the most memory that the process held."""

    tried: int = 0
    accepted: int = 0
    refused: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    failed: dict[int, str] = field(default_factory=dict)
    slowest: float = 0.0
    seconds: float = 0.0
    most_mib: int = 0

    def add(self, told: dict[str, Any]) -> None:
        self.tried += 1
        self.accepted += told["outcome"] == ACCEPTED
        self.refused += told["outcome"] == REFUSED
        self.slowest = max(self.slowest, told["seconds"])
        self.codes.update(told["codes"])
        if told["outcome"] == FAILED:
            self.failed[told["number"]] = told["why"]


def told_by(kind: str, *wishes: object) -> Iterator[dict[str, Any]]:
    """What a sandbox says, line by line; where it dies or falls silent, the verdict on the case that it was at."""
    command = [sys.executable, *COMMAND, kind, *map(str, wishes)]
    here = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    with subprocess.Popen(command, cwd=ROOT, env=here, stdout=subprocess.PIPE, text=True, bufsize=1) as child:
        assert child.stdout
        under_way: int | None = None
        for line in _lines(child):
            told = json.loads(line)
            under_way = told["begins"] if "begins" in told else None
            yield told
        ended = _is_over(child)
        status = child.wait()
        if under_way is not None:
            how = f"silent for {_SILENCE_S} s" if not ended else f"ended with status {status}"
            yield {"number": under_way, "outcome": FAILED, "codes": (), "why": how, "seconds": 0.0}
        elif status:
            raise RuntimeError(f"the sandbox of {kind} ended with {status}")


def _is_over(child: subprocess.Popen[str]) -> bool:
    """Whether the child ends by itself, now that it says nothing more; else it is killed."""
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        child.kill()
        return False
    return True


def _lines(child: subprocess.Popen[str]) -> Iterator[str]:
    """The lines of a child's output, as long as it is not silent for too long."""
    assert child.stdout
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while selector.select(_SILENCE_S):
            line = child.stdout.readline()
            if not line:
                return
            yield line


def tried(kind: str, seed: int, cases: int, keep: Path | None = None) -> Outcome:
    """`cases` inputs of a kind, drawn from `seed`. Failing ones are written into the folder `keep`."""
    outcome, first, started = Outcome(), 0, time.monotonic()
    while first < cases:
        for told in told_by(kind, "--seed", seed, "--first", first, "--cases", cases):
            if "outcome" in told:
                outcome.add(told)
                first = told["number"] + 1
            outcome.most_mib = max(outcome.most_mib, told.get("most_kib", 0) // 1024)
    outcome.seconds = round(time.monotonic() - started, 1)
    for number, why in list(outcome.failed.items())[:_MOST_KEPT]:
        print(f"{kind} {number}: {why}", file=sys.stderr)
        if keep:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{kind}-{seed}-{number}").write_bytes(drawn(KINDS[kind], seed, number))
    return outcome


def replayed(kind: str, files: Sequence[Path]) -> list[tuple[str, tuple[str, ...], str]]:
    """(outcome, codes, why) of each of these inputs."""
    found: list[tuple[str, tuple[str, ...], str]] = []
    while len(found) < len(files):
        for told in told_by(kind, "--first", len(found), "--files", *files):
            if "outcome" in told:
                found.append((told["outcome"], tuple(told["codes"]), told["why"]))
    return found


# --- the campaign -----------------------------------------------------------------------------------------------------

Result = dict[str, Any]


def result(kind: Kind, outcome: Outcome) -> Result:
    told = {**vars(outcome), "codes": dict(sorted(outcome.codes.items())), "failed": outcome.failed}
    per_second = round(outcome.tried / max(outcome.seconds, 0.1), 1)
    return {"kind": kind.name, "what": kind.what, **told, "per_second": per_second}


def page(measured: Sequence[Result]) -> str:
    """The table, in Markdown."""
    header = ["what", "tried", "accepted", "refused", "codes met", "longest, s", "failed"]
    rows = [
        [r["what"], *(f"{r[key]:,}" for key in ("tried", "accepted", "refused")), str(len(r["codes"])),
         f"{r['slowest']:.1f}", f"{len(r['failed']):,}"]
        for r in measured
    ]  # fmt: skip
    sums = [f"{sum(r[key] for r in measured):,}" for key in ("tried", "accepted", "refused")]
    codes = {code for r in measured for code in r["codes"]}
    longest, failed = max(r["slowest"] for r in measured), sum(len(r["failed"]) for r in measured)
    return markdown(header, [*rows, ["all", *sums, str(len(codes)), f"{longest:.1f}", f"{failed:,}"]])


def main(write: Callable[[str, str, str], None] = fill) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=0, help="of each kind; 0: as many as each kind has in a campaign")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--keep", type=Path, help="a folder for inputs that fail")
    wishes = parser.parse_args()
    measured = []
    for name in wishes.kinds:
        outcome = tried(name, wishes.seed, wishes.cases or KINDS[name].cases, wishes.keep)
        measured.append(result(KINDS[name], outcome))
        print(f"{name}: {outcome.tried:,} tried, {len(outcome.failed)} failed", file=sys.stderr)
    if not wishes.cases:
        keep(measured, wishes.seed, write)
    print(page(measured))
    sys.exit(any(each["failed"] for each in measured))


def keep(measured: Sequence[Result], seed: int, write: Callable[[str, str, str], None]) -> None:
    """Into campaigns/hostile.json, and on the page when all kinds are there; of kinds not tried now, what was known."""
    path = ROOT / "campaigns/hostile.json"
    known = json.loads(path.read_text())["results"] if path.exists() else []
    every = {each["kind"]: each for each in (*known, *measured)}
    results = [every[name] for name in KINDS if name in every]
    bounds = {"seconds": SECONDS, "bytes": BYTES}
    found = {"schema_version": 1, "odl_version": VERSION, "seed": seed, "bounds": bounds, "results": results}
    path.write_text(json.dumps(found, indent=1) + "\n")
    if len(results) == len(KINDS):
        write("docs/RELIABILITY.md", "hostile inputs", page(results))


if __name__ == "__main__":
    main()
