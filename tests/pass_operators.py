"""Operators that passes make and no ONNX node does: shapes of every kind, and what uses them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from team import Work

from odl import fp16
from odl.fp16 import Accumulate
from odl.graph import Builder, Operator, Persistent, Slice
from odl.ops._goes import Summing
from odl.ops._windows import Window
from odl.ops.clip import NO_BOUND
from odl.ops.conv2d import Conv2d
from odl.ops.conv2d_phases import Conv2dPhases
from odl.ops.dense import Dense
from odl.ops.depthwise import DepthwiseWeightGradient
from odl.ops.flip_transpose import FlipTaps, FlipTranspose
from odl.ops.mask import BetweenMask, MaskedGradient, MaskedSlope, PositiveMask
from odl.ops.pad import Pad
from odl.ops.pair_pixels import PairPixels
from odl.ops.paired_gradient import PairedGradient
from odl.types import Array, DType, Shape, TensorType

SPECIAL = np.array([np.inf, -np.inf, np.nan, 65504, -65504, 6e-8, -6e-8, 0.0, -0.0, 1e-5], np.float16)
NO_PADS = (0, 0, 0, 0)
MOVERS = Pad | FlipTranspose | FlipTaps | PairPixels

Case = tuple[Operator, tuple[Shape, ...]]


def draw(rng: np.random.Generator, shape: Shape, special: float) -> Array:
    """Binary16 numbers, that fraction of them special."""
    drawn = fp16.half(rng.normal(0, 1, shape))
    return np.where(rng.random(shape) < special, rng.choice(SPECIAL, shape), drawn)


OPERATORS: list[Case] = [
    (Pad((1, 1, 1, 1)), ((1, 5, 6, 4),)),
    (Pad((0, 2, 3, 0), -np.inf), ((1, 4, 3, 3),)),
    (Pad((1, 0, 2, 1), channels=1), ((1, 5, 4, 3),)),
    (Pad((-1, -2, 1, 0)), ((1, 6, 5, 2),)),
    (Pad((2, 1, -3, -2), 0.5), ((1, 6, 5, 3),)),
    (Pad((0, 1, 0, 0), channels=-2), ((3, 4, 2, 3),)),
    (Pad((4, 4, -5, -4)), ((1, 2, 1, 3),)),  # nothing of x is left
    (FlipTranspose(), ((6, 3, 2, 4),)),
    (FlipTranspose(), ((5, 2, 3, 4),)),
    (FlipTranspose(), ((4, 1, 3, 5),)),
    (FlipTranspose((2, 2), (0, 1)), ((3, 5, 4, 6),)),
    (FlipTranspose((2, 1), (1, 0)), ((8, 3, 3, 2),)),
    (FlipTranspose(), ((9, 7),)),
    (FlipTranspose(), ((5, 12),)),
    (FlipTaps(), ((3, 2, 5),)),
    (FlipTaps(), ((2, 5, 12),)),
    (
        Conv2dPhases((5, 6), (2, 3), (3, 3), (2, 2)),
        ((1, 4, 5, 4), (3, 2, 2, 4), (3, 2, 1, 4), (3, 1, 2, 4), (3, 1, 1, 4)),
    ),
    (Conv2dPhases((7, 4), (1, 0), (2, 1), (3, 2), Accumulate.FP16), ((1, 3, 3, 2), (5, 1, 1, 2), (5, 1, 1, 2))),
    (Conv2dPhases((4, 9), (0, 2), (1, 3), (2, 1)), ((1, 2, 11, 6), (4, 1, 3, 6))),
    # Each pixel in one pair, rows of an even number and, with a last pixel alone, of an odd one; runs of fours and not.
    (PairPixels((0, 0, 0, 0), 4), ((1, 3, 8, 8),)),
    (PairPixels((0, 0, 0, 0), 4), ((1, 2, 8, 3),)),
    (PairPixels((0, 0, 0, 0), 4, is_odd=True), ((1, 1, 7, 4),)),
    (PairPixels((0, 0, 0, 0), 3, is_odd=True), ((1, 4, 5, 6),)),
    (PairPixels((0, 0, 0, 0), 1, is_odd=True), ((1, 1, 1, 5),)),
    # With borders: shared words of pairs, words of their own, strides, a border wider than the image.
    (PairPixels((1, 1, 1, 1), 5, shifts=2), ((1, 4, 8, 4),)),
    (PairPixels((0, 2, 1, 1), 4, shifts=2), ((1, 3, 5, 3),)),
    (PairPixels((1, 1, 0, 0), 3, shifts=3, is_odd=True), ((1, 4, 5, 4),)),
    (PairPixels((0, 0, 1, 1), 3, shifts=3, stride=2), ((1, 5, 12, 3),)),
    (PairPixels((2, 1, 0, 0), 3, shifts=4, stride=2), ((1, 3, 9, 4),)),
    (PairPixels((0, 4, 0, 4), 4, shifts=5, stride=3, is_odd=True), ((1, 2, 2, 2),)),
    (PairPixels((3, 0, 3, 0), 2, shifts=1, stride=2), ((1, 1, 8, 1),)),
    # Weights in one row of taps, in several, and of a dense layer; whole blocks and what remains of them.
    (PairedGradient((3, 3, 4), Accumulate.FP32, DType.F32), ((4, 2, 1, 8, 2), (6, 3, 2, 4, 2))),
    (PairedGradient((3, 3, 3), Accumulate.FP16, DType.F32), ((3, 3, 1, 5, 2), (5, 4, 2, 3, 2))),
    (PairedGradient((2, 3, 2), Accumulate.FP32, DType.F16, stride=2), ((3, 2, 1, 7, 2), (6, 2, 3, 2, 2))),
    (PairedGradient((1, 1, 16), Accumulate.FP32, DType.F32, first=3, count=6), ((4, 4, 1, 12, 2), (4, 4, 1, 16, 2))),
    (PairedGradient((9,), Accumulate.FP16, DType.F16, first=1, count=2), ((1, 4, 1, 4, 2), (1, 4, 1, 9, 2))),
    (PairedGradient((6,), Accumulate.FP32, DType.F32), ((1, 1, 1, 1, 2), (1, 1, 1, 6, 2))),
    (PairedGradient((40,), Accumulate.FP16, DType.F16), ((1, 5, 1, 11, 2), (1, 5, 1, 40, 2))),
    # Depthwise: 3x3 with an odd and an even number of pixels in a row, and other windows; strides.
    (DepthwiseWeightGradient(Window((3, 3), (1, 1), NO_PADS)), ((1, 4, 5, 6), (1, 6, 7, 6))),
    (DepthwiseWeightGradient(Window((3, 3), (1, 1), NO_PADS), Accumulate.FP16), ((1, 3, 6, 20), (1, 5, 8, 20))),
    (DepthwiseWeightGradient(Window((2, 4), (2, 1), NO_PADS), dtype=DType.F16), ((1, 4, 3, 2), (1, 9, 6, 2))),
    (DepthwiseWeightGradient(Window((3, 3), (2, 2), NO_PADS), dtype=DType.F16), ((1, 5, 1, 4), (1, 11, 4, 4))),
]  # fmt: skip

# Words of whole rows, of whole pixels, of everything, and of less than one; a tail of every kind.
MASKED_SHAPES: list[Shape] = [(1, 3, 8, 4), (1, 2, 3, 64), (3, 2, 5, 7), (1, 5), (2, 33), (1, 16, 5, 32), (4, 96), (1,)]
MASKS: list[tuple[Operator, Operator]] = [
    (PositiveMask(), MaskedGradient()), (BetweenMask(-0.5, 6.0), MaskedGradient()), (PositiveMask(), MaskedSlope(0.01)),
    (BetweenMask(0.0, NO_BOUND), MaskedSlope(-2.0)),
]  # fmt: skip


def mask_cases(rng: np.random.Generator) -> Iterator[tuple[Operator, Operator, Array, Array]]:
    """Each way to make a mask and to read it, with y and dy: every number, then some shapes."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    for maker, reader in MASKS:
        yield maker, reader, every, np.flip(every)
        yield from ((maker, reader, draw(rng, shape, 0.2), draw(rng, shape, 0.1)) for shape in MASKED_SHAPES)


def append_all(build: Builder, accumulate: Accumulate) -> None:
    """Each operator with that accumulator as a node, and the goes of each that can be cut; operands are held."""
    rng = np.random.default_rng(11)

    def hold(array: Array) -> str:
        name = f"pass{len(build.persistent)}"
        return build.hold(Persistent(name, TensorType(array.shape), array))

    for number, (op, shapes) in enumerate(OPERATORS):
        build.layer = f"pass{number}"
        op = _with(op, accumulate)
        inputs = [draw(rng, shape, 0.01) for shape in shapes]
        build.add(op, [hold(array) for array in inputs], "y")
        sums: list[str] = []
        for go, near in in_goes(op, inputs, 3):
            sums = [build.add(go, [*map(hold, near), *sums], "sums")]
    for number, (maker, reader, y, dy) in enumerate(mask_cases(rng)):
        build.layer = f"mask{number}"
        build.add(reader, (build.add(maker, (hold(fp16.canonical(y)),)), hold(fp16.canonical(dy))))


def works(accumulate: Accumulate) -> Iterator[Work]:
    """For cores: the operators above in one accumulator, their goes, and products over whole words."""
    rng = np.random.default_rng(12)
    for each, shapes in OPERATORS:
        op = _with(each, accumulate)
        inputs = [draw(rng, shape, 0.02) for shape in shapes]
        yield Work(op, tuple(inputs))
        for n_goes, dtype in product((2, 99), (DType.F16, DType.F32)) if isinstance(op, Summing) else ():
            sums: tuple[Array, ...] = ()
            for go, near in in_goes(replace(op, dtype=dtype), inputs, n_goes):  # type: ignore[call-arg]
                work = Work(go, (*near, *sums))
                yield work
                sums = work.expected()
    yield from _products(accumulate, rng)
    for maker, reader, y, dy in mask_cases(rng):
        yield Work(maker, (y,))
        yield Work(reader, (*maker.evaluate([y]), dy))


def _with(op: Operator, accumulate: Accumulate) -> Operator:
    return replace(op, accumulate=accumulate) if hasattr(op, "accumulate") else op


def in_goes(op: Operator, inputs: Sequence[Array], n_goes: int) -> Iterator[tuple[Operator, list[Array]]]:
    """About so many goes, if it has any, each with its own part of the operands; the sums so far come behind them."""
    types = [TensorType(array.shape) for array in inputs]
    for go in op.goes(types, n_goes):
        tile = go.tile(None, types, [])
        assert tile
        yield tile.op, [array[slices(each)] for array, each in zip(inputs, tile.inputs, strict=False)]


def slices(cut: Slice | None) -> tuple[slice, ...]:
    """An index from a `Slice`; of all where it is None."""
    return (*[slice(None)] * cut.axis, slice(cut.first, cut.last)) if cut else ()


def _products(accumulate: Accumulate, rng: np.random.Generator) -> Iterator[Work]:
    """Convolutions without padding and dense layers, in words and with an odd number of inputs; bias or none."""
    for window, x, w in (
        (Window((3, 3), (1, 1), (0, 0, 0, 0)), (1, 6, 7, 4), (9, 3, 3, 4)),
        (Window((1, 1), (1, 1), (0, 0, 0, 0)), (1, 5, 4, 6), (4, 1, 1, 6)),
        (Window((2, 3), (2, 1), (0, 0, 0, 0)), (1, 5, 4, 2), (3, 2, 3, 2)),
        (Window((5, 2), (1, 2), (0, 0, 0, 0)), (1, 9, 8, 1), (5, 5, 2, 1)),
        (Window((3, 3), (3, 2), (0, 0, 0, 0)), (1, 3, 3, 8), (17, 3, 3, 8)),
    ):
        inputs = tuple(draw(rng, shape, 0.01) for shape in (x, w, w[:1]))
        yield from (Work(Conv2d(window, accumulate), inputs[:n]) for n in (2, 3))
    for n_rows, n_inputs, n_outputs in ((1, 2, 1), (1, 16, 10), (2, 7, 3), (3, 8, 4), (5, 6, 5), (9, 1, 9), (4, 9, 40)):
        inputs = tuple(draw(rng, shape, 0.01) for shape in ((n_rows, n_inputs), (n_outputs, n_inputs), (n_outputs,)))
        yield from (Work(Dense(accumulate), inputs[:n]) for n in (2, 3))
