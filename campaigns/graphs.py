"""python -m campaigns.graphs: random whole training graphs, each in five ways that must agree in every bit.

Draws networks, recipes and clusters (campaigns/random_training.py) and compares what comes of them
(campaigns/agreement.py), in chunks of CHUNK graphs that a number names, two at a time. What is done stands in
campaigns/graphs.json, and another call goes on behind it: `--graphs` is how many there shall be, `--minutes` when to
stop. Of a graph that differs hypothesis finds a small one, which is kept in build/graphs/<chunk>/ as an ONNX file and a
recipe. Exits with 1 if there was one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import onnx
from hypothesis import HealthCheck, given, seed, settings

from benchmarks.models import ROOT
from benchmarks.pages import fill
from benchmarks.report import markdown
from campaigns.agreement import EQUAL, WAYS, Case, compare
from campaigns.random_training import cases
from odl.recipe_toml import recipe_toml
from odl.version import VERSION

CHUNK, WORKERS = 20, 2
RESULTS, FAILURES = "campaigns/graphs.json", "build/graphs"

Result = dict[str, Any]


def chunk(number: int, n: int = CHUNK) -> Result:
    """So many graphs: how often each way was equal, or refused with which code; and what differed."""
    found: dict[str, Counter[str]] = {way: Counter() for way in WAYS}
    folder = ROOT / FAILURES / str(number)

    @seed(number)
    @settings(max_examples=n, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(cases())
    def agree(case: Case) -> None:
        try:
            ways = compare(case)
        except Exception:
            _keep(case, folder)  # the last one that comes by here is the smallest
            raise
        for way, what in ways.items():
            found[way][what] += 1

    failed = ""
    try:
        agree()
    except Exception as error:  # a refusal of another kind, or a crash, is a failure as well as other bits are
        failed = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return {"ways": {way: dict(words) for way, words in found.items()}, "failed": failed}


def _keep(case: Case, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(case.model, folder / "model.onnx")
    (folder / "recipe.toml").write_text(recipe_toml(case.recipe, f"on {case.cores} cores"))


def campaign(results: Result, n_graphs: int, seconds: float) -> Iterator[Result]:
    """Runs the chunks that are missing in `results`, which grows; yields it after each."""
    end, chunks = time.monotonic() + seconds, results["chunks"]
    todo = (number for number in count(1) if str(number) not in chunks)
    with ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool:
        running: dict[Future[Result], int] = {}
        while True:
            while len(running) < WORKERS and (len(chunks) + len(running)) * CHUNK < n_graphs and time.monotonic() < end:
                number = next(todo)
                running[pool.submit(chunk, number)] = number
            if not running:
                return
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                chunks[str(running.pop(done))] = done.result()
                yield results


def table(results: Result) -> str:
    """Of each way how many graphs were equal, and how many were refused with which code."""
    rows = []
    for way in WAYS:
        words = sum((Counter(each["ways"][way]) for each in results["chunks"].values()), Counter[str]())
        equal = words.pop(EQUAL, 0)
        refused = ", ".join(f"{n:,} `{code}`" for code, n in sorted(words.items()))
        rows.append([way, f"{equal + words.total():,}", f"{equal:,}", refused or "0"])
    failed = sum(bool(each["failed"]) for each in results["chunks"].values())
    return (
        f"{markdown(['way', 'graphs', 'equal in every bit', 'refused'], rows)}\nChunks with a difference: {failed}.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--graphs", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=24 * 60.0)
    asked = parser.parse_args()
    path = ROOT / RESULTS
    results = json.loads(path.read_text()) if path.exists() else {}
    if results.get("odl_version") != VERSION or results.get("chunk") != CHUNK:
        results = {"schema_version": 1, "odl_version": VERSION, "chunk": CHUNK, "chunks": {}}
    for grown in campaign(results, asked.graphs, asked.minutes * 60):
        path.write_text(json.dumps(grown, indent=1) + "\n")
        print(f"{len(grown['chunks']) * CHUNK:,} graphs", file=sys.stderr)
    fill("docs/RELIABILITY.md", "graphs", table(results))
    print(table(results))
    sys.exit(any(each["failed"] for each in results["chunks"].values()))


if __name__ == "__main__":
    main()
