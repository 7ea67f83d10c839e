"""python -m benchmarks.gvsoc: training steps on the eight cores of pulp-open, by the cycles of GVSoC.

Prints a table, and writes benchmarks/gvsoc.json, docs/PULP_BENCHMARKS.md and the measured parts of README.md and
docs/PULP.md; with names of models, which are then the only ones, it prints alone. GVSoC is the user's own
(`$ODL_GVSOC`).
Cycles are exact: the same compiler and simulator give them again. Measured is one step on one sample by SGD without a
master, from the sample in L2 to the updated weights in L2, with loss, guards, update, transfers and barriers.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks import gvsoc_report, pages, precision, pulp_walk
from benchmarks.call_graph import reached
from benchmarks.measure import title
from benchmarks.models import AUTOENCODER, ROOT, Subject, chosen
from odl import Compiled, microkernels, microkernels_depthwise
from odl.api import Run
from odl.codegen import model_id
from odl.data import load_data
from odl.log import Log
from odl.project import sha256, write_project
from odl.results import arena, ran
from odl.targets.pulp import HOW_TO_INSTALL, PULP_OPEN, Gvsoc, find_gvsoc
from odl.tiling import call_cycles
from odl.toolchain import compile_project, find_toolchain
from odl.training import INFER
from odl.version import VERSION
from odl.wire import Job

Result = dict[str, Any]

SCHEMA = 1

# MACs of a step without padding, as published for MLPerf Tiny's models, and MAC/clk of the FP16 library for PULP.
MACS = {"resnet8_cifar10": 37_062_528, "dscnn_kws": 7_650_304}
PAPER = {"resnet8_cifar10": 3.11, "dscnn_kws": 0.81}

BOUND = 8.0  # MAC/clk: four FPUs, two lanes
SLOW = 4.0  # MAC/clk of a convolution's phase that is worth a look
N_CORES = 8

_TIMEOUT_S = 1200.0


# --- one program ------------------------------------------------------------------------------------------------------


def run(
    compiled: Compiled, data: Path, *, banks: bool = False, cores: int = N_CORES, steps: int = 1, profile: bool = False
) -> tuple[Log, dict[str, dict[str, int]]]:
    """The log of a run on so many cores, and what each function of the program reaches."""
    defines = tuple(dict(PULP_OPEN.defines, ODL_CORES=cores).items())
    target = replace(PULP_OPEN, cores=cores, defines=defines)
    samples = load_data(data, compiled.training).steps(steps, compiled.recipe.seed)
    job = Job(model_id(compiled.program), samples.samples, samples.targets, profile=profile)
    with tempfile.TemporaryDirectory(prefix="odl-") as scratch:
        folder = Path(scratch) / "project"
        write_project(folder, compiled.title, compiled.program, compiled.training, target)
        elf = compile_project(folder, target, find_toolchain(target), trace=profile).elf
        return Gvsoc(target, banks).run(elf, job, timeout_s=_TIMEOUT_S), reached(elf)


def step(subject: Subject, data: Path, accumulate: str, banks: bool) -> Result:
    """A step as it is, by `odl run`'s words: the second one, since the first finds the caches empty."""
    compiled = subject.compile(PULP_OPEN.name, accumulate)
    log, functions = run(compiled, data, banks=banks, steps=2)
    traced, _ = run(compiled, data, banks=banks, profile=True)
    told = last_step(compiled, log, traced)
    cycles = traced.profile[0, :, 0].tolist()
    _annotate(told["layers"], compiled, functions, cycles)
    _say(f"{subject.title}, sums in {accumulate}, bank conflicts {'on' if banks else 'off'}")
    return {
        "accumulate": accumulate,
        "bank_conflicts": banks,
        "first_step_cycles": int(log.counts[0]),
        **told["per_step"],
        **arena(compiled),
        "stack_bytes": log.stack_bytes,
        "estimate": estimate(compiled, cycles),
        "inner_loops": inner_loops(functions),
        "layers": told["layers"],
    }


def last_step(compiled: Compiled, log: Log, traced: Log) -> Result:
    """What `odl run` would tell of the last step of `log`, by the profile of another run, but for its updates."""
    first = {each.tensor.name: each.tensor.initial for each in compiled.program.residents}
    counts = traced.profile, traced.counters, log.counts[-1:]
    return ran(Run(compiled, "gvsoc", (0.0,), first, *counts, log.stack_bytes))


def estimate(compiled: Compiled, cycles: Sequence[int]) -> dict[str, float]:
    """What the cost model says of a step's calls: their sum over the measured one, and how far they are from the
    measured ones, as a share of all cycles."""
    pairs = [
        (cycles[number], call_cycles(call.macs, sum(each.type.n_bytes for each in (*call.inputs, *call.outputs))))
        for number, entry, call in compiled.program.calls()
        if entry != INFER
    ]
    total = sum(measured for measured, _ in pairs)
    return {
        "sum": sum(estimated for _, estimated in pairs) / total,
        "error": sum(abs(measured - estimated) for measured, estimated in pairs) / total,
    }


def inner_loops(functions: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """The micro-kernels of a program, with their bytes."""
    kernels = {kernel.name for kernel in (*microkernels.KERNELS, *microkernels_depthwise.KERNELS)}
    return {name: functions[name][name] for name in sorted(kernels & functions.keys())}


def _annotate(
    layers: list[Result], compiled: Compiled, functions: Mapping[str, Mapping[str, int]], cycles: Sequence[int]
) -> None:
    """Adds to each phase its kernels' cycles, the most code that one of its calls can run, and whether it is a slow
    convolution. `cycles`: of each kernel call.
    """
    kernels: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for number, entry, call in compiled.program.calls():
        if entry != INFER and call.kernel:
            kernels[call.layer, call.phase.value][call.kernel.name] += cycles[number]
    convolutions = {node.name for node in compiled.model.proto.graph.node if node.op_type == "Conv"}
    for layer in layers:
        for phase, cost in layer["phases"].items():
            called = kernels[layer["layer"], phase]
            cost["kernels"] = dict(called.most_common())
            cost["code_bytes"] = max((sum(functions[f"odl_{name}"].values()) for name in called), default=0)
            cost["slow"] = layer["layer"] in convolutions and bool(cost["macs"]) and cost["mac_per_cycle"] < SLOW


def on_cores(subject: Subject, data: Path, cores: int) -> int:
    """Cycles of the first step of the same program with fewer cores."""
    log, _ = run(subject.compile(PULP_OPEN.name), data, cores=cores)
    _say(f"{subject.title}, cores: {cores}")
    return int(log.counts[0])


def _say(what: str) -> None:
    print(f"measured {what}", file=sys.stderr, flush=True)


# --- all of them ------------------------------------------------------------------------------------------------------

VARIANTS = tuple(product(("fp32", "fp16"), (False, True)))


def measured(pool: ThreadPoolExecutor, name: str, subject: Subject, scratch: Path) -> Callable[[], Result]:
    """Starts the runs of a model; what is returned waits for them."""
    compiled = subject.compile(PULP_OPEN.name)
    macs = compiled.training.step.macs()
    assert macs == MACS.get(name, macs), f"{name} has {macs:,} MACs and should have {MACS[name]:,}"
    folder = scratch / name
    folder.mkdir()
    data = subject.write_data(compiled, folder)
    steps = [pool.submit(step, subject, data, *variant) for variant in VARIANTS]
    cores = {n: pool.submit(on_cores, subject, data, n) for n in range(1, N_CORES)} if name != "autoencoder" else {}

    def finish() -> Result:
        found = [future.result() for future in steps]
        curve = {n: future.result() for n, future in cores.items()}
        return {
            "model": name,
            "title": subject.title,
            "sha256": sha256(subject.path),
            "macs": macs,
            "paper_mac_per_cycle": PAPER.get(name),
            "steps": found,
            "cores": {**curve, N_CORES: found[0]["first_step_cycles"]} if curve else {},
        }

    return finish


def convolution(element: str, accumulate: str, banks: bool) -> Result:
    """A convolution's training step in one of the precisions."""
    found = precision.measure(element, accumulate_fp16=accumulate == "fp16", banks=banks)
    return {"element": element, "accumulate": accumulate, "bank_conflicts": banks, **found}


PRECISIONS = tuple(
    (element, accumulate, banks)
    for banks in (False, True)
    for element, accumulate in (("fp32", "fp32"), ("fp16", "fp32"), ("fp16", "fp16"))
)


def measure_all(subjects: Mapping[str, Subject]) -> Result:
    """Everything, two runs at a time."""
    with tempfile.TemporaryDirectory(prefix="odl-") as scratch, ThreadPoolExecutor(2) as pool:
        waiting = [measured(pool, name, subject, Path(scratch)) for name, subject in subjects.items()]
        precisions = [pool.submit(convolution, *what) for what in PRECISIONS]
        models = [finish() for finish in waiting]
        rows = [future.result() for future in precisions]
    baseline = {row["bank_conflicts"]: row["cycles"] for row in rows if row["element"] == "fp32"}
    for row in rows:
        row["speed_up"] = baseline[row["bank_conflicts"]] / row["cycles"]
    return {"schema_version": SCHEMA, "bound": BOUND, "slow": SLOW, "made_on": made_on(), "models": models,
            "convolution": rows}  # fmt: skip


def measured_parts(results: Result) -> tuple[tuple[str, str, str], ...]:
    """(page, mark, text) of what other pages tell of these numbers."""
    walk = gvsoc_report.layer(results, pulp_walk.MODEL, pulp_walk.LAYER)
    return ("README.md", "cluster", gvsoc_report.headline(results)), (pulp_walk.PAGE, "conv1 cycles", f"\n{walk}\n")


def made_on() -> dict[str, str]:
    return {"odl": VERSION, "compiler": title(find_toolchain(PULP_OPEN)), **simulator()}


def simulator() -> dict[str, str]:
    """The commits of GVSoC's checkout and of what times the cluster in it; empty where it is none."""
    program = find_gvsoc()
    top = _git(program.resolve().parent, "rev-parse", "--show-toplevel") if program else ""
    folders = {"GVSoC": Path(top), "GVSoC core": Path(top, "core"), "GVSoC pulp": Path(top, "pulp")} if top else {}
    return {what: _git(folder, "rev-parse", "HEAD") for what, folder in folders.items() if (folder / ".git").exists()}


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def main() -> None:
    if not find_gvsoc():
        sys.exit(f"GVSoC is not here: {HOW_TO_INSTALL}")
    subjects = {**chosen(), **({"autoencoder": AUTOENCODER} if AUTOENCODER.path.exists() else {})}
    names = sys.argv[1:]
    results = measure_all({name: subjects[name] for name in names or subjects})
    if names:
        print(gvsoc_report.text(results))
        return
    (ROOT / "benchmarks/gvsoc.json").write_text(json.dumps(results, indent=1) + "\n")
    (ROOT / "docs/PULP_BENCHMARKS.md").write_text(gvsoc_report.page(results))
    for page, mark, made in measured_parts(results):
        pages.fill(page, mark, made)
    if pulp_walk.MODEL in subjects:
        pulp_walk.main()
    print(gvsoc_report.text(results))


if __name__ == "__main__":
    main()
