"""What a board's flash port is called with, in which order, and what becomes of a call that fails: docs/CHECKPOINTS.md
promises it to whoever writes one. The checkpoint code runs on the host, on a flash that notes each call."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from host_c import compilers

from odl.checkpoint import Status
from odl.share import share
from odl.targets import TARGETS
from odl.toolchain import arch_flags, contract_flags, find_toolchain

ROOT = Path(__file__).parent.parent
HEADER = 36
TENSORS = (6, 700, 1)  # bytes; their sum is no multiple of anything
PAYLOAD = sum(TENSORS)
MOST_READ = 256

# n_bytes, erase_bytes, program_bytes: of which the slots are longer than what is kept
GEOMETRIES = [(8192, 256, 4), (8192, 1024, 8), (8192, 2048, 32), (8192, 4096, 256)]

# Arguments: the geometry, then words: `s` saves, `l` loads; `rN`, `pN`, `eN` or `yN` fails the N-th read, program,
# erase or sync of the next save or load (`r*`: all of them).
PROGRAM = r"""
#include "odl_checkpoint.h"
#include "odl_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const uint32_t odl_model_id = 7;
const uint32_t odl_state_count = 3;
const struct odl_state_tensor odl_state[] = {{"a", 6, 0}, {"b", 700, 8}, {"c", 1, 708}};

static struct odl_flash_geometry geometry;
static uint8_t flash[1 << 16];
static _Alignas(16) uint8_t arena[1024];
static const char *failing = "";
static int counts[128];

void *odl_state_data(void *memory, uint32_t index)
{
    return (uint8_t *)memory + odl_state[index].offset;
}

static bool done(char kind)
{
    const bool all = failing[0] == kind && failing[1] == '*';
    counts[(int)kind]++;
    return !all && (failing[0] != kind || atoi(failing + 1) != counts[(int)kind]);
}

struct odl_flash_geometry odl_flash_geometry(void)
{
    printf("geometry\n");
    return geometry;
}

bool odl_flash_read(uint32_t offset, void *data, uint32_t n_bytes)
{
    printf("read %u %u\n", offset, n_bytes);
    memcpy(data, flash + offset, n_bytes);
    return done('r');
}

bool odl_flash_program(uint32_t offset, const void *data, uint32_t n_bytes)
{
    printf("program %u %u%s\n", offset, n_bytes, (uintptr_t)data % 8u == 0u ? "" : " unaligned");
    for (uint32_t i = 0; i < n_bytes; i++) {
        if (flash[offset + i] != 0xffu) {
            printf("not erased\n");
        }
    }
    if (!done('p')) {
        return false;
    }
    memcpy(flash + offset, data, n_bytes);
    return true;
}

bool odl_flash_erase(uint32_t offset)
{
    printf("erase %u\n", offset);
    if (!done('e')) {
        return false;
    }
    memset(flash + offset, 0xff, geometry.erase_bytes);
    return true;
}

bool odl_flash_sync(void)
{
    printf("sync\n");
    return done('y');
}

int main(int n_words, char **words)
{
    struct odl_cursor cursor = {0, 0};
    geometry.n_bytes = (uint32_t)atoi(words[1]);
    geometry.erase_bytes = (uint32_t)atoi(words[2]);
    geometry.program_bytes = (uint32_t)atoi(words[3]);
    memset(flash, 0xff, sizeof flash);
    for (int i = 4; i < n_words; i++) {
        if (words[i][0] != 's' && words[i][0] != 'l') {
            failing = words[i];
            continue;
        }
        memset(counts, 0, sizeof counts);
        if (words[i][0] == 's') {
            cursor.position++;
            memset(arena, (int)cursor.position, sizeof arena);
            printf("= %d\n", (int)odl_checkpoint_save(arena, cursor));
        } else {
            struct odl_cursor found = {0, 0};
            memset(arena, 0, sizeof arena);
            const int status = (int)odl_checkpoint_load(arena, &found);
            printf("= %d %u %d\n", status, found.position, arena[0]);
        }
        failing = "";
    }
    return 0;
}
"""

Ask = Callable[..., list[list[str]]]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """A geometry and words -> for each save and load its calls, and at last its status."""
    folder = tmp_path_factory.mktemp("port")
    source, program, checkpoint = folder / "port.c", folder / "port", share("firmware") / "checkpoint"
    source.write_text(PROGRAM)
    included = [f"-I{checkpoint}", f"-I{share('firmware') / 'include'}"]
    sources = [source, checkpoint / "odl_checkpoint.c", checkpoint / "odl_crc32.c"]
    subprocess.run([*compilers()[0], "-std=c11", "-O1", *included, *sources, "-o", program], check=True, timeout=120)

    def run(geometry: Iterable[int], words: str) -> list[list[str]]:
        argv = [program, *map(str, geometry), *words.split()]
        told = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout
        return [part.splitlines() for part in re.findall(r"(?:^[^=\n].*\n)*^=.*\n", told, re.M)]

    return run


def up(n_bytes: int, unit: int) -> int:
    return -(-n_bytes // unit) * unit


class Slot:
    """The calls that the page promises, for one slot of a geometry."""

    def __init__(self, geometry: tuple[int, int, int], number: int) -> None:
        n_bytes, self.sector, self.unit = geometry
        self.begin = number * n_bytes // 2
        self.payload = self.begin + up(HEADER, self.unit)

    def look(self, *, has_header: bool) -> list[str]:
        return [f"read {self.begin} {HEADER}", *(self.read_back() if has_header else ())]

    def read_back(self) -> list[str]:
        pieces = range(0, PAYLOAD, MOST_READ)
        return [f"read {self.payload + at} {min(MOST_READ, PAYLOAD - at)}" for at in pieces]

    def erase(self) -> list[str]:
        return [f"erase {at}" for at in range(self.begin, self.payload + PAYLOAD, self.sector)]

    def program(self, begin: int, n_bytes: int) -> list[str]:
        return [f"program {at} {self.unit}" for at in range(begin, begin + up(n_bytes, self.unit), self.unit)]

    def save(self) -> list[str]:
        return [
            *self.erase(),
            *self.program(self.payload, PAYLOAD),
            "sync",
            *self.read_back(),
            *self.program(self.begin, HEADER),
            "sync",
            f"read {self.begin} {HEADER}",
        ]

    def load(self) -> list[str]:
        begins = [self.payload + sum(TENSORS[:n]) for n in range(len(TENSORS))]
        return [f"read {begin} {n_bytes}" for begin, n_bytes in zip(begins, TENSORS, strict=True)]


def both(geometry: tuple[int, int, int]) -> tuple[Slot, Slot]:
    return Slot(geometry, 0), Slot(geometry, 1)


def failed(calls: list[str]) -> bool:
    return calls[-1].startswith(f"= {Status.FLASH.value}")


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_the_calls_of_saves_and_loads(ask: Ask, geometry: tuple[int, int, int]) -> None:
    first, second = both(geometry)
    looked = [
        ["geometry", *first.look(has_header=a), *second.look(has_header=b)]
        for a, b in ((False, False), (True, False), (True, True))
    ]
    assert ask(geometry, "s s s l") == [
        [*looked[0], *first.save(), "= 0"],
        [*looked[1], *second.save(), "= 0"],
        [*looked[2], *first.save(), "= 0"],
        [*looked[2], *first.load(), "= 0 3 3"],
    ]
    assert ask(geometry, "l") == [[*looked[0], f"= {Status.NONE.value} 0 0"]]


@pytest.mark.parametrize("kind", ["e1", "p1", "p3", "y1", "r9"])
def test_a_save_ends_where_a_call_fails(ask: Ask, kind: str) -> None:
    """Nothing that comes after it is called; what was saved before is loaded; the next save takes the same slot."""
    geometry = GEOMETRIES[0]
    first, _ = both(geometry)
    _, second, broken, loaded, again, last = ask(geometry, f"s s {kind} s l s l")
    assert failed(broken)
    word, number = {"e": "erase", "p": "program", "y": "sync", "r": "read"}[kind[0]], int(kind[1:])
    assert [call.split()[0] for call in broken].count(word) == number
    assert broken[-2].startswith(word)
    assert loaded[-1] == "= 0 2 2"
    assert again[-1] == "= 0"
    assert f"erase {first.begin}" in broken
    assert f"erase {first.begin}" in again
    assert last[-1] == "= 0 4 4"
    assert second[-1] == "= 0"


@pytest.mark.parametrize("kind", ["y2", "r12"])
def test_a_save_that_fails_at_its_last_calls_may_be_there(ask: Ask, kind: str) -> None:
    """The header is in the flash; the port did not say so. Either checkpoint is whole."""
    *_, broken, loaded = ask(GEOMETRIES[0], f"s s {kind} s l")
    assert failed(broken)
    assert loaded[-1] == "= 0 3 3"


def test_a_slot_that_fails_for_good_lets_no_save_succeed(ask: Ask) -> None:
    *_, one, other, loaded = ask(GEOMETRIES[0], "s s e1 s e1 s l")
    assert failed(one)
    assert failed(other)
    assert loaded[-1] == "= 0 2 2"


def test_the_first_save_tries_the_other_slot(ask: Ask) -> None:
    """While there is nothing to keep, a save may erase twice."""
    geometry = GEOMETRIES[0]
    first, second = both(geometry)
    (save,) = ask(geometry, "p1 s")
    assert [call for call in save if call.startswith("erase")] == [*first.erase(), *second.erase()]
    assert save[-1] == "= 0"


def test_reads_that_fail(ask: Ask) -> None:
    """In a load one slot that answers is enough. In a save one that does not counts as damaged: so a port tries a read
    again before it says false."""
    geometry = GEOMETRIES[0]
    _, second = both(geometry)
    assert ask(geometry, "s s r1 l")[-1][-1] == "= 0 2 2"
    assert ask(geometry, "s s s r1 l")[-1][-1] == "= 0 2 2"  # the newest does not answer
    assert failed(ask(geometry, "s s r* l")[-1])
    partly = ask(geometry, f"s s r{2 * len(second.look(has_header=True)) + 2} l")[-1]
    assert failed(partly)
    assert not partly[-1].endswith(" 0 0")  # the arena is no longer as it was
    save = ask(geometry, "s s r* s")[-1]
    assert next(call for call in save if call.startswith("erase")) == "erase 0"


def test_the_stack_is_what_the_page_says(tmp_path: Path) -> None:
    """By the compiler that it names; by others it is not measured here."""
    (text,) = re.findall(r"\*\*Stack\*\*.*?\n(?=- \*\*)", (ROOT / "docs/CHECKPOINTS.md").read_text(), re.S)
    target = TARGETS["qemu-zhinx"]
    toolchain = find_toolchain(target)
    if toolchain.kind != "clang" or f"clang {toolchain.version[0]}" not in text:
        pytest.skip("the page tells the stack of another compiler")
    flags = [*arch_flags(target, toolchain.kind), *contract_flags(target)]
    included = [f"-I{share('firmware') / name}" for name in ("include", "checkpoint")]
    source = share("firmware") / "checkpoint/odl_checkpoint.c"
    made = tmp_path / "checkpoint.o"
    subprocess.run(
        [*toolchain.cc, *flags, *included, "-fstack-usage", "-c", source, "-o", made], check=True, timeout=60
    )
    used = dict(re.findall(r":(\w+)\t(\d+)\tstatic", made.with_suffix(".su").read_text()))
    save, load, look = (int(used.pop(name)) for name in ("odl_checkpoint_save", "odl_checkpoint_load", "look"))
    assert not used  # no deeper path
    assert [int(number.replace(",", "")) for number in re.findall(r"([\d,]+) bytes", text)] == [
        save + look, load + look, save
    ]  # fmt: skip
