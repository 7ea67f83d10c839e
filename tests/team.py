"""Kernels compiled for a team of cores that one thread plays, and called on NumPy arrays."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from odl.codegen import environment
from odl.graph import Kernel, Operator
from odl.share import share
from odl.types import Array, DType, TensorType

FLAGS = (
    *("-std=c11", "-O2", "-ffp-contract=off", "-fno-math-errno", "-fno-strict-aliasing", "-shared", "-fPIC"),
    *("-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wshadow"),
)
CANARY = 8  # bytes before and behind each tensor that nobody may write
TEAM_C = '#include "odl_kernels.h"\n#include "odl_team.h"\nconst odl_half odl_zeros[4096] = {0};\n%s'


@dataclass(frozen=True)
class Work:
    """An operator and its operands."""

    op: Operator
    inputs: tuple[Array, ...]

    @property
    def kernel(self) -> Kernel:
        types = [TensorType(array.shape, DType.of(array)) for array in self.inputs]
        return self.op.kernel(types, self.op.infer(types))

    def expected(self) -> tuple[Array, ...]:
        """What NumPy computes; nobody writes into it."""
        return self._evaluated

    @cached_property
    def _evaluated(self) -> tuple[Array, ...]:
        outputs = self.op.evaluate([array.copy() for array in self.inputs])
        for output in outputs:
            output.flags.writeable = False
        return outputs


def write_kernels(folder: Path, used: Iterable[str]) -> list[Path]:
    """The C files of some kernels, with the header that declares them."""
    jinja, names = environment(), set(used)
    headers, sources = [], []
    for name in sorted(jinja.list_templates(filter_func=lambda path: path.startswith("kernels/"))):
        module: Any = jinja.get_template(name).module
        header = str(module.header(names)).strip()
        if header:
            headers.append(header + "\n")
            sources.append(folder / Path(name).name.removesuffix(".j2"))
            sources[-1].write_text(str(module.source(names)).strip() + "\n")
    template = jinja.get_template("project/odl_kernels.h.j2")
    (folder / "odl_kernels.h").write_text(template.render(headers=headers, version="test"))
    return sources


class Team:
    """A library of kernels for `n_cores` cores, which `run` plays in turn."""

    def __init__(
        self, folder: Path, compiler: Sequence[str], used: Iterable[str], n_cores: int, **defines: int
    ) -> None:
        sources = write_kernels(folder, used)
        self.n_cores = n_cores
        played = n_cores > 1
        (folder / "team.c").write_text(TEAM_C % ("uint32_t odl_played_core;\n" if played else ""))
        defines |= {"ODL_CORES": n_cores} | ({"ODL_PLAYED_TEAM": 1} if played else {})
        options = [f"-D{name}={value}" for name, value in defines.items()]
        include = [f"-I{folder}", f"-I{share('firmware') / 'include'}"]
        library = folder / "team.so"
        command = [*compiler, *FLAGS, *options, *include, "-o", library, folder / "team.c", *sources]
        subprocess.run(command, check=True, timeout=300)
        self._library = ctypes.CDLL(str(library))
        self._core = ctypes.c_uint32.in_dll(self._library, "odl_played_core") if played else ctypes.c_uint32()

    def run(self, work: Work, *, shift: int = 0, shared: tuple[int, int] | None = None,
            only: int | None = None) -> tuple[Array, ...]:  # fmt: skip
        """The outputs of the kernel, after checking that nothing outside of a tensor was written.

        Tensors of binary16 begin `shift` bytes behind a word. `shared`: the (output, input) that are one tensor.
        `only`: the core that does its share; what the others would compute stays as `untouched` says.
        """
        memory = [_Memory(array, shift) for array in work.inputs]
        placed = overwritten(work) | (dict([shared]) if shared else {})
        outputs = [
            memory[placed[at]] if at in placed else _Memory(_poison(array), shift)
            for at, array in enumerate(work.expected())
        ]
        kept = [m for at, m in enumerate(memory) if at not in overwritten(work).values()]
        kernel = work.kernel
        pointers = [m.pointer for m in (*outputs, *kept)] + [None] * (work.op.arity - len(work.inputs))
        arguments = [ctypes.c_void_p(pointer) for pointer in pointers] + _scalars(kernel)
        function = getattr(self._library, f"odl_{kernel.name}")
        function.restype = None
        for core in range(self.n_cores) if only is None else [only]:
            self._core.value = core
            function(*arguments)
        for one in (*memory, *outputs):
            one.check()
        return tuple(output.array.copy() for output in outputs)


def overwritten(work: Work) -> dict[int, int]:
    """Output -> the input that it must lie on."""
    n_outputs = len(work.expected())
    return {output: source for output, source in work.op.overwrites if output < n_outputs}


def untouched(work: Work) -> tuple[Array, ...]:
    """The outputs before a kernel runs: what it overwrites, or poison."""
    placed = overwritten(work)
    return tuple(
        work.inputs[placed[at]] if at in placed else _poison(array) for at, array in enumerate(work.expected())
    )


class _Memory:
    """A copy of an array between canaries."""

    def __init__(self, array: Array, shift: int) -> None:
        self._start = CANARY + (shift if array.dtype == np.float16 else 0)
        self._bytes = np.full(array.nbytes + self._start + CANARY, 0x5A, np.uint8)
        assert self._bytes.ctypes.data % 4 == 0
        inner = self._bytes[self._start : self._start + array.nbytes]
        inner[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self.array = inner.view(array.dtype).reshape(array.shape)
        self.pointer = self._bytes.ctypes.data + self._start

    def check(self) -> None:
        outside = np.delete(self._bytes, np.s_[self._start : self._start + self.array.nbytes])
        assert (outside == 0x5A).all(), "bytes outside of a tensor were written"


def _poison(array: Array) -> Array:
    return np.full(array.size * array.itemsize, 0xA5, np.uint8).view(array.dtype).reshape(array.shape)


def _scalars(kernel: Kernel) -> list[Any]:
    scalars: list[Any] = [_scalar(value) for value in kernel.scalars.values()]
    if kernel.struct:
        fields = [word(value) for value in kernel.scalars.values()]
        scalars = [ctypes.byref((ctypes.c_uint32 * len(fields))(*fields))]
    return scalars + [_scalar(value) for value in kernel.extra.values()]


def word(value: int | float) -> int:
    """The pattern of a kernel's number, all of which are 32 bits wide."""
    return int(np.float32(value).view(np.uint32)) if isinstance(value, float) else int(value) & 0xFFFFFFFF


def _scalar(value: int | float) -> Any:
    return ctypes.c_float(value) if isinstance(value, float) else ctypes.c_uint32(int(value))
