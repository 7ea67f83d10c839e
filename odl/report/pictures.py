"""The pictures of a report, as geometry: lines, points and rectangles in the units of a view box, and what they say.

The templates draw them (templates/report/pictures.svg.j2); colours are classes of the style sheet. Coordinates have one
decimal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil, floor, isfinite, log10
from typing import Any

from odl.report.labels import Label, labels

Result = Mapping[str, Any]

WIDTH = 720
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 12, 40
_MOST_POINTS = 600  # of a line
_SMOOTHED = 10  # a line's running mean is over one part of so many


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: `at` along it, and what it says."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """`d` of an SVG path. `style` is its class."""

    d: str
    style: str
    name: str = ""


@dataclass(frozen=True)
class Dot:
    """`style` is its class, `says` what it tells under a finger or a pointer; `name` stands beside it, where there is
    room."""

    x: float
    y: float
    style: str
    says: str
    name: str = ""


@dataclass(frozen=True)
class Rect:
    """`says` is what it tells under a finger or a pointer; `text` stands inside, where there is room."""

    x: float
    y: float
    width: float
    height: float
    style: str
    says: str
    text: str = ""


@dataclass(frozen=True)
class Chart:
    """A frame with two axes, and what is drawn in it."""

    title: str
    height: int
    x_axis: str
    y_axis: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...] = ()
    dots: tuple[Dot, ...] = ()
    rects: tuple[Rect, ...] = ()
    labels: tuple[Label, ...] = ()
    width: int = WIDTH
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP

    @property
    def bottom(self) -> int:
        return self.height - _BOTTOM


Scale = Callable[[float], float]


def _linear(low: float, high: float, start: float, end: float) -> Scale:
    span = (high - low) or 1.0
    return lambda value: round(start + (value - low) / span * (end - start), 1)


def _logarithmic(low: float, high: float, start: float, end: float) -> Scale:
    linear = _linear(log10(low), log10(high), start, end)
    return lambda value: linear(log10(value))


def round_steps(high: float, about: int = 5) -> list[float]:
    """0 and the multiples of 1, 2 or 5 times a power of ten up to `high`, some `about` of them."""
    return steps_between(0.0, high, about) if high > 0 else [0.0]


def steps_between(low: float, high: float, about: int = 5) -> list[float]:
    """The multiples of 1, 2 or 5 times a power of ten from `low` to `high`, some `about` of them."""
    power = 10.0 ** floor(log10((high - low) / about))
    step = next(factor * power for factor in (1, 2, 5, 10) if (high - low) / (factor * power) <= about)
    return [n * step for n in range(ceil(low / step * (1 - 1e-9)), floor(high / step * (1 + 1e-9)) + 1)]


def _ticks(steps: Iterable[float], scale: Scale, text: Callable[[float], str]) -> tuple[Tick, ...]:
    return tuple(Tick(scale(value), text(value)) for value in steps)


def path(points: Iterable[tuple[float, float]]) -> str:
    """An SVG path through points; one that is not finite breaks it."""
    words, pen = [], "M"
    for x, y in points:
        if isfinite(y):
            words.append(f"{pen}{x:g} {y:g}")
        pen = "L" if isfinite(y) else "M"
    return "".join(words)


# --- the loss ---------------------------------------------------------------------------------------------------------


def losses(curves: Sequence[tuple[str, str, Sequence[float]]], *, raw: bool = True) -> Chart:
    """A thick line of the running mean of losses and, if `raw`, a thin one of each step's, for every (name, style,
    losses)."""
    drawn = (values if raw else _means(values) for _, _, values in curves)
    finite = [value for values in drawn for value in values if isfinite(value)]
    steps, high = max(len(values) for _, _, values in curves), _upper(finite)
    height = 300
    x = _linear(1, max(steps, 2), _LEFT, WIDTH - _RIGHT)
    y = _linear(0, high, height - _BOTTOM, _TOP)
    lines = []
    for name, style, values in curves:
        thin = [("raw", values, "")] if raw else []
        for kind, series, label in (*thin, ("mean", _means(values), name)):
            points = [(x(at), y(min(value, high)) if isfinite(value) else value) for at, value in enumerate(series, 1)]
            lines.append(Line(path(_thinned(points)), f"{style} {kind}", label))
    return Chart(
        "Loss of each step", height, "step", "loss",
        _ticks(round_steps(steps, 8), lambda value: x(max(value, 1)), lambda value: f"{max(value, 1):,.0f}"),
        _ticks(round_steps(high), y, lambda value: f"{value:g}"),
        tuple(lines),
    )  # fmt: skip


def _upper(values: Sequence[float]) -> float:
    """Where the axis ends: at the largest, or, where few stand out, at three times what 98 of 100 stay below."""
    ordered = sorted(values) or [1.0]
    return min(ordered[-1], 3 * ordered[int(0.98 * (len(ordered) - 1))]) or 1.0


def _means(values: Sequence[float]) -> list[float]:
    """The mean of each value and those before it, over a tenth of all; of the finite ones."""
    window = max(1, len(values) // _SMOOTHED)
    sums = list(accumulate((v if isfinite(v) else 0.0 for v in values), initial=0.0))
    counts = list(accumulate(map(isfinite, values), initial=0))
    spans = [(max(0, end - window), end) for end in range(1, len(values) + 1)]
    return [
        (sums[end] - sums[start]) / n if (n := counts[end] - counts[start]) else float("nan") for start, end in spans
    ]


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Some _MOST_POINTS of them: the lowest and the highest of each stretch, so that no spike is lost."""
    stretch = ceil(2 * len(points) / _MOST_POINTS)
    if stretch <= 2:
        return list(points)
    kept = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        kept += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    return kept


# --- what was taken for what ------------------------------------------------------------------------------------------


def confusion(matrix: Sequence[Sequence[int]]) -> Chart:
    """A row for each class, a column for what its samples were taken for; the fuller, the larger the share of a row."""
    n = len(matrix)
    wide, high = min(_CELL[0], (WIDTH - _LEFT - _RIGHT) / n), _CELL[1]
    height = round(_TOP + n * high + _BOTTOM)
    rects = [Rect(_LEFT, _TOP, round(n * wide, 1), n * high, "room", "nothing was taken for that")]
    for row, counts in enumerate(matrix):
        for column, count in enumerate(counts):
            if count:
                of = sum(counts)
                says = f"{count:,} of {of:,} samples of class {row} were taken for class {column}"
                style = f"{'hit' if row == column else 'miss'} share{ceil(4 * count / of)}"
                x, y = round(_LEFT + column * wide, 1), _TOP + row * high
                rects.append(Rect(x, y, round(wide, 1), high, style, says, str(count)))
    names = tuple(Tick(round(_TOP + (at + 0.5) * high, 1), str(at)) for at in range(n))
    columns = tuple(Tick(round(_LEFT + (at + 0.5) * wide, 1), f"as {at}") for at in range(n))
    return Chart(
        "What samples of each class were taken for", height, "", "", columns, names, (), (), tuple(rects),
        right=round(_LEFT + n * wide),
    )  # fmt: skip


_CELL = (56, 24)


# --- memory -----------------------------------------------------------------------------------------------------------


def memory_map(memory: Result, entry: str, space: str, top_bytes: int = 0) -> Chart:
    """What lies where in a memory while which node of an entry runs: a rectangle for each block. Its axis ends at
    `top_bytes`, or, of 0, where the memory does: maps that are compared end at the same."""
    found = next(each for each in memory["entries"] if each["entry"] == entry)
    nodes, blocks = found["nodes"], [block for block in found["blocks"] if block["space"] == space]
    size = top_bytes or memory["arena_bytes"][space]
    height, n = 380, len(nodes)
    x, y = _linear(0, n, _LEFT, WIDTH - _RIGHT), _linear(0, size, height - _BOTTOM, _TOP)
    rects = [_block(block, nodes, x, y) for block in blocks if block["bytes"]]
    peak = max(range(n), key=lambda at: nodes[at]["live_bytes"])
    used = max((block["offset"] + block["bytes"] for block in blocks), default=0)
    mark = (
        Line(path([(x(peak + 0.5), height - _BOTTOM), (x(peak + 0.5), _TOP)]), "peak"),
        Line(path([(_LEFT, y(used)), (WIDTH - _RIGHT, y(used))]), "peak", f"peak: {used:,} bytes"),
    )
    return Chart(
        f"{space} while {entry} runs", height, f"node of {entry}, in order; the most is live in {nodes[peak]['node']}",
        "offset, KiB", _ticks(round_steps(n, 8), x, lambda value: f"{value:.0f}"),
        _ticks([1024 * value for value in round_steps(size / 1024)], y, lambda value: f"{value / 1024:g}"),
        mark, (), tuple(rects),
    )  # fmt: skip


def _block(block: Result, nodes: Sequence[Result], x: Scale, y: Scale) -> Rect:
    first, last = max(0, block["first"]), min(block["last"], len(nodes) - 1)
    left, right = x(first), x(last + 1)
    top, bottom = y(block["offset"] + block["bytes"]), y(block["offset"])
    lives = f"from {nodes[first]['node']} to {nodes[last]['node']}"
    says = f"{', '.join(block['values'])}: {block['bytes']:,} bytes at {block['offset']:,}, {lives}"
    whole = block["first"] <= 0 and block["last"] >= len(nodes) - 1
    style = "kept" if whole else nodes[first]["phase"]
    return Rect(left, top, round(right - left, 1), round(bottom - top, 1), style, says)


# --- points against each other ----------------------------------------------------------------------------------------


def scatter(
    title: str, x_axis: str, y_axis: str, points: Sequence[Dot],
    x_text: Callable[[float], str], y_text: Callable[[float], str],
) -> Chart:  # fmt: skip
    """Points, in units of what is measured, over axes that begin and end near them; later ones lie above earlier ones,
    and get their names first. Those that are not finite are left out."""
    height = 340
    seen = [point for point in points if isfinite(point.x) and isfinite(point.y)]
    low_x, high_x = _around([point.x for point in seen])
    low_y, high_y = _around([point.y for point in seen])
    x = _linear(low_x, high_x, _LEFT + 12, WIDTH - _RIGHT - 12)
    y = _linear(low_y, high_y, height - _BOTTOM - 12, _TOP + 12)
    dots = tuple(replace(point, x=x(point.x), y=y(point.y)) for point in seen)
    frame = _LEFT, _TOP, WIDTH - _RIGHT, height - _BOTTOM
    return Chart(
        title, height, x_axis, y_axis,
        _ticks(steps_between(low_x, high_x), x, x_text), _ticks(steps_between(low_y, high_y), y, y_text), (), dots,
        labels=labels([(dot.x, dot.y, dot.name) for dot in reversed(dots)], frame),
    )  # fmt: skip


def _around(values: Sequence[float]) -> tuple[float, float]:
    """The least and the largest; of one value alone something around it, so that an axis has a length."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    return (low, high) if low < high else (low - (abs(low) or 1) / 10, high + (abs(high) or 1) / 10)


# --- the roofs --------------------------------------------------------------------------------------------------------


def roofline(found: Result) -> Chart:
    """Both axes logarithmic; the roofs are what the units and the DMA can do."""
    points = [point for point in found["points"] if point["mac_per_byte"]]
    peak, slope = found["mac_per_cycle"], found["dma_bytes_per_cycle"]
    low_x = min([0.5, *(p["mac_per_byte"] for p in points)]) / 1.5
    high_x = max([64.0, *(p["mac_per_byte"] for p in points)]) * 1.5
    low_y = min([0.5, *(p["mac_per_cycle"] for p in points)]) / 1.5
    height = 340
    x, y = _logarithmic(low_x, high_x, _LEFT, WIDTH - _RIGHT), _logarithmic(low_y, peak * 1.4, height - _BOTTOM, _TOP)
    corner = peak / slope
    roof = [(max(low_x, low_y / slope), 0.0), (corner, peak), (high_x, peak)]
    roof[0] = (roof[0][0], roof[0][0] * slope)
    dots = [
        Dot(x(p["mac_per_byte"]), y(p["mac_per_cycle"]), p["phase"],
            f"{p['layer']}, {p['phase'].replace('_', ' ')}: {p['mac_per_cycle']:.2f} MAC/clk "
            f"at {p['mac_per_byte']:.1f} MAC/byte")
        for p in points
    ]  # fmt: skip
    line = Line(path((x(a), y(b)) for a, b in roof if b >= low_y), "roof", f"{peak:g} MAC/clk, {slope:g} bytes/clk")
    return Chart(
        "Roofline", height, "MAC/byte that the DMA moves", "MAC/clk",
        _ticks(_decades(low_x, high_x), x, lambda value: f"{value:g}"),
        _ticks(_decades(low_y, peak * 1.4), y, lambda value: f"{value:g}"),
        (line,), tuple(dots),
    )  # fmt: skip


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two bounds."""
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    return [f * 10.0**p for p in powers for f in (1, 2, 5) if low <= f * 10.0**p <= high]


# --- tiles ------------------------------------------------------------------------------------------------------------


def tiles(found: Result) -> Chart:
    """A row for each node of a layer: its output along the axis that is cut, a rectangle for each tile, and behind it
    how much of the local memory the largest takes."""
    nodes, height = found["nodes"], _TOP + _ROW * len(found["nodes"]) + _BOTTOM
    tops = [_TOP + _ROW * at + 5 for at in range(len(nodes))]
    rects: list[Rect] = []
    for node, top in zip(nodes, tops, strict=True):
        rects += [*_cuts(node, top), *_share_of_l1(node, top, found["l1_bytes"]["available"])]
    layer = f"{found['layer']}."
    names = tuple(Tick(top + _BAR / 2, node["node"].removeprefix(layer)) for node, top in zip(nodes, tops, strict=True))
    ends = (Tick((_CUTS[0] + _CUTS[1]) / 2, "tiles of the output"), Tick(sum(_L1) / 2, "largest tile in L1"))
    return Chart(f"Tiles of {found['layer']}", height, "", "", ends, names, (), (), tuple(rects), left=_CUTS[0])


_ROW, _BAR = 34, 24
_CUTS, _L1 = (200, WIDTH - 150), (WIDTH - 130, WIDTH - 20)  # from, to


def _cuts(node: Result, top: int) -> Iterator[Rect]:
    axis, of = node["axis"], f"output {'x'.join(map(str, node['shape']))}"
    if axis is None:
        yield Rect(_CUTS[0], top, _CUTS[1] - _CUTS[0], _BAR, node["phase"], f"{node['node']}: whole, {of}", "whole")
        return
    x = _linear(0, node["shape"][axis], *_CUTS)
    for first, last in node["cuts"]:
        text, width = f"{first}:{last}", round(x(last) - x(first), 1)
        says = f"{node['node']}: {text} of axis {axis}, {of}"
        yield Rect(x(first), top, width, _BAR, node["phase"], says, text if width > 6.5 * len(text) else "")


def _share_of_l1(node: Result, top: int, available: int) -> Iterator[Rect]:
    share, width = node["l1_bytes"] / available, _L1[1] - _L1[0]
    moved = f"{node['dma_in_bytes']:,} bytes in, {node['dma_out_bytes']:,} out"
    says = f"{node['node']}: {node['l1_bytes']:,} bytes of L1 for its largest tile; {moved}"
    yield Rect(_L1[0], top, width, _BAR, "room", f"{available:,} bytes of L1")
    yield Rect(_L1[0], top, round(width * min(1, share), 1), _BAR, "used", "")
    yield Rect(_L1[0], top, width, _BAR, "clear", says, f"{share:.0%}")


def local_map(found: Result) -> Chart:
    """The local memory in the calls of a layer: read is grey, what a call makes has the colour of its phase."""
    height, n = 300, min(found["calls"], 1 + max((block["last"] for block in found["blocks"]), default=0))
    x = _linear(0, n, _LEFT, WIDTH - _RIGHT)
    y = _linear(0, found["l1_bytes"]["available"], height - _BOTTOM, _TOP)
    rects = []
    for block in found["blocks"]:
        left, top = x(block["first"]), y(block["offset"] + block["bytes"])
        calls = f"calls {block['first']} to {block['last']}"
        says = f"{block['value']}: {block['bytes']:,} bytes at {block['offset']:,}, {calls}"
        size = round(x(block["last"] + 1) - left, 1), round(y(block["offset"]) - top, 1)
        rects.append(Rect(left, top, *size, block["phase"] if block["made"] else "kept", says))
    first = "" if n == found["calls"] else f"the first {n} of "
    return Chart(
        f"L1 in the calls of {found['layer']}", height, f"{first}{found['calls']} calls of the layer, in order",
        "offset, KiB", _ticks(round_steps(n, 8), x, lambda value: f"{value:.0f}"),
        _ticks([1024 * value for value in round_steps(found["l1_bytes"]["available"] / 1024)], y,
               lambda value: f"{value / 1024:g}"),
        (), (), tuple(rects),
    )  # fmt: skip
