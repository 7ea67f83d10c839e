"""The hot inner loops of sums of products, for cores with packed binary16: assembly text from one description each.

Two kinds. A `Dot` block multiplies rows of x with rows of w along memory: convolutions and dense layers. An `Outer`
block sums over pixels, which lie in pairs: weight gradients. Both hold rows x columns accumulators in registers and
walk their operands with post-increment loads inside two nested hardware loops. The C form of
firmware/include/odl_micro.h is the definition; this form takes the same struct, sums in the same order and gives the
same bits.

The text is one C file: macros that stand for instructions without a mnemonic, and top-level assembly, since no
compiler's inline assembly can hold thirty operands. ODL_ACCUMULATE_FP16 chooses the accumulator and ODL_HARDWARE_LOOPS
between hardware loops and branches; the order of the instructions is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from odl import microkernels_depthwise
from odl.micro_assembly import HEAD, SAVED, Micro, quoted
from odl.micro_assembly import loop as _loop
from odl.micro_assembly import op as _op
from odl.micro_assembly import short as _short

# Fields of struct odl_dot and struct odl_outer, in words.
_DOT = {name: 4 * at for at, name in enumerate(
    ("x", "x1", "x2", "x3", "y", "y1", "y2", "y3", "w", "bias", "bias_step", "w_step", "n_blocks", "n_runs", "n_pairs",
     "x_skip"))}  # fmt: skip
_OUTER = {name: 4 * at for at, name in enumerate(
    ("dy", "x", "start", "out", "start_row", "out_row", "is_half", "n_blocks", "n_rows", "n_pairs", "dy_pair",
     "x_pair", "x_skip"))}  # fmt: skip


def _steady(products: Sequence[Sequence[str]], rows: Sequence[str], cols: Sequence[str]) -> list[str]:
    """One pair of a block whose operands were loaded in advance, all but the rows of x behind the first.

    `rows`: the loads of rows 1, 2, ... and, for the next pair, 0; `cols`: those of the columns, for the next pair.
    Loads stand between products: two cores that share an FPU fall into step then.
    """
    lines = [*products[0][:2], rows[0], *products[0][2:]]
    for load, row in zip(rows[1:-1], products[1:-1], strict=True):
        lines += [load, *row]
    return [*lines, rows[-1], *(line for both in zip(products[-1], cols, strict=True) for line in both)]


@dataclass(frozen=True)
class Dot(Micro):
    """sums[r][c] = bias[c] + sum over runs, then pairs k, of x[r][k] * w[c][k]; rounded, to y[r] and onwards.

    A call does `n_blocks` blocks of columns with the same rows. Per pair: rows + cols loads, rows * cols products.
    The 4 x 4 block loads ahead, and so a word behind the end of each operand, which it does not use.
    """

    @property
    def name(self) -> str:
        return f"odl_dot_{self.rows}x{self.cols}"

    @property
    def is_ahead(self) -> bool:
        return self.rows == self.cols == 4

    W, X = ("t0", "t1", "t2", "ra"), ("a0", "a1")  # operands
    XP, WP, STEP, BACK, ARGS = ("a2", "a3", "a4", "a5"), "a6", "a7", "tp", "gp"

    def text(self) -> list[str]:
        sums = self.sums()
        steps = [self.STEP, self.BACK] if self.cols > 1 else []
        used = [*(s for row in sums for s in row), *self.W[: self.cols], self.ARGS, *steps]
        body = [f"mv {self.ARGS}, a0", self._get(self.WP, "w"), *self._steps(), "2:", *_short(self._start(sums)),
                *(self._get(p, "x" + str(r or "")) for r, p in enumerate(self.XP[: self.rows])),
                *(map(self._load_w, range(4)) if self.is_ahead else ()),
                self._get("a0", "n_runs"), *_loop(1, "a0", self._run(sums), "a0"), *_short(self._finish(sums)),
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
        first, back = [], []
        if self.is_ahead:
            first, back = [_op("P_LW", self.X[0], 4, pointers[0])], [f"addi {pointers[0]}, {pointers[0]}, -4"]
        return [*first, self._get("a1", "n_pairs"), *_loop(0, "a1", self._pair(sums), "a1"),
                self._get("a0", "x_skip"), *back, *(f"add {p}, {p}, a0" for p in pointers)]  # fmt: skip

    def _pair(self, sums: list[list[str]]) -> list[str]:
        """Loads stand two instructions or more before their use, and between products where they can.

        Two registers take turns for x: row r + 2 comes when row r is done.
        """
        loads = [self._load_w(c) for c in range(self.cols)]
        rows = [_op("P_LW", self.X[r % 2], 4, self.XP[r]) for r in range(self.rows)]
        products = [[_op("DOT2", s, self.X[r % 2], self.W[c]) for c, s in enumerate(row)] for r, row in enumerate(sums)]
        if self.is_ahead:
            return _steady(products, [*rows[1:], rows[0]], loads)
        lines = [loads.pop(0), rows.pop(0), (loads or rows or [""]).pop(0)]
        for r, row in enumerate(products):
            for c, product in enumerate(row):
                lines.append(product)
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
        onward = [f"sub {self.WP}, {self.WP}, {self.BACK}"] if self.cols > 1 else []
        return lines + onward + ([] if self.is_ahead or self.cols == 1 else [f"addi {self.WP}, {self.WP}, 4"])

    def _store_one(self, s: str) -> list[str]:
        return [*self.lane_sum("a0", s), _op("P_SH", "a0", 2, "t0")]


@dataclass(frozen=True)
class Outer(Micro):
    """sums[o][c] = start[o][c] + sum over image rows, then pairs of pixels p, of dy[p][o] * x[p][c].

    A call does `n_blocks` blocks of four or three columns with the same four outputs. A word holds a pair of pixels, so
    one pair is four words of dy, one of x for each column, and a product of each two. Loads ahead, and so a pair behind
    the end of each operand.
    """

    @property
    def name(self) -> str:
        return f"odl_outer_{self.rows}x{self.cols}"

    @property
    def X(self) -> tuple[str, ...]:  # noqa: N802
        """Words of x. Four take turns in two registers; an odd number does not, but needs fewer for its sums."""
        return ("a0", "a1") if self.cols % 2 == 0 else ("a0", "a1", SAVED[-1])

    W = ("t0", "t1", "t2", "ra")  # words of dy
    DP, XP, ARGS, N_PAIRS, X_SKIP, DY_PAIR, X_PAIR = "a2", "a3", "a4", "a5", "a6", "a7", "tp"

    def text(self) -> list[str]:
        sums = self.sums()
        used = [*(s for row in sums for s in row), *self.X, "ra", self.X_PAIR]
        kept = zip((self.N_PAIRS, self.X_SKIP, self.DY_PAIR, self.X_PAIR), ("n_pairs", "x_skip", "dy_pair", "x_pair"),
                   strict=True)  # fmt: skip
        body = [
            f"mv {self.ARGS}, a0", *(self._get(rd, name) for rd, name in kept), "2:", *_short(self._start(sums)),
            self._get(self.DP, "dy"), self._get(self.XP, "x"), f"addi a0, {self.XP}, {4 * self.cols}",
            self._put("a0", "x"), f"addi {self.DP}, {self.DP}, 12", f"addi {self.XP}, {self.XP}, {4 * self.cols - 4}",
            *self._dy(),
            self._get("a0", "n_rows"), *_loop(1, "a0", self._row(sums), "a0"), *_short(self._finish(sums)),
            self._get("a0", "n_blocks"), "addi a0, a0, -1", self._put("a0", "n_blocks"), "bnez a0, 2b",
        ]  # fmt: skip
        return self.function(self.name, body, used)

    def _get(self, rd: str, name: str) -> str:
        return f"lw {rd}, {_OUTER[name]}({self.ARGS})"

    def _put(self, rs: str, name: str) -> str:
        return f"sw {rs}, {_OUTER[name]}({self.ARGS})"

    def _start(self, sums: list[list[str]]) -> list[str]:
        loads = []
        for row in sums:
            loads += [*(f"lw {s}, {4 * c}(t1)" for c, s in enumerate(row)), "add t1, t1, t2"]
        return [self._get("t1", "start"), "beqz t1, 3f", self._get("t2", "start_row"), f"addi a0, t1, {4 * self.cols}",
                self._put("a0", "start"), *loads, "j 4f", "3:", *(f"li {s}, 0" for row in sums for s in row),
                "4:"]  # fmt: skip

    def _dy(self) -> list[str]:
        """The loads of four words of dy; DP is at the last of them, and then at the next pair's."""
        return self._words(self.W, self.DP, self.DY_PAIR)

    def _words(self, into: Sequence[str], pointer: str, step: str) -> list[str]:
        last = len(into) - 1
        near = [f"lw {word}, {4 * (at - last)}({pointer})" for at, word in enumerate(into[:last])]
        return [*near, _op("P_LW_BY", into[last], step, pointer)]

    def _row(self, sums: list[list[str]]) -> list[str]:
        """One row of the image; the rows of dy follow each other, those of x have a skip between them."""
        words = [self.X[c % len(self.X)] for c in range(self.cols)]
        first, *rest = self._words(words, self.XP, self.X_PAIR)
        products = [[_op("DOT2", row[c], word, dy) for row, dy in zip(sums, self.W, strict=True)]
                    for c, word in enumerate(words)]  # fmt: skip
        pair = _steady(products, [*rest, first], self._dy())
        return [first, *_loop(0, self.N_PAIRS, pair, "a1"), f"add {self.XP}, {self.XP}, {self.X_SKIP}"]

    def _finish(self, sums: list[list[str]]) -> list[str]:
        cells, halves = [], []
        for row in sums:
            cells += [*(f"sw {s}, {4 * c}(t1)" for c, s in enumerate(row)), "add t1, t1, t2"]
            for c in range(0, self.cols - 1, 2):
                halves += [*self.lane_sums("a0", row[c : c + 2], "a1"), f"sw a0, {2 * c}(t1)"]
            if self.cols % 2:
                halves += [*self.lane_sum("a0", row[-1]), f"sh a0, {2 * self.cols - 2}(t1)"]
            halves.append("add t1, t1, t2")
        out = self._put("a0", "out")
        return [self._get("t1", "out"), self._get("t2", "out_row"), self._get("a0", "is_half"),
                "bnez a0, 7f", f"addi a0, t1, {4 * self.cols}", out, *cells, "j 8f",
                "7:", f"addi a0, t1, {2 * self.cols}", out, *halves, "8:"]  # fmt: skip


@dataclass(frozen=True)
class Interleave(Micro):
    """Runs of words of a and b become pairs of elements: {a.lo, b.lo}, {a.hi, b.hi}, {a'.lo, b'.lo}, ..."""

    rows: int = 0
    cols: int = 0
    name = "odl_interleave"

    def text(self) -> list[str]:
        y, a, b, n_runs, n_twice, skip, mask = "a1", "a2", "a3", "a4", "a5", "a6", "a7"
        fields = [f"lw {register}, {4 * at}(a0)" for at, register in enumerate((y, a, b, n_runs, n_twice, skip))]
        first, second = ("t0", "t1"), ("t2", "t3")
        loads = [_op("P_LW", word, 4, at) for both in (first, second) for word, at in zip(both, (a, b), strict=True)]
        stores = []
        for u, v in (first, second):
            stores += [
                _op("PACK", "t4", v, u),
                _op("P_SW", "t4", 4, y),
                _op("SHUFFLE", u, v, mask),
                _op("P_SW", u, 4, y),
            ]
        run = [*_loop(0, n_twice, [*loads, *stores], "t4"), f"add {a}, {a}, {skip}", f"add {b}, {b}, {skip}"]
        body = [*fields, f"lui {mask}, 48", f"addi {mask}, {mask}, 1", *_loop(1, n_runs, run, "t4")]
        return self.function(self.name, body, ())


KERNELS: tuple[Dot | Outer | Interleave, ...] = (
    Dot(4, 4), Dot(1, 4), Dot(4, 1), Dot(1, 1), Outer(4, 4), Outer(4, 3), Interleave(),
)  # fmt: skip


def source() -> str:
    """The C file with all micro-kernels; empty of code where ODL_SIMD is 0."""
    functions = [
        "\n".join(("__asm__(", *map(quoted, kernel.text()), ");"))
        for kernel in (*KERNELS, *microkernels_depthwise.KERNELS)
    ]
    return "\n".join([HEAD, *(text + "\n" for text in functions), "#endif\n"])
