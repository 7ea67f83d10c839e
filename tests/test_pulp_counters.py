"""What a profile of the cluster counts: each counter against a sum by hand, on GVSoC."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pulp_programs
import pytest
from models import cnn, compiled

from odl import api, results
from odl.targets.pulp import PULP_OPEN, find_gvsoc

pytestmark = [
    pytest.mark.gvsoc,
    pytest.mark.skipif(not find_gvsoc(), reason="GVSoC is not here: set ODL_GVSOC"),
]

COUNTERS = ("cycles", "instructions", "load_use", "instruction_cache", "fpu", "dma_wait")
CORES, N = 8, 40

# Instructions that every core runs, or as many cores as it says; each fits the cache unless its name says otherwise.
REGIONS = {
    "nops": (f".rept {N}\nnop\n.endr", 8),
    "loads at rest": (f".rept {N}\nlw t0, 0(%0)\nnop\nnop\n.endr", 8),
    "loads used at once": (f".rept {N}\nlw t0, 0(%0)\naddi t1, t0, 1\n.endr", 8),
    "an FPU each": (f".rept {N}\nfadd.s t0, t1, t2\n.endr", 4),
    "an FPU for two": (f".rept {N}\nfadd.s t0, t1, t2\n.endr", 8),
    "code beyond the cache": (".option push\n.option norvc\n.rept 2048\nnop\n.endr\n.option pop", 8),
}


def function(number: int, text: str) -> str:
    lines = " ".join(f'"{line}\\n"' for line in text.splitlines())
    return f"""
__attribute__((noinline)) static void region{number}(uint32_t *word)
{{
    __asm__ volatile({lines} : : "r"(word) : "t0", "t1", "t2", "memory");
}}
"""


def program() -> str:
    """For each region, each core's counts of its second run; then the DMA wait for 8 KiB."""
    functions = "".join(function(i, text) for i, (text, _) in enumerate(REGIONS.values()))
    runs = "".join(f"look(out[{i}], region{i}, {cores});\n" for i, (_, cores) in enumerate(REGIONS.values()))
    return f"""
enum {{ N_REGIONS = {len(REGIONS)} }};
{functions}
static uint32_t out[N_REGIONS + 1][{CORES}][ODL_COUNTERS];
ODL_LOCAL static uint32_t word;
ODL_LOCAL static uint32_t near[2048];
static uint32_t far[2048];

static void look(uint32_t (*to)[ODL_COUNTERS], void (*region)(uint32_t *), uint32_t cores)
{{
    uint32_t before[ODL_COUNTERS];
    uint32_t after[ODL_COUNTERS];
    for (uint32_t run = 0; run < 2; run++) {{
        odl_barrier();
        odl_port_counters(before);
        if (odl_core() < cores) {{
            region(&word);
        }}
        odl_port_counters(after);
    }}
    for (uint32_t i = 0; i < ODL_COUNTERS; i++) {{
        to[odl_core()][i] = after[i] - before[i];
    }}
}}

static void on_core(void *unused)
{{
    (void)unused;
    {runs}
    uint32_t before[ODL_COUNTERS];
    odl_port_counters(before);
    odl_dma_wait(odl_dma_in(near, far, sizeof near));
    uint32_t after[ODL_COUNTERS];
    odl_port_counters(after);
    out[N_REGIONS][odl_core()][ODL_COUNTERS - 1] = after[ODL_COUNTERS - 1] - before[ODL_COUNTERS - 1];
    odl_barrier();
}}

int main(void)
{{
    odl_team_run(on_core, 0);
    write_words(&out[0][0][0], sizeof out / 4);
}}
"""


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], list[int]]:
    """What a region, or "DMA", adds to a counter of each core."""
    folder = tmp_path_factory.mktemp("counters") / "project"
    elf = pulp_programs.build(folder, PULP_OPEN, program(), {"ODL_TRACE": 1})
    table = pulp_programs.run(PULP_OPEN, elf, np.zeros(1)).reshape(len(REGIONS) + 1, CORES, len(COUNTERS))

    def counted(region: str, counter: str) -> list[int]:
        found: list[int] = table[[*REGIONS, "DMA"].index(region), :, COUNTERS.index(counter)].tolist()
        return found

    return counted


Counted = Callable[[str, str], list[int]]


def test_instructions_are_counted(counted: Counted) -> None:
    three, two = (counted(region, "instructions") for region in ("loads at rest", "loads used at once"))
    assert [more - few for more, few in zip(three, two, strict=True)] == [N] * CORES


def test_a_load_that_is_used_at_once_stalls_for_a_cycle(counted: Counted) -> None:
    assert counted("loads at rest", "load_use") == [0] * CORES
    assert counted("loads used at once", "load_use") == [N] * CORES


def test_two_cores_wait_for_their_fpu_in_turn(counted: Counted) -> None:
    """Together once for each instruction of theirs, whoever it is, but not while one of them waits for its code."""
    assert counted("an FPU each", "fpu") == [0] * CORES
    stalls = counted("an FPU for two", "fpu")
    pairs = [a + b for a, b in zip(stalls[:4], stalls[4:], strict=True)]
    assert all(0.8 * 2 * N <= both <= 2 * N for both in pairs), stalls


def test_code_beyond_the_cache_is_fetched_again(counted: Counted) -> None:
    """2,048 instructions are 512 lines of 16 bytes, each of 18 cycles from L2."""
    assert all(stalls < 4 * N for stalls in counted("nops", "instruction_cache"))
    assert all(512 * 12 < stalls < 512 * 20 for stalls in counted("code beyond the cache", "instruction_cache"))


def test_waiting_for_dma_is_core_zeros(counted: Counted) -> None:
    """8 KiB at 8 bytes a cycle."""
    first, *others = counted("DMA", "dma_wait")
    assert 900 < first < 1200
    assert others == [0] * (CORES - 1)


def test_a_run_on_the_cluster_tells_stalls_and_repeats_exactly(tmp_path: Path) -> None:
    program = compiled(tmp_path, cnn(), "pulp-open")
    random = np.random.default_rng(1)
    np.savez(tmp_path / "data.npz", x=random.normal(size=(2, 2, 6, 6)), y=[0, 2])
    first, second = (api.train(program, tmp_path / "data.npz", 2) for _ in range(2))
    assert first.counters == COUNTERS
    assert first.counts.shape == (1, sum(1 for _ in program.program.calls()), len(COUNTERS))
    assert (first.counts == second.counts).all()
    assert first.whole.tolist() == second.whole.tolist()
    told = results.ran(first)
    phases = [phase for layer in told["layers"] for phase in layer["phases"].values()]
    for cost in (told["per_step"], *phases, *told["layers"]):
        assert set(cost) - {"layer", "phases"} == {
            "cycles", "macs", "mac_per_cycle", "instructions", "stalls", "dma_wait",
        }  # fmt: skip
        assert set(cost["stalls"]) == set(results.STALLS)
    assert told["per_step"]["macs"] == program.training.step.macs()
    assert told["per_step"]["cycles"] == int(first.whole.sum()) / 2
