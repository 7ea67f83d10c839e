"""python -m campaigns.hostile: inputs that nobody should send, thousands of each kind, each in a bounded sandbox.

Prints tables, and writes campaigns/hostile.json and its parts of docs/RELIABILITY.md, unless --cases says how many.
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
from campaigns.blowups import BLOWUPS, measured
from campaigns.hostile_kinds import KINDS, Kind
from campaigns.hostile_sandbox import ACCEPTED, BYTES, FAILED, REFUSED, SECONDS, drawn
from odl.version import VERSION

COMMAND = ["-m", "campaigns.hostile_sandbox"]
_SILENCE_S = 3 * SECONDS + 60  # of the sandbox: it stops what it can, and native code cannot be stopped from inside
_MOST_KEPT = 50  # failures that are told
BOUNDS = "blow-ups"


@dataclass
class Outcome:
    """What became of the inputs of a kind: how many were accepted, refused (with which codes) and failed (a sentence
    each); how long all took; the most memory that the process held."""

    tried: int = 0
    accepted: int = 0
    refused: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    failed: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0
    most_mib: int = 0

    def add(self, told: dict[str, Any]) -> None:
        self.tried += 1
        self.accepted += told["outcome"] == ACCEPTED
        self.refused += told["outcome"] == REFUSED
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
            under_way = told.get("begins")
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


def page(found: Sequence[Result]) -> str:
    """The table, in Markdown."""
    header = ["what", "tried", "accepted", "refused", "codes met", "failed"]
    rows = [
        [r["what"], *(f"{r[key]:,}" for key in ("tried", "accepted", "refused")), str(len(r["codes"])),
         f"{len(r['failed']):,}"]
        for r in found
    ]  # fmt: skip
    sums = [f"{sum(r[key] for r in found):,}" for key in ("tried", "accepted", "refused")]
    codes = {code for r in found for code in r["codes"]}
    failed = sum(len(r["failed"]) for r in found)
    return markdown(header, [*rows, ["all", *sums, str(len(codes)), f"{failed:,}"]])


def bounds_page(aimed: Sequence[Result]) -> str:
    """The table of models that aim at time or memory."""
    header = ["model", "for", "ended", "s", "MiB"]
    rows = [
        [r["what"], r["target"], "compiled" if r["ended"] == "compiled" else f"`{r['ended']}`", f"{r['seconds']:.1f}",
         f"{r['mib']:,}"]
        for r in aimed
    ]  # fmt: skip
    return markdown(header, rows)


def main(write: Callable[[str, str, str], None] = fill) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=0, help="of each kind; 0: as many as each kind has in a campaign")
    parser.add_argument("--kinds", nargs="*", default=[*KINDS, BOUNDS], choices=[*KINDS, BOUNDS])
    parser.add_argument("--keep", type=Path, help="a folder for inputs that fail")
    wishes = parser.parse_args()
    found = []
    for name in (name for name in wishes.kinds if name in KINDS):
        outcome = tried(name, wishes.seed, wishes.cases or KINDS[name].cases, wishes.keep)
        found.append(result(KINDS[name], outcome))
        print(f"{name}: {outcome.tried:,} tried, {len(outcome.failed)} failed", file=sys.stderr)
        if not wishes.cases:
            keep(found[-1:], [], wishes.seed, write)
    aimed = [measured(name) for name in BLOWUPS] if BOUNDS in wishes.kinds else []
    beyond = [each for each in aimed if not each["within"]]
    for each in beyond:
        print(f"{each['name']}: {each['ended']}", file=sys.stderr)
    if found:
        print(page(found))
    if aimed and not beyond:
        print(bounds_page(aimed))
    if aimed and not wishes.cases and not beyond:
        keep([], aimed, wishes.seed, write)
    sys.exit(bool(beyond) or any(each["failed"] for each in found))


def keep(found: Sequence[Result], aimed: Sequence[Result], seed: int, write: Callable[[str, str, str], None]) -> None:
    """Into campaigns/hostile.json, and on the page what is whole; of what was not tried now, what was known."""
    path = ROOT / "campaigns/hostile.json"
    known: Result = json.loads(path.read_text()) if path.exists() else {"results": [], "blowups": []}
    every = {each["kind"]: each for each in (*known["results"], *found)}
    results = [every[name] for name in KINDS if name in every]
    blowups = list(aimed) or known["blowups"]
    case = {"seconds": SECONDS, "bytes": BYTES}
    told = {
        "schema_version": 1,
        "odl_version": VERSION,
        "seed": seed,
        "bounds": case,
        "results": results,
        "blowups": blowups,
    }
    path.write_text(json.dumps(told, indent=1) + "\n")
    if len(results) == len(KINDS):
        write("docs/RELIABILITY.md", "hostile inputs", page(results))
    if blowups:
        write("docs/RELIABILITY.md", "blow-ups", bounds_page(blowups))


if __name__ == "__main__":
    main()
