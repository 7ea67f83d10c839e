"""python -m campaigns.powercut_report: all of campaigns/powercut.py, on the host and in simulators.

Prints a table, and writes campaigns/powercut.json and its part of docs/RELIABILITY.md.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.models import ROOT
from benchmarks.pages import fill
from benchmarks.report import markdown
from campaigns.powercut import Outcome, every_cut, flipped_bits, last_operation, storms, worn_sectors
from campaigns.subjects import on_flash, tiny
from odl.targets.pulp import find_gvsoc
from odl.version import VERSION
from odl.wire import Flash

# Flashes by what they program at once, with sectors that make more than one of a slot where that is small.
GEOMETRIES = {
    "words of 4 bytes": Flash(0, 128, 4),
    "double words of 8 bytes": Flash(0, 256, 8),
    "lines of 32 bytes": Flash(0, 1024, 32),
    "pages of 256 bytes": Flash(0, 4096, 256),
}
SIMULATED = {
    "qemu-zhinx": ("qemu-zhinx", "qemu"), "qemu-zfh": ("qemu-zfh", "qemu"), "pulp-open in QEMU": ("pulp-open", "qemu"),
}  # fmt: skip
N_STORMS, N_SAMPLED, N_SAMPLED_SLOWLY = 100, 60, 8

Result = dict[str, Any]


def results() -> Iterator[Result]:
    """One a place, a flash and a kind of harm."""
    with tiny("host") as (compiled, smallest):
        for name, flash in GEOMETRIES.items():
            subject = on_flash(smallest, compiled, flash)
            yield told("host", name, "every cut", every_cut(subject))
            yield told("host", name, f"{N_STORMS} storms", storms(subject, N_STORMS))
            yield told("host", name, "worn sectors", worn_sectors(subject))
        yield told("host", "words of 4 bytes", "every bit flipped", flipped_bits(smallest))
    for place, (target, on) in SIMULATED.items():
        yield sampled(place, target, on, N_SAMPLED)
    if find_gvsoc():
        yield sampled("pulp-open in GVSoC", "pulp-open", "gvsoc", N_SAMPLED_SLOWLY)


def sampled(place: str, target: str, on: str, n: int) -> Result:
    """Cuts of every kind at `n` operations that chance chooses."""
    with tiny(target, on) as (_, subject):
        chosen = random.Random(0).sample(range(1, last_operation(subject) + 1), n)
        return told(place, "words of 4 bytes", f"cuts at {n} operations", every_cut(subject, operations=chosen))


def told(place: str, flash: str, harm: str, outcome: Outcome) -> Result:
    resumed = {str(steps): n for steps, n in sorted(outcome.resumed.items())}
    found = {"place": place, "flash": flash, "harm": harm, **vars(outcome), "resumed": resumed}
    print(f"{place}, {flash}, {harm}: {outcome.tried:,} tried, {len(outcome.lost)} lost", file=sys.stderr)
    return found


def page(measured: list[Result]) -> str:
    """The table, in Markdown."""
    header = ["where", "flash", "what was done", "runs", "ended with other bits"]
    rows = [[r["place"], r["flash"], r["harm"], f"{r['tried']:,}", f"{len(r['lost']):,}"] for r in measured]
    total = sum(r["tried"] for r in measured)
    lost = sum(len(r["lost"]) for r in measured)
    return markdown(header, [*rows, ["all", "", "", f"{total:,}", f"{lost:,}"]])


def main(write: Callable[[str, str, str], None] = fill) -> None:
    measured = list(results())
    found = {"schema_version": 1, "odl_version": VERSION, "results": measured}
    (ROOT / "campaigns/powercut.json").write_text(json.dumps(found, indent=1) + "\n")
    table = page(measured)
    write("docs/RELIABILITY.md", "power cuts", table)
    print(table)
    sys.exit(any(result["lost"] for result in measured))


if __name__ == "__main__":
    main()
