"""Bare programs on the pulp ports: a main() of their own in place of the runner's, a file in and a file out."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from odl import subprocesses
from odl.share import share
from odl.targets import Target
from odl.targets.pulp import Gvsoc
from odl.targets.qemu import Qemu
from odl.toolchain import compile_project, find_toolchain

Words = npt.NDArray[np.uint32]

PRELUDE = """
#include "odl_dma.h"
#include "odl_team.h"
#include "port.h"
#include "team.h"
#include <stddef.h>

/* All of `in`, and as many words of `out` as there are. */
__attribute__((unused)) static void read_words(uint32_t *words, uint32_t n)
{
    int32_t file = odl_port_open("in.bin", ODL_PORT_READ);
    if (file < 0 || odl_port_read(file, words, 4u * n) != 4u * n) {
        odl_port_exit(99);
    }
    odl_port_close(file);
}

__attribute__((unused)) static _Noreturn void write_words(const uint32_t *words, uint32_t n)
{
    int32_t file = odl_port_open("out.bin", ODL_PORT_WRITE);
    if (file < 0 || !odl_port_write(file, words, 4u * n)) {
        odl_port_exit(98);
    }
    odl_port_close(file);
    odl_port_exit(0);
}
"""


def build(
    folder: Path,
    target: Target,
    main: str,
    defines: Mapping[str, object] | None = None,
    sources: Mapping[str, str] | None = None,
) -> Path:
    """The ELF file of C source `main`, which follows PRELUDE, and of other `sources` by their name."""
    shutil.copytree(share("firmware") / "include", folder / "include")
    for port in target.ports:
        shutil.copytree(share("firmware") / "port" / port, folder / "port", dirs_exist_ok=True)
    (folder / "runner").mkdir()
    for name in ("port.h", "progress.c", "progress.h", "team.c", "team.h", "wire.h"):
        shutil.copy(share("firmware") / "runner" / name, folder / "runner")
    (folder / "src").mkdir()
    for name, text in {**(sources or {}), "main.c": PRELUDE + main}.items():
        (folder / "src" / name).write_text(text)
    return compile_project(folder, target, find_toolchain(target), defines=defines).elf


def finish(
    target: Target, elf: Path, words: Words, *, banks: bool = False, timeout_s: float = 100
) -> tuple[int, str, Words]:
    """Exit status, console and output of a run."""
    with tempfile.TemporaryDirectory(prefix="odl-") as scratch:
        workdir = Path(scratch)
        words.astype(np.uint32).tofile(workdir / "in.bin")
        gvsoc = target.simulator == "gvsoc"
        argv = Gvsoc(target, banks).command(elf, workdir) if gvsoc else Qemu(target).command(elf)
        finished = subprocesses.run(argv, timeout_s=timeout_s, cwd=workdir)
        out = workdir / "out.bin"
        told = re.search(r"exitcode: (\d+)", finished.output) if gvsoc else None
        return (
            int(told[1]) if told else finished.status,
            finished.output,
            np.fromfile(out, np.uint32) if out.exists() else np.zeros(0, np.uint32),
        )


def run(target: Target, elf: Path, words: Words, *, banks: bool = False, timeout_s: float = 100) -> Words:
    """The output of a run that ends well."""
    status, console, output = finish(target, elf, words, banks=banks, timeout_s=timeout_s)
    assert status == 0, f"status {status}\n{console}"
    return output
