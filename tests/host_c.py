"""The firmware headers, compiled for this machine and called on NumPy arrays."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from odl import toolchain
from odl.share import share
from odl.targets import TARGETS
from odl.types import Array

FLAGS = (
    *("-std=c11", "-O2", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC"),
    *("-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wshadow"),
)
DTYPES: dict[str, type[np.generic]] = {"odl_half": np.float16, "float": np.float32}


def compilers() -> list[list[str]]:
    """gcc and clang where they are installed, since their excess precision differs; else zig's clang.

    Those that odl itself would refuse are left out: an older clang does not know _Float16 on every machine.
    """
    found = [[name] for name in ("gcc", "clang", "clang-19") if shutil.which(name) and _will_do(name)]
    zig = importlib.util.find_spec("ziglang") is not None
    return found or ([[sys.executable, "-m", "ziglang", "cc"]] if zig else [["cc"]])


def _will_do(name: str) -> bool:
    command = (name,)
    return toolchain._problem(TARGETS["host"], command, toolchain._identify(command)) is None


@dataclass(frozen=True)
class Function:
    """An inline function of scalars: the C type of its result and those of its arguments."""

    result: str
    arguments: tuple[str, ...]

    def loop(self, name: str) -> str:
        pointers = "".join(f", const {type_} *a{i}" for i, type_ in enumerate(self.arguments))
        elements = ", ".join(f"a{i}[k]" for i in range(len(self.arguments)))
        return (
            f"void each_{name}(int n, {self.result} *out{pointers});\n"
            f"void each_{name}(int n, {self.result} *out{pointers})\n"
            f"{{\n    for (int k = 0; k < n; k++)\n        out[k] = {name}({elements});\n}}\n"
        )


class HostLibrary:
    """C functions of scalars; `call` applies one to arrays, element by element."""

    def __init__(self, compiler: list[str], prelude: str, functions: dict[str, Function], folder: Path) -> None:
        self._functions = functions
        source, library = folder / "probe.c", folder / "probe.so"
        source.write_text(prelude + "\n".join(f.loop(name) for name, f in functions.items()))
        include = f"-I{share('firmware') / 'include'}"
        subprocess.run([*compiler, *FLAGS, include, "-o", library, source], check=True, timeout=120)
        self._library = ctypes.CDLL(str(library))

    def call(self, name: str, *operands: Array) -> npt.NDArray[np.generic]:
        function = self._functions[name]
        for operand, type_ in zip(operands, function.arguments, strict=True):
            assert operand.dtype == DTYPES[type_]
            assert operand.shape == operands[0].shape
        arrays = [np.ascontiguousarray(operand) for operand in operands]
        out = np.empty(arrays[0].shape, DTYPES[function.result])
        getattr(self._library, f"each_{name}")(
            ctypes.c_int(out.size), *(ctypes.c_void_p(array.ctypes.data) for array in (out, *arrays))
        )
        return out
