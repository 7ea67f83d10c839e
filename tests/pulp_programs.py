"""Bare programs on the pulp ports, which the benchmarks use as well; and such as call kernels on arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from team import Work, write_kernels

from benchmarks.bare import PRELUDE, Words, build, finish, run
from odl import microkernels
from odl.fp16 import Accumulate, bits
from odl.targets import Target
from odl.targets.pulp import PULP_OPEN, PULP_QEMU, find_gvsoc
from odl.types import Array

__all__ = ["PRELUDE", "Words", "build", "build_kernels", "check", "finish", "run", "words"]

NO_GVSOC = pytest.mark.skipif(not find_gvsoc(), reason="GVSoC is not here: set ODL_GVSOC")
GVSOC = pytest.param(PULP_OPEN, id="gvsoc", marks=[pytest.mark.gvsoc, NO_GVSOC])
BOTH = [pytest.param(PULP_QEMU, id="qemu", marks=pytest.mark.qemu), GVSOC]

CANARY = 0x5A5A5A5A


def words(array: Array) -> Words:
    """The bytes of an array, filled up to whole words as canaries are."""
    data = np.ascontiguousarray(array).tobytes()
    return np.frombuffer(data + b"\x5a" * (-len(data) % 4), np.uint32)


def build_kernels(
    folder: Path, target: Target, cores: int, accumulate: Accumulate, used: Iterable[str], main: str,
    blanks: Mapping[str, object],
) -> Path:  # fmt: skip
    """The ELF file of `main`, whose `__NAME__`s are filled in from `blanks`, and of the kernels that it uses."""
    for name, value in {**blanks, "CANARY": CANARY}.items():
        main = main.replace(f"__{name}__", str(value))
    kernels = folder / "kernels"
    kernels.mkdir()
    written = [*write_kernels(kernels, used), kernels / "odl_kernels.h"]
    sources = {path.name: path.read_text() for path in written} | {"odl_micro.c": microkernels.source()}
    defines = {"ODL_CORES": cores, "ODL_ACCUMULATE_FP16": int(accumulate is Accumulate.FP16)}
    return build(folder / "project", target, main, defines, sources)


def check(got: Words, works: Iterable[Work]) -> None:
    """`got` is the result of each work in NumPy's bits, in whole words of canaries, with one more behind it."""
    at = 0
    for work in works:
        (want,) = work.expected()
        what = f"{work.kernel.name}, {work.op}, {[array.shape for array in work.inputs]}"
        end = at + len(words(want))
        written = got[at : end + 1].tobytes()
        result = np.frombuffer(written[: want.nbytes], want.dtype).reshape(want.shape)
        assert_array_equal(bits(result), bits(want), err_msg=what)
        assert set(written[want.nbytes :]) == {0x5A}, what
        at = end + 1
    assert at == len(got)
