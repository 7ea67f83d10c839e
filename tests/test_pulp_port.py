"""The pulp ports: loads and stores that move their base, the DMA engine, the team, and traps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pulp_programs
import pytest
from pulp_programs import BOTH, GVSOC, Words

from odl.targets import Target
from odl.targets.pulp import PULP_OPEN, PULP_QEMU

# --- loads and stores -------------------------------------------------------------------------------------------------

WIDTHS = {"b": 0, "h": 1, "w": 2, "bu": 4, "hu": 5}
LOADS = {"b": np.int8, "h": np.int16, "w": np.int32, "bu": np.uint8, "hu": np.uint16}
STORES = {"b": np.uint8, "h": np.uint16, "w": np.uint32}
STEPS = (4, -4, 8, 12, 4, -8)
N_BYTES = 512


def access_program() -> str:
    """Each load and store, with each step as an immediate and as a register: values and places, then the memory."""
    load = [
        f"LOAD(\".insn i 0x0b, {WIDTHS[w]}, %0, %1, {step}\", 0)" if by == "immediate" else
        f"LOAD(\".insn r 0x0b, 7, {WIDTHS[w] << 3}, %0, %1, %2\", {step})"
        for w in LOADS for by in ("immediate", "register") for step in STEPS
    ]  # fmt: skip
    store = [
        f"STORE(\".insn s 0x2b, {WIDTHS[w]}, %1, {step}(%0)\", 0)" if by == "immediate" else
        f"STORE(\".insn r 0x2b, {4 + WIDTHS[w]}, 0, %2, %0, %1\", {step})"
        for w in STORES for by in ("immediate", "register") for step in STEPS
    ]  # fmt: skip
    lines = "\n    ".join(line + ";" for line in load + store)
    return f"""
static uint32_t memory[{N_BYTES // 4}];
static uint32_t out[{2 * len(load) + len(store) + N_BYTES // 4}];
#define LOAD(text, step) do {{ \\
        uint32_t value; \\
        __asm__ volatile(text : "=&r"(value), "+r"(at) : "r"(step) : "memory"); \\
        *to++ = value; \\
        *to++ = (uint32_t)(at - (unsigned char *)memory); \\
    }} while (0)
#define STORE(text, step) do {{ \\
        __asm__ volatile(text : "+r"(at) : "r"(0x89abcdefu + (uint32_t)(to - out)), "r"(step) : "memory"); \\
        *to++ = (uint32_t)(at - (unsigned char *)memory); \\
    }} while (0)
int main(void)
{{
    read_words(memory, {N_BYTES // 4});
    uint32_t *to = out;
    unsigned char *at = (unsigned char *)memory + 16;
    {lines}
    for (uint32_t i = 0; i < {N_BYTES // 4}; i++) {{
        *to++ = memory[i];
    }}
    write_words(out, (uint32_t)(to - out));
}}
"""


def accesses(memory: npt.NDArray[np.uint8]) -> list[int]:
    """The same in NumPy; changes `memory`."""
    at, out = 16, []
    for dtype in LOADS.values():
        for step in STEPS * 2:
            value = int(memory[at : at + dtype().itemsize].view(dtype)[0])
            at += step
            out += [value & 0xFFFFFFFF, at]
    for stored in STORES.values():
        for step in STEPS * 2:
            n = stored().itemsize
            memory[at : at + n] = np.array([0x89ABCDEF + len(out)], np.uint32).view(np.uint8)[:n]
            at += step
            out.append(at)
    return out


@pytest.mark.parametrize("target", BOTH)
def test_loads_and_stores_move_their_base_on(target: Target, tmp_path: Path) -> None:
    memory = np.random.default_rng(3).integers(0, 256, N_BYTES).astype(np.uint8)
    elf = pulp_programs.build(tmp_path / "project", target, access_program(), {"ODL_CORES": 1})
    got = pulp_programs.run(target, elf, memory.view(np.uint32))
    expected = accesses(memory)
    assert got.tolist() == [*expected, *memory.view(np.uint32).tolist()]


# --- transfers --------------------------------------------------------------------------------------------------------

L1_BYTES, L2_BYTES = 16 << 10, 128 << 10

TRANSFERS = f"""
ODL_LOCAL static _Alignas(16) unsigned char l1[{L1_BYTES}];
static _Alignas(16) unsigned char l2[{L2_BYTES}];
static uint32_t plan[__N__][6];
static _Alignas(4) uint32_t memory[{(L1_BYTES + L2_BYTES) // 4}];

static odl_transfer start(const uint32_t *row)
{{
    if (row[0] != 0u) {{
        return row[3] == 1u ? odl_dma_in(l1 + row[1], l2 + row[2], row[4])
                            : odl_dma_in_rows(l1 + row[1], l2 + row[2], row[3], row[4], row[5]);
    }}
    return row[3] == 1u ? odl_dma_out(l1 + row[1], l2 + row[2], row[4])
                        : odl_dma_out_rows(l1 + row[1], l2 + row[2], row[3], row[4], row[5]);
}}

/* Twelve at a time: what one reads and writes, no other one touches. */
static void transfer(void *unused)
{{
    (void)unused;
    for (uint32_t first = 0; first < __N__; first += 12) {{
        odl_transfer under_way[12];
        for (uint32_t i = 0; i < 12; i++) {{
            under_way[i] = start(plan[first + i]);
        }}
        for (uint32_t i = 0; i < 12; i++) {{
            odl_dma_wait(under_way[11 - i]);
        }}
        odl_barrier();
    }}
}}

int main(void)
{{
    static uint32_t in[sizeof plan / 4u + sizeof memory / 4u];
    read_words(in, sizeof in / 4u);
    for (uint32_t i = 0; i < sizeof plan / 4u; i++) {{
        plan[i / 6][i % 6] = in[i];
    }}
    const unsigned char *bytes = (const unsigned char *)(in + sizeof plan / 4u);
    for (uint32_t i = 0; i < sizeof l1; i++) {{
        l1[i] = bytes[i];
    }}
    for (uint32_t i = 0; i < sizeof l2; i++) {{
        l2[i] = bytes[sizeof l1 + i];
    }}
    odl_team_run(transfer, NULL);
    unsigned char *result = (unsigned char *)memory;
    for (uint32_t i = 0; i < sizeof l1; i++) {{
        result[i] = l1[i];
    }}
    for (uint32_t i = 0; i < sizeof l2; i++) {{
        result[sizeof l1 + i] = l2[i];
    }}
    write_words(memory, sizeof memory / 4u);
}}
"""


def transfers(n: int) -> Words:
    """(n, 6) inward, l1, l2, rows, row bytes, stride: any alignment, and in each dozen a slot of its own."""
    random = np.random.default_rng(4)
    plan = np.zeros((n, 6), np.uint32)
    for i in range(n):
        slot1, slot2 = L1_BYTES // 12, L2_BYTES // 12
        rows = int(random.choice([1, 1, 2, 7, 40]))
        row_bytes = int(random.integers(1, (slot1 - 8) // rows))
        stride = int(random.integers(row_bytes, (slot2 - 8) // rows))
        at1, at2 = slot1 * (i % 12) + random.integers(0, 8), slot2 * (i % 12) + random.integers(0, 8)
        plan[i] = (random.integers(0, 2), at1, at2, rows, row_bytes, stride)
    return plan


@pytest.mark.parametrize("target", BOTH)
def test_transfers_move_bytes(target: Target, tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    plan = transfers(96)
    l1, l2 = (random.integers(0, 256, n).astype(np.uint8) for n in (L1_BYTES, L2_BYTES))
    given = np.concatenate([plan.ravel(), l1.view(np.uint32), l2.view(np.uint32)])
    elf = pulp_programs.build(tmp_path / "project", target, TRANSFERS.replace("__N__", "96"))
    got = pulp_programs.run(target, elf, given).view(np.uint8)
    for inward, at1, at2, rows, row_bytes, stride in plan.tolist():
        for row in range(rows):
            near, far = (slice(at, at + row_bytes) for at in (at1 + row * row_bytes, at2 + row * stride))
            if inward:
                l1[near] = l2[far]
            else:
                l2[far] = l1[near]
    assert (got[:L1_BYTES] == l1).all()
    assert (got[L1_BYTES:] == l2).all()


@pytest.mark.qemu
def test_without_an_engine_bytes_move_when_they_are_waited_for(tmp_path: Path) -> None:
    main = """
int main(void)
{
    unsigned char l1[4] = {1, 2, 3, 4}, l2[4] = {5, 6, 7, 8};
    uint32_t out[3];
    odl_transfer transfer = odl_dma_in(l1, l2, 4);
    out[0] = l1[0];
    l2[1] = 9;
    out[1] = l1[1];
    odl_dma_wait(transfer);
    out[2] = (uint32_t)l1[0] | (uint32_t)l1[1] << 8;
    write_words(out, 3);
}
"""
    elf = pulp_programs.build(tmp_path / "project", PULP_QEMU, main)
    assert pulp_programs.run(PULP_QEMU, elf, np.zeros(1)).tolist() == [1, 2, 0x0905]


# --- the counter ------------------------------------------------------------------------------------------------------

COUNT = """
static __attribute__((noinline)) uint32_t cost(uint32_t n)
{
    uint32_t before = odl_port_counter();
    for (uint32_t i = 0; i < n; i++) {
        uint32_t x;
        __asm__ volatile(".insn r 0x33, 2, 0x41, %0, %1, %1" : "=r"(x) : "r"(i));
    }
    return odl_port_counter() - before;
}

int main(void)
{
    uint32_t out[4] = {cost(10), cost(10), cost(20), cost(30)};
    write_words(out, 4);
}
"""


@pytest.mark.qemu
def test_a_translated_instruction_always_costs_the_same(tmp_path: Path) -> None:
    """But for the first time, when it is translated: what tests/pins says of the cluster is exact."""
    elf = pulp_programs.build(tmp_path / "project", PULP_QEMU, COUNT)
    first, ten, twenty, thirty = pulp_programs.run(PULP_QEMU, elf, np.zeros(1)).tolist()
    assert pulp_programs.run(PULP_QEMU, elf, np.zeros(1)).tolist() == [first, ten, twenty, thirty]
    assert first > ten
    assert thirty - twenty == twenty - ten
    assert (twenty - ten) % 10 == 0


# --- the team ---------------------------------------------------------------------------------------------------------

TEAM = """
enum { N_ROUNDS = 50, N_ITEMS = 37 };
static uint32_t stage[2][N_ITEMS];
static uint32_t out[2 + N_ITEMS];
ODL_LOCAL_CONSTANT static const uint32_t weights[3] = {1, 10, 100};

/* In turns: each core computes its share from what all have computed before. */
static void work(void *argument)
{
    uint32_t *n_calls = argument;
    for (uint32_t round = 0; round < N_ROUNDS; round++) {
        const uint32_t *from = stage[round % 2];
        uint32_t *to = stage[(round + 1) % 2];
        ODL_EACH_CORE {
            odl_range mine = odl_share(N_ITEMS);
            for (uint32_t i = mine.first; i < mine.last; i++) {
                to[i] = from[(i + 11) % N_ITEMS] * 3u + weights[i % 3];
            }
        }
        odl_barrier();
    }
    if (odl_speaks()) {
        *n_calls += 1;
    }
}

int main(void)
{
    for (uint32_t i = 0; i < 20; i++) {
        odl_team_run(work, out);
    }
    out[1] = odl_port_stack_bytes();
    for (uint32_t i = 0; i < N_ITEMS; i++) {
        out[2 + i] = stage[0][i];
    }
    write_words(out, 2 + N_ITEMS);
}
"""


@pytest.mark.parametrize("cores", [1, 2, 3, 8])
@pytest.mark.parametrize("target", BOTH)
def test_a_team_works_in_step(target: Target, cores: int, tmp_path: Path) -> None:
    elf = pulp_programs.build(tmp_path / "project", target, TEAM, {"ODL_CORES": cores})
    got = pulp_programs.run(target, elf, np.zeros(1))
    items = np.zeros(37, np.uint32)
    for _ in range(20 * 50):
        items = np.roll(items, -11) * np.uint32(3) + np.array([1, 10, 100], np.uint32)[np.arange(37) % 3]
    assert got[0] == 20
    assert 0 < got[1] < 1024
    assert (got[2:] == items).all()


FAULTS = """
static void fault(void *which)
{
    if (odl_core() == *(const uint32_t *)which) {
        __asm__ volatile(".word 0xffffffff");
    }
    odl_barrier();
}

int main(void)
{
    static uint32_t core;
    read_words(&core, 1);
    odl_team_run(fault, &core);
    odl_port_exit(0);
}
"""


@GVSOC.marks[0]
@GVSOC.marks[1]
@pytest.mark.parametrize("core", [0, 5])
def test_any_core_may_trap(core: int, tmp_path: Path) -> None:
    elf = pulp_programs.build(tmp_path / "project", PULP_OPEN, FAULTS)
    status, console, _ = pulp_programs.finish(PULP_OPEN, elf, np.array([core]))
    assert status == 71
    assert "odl: trap cause=00000002 pc=1c0" in console
    assert "value=ffffffff sp=1000" in console


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("text", "word"),
    [
        pytest.param(".insn i 0x7b, 4, x0, x0, 4", 0x0040407B, id="a hardware loop"),
        pytest.param(".insn r 0x33, 2, 0x4c, x0, x0, x5", 0x9850_2033, id="an unknown conversion"),
        pytest.param(".insn i 0x0b, 2, a0, a0, 4", 0x0045_250B, id="a base that is loaded"),
        pytest.param(".insn i 0x0b, 2, sp, a0, 4", 0x0045_210B, id="the stack pointer"),
        pytest.param(".insn r 0x33, 0, 0x41, a0, a0, a0", 0x82A5_0533, id="another width"),
    ],
)
def test_what_is_not_translated_traps(text: str, word: int, tmp_path: Path) -> None:
    main = f'int main(void) {{ __asm__ volatile("{text}"); odl_port_exit(0); }}'
    elf = pulp_programs.build(tmp_path / "project", PULP_QEMU, main)
    status, console, _ = pulp_programs.finish(PULP_QEMU, elf, np.zeros(1))
    assert status == 71
    assert "odl: trap cause=00000002 pc=8000" in console
    assert f"value={word:08x}" in console
