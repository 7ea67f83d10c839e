"""The blocks of odl/microkernels.py in binary32, to measure what binary16 gains: nothing but benchmarks uses them.

The same loops, registers and post-increment loads; a word holds one element instead of two, and an `fmadd.s` replaces
two products. Their arguments are the structs of odl_micro.h: pointers to float, n_pairs counts elements, and steps are
bytes as there.
"""

from __future__ import annotations

from odl.micro_assembly import HEAD, op, quoted
from odl.microkernels import Dot, Outer

_FMADD = '#define FMADD(acc, x, y) "fmadd.s " #acc ", " #x ", " #y ", " #acc "\\n"\n'


class Dot32(Dot):
    """sums[r][c] = bias[c] + sum over runs, then elements k, of x[r][k] * w[c][k], to y[r] and onwards."""

    @property
    def name(self) -> str:
        return f"fp32_dot_{self.rows}x{self.cols}"

    def _start(self, sums: list[list[str]]) -> list[str]:
        return [f"mv {s}, zero" for row in sums for s in row]

    def _pair(self, sums: list[list[str]]) -> list[str]:
        return [line.replace("DOT2", "FMADD") for line in super()._pair(sums)]

    def _finish(self, sums: list[list[str]]) -> list[str]:
        lines = []
        for r, row in enumerate(sums):
            y = f"y{r or ''}"
            lines += [self._get("ra", y), *(op("P_SW", s, 4, "ra") for s in row), self._put("ra", y)]
        return [*lines, f"sub {self.WP}, {self.WP}, {self.BACK}"]


class Outer32(Outer):
    """sums[o][c] = start[o][c] + sum over image rows, then pixels, of dy[p][o] * x[p][c]; to `out` as they are.

    A word is a pixel's element here and a pair of pixels' there, so nothing has to be laid out anew.
    """

    name = "fp32_outer_4x4"

    def _row(self, sums: list[list[str]]) -> list[str]:
        return [line.replace("DOT2", "FMADD") for line in super()._row(sums)]


def source() -> str:
    """A C file."""
    functions = ["\n".join(("__asm__(", *map(quoted, kernel.text()), ");")) for kernel in (Dot32(4, 4), Outer32(4, 4))]
    return "\n".join([HEAD, _FMADD, *(text + "\n" for text in functions), "#endif\n"])
