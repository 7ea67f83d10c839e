"""The blocks of odl/microkernels.py in binary32, to measure what binary16 gains: nothing but benchmarks uses them.

The same loops, registers and post-increment loads; a word holds one element instead of two, and an `fmadd.s` replaces
two products. Their arguments are the structs of odl_micro.h: pointers to float, n_pairs counts elements, and steps are
bytes as there.
"""

from __future__ import annotations

from odl.micro_assembly import HEAD, loop, op, quoted
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
        return [*lines, f"sub {self.WP}, {self.WP}, {self.BACK}", f"addi {self.WP}, {self.WP}, 4"]


class Outer32(Outer):
    """sums[o][c] = start[o][c] + sum over image rows, then pixels, of dy[p][o] * x[p][c]; to `out` as they are."""

    name = "fp32_outer_4x4"

    DY, X4 = ("a1", "a2", "a3", "a4"), ("t0", "t1", "t2", "ra")

    def text(self) -> list[str]:
        """Four columns of x are four words here, and two there."""
        lines, step = super().text(), f"addi {self.XP}, {self.XP}, {{}}"
        assert lines.count(step.format(8)) == 1
        return [step.format(16) if line == step.format(8) else line for line in lines]

    def _row(self, sums: list[list[str]]) -> list[str]:
        pixels = loop(0, "a0", self._pair(sums), "a0")
        skips = [*self._get("a0", "dy_skip"), *self._get("a1", "x_skip")]
        return [*self._get("a0", "n_pairs"), *pixels, *skips, f"add {self.DP}, {self.DP}, a0",
                f"add {self.XP}, {self.XP}, a1"]  # fmt: skip

    def _pair(self, sums: list[list[str]]) -> list[str]:
        """One pixel. The word that a pointer stands at, dy's second and x's last, is loaded last and moves it on."""
        (d0, d1, d2, d3), (x0, x1, x2, x3) = self.DY, self.X4
        lines = [f"lw {d0}, -4({self.DP})", f"lw {x0}, -12({self.XP})", f"lw {x1}, -8({self.XP})"]
        loads = [f"lw {x2}, -4({self.XP})", op("P_LW_BY", x3, self.X_PIXEL, self.XP), f"lw {d2}, 4({self.DP})",
                 f"lw {d3}, 8({self.DP})", op("P_LW_BY", d1, self.DY_PIXEL, self.DP)]  # fmt: skip
        for r in (0, 2, 3, 1):
            for c in range(4):
                lines += [op("FMADD", sums[r][c], self.DY[r], self.X4[c]), *loads[:1]]
                del loads[:1]
        return lines


def source() -> str:
    """A C file."""
    functions = ["\n".join(("__asm__(", *map(quoted, kernel.text()), ");")) for kernel in (Dot32(4, 4), Outer32(4, 4))]
    return "\n".join([HEAD, _FMADD, *(text + "\n" for text in functions), "#endif\n"])
