"""Micro-kernels of depthwise convolutions, 3x3 with stride 1, and of their weight gradients.

The reduction axis has its pairs a pixel or a row apart, so words (two channels of a pixel) are taken crosswise: a PACK
makes the pair of the first channel, a SHUFFLE that of the second one, in the place of the earlier word. The C form of
firmware/include/odl_micro_depthwise.h is the definition; this form takes the same structs and gives the same bits.

A tap or pixel without a partner is a pair with zeros. With the binary32 accumulator one product (MAC1) is the same, and
needs no pair: only the sign of a zero could differ, in sums that are -0, and no sum is, if it does not start as -0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from odl.micro_assembly import Micro, choose, loop, op, short

# Fields of struct odl_columns and struct odl_tap_sums, in words.
_COLUMNS = {name: 4 * at for at, name in enumerate(
    ("y", "x", "w", "bias", "pixel", "x_row", "y_row", "n_cols", "n_rows"))}  # fmt: skip
_TAP_SUMS = {name: 4 * at for at, name in enumerate(
    ("dy", "x", "start", "out", "start_tap", "out_tap", "is_half", "pixel", "x_row", "n_rows", "n_pairs",
     "n_blocks"))}  # fmt: skip

_ALL = (*(f"t{i}" for i in range(7)), *(f"a{i}" for i in range(1, 8)), "ra", *(f"s{i}" for i in range(12)), "tp", "gp")
_ARGS = "8(sp)"  # where a function keeps its argument; a0 has it on entry and is free otherwise


def _arguments(fields: dict[str, int], **registers: str) -> list[str]:
    """Load fields; their address is in a0."""
    return [f"lw {register}, {fields[name]}(a0)" for name, register in registers.items()]


def _mask(register: str) -> list[str]:
    """The shuffle that makes rd the high halves of rd and rs."""
    return [f"lui {register}, 0x30", f"addi {register}, {register}, 1"]


@dataclass
class _Taps:
    """Registers that change their roles from one output pixel to the next, and are back after two.

    Pairs of neighbours in a row, those of both channels: `top` of the first row of the window, columns 0 and 1;
    `middle`, the same in the second row; `right`, columns 1 and 2 of the second row. `across`: the end of the first row
    and the start of the second. `corner`: the word at the end of the second row.
    """

    top: tuple[str, str]
    middle: tuple[str, str]
    right: tuple[str, str]
    across: tuple[str, str]
    corner: str
    free: str

    def next(self) -> _Taps:
        (right, spare), (across, corner) = self.right, self.across
        return _Taps(self.middle, self.top, (right, self.free), (across, self.corner), corner, spare)


class Columns(Micro):
    """y[r][c] = round(bias + sum over the nine taps of x * w), for two channels, `n_cols` columns down `n_rows` rows.

    Down a column a window shares two rows with the next one, and so the pairs along rows: per output pixel three words
    come in, and make three pairs for each channel.
    """

    name = "odl_columns_3x3"

    def __init__(self) -> None:
        super().__init__(1, 2)
        names = iter(_ALL)
        self._w = [(next(names), next(names)) for _ in range(5)]
        self._start = (next(names), next(names))
        self._sums = (next(names), next(names))
        self._mask, self._xp, self._yp = next(names), next(names), next(names)
        self._pixel, self._back, self._y_row = next(names), next(names), next(names)
        p, q, g, k = ((next(names), next(names)) for _ in range(4))
        self._taps = _Taps(p, q, g, k, next(names), "a0")

    def text(self) -> list[str]:
        taps, first = self._taps, self._pixel_sum(self._taps)
        assert taps.next().next() == taps
        count = taps.corner
        body = [
            *short([f"sw a0, {_ARGS}", *_mask(self._mask), *self._weights(), *self._bias()]),
            "2:", *short(self._begin()), *loop(0, "a0", first + self._pixel_sum(taps.next()), "a0"), "3:",
            f"lw a0, {_ARGS}", f"lw a0, {_COLUMNS['n_rows']}(a0)", "andi a0, a0, 1", "beqz a0, 4f", *first, "4:",
            f"lw a0, {_ARGS}", f"lw {count}, {_COLUMNS['n_cols']}(a0)", f"addi {count}, {count}, -1",
            f"sw {count}, {_COLUMNS['n_cols']}(a0)", f"bnez {count}, 2b",
        ]  # fmt: skip
        return self.function(self.name, body, _ALL)

    def _weights(self) -> list[str]:
        """The taps in pairs; the last one is alone."""
        at, temps = self._taps.top[0], (*self._taps.middle, *self._taps.right)
        lines = [*_arguments(_COLUMNS, w=at, pixel=self._pixel, x_row=self._back, y_row=self._y_row)]
        for (_, hi), other in zip(self._w[:4], temps, strict=True):
            lines += [op("P_LW_BY", word, self._pixel, at) for word in (hi, other)]
        lines += [f"lw {self._w[4][0]}, 0({at})"]
        lines += [f"sub {self._back}, {self._back}, {self._pixel}"] * 2
        for (lo, hi), other in zip(self._w[:4], temps, strict=True):
            lines += [op("PACK", lo, other, hi), op("SHUFFLE", hi, other, self._mask)]
        lo, hi = self._w[4]
        return [*lines, f"srli {hi}, {lo}, 16", *choose([op("PACK", lo, "x0", lo)], [])]

    def _bias(self) -> list[str]:
        at = self._taps.top[0]
        halves, floats = [], []
        for c, start in enumerate(self._start):
            halves.append(f"lhu {start}, {2 * c}({at})")
            floats.append(f"lh {start}, {2 * c}({at})")
        floats += [f"fcvt.s.h {start}, {start}" for start in self._start]
        floats += [f"fadd.s {start}, {start}, x0" for start in self._start]  # -0 becomes +0
        return [*_arguments(_COLUMNS, bias=at), *choose(halves, floats)]

    def _begin(self) -> list[str]:
        """Go to the next column, with the first two rows of its first window, and the number of pairs of rows in a0."""
        taps, m = self._taps, self._mask
        (p0, p1), (q0, q1), (g0, g1), (k0, k1), u = taps.top, taps.middle, taps.right, taps.across, taps.corner

        def load(rd: str, last: bool = False) -> str:
            return op("P_LW_BY", rd, self._back if last else self._pixel, self._xp)

        return [
            f"lw a0, {_ARGS}", *_arguments(_COLUMNS, x=self._xp, y=self._yp),
            f"add {g0}, {self._xp}, {self._pixel}", f"sw {g0}, {_COLUMNS['x']}(a0)",
            f"add {g0}, {self._yp}, {self._pixel}", f"sw {g0}, {_COLUMNS['y']}(a0)",
            load(p1), load(q0), load(k1, True), op("PACK", p0, q0, p1), op("SHUFFLE", p1, q0, m),
            load(q1), load(g1), load(u, True), f"lw a0, {_COLUMNS['n_rows']}(a0)",
            op("PACK", k0, q1, k1), op("SHUFFLE", k1, q1, m), "srli a0, a0, 1",
            op("PACK", q0, g1, q1), op("SHUFFLE", q1, g1, m), op("PACK", g0, u, g1), op("SHUFFLE", g1, u, m),
            "beqz a0, 3f",
        ]  # fmt: skip

    def _pixel_sum(self, taps: _Taps) -> list[str]:
        """One output pixel; loads, pairs and products take turns."""
        (s0, s1), (w0, w1, w2, w3, w4), m = self._sums, self._w, self._mask
        (p0, p1), (g0, g1), (k0, k1), u, f = taps.top, taps.right, taps.across, taps.corner, taps.free

        def load(rd: str, last: bool = False) -> str:
            return op("P_LW_BY", rd, self._back if last else self._pixel, self._xp)

        last = choose(
            [op("PACK", g1, "x0", k1), op("DOT2", s0, g1, w4[0]), f"srli {g1}, {k1}, 16", op("DOT2", s1, g1, w4[1])],
            [f"srli {g1}, {k1}, 16", op("MAC1", s0, k1, w4[0]), op("PACK", g0, k1, f), op("MAC1", s1, g1, w4[1])],
        )
        halves = [op("PACK", g1, s1, s0), f"srli {s0}, {s0}, 16", op("PACK", g0, k1, f), f"srli {s1}, {s1}, 16",
                  op("SHUFFLE", f, k1, m), op("PACK", s0, s1, s0), op("ADD2", g1, g1, s0)]  # fmt: skip
        return [
            f"mv {s0}, {self._start[0]}", op("DOT2", s0, p0, w0[0]),
            f"mv {s1}, {self._start[1]}", op("DOT2", s1, p1, w0[1]),
            load(p1), op("DOT2", s0, k0, w1[0]), load(f), op("DOT2", s1, k1, w1[1]),
            load(k1, True), op("DOT2", s0, g0, w2[0]), op("PACK", p0, f, p1), op("DOT2", s1, g1, w2[1]),
            op("PACK", k0, p1, u), op("DOT2", s0, p0, w3[0]), op("SHUFFLE", u, p1, m), op("SHUFFLE", p1, f, m),
            op("DOT2", s1, p1, w3[1]), *last,
            *choose(halves, [op("SHUFFLE", f, k1, m), op("ROUND2", g1, s0, s1)]),
            op("P_SW_BY", g1, self._y_row, self._yp),
        ]  # fmt: skip


@dataclass(frozen=True)
class _Row:
    """A kernel row of a weight gradient: its sums, its image, and the words of it that it holds.

    `lo` and `hi` are the pairs that tap 0 sees, `word` the last of them as it came.
    """

    sums: tuple[tuple[str, str], ...]
    at: str
    lo: str
    hi: str
    word: str


class TapSums(Micro):
    """sums[tap] = start[tap] + sum over rows, then pixels in pairs, of dy * x, for two channels; `rows` kernel rows of
    three taps, stride 1. What tap 2 sees of two pixels, tap 0 sees of the next two. `odd`: the number of pixels.

    Two cores share an FPU, and run well where each lets go of it after a product. So with two kernel rows, below which
    there is always another row of the image, a row ends with the first words of the next, between its last products."""

    def __init__(self, rows: int, odd: bool) -> None:
        super().__init__(rows, 6)
        self.name = f"odl_tap_sums_{rows}_{'odd' if odd else 'even'}"
        self._odd = odd
        names = iter(_ALL)
        self._rows = [self._row_registers(names) for _ in range(rows)]
        self._lo, self._hi, self._spare = next(names), next(names), next(names)  # a pair of dy
        self._mask, self._dp, self._pixel, self._n_pairs = next(names), next(names), next(names), next(names)
        self._last_hi = next(names)
        self._used = _ALL[: _ALL.index(self._last_hi) + 1]

    @staticmethod
    def _row_registers(names: Iterator[str]) -> _Row:
        sums = tuple((next(names), next(names)) for _ in range(3))
        return _Row(sums, next(names), next(names), next(names), next(names))

    def text(self) -> list[str]:
        count = self._spare
        more = [*_arguments(_TAP_SUMS, n_blocks=count), f"addi {count}, {count}, -1",
                f"sw {count}, {_TAP_SUMS['n_blocks']}(a0)", f"bnez {count}, 2b"]  # fmt: skip
        body = [
            *short([f"sw a0, {_ARGS}", *_mask(self._mask), "2:", *self._begin(), *self._pointers(),
                    *(self._first_words() if len(self._rows) > 1 else [])]),
            *loop(1, "a0", self._image_row(), "a0"), *short([*self._finish(), *more]),
        ]  # fmt: skip
        return self.function(self.name, body, self._used)

    def _begin(self) -> list[str]:
        """The sums' first values."""
        at, step, onwards = self._lo, self._hi, self._spare
        sums = [pair for row in self._rows for pair in row.sums]
        loads = [
            line for lo, hi in sums for line in (f"lw {lo}, 0({at})", f"lw {hi}, 4({at})", f"add {at}, {at}, {step}")
        ]
        return [*_arguments(_TAP_SUMS, start=at, start_tap=step), f"beqz {at}, 3f",
                f"addi {onwards}, {at}, 8", f"sw {onwards}, {_TAP_SUMS['start']}(a0)", *loads, "j 4f", "3:",
                *(f"li {s}, 0" for pair in sums for s in pair), "4:"]  # fmt: skip

    def _pointers(self) -> list[str]:
        """Where the images are, and the next block's; the number of rows, in a0."""
        first, dp, lo, hi, spare = self._rows[0].at, self._dp, self._lo, self._hi, self._spare
        return [
            *_arguments(_TAP_SUMS, dy=dp, x=first, x_row=spare, pixel=self._pixel, n_pairs=self._n_pairs),
            f"addi {lo}, {dp}, 4", f"addi {hi}, {first}, 4",
            f"sw {lo}, {_TAP_SUMS['dy']}(a0)", f"sw {hi}, {_TAP_SUMS['x']}(a0)",
            *(f"add {row.at}, {before.at}, {spare}" for before, row in pairwise(self._rows)),
            *_arguments(_TAP_SUMS, n_rows="a0"),
        ]  # fmt: skip

    def _first_words(self) -> list[str]:
        rows = self._rows
        return [
            *(self._load(row, row.hi) for row in rows), *(self._load(row, row.word) for row in rows),
            *(line for row in rows for line in self._first_pair(row)),
        ]  # fmt: skip

    def _first_pair(self, row: _Row) -> list[str]:
        return [op("PACK", row.lo, row.word, row.hi), op("SHUFFLE", row.hi, row.word, self._mask)]

    def _image_row(self) -> list[str]:
        pairs = loop(0, self._n_pairs, self._pair(), "a0")
        if len(self._rows) == 1:  # a loop must not end where the one around it does
            return [*self._first_words(), *pairs, *(self._last() if self._odd else ["mv a0, a0"])]
        return [*pairs, *(self._last_and_first() if self._odd else self._first_words())]

    def _load(self, row: _Row, rd: str) -> str:
        return op("P_LW_BY", rd, self._pixel, row.at)

    def _dot(self, row: _Row, tap: int, lane: int, x: str) -> str:
        return op("DOT2", row.sums[tap][lane], x, (self._lo, self._hi)[lane])

    def _pair(self) -> list[str]:
        """Two pixels; the rows take turns."""
        rows, m, lo, hi, spare = self._rows, self._mask, self._lo, self._hi, self._spare
        first = [[self._dot(r, 0, 1, r.hi), self._load(r, r.hi)] for r in rows]
        second = [[self._dot(r, 0, 0, r.lo), op("PACK", r.lo, r.hi, r.word)] for r in rows]
        third = [[self._dot(r, 1, 0, r.lo), op("SHUFFLE", r.word, r.hi, m)] for r in rows]
        fourth = [[self._dot(r, 1, 1, r.word), self._load(r, r.word)] for r in rows]
        if len(rows) == 1:  # a dot product between the load and its use
            third, fourth = [[third[0][1]]], [[*fourth[0], third[0][0]]]
        ends = [[op("PACK", r.lo, r.word, r.hi), self._dot(r, 2, 0, r.lo), op("SHUFFLE", r.hi, r.word, m),
                 self._dot(r, 2, 1, r.hi)] for r in rows]  # fmt: skip
        return [
            op("P_LW_BY", hi, self._pixel, self._dp), op("P_LW_BY", spare, self._pixel, self._dp),
            op("PACK", lo, spare, hi), op("SHUFFLE", hi, spare, m),
            *(line for part in (first, second, third, fourth, ends) for lines in part for line in lines),
        ]  # fmt: skip

    def _alone(self, row: _Row, tap: int, lane: int, word: str) -> list[str]:
        """A product of low halves. MAC1 does not look at what is above them, DOT2 does."""
        acc, dy = row.sums[tap][lane], (self._lo, self._hi)[lane]
        return choose([op("PACK", word, "x0", word), op("DOT2", acc, word, dy)], [op("MAC1", acc, word, dy)])

    def _last_dy(self) -> list[str]:
        """The last pixel and a word of x; `hi` of the pixel has time till after the first product."""
        lo = self._lo
        return [op("P_LW_BY", lo, self._pixel, self._dp), self._load(self._rows[0], self._spare),
                *choose([self._last_hi_dy(), op("PACK", lo, "x0", lo)], [])]  # fmt: skip

    def _last_hi_dy(self) -> str:
        return f"srli {self._hi}, {self._lo}, 16"

    def _last_products(self, row: _Row, between: Sequence[str]) -> list[str]:
        """The last pixel of an odd number, whose last word of x is in `spare`. `between` may use what is done with."""
        second, third, word = row.lo, self._last_hi, self._spare
        a, b, c, d = between
        next_word = f"srli {second}, {row.word}, 16"
        early: tuple[list[str], list[str]] = ([next_word], [])
        if row is self._rows[0]:
            early = choose([], [self._last_hi_dy()]), [next_word]
        lines = [
            *self._alone(row, 0, 0, row.lo), *early[0], *self._alone(row, 0, 1, row.hi), *early[1], a,
            *self._alone(row, 1, 0, row.word), f"srli {third}, {word}, 16", self._dot(row, 1, 1, second), b,
            *self._alone(row, 2, 0, word), c, self._dot(row, 2, 1, third), d,
        ]  # fmt: skip
        return [line for line in lines if line]

    def _last(self) -> list[str]:
        return [*self._last_dy(), *self._last_products(self._rows[0], [""] * 4)]

    def _last_and_first(self) -> list[str]:
        """The last pixel, and the first words of the next row."""
        first, second = self._rows
        (pack, shuffle), onwards = self._first_pair(first), self._first_pair(second)
        return [
            *self._last_dy(),
            *self._last_products(first, [self._load(first, first.hi), self._load(first, first.word),
                                         self._load(second, self._spare), pack]),
            *self._last_products(second, [self._load(second, second.hi), self._load(second, second.word), shuffle, ""]),
            *onwards,
        ]  # fmt: skip

    def _finish(self) -> list[str]:
        at, step, rd, spare = self._dp, self._pixel, self._lo, self._hi
        cells, halves = [], []
        for lo, hi in (pair for row in self._rows for pair in row.sums):
            cells += [f"sw {lo}, 0({at})", f"sw {hi}, 4({at})", f"add {at}, {at}, {step}"]
            halves += [*self.lane_sums(rd, (lo, hi), spare), op("P_SW_BY", rd, step, at)]
        out = f"sw {rd}, {_TAP_SUMS['out']}(a0)"
        return [f"lw a0, {_ARGS}", *_arguments(_TAP_SUMS, is_half=rd, out=at, out_tap=step), f"bnez {rd}, 7f",
                f"addi {rd}, {at}, 8", out, *cells, "j 8f",
                "7:", f"addi {rd}, {at}, 4", out, *halves, "8:"]  # fmt: skip


KERNELS: Sequence[Columns | TapSums] = (
    Columns(), *(TapSums(rows, odd) for rows in (2, 1) for odd in (False, True)),
)  # fmt: skip
