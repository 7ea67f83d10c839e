"""The hot inner loops of sums of products, for cores with packed binary16: assembly text from one description each.

Two kinds. A `Dot` block multiplies rows of x with rows of w along memory: convolutions and dense layers. An `Outer`
block sums over pixels: weight gradients. Both hold rows x columns accumulators in registers and walk their operands
with post-increment loads inside two nested hardware loops. The C form of firmware/include/odl_micro.h is the
definition; this form takes the same struct, sums in the same order and gives the same bits.

The text is one C file: macros that stand for instructions without a mnemonic, and top-level assembly, since no compiler's
inline assembly can hold thirty operands. ODL_ACCUMULATE_FP16 chooses the accumulator and ODL_HARDWARE_LOOPS between
hardware loops and branches; the order of the instructions is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from odl import microkernels_depthwise
from odl.micro_assembly import HEAD, Micro, quoted
from odl.micro_assembly import loop as _loop
from odl.micro_assembly import op as _op

# Fields of struct odl_dot and struct odl_outer, in words.
_DOT = {name: 4 * at for at, name in enumerate(
    ("x", "x1", "x2", "x3", "y", "y1", "y2", "y3", "w", "bias", "bias_step", "w_step", "n_blocks", "n_runs", "n_pairs",
     "x_skip"))}  # fmt: skip
_OUTER = {name: 4 * at for at, name in enumerate(
    ("dy", "x", "start", "out", "start_row", "out_row", "is_half", "n_blocks", "n_rows", "n_pairs", "is_odd",
     "dy_pixel", "dy_skip", "x_pixel", "x_skip"))}  # fmt: skip


@dataclass(frozen=True)
class Dot(Micro):
    """sums[r][c] = bias[c] + sum over runs, then pairs k, of x[r][k] * w[c][k]; rounded, to y[r] and onwards.

    A call does `n_blocks` blocks of columns with the same rows. Per pair: rows + cols loads, rows * cols products.
    """

    @property
    def name(self) -> str:
        return f"odl_dot_{self.rows}x{self.cols}"

    W, X = ("t0", "t1", "t2", "ra"), ("a0", "a1")  # operands
    XP, WP, STEP, BACK, ARGS = ("a2", "a3", "a4", "a5"), "a6", "a7", "tp", "gp"

    def text(self) -> list[str]:
        sums = self.sums()
        steps = [self.STEP, self.BACK] if self.cols > 1 else []
        used = [*(s for row in sums for s in row), *self.W[: self.cols], self.ARGS, *steps]
        body = [f"mv {self.ARGS}, a0", self._get(self.WP, "w"), *self._steps(), "2:", *self._start(sums),
                *(self._get(p, "x" + str(r or "")) for r, p in enumerate(self.XP[: self.rows])),
                self._get("a0", "n_runs"), *_loop(1, "a0", self._run(sums), "a0"), *self._finish(sums),
                self._get("a0", "n_blocks"), "addi a0, a0, -1", self._put("a0", "n_blocks"), "bnez a0, 2b"]  # fmt: skip
        return self.function(self.name, body, used)

    def _get(self, rd: str, name: str) -> str:
        return f"lw {rd}, {_DOT[name]}({self.ARGS})"

    def _put(self, rs: str, name: str) -> str:
        return f"sw {rs}, {_DOT[name]}({self.ARGS})"

    def _steps(self) -> list[str]:
        """From one column's weights to the next's, and from the last's back to the next pair of the first."""
        if self.cols == 1:
            return []
        n = self.cols - 1
        back = [f"slli {self.BACK}, {self.STEP}, 1", f"add {self.BACK}, {self.BACK}, {self.STEP}"]
        assert n == 3, "four columns or one"
        return [self._get(self.STEP, "w_step"), *back, f"neg {self.BACK}, {self.BACK}",
                f"addi {self.BACK}, {self.BACK}, 4"]  # fmt: skip

    def _start(self, sums: list[list[str]]) -> list[str]:
        first = sums[0]
        return [
            self._get("a0", "bias"), self._get("a1", "bias_step"),
            "#if ODL_ACCUMULATE_FP16", *(f"lhu {s}, {2 * c}(a0)" for c, s in enumerate(first)),
            "#else", *(f"lh {s}, {2 * c}(a0)" for c, s in enumerate(first)),
            *(f"fcvt.s.h {s}, {s}" for s in first), "#endif",
            "add a0, a0, a1", self._put("a0", "bias"),
            *(f"mv {s}, {first[c]}" for row in sums[1:] for c, s in enumerate(row)),
        ]  # fmt: skip

    def _run(self, sums: list[list[str]]) -> list[str]:
        """One run of pairs, then all rows of x on to their next run."""
        pointers = self.XP[: self.rows]
        return [self._get("a0", "n_pairs"), *_loop(0, "a0", self._pair(sums), "a0"), self._get("a0", "x_skip"),
                *(f"add {p}, {p}, a0" for p in pointers)]  # fmt: skip

    def _pair(self, sums: list[list[str]]) -> list[str]:
        """Loads stand two instructions or more before their use, and between products where they can.

        Two registers take turns for x: row r + 2 comes when row r is done.
        """
        loads = [self._load_w(c) for c in range(self.cols)]
        rows = [_op("P_LW", self.X[r % 2], 4, self.XP[r]) for r in range(self.rows)]
        lines = [loads.pop(0), rows.pop(0), (loads or rows or [""]).pop(0)]
        for r, row in enumerate(sums):
            for c, s in enumerate(row):
                lines.append(_op("DOT2", s, self.X[r % 2], self.W[c]))
                if loads:
                    lines.append(loads.pop(0))
                elif rows and (c == self.cols - 1 or len(rows) == self.rows - r - 1):
                    lines.append(rows.pop(0))
        return [line for line in lines if line]

    def _load_w(self, c: int) -> str:
        if self.cols == 1:
            return _op("P_LW", self.W[0], 4, self.WP)
        return _op("P_LW_BY", self.W[c], self.STEP if c < self.cols - 1 else self.BACK, self.WP)

    def _finish(self, sums: list[list[str]]) -> list[str]:
        lines = []
        for r, row in enumerate(sums):
            lines.append(self._get("ra" if self.cols > 1 else "t0", f"y{r or ''}"))
            if self.cols == 1:
                lines += self._store_one(row[0])
            for c in range(0, self.cols - 1, 2):
                lines += [*self.lane_sums("a0", row[c : c + 2], "a1"), _op("P_SW", "a0", 4, "ra")]
            lines.append(self._put("ra" if self.cols > 1 else "t0", f"y{r or ''}"))
        return lines + ([f"sub {self.WP}, {self.WP}, {self.BACK}", f"addi {self.WP}, {self.WP}, 4"]
                        if self.cols > 1 else [])  # fmt: skip

    def _store_one(self, s: str) -> list[str]:
        return ["#if ODL_ACCUMULATE_FP16", f"srli a0, {s}, 16", _op("ADD2", "a0", "a0", s),
                "#else", f"fcvt.h.s a0, {s}", "#endif", _op("P_SH", "a0", 2, "t0")]  # fmt: skip


@dataclass(frozen=True)
class Outer(Micro):
    """sums[o][c] = start[o][c] + sum over image rows, then pixels in pairs, of dy[p][o] * x[p][c].

    A call does `n_blocks` blocks of four columns with the same four rows. Per pair of pixels: two words of dy and of x
    from each pixel, eight instructions that make them pairs of pixels, sixteen products.
    """

    name = "odl_outer_4x4"

    A, B, P = ("t0", "t1"), ("t2", "ra"), "a0"  # dy of the first pixel, of the second, and a pair
    X, Y = ("a1", "a2"), ("a3", "a4")
    MASK, DP, XP, DY_PIXEL, X_PIXEL = "a5", "a6", "a7", "tp", "gp"

    def text(self) -> list[str]:
        sums = self.sums()
        used = [*(s for row in sums for s in row), "ra", self.DY_PIXEL, self.X_PIXEL]
        body = [
            "sw a0, 8(sp)", *self._mask(), f"lw {self.DY_PIXEL}, {_OUTER['dy_pixel']}(a0)",
            f"lw {self.X_PIXEL}, {_OUTER['x_pixel']}(a0)", "2:", *self._start(sums),
            *self._get(self.DP, "dy"), f"addi {self.DP}, {self.DP}, 4", f"lw {self.XP}, {_OUTER['x']}(t0)",
            f"addi {self.XP}, {self.XP}, 8", f"sw {self.XP}, {_OUTER['x']}(t0)", f"addi {self.XP}, {self.XP}, -4",
            f"lw a0, {_OUTER['n_rows']}(t0)", *_loop(1, "a0", self._row(sums), "a0"), *self._finish(sums),
            *self._get("a0", "n_blocks"), "addi a0, a0, -1", f"sw a0, {_OUTER['n_blocks']}(t0)", "bnez a0, 2b",
        ]  # fmt: skip
        return self.function(self.name, body, used)

    def _get(self, rd: str, name: str) -> list[str]:
        """An argument; leaves their address in t0."""
        return ["lw t0, 8(sp)", f"lw {rd}, {_OUTER[name]}(t0)"]

    def _mask(self) -> list[str]:
        """The shuffle that yields the high halves. Which value of the mask's bit 1 means rs1 is asked of the core."""
        m = self.MASK
        return [f"lui {m}, 16", f"addi {m}, {m}, 3", "li t0, 0", "li t1, -1", _op("SHUFFLE", "t0", "t1", m),
                "srai t0, t0, 31", "lui t1, 32", "addi t1, t1, 2", "and t0, t0, t1", f"xor {m}, {m}, t0"]  # fmt: skip

    def _start(self, sums: list[list[str]]) -> list[str]:
        loads = []
        for row in sums:
            loads += [*(f"lw {s}, {4 * c}(t1)" for c, s in enumerate(row)), "add t1, t1, t2"]
        return [*self._get("t1", "start"), "beqz t1, 3f", f"lw t2, {_OUTER['start_row']}(t0)", "addi a0, t1, 16",
                f"sw a0, {_OUTER['start']}(t0)", *loads, "j 4f", "3:",
                *(f"li {s}, 0" for row in sums for s in row), "4:"]  # fmt: skip

    def _row(self, sums: list[list[str]]) -> list[str]:
        """One row of the image: its pairs of pixels, and the last pixel of an odd number."""
        return [*self._get("a0", "n_pairs"), "beqz a0, 5f", *_loop(0, "a0", self._pair(sums), "a0"), "5:",
                *self._get("a0", "is_odd"), "beqz a0, 6f", *self._last(sums), "6:", *self._get("a0", "dy_skip"),
                f"lw a1, {_OUTER['x_skip']}(t0)", f"add {self.DP}, {self.DP}, a0",
                f"add {self.XP}, {self.XP}, a1"]  # fmt: skip

    def _dots(self, sums: list[list[str]], rows: Sequence[str], cols: Sequence[str]) -> dict[tuple[int, int], str]:
        return {(r, c): _op("DOT2", sums[r][c], rows[r], cols[c]) for r in range(4) for c in range(4)}

    def _pair(self, sums: list[list[str]]) -> list[str]:
        (a0, a1), (b0, b1), (x0, x1), (y0, y1), m = self.A, self.B, self.X, self.Y, self.MASK
        dots = self._dots(sums, (self.P, b0, x0, b1), (a0, y0, a1, y1))

        def dot(*at: tuple[int, int]) -> list[str]:
            return [dots[place] for place in at]

        def dy(rd: str, last: bool) -> str:
            return _op("P_LW_BY", rd, self.DY_PIXEL, self.DP) if last else f"lw {rd}, -4({self.DP})"

        def x(rd: str, last: bool) -> str:
            return _op("P_LW_BY", rd, self.X_PIXEL, self.XP) if last else f"lw {rd}, -4({self.XP})"

        return [
            dy(a0, False), dy(a1, True), dy(b0, False), x(x0, False), _op("PACK", self.P, b0, a0),
            x(x1, True), x(y0, False), _op("SHUFFLE", b0, a0, m), _op("PACK", a0, y0, x0),
            *dot((0, 0)), dy(b1, True), *dot((1, 0)), _op("SHUFFLE", y0, x0, m), *dot((0, 1)),
            _op("PACK", x0, b1, a1), *dot((1, 1)), _op("SHUFFLE", b1, a1, m), *dot((2, 0)), x(y1, True), *dot((3, 0)),
            _op("PACK", a1, y1, x1), *dot((2, 1)), _op("SHUFFLE", y1, x1, m),
            *dot((3, 1), (0, 2), (1, 2), (2, 2), (3, 2), (0, 3), (1, 3), (2, 3), (3, 3)),
        ]  # fmt: skip

    def _last(self, sums: list[list[str]]) -> list[str]:
        (a0, a1), (b0, b1), (x0, x1), (y0, y1) = self.A, self.B, self.X, self.Y
        lines = [f"lw {a0}, -4({self.DP})", _op("P_LW_BY", a1, self.DY_PIXEL, self.DP),
                 f"lw {x0}, -4({self.XP})", _op("P_LW_BY", x1, self.X_PIXEL, self.XP)]  # fmt: skip
        for alone, low in ((a0, b0), (a1, b1), (x0, y0), (x1, y1)):
            lines += [_op("PACK", low, "x0", alone), f"srli {alone}, {alone}, 16"]
        return lines + list(self._dots(sums, (b0, a0, b1, a1), (y0, x0, y1, x1)).values())

    def _finish(self, sums: list[list[str]]) -> list[str]:
        cells, halves = [], []
        for row in sums:
            cells += [*(f"sw {s}, {4 * c}(t1)" for c, s in enumerate(row)), "add t1, t1, t2"]
            for c in (0, 2):
                halves += [*self.lane_sums("a0", row[c : c + 2], "a1"), f"sw a0, {2 * c}(t1)"]
            halves.append("add t1, t1, t2")
        out = f"sw a0, {_OUTER['out']}(t0)"
        return [*self._get("t1", "out"), f"lw t2, {_OUTER['out_row']}(t0)", f"lw a0, {_OUTER['is_half']}(t0)",
                "bnez a0, 7f", "addi a0, t1, 16", out, *cells, "j 8f", "7:", "addi a0, t1, 8", out, *halves, "8:"]  # fmt: skip


KERNELS: tuple[Dot | Outer, ...] = (Dot(4, 4), Dot(1, 4), Dot(4, 1), Dot(1, 1), Outer(4, 4))


def source() -> str:
    """The C file with all micro-kernels; empty of code where ODL_SIMD is 0."""
    functions = [
        "\n".join(("__asm__(", *map(quoted, kernel.text()), ");"))
        for kernel in (*KERNELS, *microkernels_depthwise.KERNELS)
    ]
    return "\n".join([HEAD, *(text + "\n" for text in functions), "#endif\n"])
