"""python -m benchmarks.tool_speed: how long whole commands take, for benchmarks/tool_speed.json and docs/BENCHMARKS.md.

A command is a process, as a user starts it, with Python's compiled files in place as after any first use. It is started
again until its wall clock comes near the processor's, or often enough: another program's turn is no part of it. The
least of each is told.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.measure import made_on
from benchmarks.models import ROOT, SUBJECTS
from benchmarks.pages import fill
from benchmarks.report import markdown
from odl.render import table
from odl.targets import TARGETS

RESULTS = ROOT / "benchmarks/tool_speed.json"
PAGE, MARK = "docs/BENCHMARKS.md", "tool speed"
SCHEMA = 1
LEAST, MOST = 3, 6  # times that a command is started
NEAR = 1.15  # of the processor's seconds

# What is asked of the tool, on ResNet8, in seconds: whatever the target.
REQUIRED = {"--help": 0.3, "check": 1.0, "plan": 3.0}
MODELS = ("resnet8_cifar10", "digits_resnet8", "words_dscnn")
REQUIRED_OF = MODELS[0]


@dataclass(frozen=True)
class Timed:
    """A command: its least seconds by the wall clock and by the processor, how often it ran, and what is required."""

    command: str
    model: str
    wall_s: float
    cpu_s: float
    runs: int
    required_s: float | None


def commands() -> Iterator[tuple[str, str, Sequence[str]]]:
    """(what the table says, the model's title, arguments)."""
    yield "odl --help", "", ["--help"]
    for name in MODELS:
        subject = SUBJECTS[name]
        if subject.path.exists():
            yield "odl check", subject.title, ["check", str(subject.path)]
            for target in TARGETS:
                yield f"odl plan -t {target}", subject.title, ["plan", str(subject.path), "-t", target]


def once(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """(wall, processor) seconds of one run of odl, which has to end well."""
    began = time.monotonic()
    child = subprocess.Popen([sys.executable, "-m", "odl", *arguments], stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"odl {' '.join(arguments)} ended with {child.returncode}")
    return wall, usage.ru_utime + usage.ru_stime


def timed(
    arguments: Sequence[str], environment: Mapping[str, str], least: int = LEAST, most: int = MOST
) -> list[float]:
    """[wall, processor seconds, runs]: the least of each."""
    once(arguments, environment)  # compiles what Python keeps compiled
    runs: list[tuple[float, float]] = []
    while len(runs) < least or (len(runs) < most and min(w for w, _ in runs) > NEAR * min(c for _, c in runs)):
        runs.append(once(arguments, environment))
    return [min(wall for wall, _ in runs), min(cpu for _, cpu in runs), len(runs)]


def measured() -> list[dict[str, Any]]:
    found = []
    with tempfile.TemporaryDirectory() as compiled:
        own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment = {**own, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": compiled}
        for command, model, arguments in commands():
            print(f"timing {command} {model}", file=sys.stderr)
            wall, cpu, runs = timed(arguments, environment)
            strict = model in ("", SUBJECTS[REQUIRED_OF].title)
            limit = REQUIRED[arguments[0]] if strict else None
            found.append(asdict(Timed(command, model, wall, cpu, int(runs), limit)))
    return found


def rows(results: Mapping[str, Any]) -> list[list[str]]:
    return [
        [each["command"], each["model"], _limit(each), f"{each['wall_s']:.2f}", f"{each['cpu_s']:.2f}"]
        for each in results["commands"]
    ]


def _limit(each: Mapping[str, Any]) -> str:
    """Met where the wall clock says so; where only the processor does, that is told."""
    if each["required_s"] is None:
        return ""
    met = "met" if each["wall_s"] < each["required_s"] else "NOT MET"
    if met != "met" and each["cpu_s"] < each["required_s"]:
        met = "met by the processor alone"
    return f"< {each['required_s']:g} {met}"


HEADER = ["command", "model", "required", "wall, seconds", "processor, seconds"]


def page(results: Mapping[str, Any]) -> str:
    """What stands between the marks."""
    machine = "".join(f"- {what}: {is_}\n" for what, is_ in results["made_on"].items())
    return (
        "Whole commands, each a process of its own; the least of several runs. The processor's seconds are those of\n"
        "the program, the wall clock's those of the machine as it was, which others may have used too.\n\n"
        f"{markdown(HEADER, rows(results))}\nMeasured with\n\n{machine}"
    )


def section() -> str:
    """The section of docs/BENCHMARKS.md, as it was last measured."""
    made = page(json.loads(RESULTS.read_text()))
    return (
        f"\n## The tool itself\n\n<!-- {MARK}: made by make bench-tool; do not edit -->\n{made}<!-- end of {MARK} -->\n"
    )


def main() -> None:
    about = {what: is_ for what, is_ in made_on().items() if what in ("odl", "processor", "Python")}
    results = {"schema_version": SCHEMA, "made_on": about, "commands": measured()}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    fill(PAGE, MARK, page(results))
    print(table(HEADER, rows(results)))


if __name__ == "__main__":
    main()
