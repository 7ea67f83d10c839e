"""The cluster's measurements as text, from gvsoc.json alone: a table for the terminal, docs/PULP_BENCHMARKS.md, and the
parts of README.md and docs/PULP.md that tell numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from textwrap import fill
from typing import Any

from benchmarks.report import markdown
from benchmarks.slow_phases import why
from odl.render import table
from odl.results import STALLS

Result = Mapping[str, Any]

_HEADER = ("one training step", "sums", "bank conflicts", "cycles", "MACs", "MAC/clk", "of the bound", "compared with")

_HEAD = """\
<!-- Made by `make bench-gvsoc` from benchmarks/gvsoc.json; do not edit. -->

# Benchmarks of the cluster

One training step of all weights on one sample, by SGD, on the eight cores of `pulp-open` in GVSoC: from the sample in
L2 to the updated weights in L2, with loss, update, transfers and barriers. MACs are the model's own, without padding.
Four FPUs with two lanes bound the cluster at {bound} MAC/clk. Bank conflicts are off in GVSoC's own description of the
chip; with them, a bank of L1 serves one access a cycle. The paper is the FP16 library for PULP, which reports 3.11
MAC/clk of ResNet8 and 0.81 of DS-CNN. The convolution is 3x3 with 16 channels in and out, 32x32 pixels and padding of
1, in tiles that lie in L1: FP32 has blocks of the same shape in `fmadd.s`, its bound is 4.

"""
_LAYERS = """
## {title}: layers

Sums in FP32, {banks} bank conflicts. These cycles are of a program that looks at its counters after every kernel call,
{sum:,} in all against {cycles:,} of the program as it is. Stalls are shares of all cores' cycles: `load`, a result used
by the next instruction; `code`, instructions that are not in the cache; `FPU`, one that serves another core. `DMA` is
the share of the time that core 0 waits for a transfer. Code is the most that a call can run, in bytes; the cache that
the cores share has 4,096. **Slow** is a convolution's phase under {slow} MAC/clk.

"""
_CORES = """
## One to eight cores

Cycles of the same program, of the first step; in brackets, how much faster than one core.

"""


def text(results: Result) -> str:
    """The table of a terminal."""
    return table(_HEADER, _rows(results))


def page(results: Result) -> str:
    """docs/PULP_BENCHMARKS.md."""
    machine = "".join(f"- {what}: {is_}\n" for what, is_ in results["made_on"].items())
    layers = "".join(_layers(model, results["slow"]) for model in results["models"])
    head = _HEAD.format(bound=results["bound"])
    return f"{head}{markdown(_HEADER, list(_rows(results)))}\nMeasured with\n\n{machine}{_cores(results)}{layers}"


def headline(results: Result) -> str:
    """The line of the README: sums in FP32, without bank conflicts."""
    models = [f"{model['title']} at {_plain(model)['mac_per_cycle']:.2f} MAC/clk{_against(model)}"
              for model in results["models"] if model["model"] != "autoencoder"]  # fmt: skip
    fast = next(row for row in results["convolution"] if (row["element"], row["accumulate"]) == ("fp16", "fp32"))
    line = (
        f"Measured in cycles of GVSoC, eight cores: a training step of {' and of '.join(models)}; a 3x3 convolution "
        f"{fast['speed_up']:.2f} times as fast in FP16 as in FP32."
    )
    return fill(line, 118) + "\n"


def _plain(model: Result) -> Result:
    """The step with sums in FP32 and without bank conflicts."""
    found: Result = next(step for step in model["steps"] if step["accumulate"] == "fp32" and not step["bank_conflicts"])
    return found


def _against(model: Result) -> str:
    paper = model["paper_mac_per_cycle"]
    return f" (the FP16 library for PULP reports {paper})" if paper else ""


def layer(results: Result, model: str, name: str) -> str:
    """A table of one layer's phases, for docs/PULP.md."""
    step = next((_plain(each) for each in results["models"] if each["model"] == model), None)
    found = next((each for each in step["layers"] if each["layer"] == name), None) if step else None
    if not found:
        return "Not measured.\n"
    header = ["phase", "cycles", "MACs", "MAC/clk", "load", "code", "FPU", "DMA"]
    rows = []
    for phase, cost in found["phases"].items():
        cycles, _, macs, rate, *stalls = _phase(cost, found["cycles"])[:8]
        rows.append((phase.replace("_", " "), cycles, macs, rate, *stalls))
    return markdown(header, rows)


def _rows(results: Result) -> Iterator[tuple[str, ...]]:
    for model in results["models"]:
        paper = model["paper_mac_per_cycle"]
        for step in model["steps"]:
            against = f"paper {paper}: {step['mac_per_cycle'] / paper:.2f}x" if paper else ""
            yield model["title"], *_speed(step, results["bound"]), against
    for row in results["convolution"]:
        bound = results["bound"] / (2 if row["element"] == "fp32" else 1)
        yield f"3x3 convolution, {row['element'].upper()}", *_speed(row, bound), f"FP32: {row['speed_up']:.2f}x"


def _speed(step: Result, bound: float) -> tuple[str, ...]:
    rate = step["mac_per_cycle"]
    banks = "on" if step["bank_conflicts"] else "off"
    numbers = f"{step['cycles']:,}", f"{step['macs']:,}", f"{rate:.2f}", f"{rate / bound:.0%}"
    return step["accumulate"].upper(), banks, *numbers


def _cores(results: Result) -> str:
    models = [model for model in results["models"] if model["cores"]]
    if not models:
        return ""
    counts = list(models[0]["cores"])
    rows = []
    for model in models:
        one = model["cores"][counts[0]]
        rows.append((model["title"], *(f"{model['cores'][n]:,} ({one / model['cores'][n]:.2f}x)" for n in counts)))
    return _CORES + markdown(["cores", *map(str, counts)], rows)


def _layers(model: Result, slow: float) -> str:
    step = model["steps"][0]
    total = sum(layer["cycles"] for layer in step["layers"])
    banks = "with" if step["bank_conflicts"] else "without"
    head = _LAYERS.format(title=model["title"], banks=banks, sum=total, cycles=step["cycles"], slow=slow)
    header = ["layer", "phase", "cycles", "share", "MACs", "MAC/clk", "load", "code", "FPU", "DMA", "code bytes", ""]
    rows = [
        (f"`{layer['layer']}`", name.replace("_", " "), *_phase(phase, total))
        for layer in step["layers"]
        for name, phase in layer["phases"].items()
    ]
    loops = ", ".join(f"`{name}` {n_bytes:,}" for name, n_bytes in step["inner_loops"].items())
    said = step["estimate"]
    model = f"The cost model's estimates add up to {said['sum']:.0%}, and miss by {said['error']:.0%} of the cycles."
    loops = f"Inner loops in assembly, in bytes: {loops}."
    return f"{head}{markdown(header, rows)}\n{loops}\n{model}\n{_slow(step)}"


def _slow(step: Result) -> str:
    """A sentence for each convolution's phase that is slow."""
    found = [
        f"- `{layer['layer']}`, {name.replace('_', ' ')} at {phase['mac_per_cycle']:.2f}: {why(phase['kernels'])}."
        for layer in step["layers"]
        for name, phase in layer["phases"].items()
        if phase["slow"]
    ]
    return "\n".join(["\nWhy the slow ones are:\n", *found, ""]) if found else ""


def _phase(phase: Result, total: int) -> Sequence[str]:
    cycles = max(phase["cycles"], 1)
    stalls = (f"{phase['stalls'][name] / cycles / 8:.0%}" for name in STALLS)
    rate = f"{phase['mac_per_cycle']:.2f}" if phase["macs"] else ""
    macs = f"{phase['macs']:,}" if phase["macs"] else ""
    waits = f"{phase['dma_wait'] / cycles:.0%}"
    flag = "**slow**" if phase["slow"] else ""
    return (f"{phase['cycles']:,}", f"{cycles / total:.1%}", macs, rate, *stalls, waits, f"{phase['code_bytes']:,}",
            flag)  # fmt: skip
