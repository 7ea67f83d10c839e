"""The operators that passes make: tiles are slices, goes are the whole, and C computes NumPy's bits."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from pass_operators import MASKED_SHAPES, MASKS, MOVERS, OPERATORS, draw, slices
from team import Work
from tiles import checked_axes
from whole_program import whole_program

from odl import fp16
from odl.api import silent
from odl.compare import Device, verify
from odl.data import Data
from odl.fp16 import Accumulate
from odl.graph import Operator
from odl.lower import lower
from odl.memory import plan
from odl.ops._goes import Summing
from odl.ops.clip import ClipGradient
from odl.ops.conv2d_phases import Conv2dPhases
from odl.ops.depthwise import DepthwiseSumsBegin, DepthwiseSumsContinue, DepthwiseSumsEnd, DepthwiseWeightGradient
from odl.ops.flip_transpose import FlipTaps, FlipTranspose
from odl.ops.leaky_relu import LeakyReluGradient
from odl.ops.mask import BetweenMask, MaskedGradient, MaskedSlope, PositiveMask
from odl.ops.pad import Pad
from odl.ops.pair_pixels import PairPixels
from odl.ops.paired_gradient import PairedGradient, PairedSumsBegin, PairedSumsContinue, PairedSumsEnd
from odl.ops.relu import ReluGradient
from odl.passes.for_cluster import prepare
from odl.passes.mask_signs import masked
from odl.program import Program
from odl.project import write_project
from odl.schedule import schedule
from odl.targets import find_target, simulator_for
from odl.toolchain import compile_project, find_toolchain
from odl.training import Training
from odl.types import Array, DType, Shape, TensorType

each_operator = pytest.mark.parametrize(("op", "shapes"), OPERATORS, ids=lambda each: getattr(each, "name", ""))


def evaluated(op: Operator, shapes: tuple[Shape, ...]) -> tuple[list[Array], Array]:
    rng = np.random.default_rng(2)
    inputs = [draw(rng, shape, 0.02 if isinstance(op, MOVERS) else 0.0) for shape in shapes]
    (y,) = op.evaluate(inputs)
    (type_,) = op.infer([TensorType(shape) for shape in shapes])
    assert (y.shape, y.dtype) == (type_.shape, type_.dtype.numpy)
    return inputs, y


@each_operator
def test_tiles_are_slices(op: Operator, shapes: tuple[Shape, ...]) -> None:
    """Each tile computes its slice of the whole from slices of the inputs."""
    inputs, y = evaluated(op, shapes)
    cut_axes = checked_axes(Work(op, tuple(inputs)))
    assert cut_axes or min(y.shape[:2]) == 1 or isinstance(op, Pad)
    if isinstance(op, Conv2dPhases):
        assert cut_axes == {1, 3}
    if isinstance(op, PairPixels):
        assert 1 not in cut_axes or (op.shifts, op.stride, op.pads) == (1, 1, (0, 0, 0, 0))


def test_mask_says_what_the_value_would() -> None:
    """Made and read by every number: the gradients are those that read the activation's output, in bits."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    dy = np.random.default_rng(5).permutation(every)
    for gradient in (ReluGradient(), ClipGradient(0, 6), ClipGradient(), LeakyReluGradient(0.0), LeakyReluGradient(-3)):
        maker, reader = masked(gradient)
        (mask,) = maker.evaluate([every])
        assert (mask.shape, mask.dtype) == ((2048,), np.int32)
        expected, got = gradient.evaluate([every, dy]), reader.evaluate([mask, dy])
        np.testing.assert_array_equal(fp16.bits(got[0]), fp16.bits(expected[0]), err_msg=str(gradient))


def test_bits_of_a_mask_stand_where_its_docstring_says() -> None:
    y = np.zeros(40, np.float16)
    y[[0, 1, 2, 31, 32, 39]] = 1
    (mask,) = PositiveMask().evaluate([y])
    assert mask.view(np.uint32).tolist() == [1 << 0 | 1 << 16 | 1 << 1 | 1 << 31, 1 << 0 | 1 << 19]


CUT_AXES = [{0, 1}, {0, 1, 2, 3}, set(), set(), set(), {0, 1, 2, 3}, {0, 1}, {0}]


@pytest.mark.parametrize(("shape", "axes"), list(zip(MASKED_SHAPES, CUT_AXES, strict=True)), ids=str)
def test_masks_are_cut_into_whole_words(shape: Shape, axes: set[int]) -> None:
    rng = np.random.default_rng(3)
    y, dy = draw(rng, shape, 0.1), draw(rng, shape, 0.1)
    for maker, reader in MASKS:
        (mask,) = maker.evaluate([y])
        # Where pixels are no whole words, the last axis of the mask is words of a row: y has no axis for them.
        has_words = len(mask.shape) == len(shape)
        assert checked_axes(Work(maker, (y,))) == (axes if has_words else set(range(len(mask.shape) - 1)))
        assert checked_axes(Work(reader, (mask, dy))) == axes


GRADIENTS = [(op, shapes) for op, shapes in OPERATORS if isinstance(op, Summing)]


@pytest.mark.parametrize("dtype", [DType.F16, DType.F32], ids=lambda each: each.value)
@pytest.mark.parametrize("accumulate", Accumulate, ids=lambda mode: mode.value)
@pytest.mark.parametrize(("op", "shapes"), GRADIENTS)
def test_goes_are_the_whole(op: Summing, shapes: tuple[Shape, ...], accumulate: Accumulate, dtype: DType) -> None:
    """Of whole operands as of the slices that a go needs: it continues the sums of the one before."""
    op = replace(op, accumulate=accumulate, dtype=dtype)  # type: ignore[call-arg]
    inputs, whole = evaluated(op, shapes)
    types = [TensorType(shape) for shape in shapes]
    n_pixels = shapes[0][0] if shapes[0][0] > 1 else shapes[0][1]
    for n_goes in range(2, n_pixels + 1):
        sums: tuple[Array, ...] = ()
        for go in op.goes(types, n_goes):
            tile = go.tile(None, types, [])
            assert tile
            near = [array[slices(each)] for array, each in zip(inputs, tile.inputs, strict=False)]
            before = sums
            sums = go.evaluate([*inputs, *before])
            np.testing.assert_array_equal(fp16.bits(tile.op.evaluate([*near, *before])[0]), fp16.bits(sums[0]))
            assert checked_axes(Work(go, (*inputs, *before))) == ({0} if isinstance(op, PairedGradient) else set())
        np.testing.assert_array_equal(fp16.bits(sums[0]), fp16.bits(whole))
    assert len(op.goes(types, n_pixels)) == (n_pixels if n_pixels > 1 else 0)


# --- in C


@cache
def prepared_program(accumulate: Accumulate) -> tuple[Program, Training, Data]:
    """All samples of all operators, forward and backward, after the passes."""
    _, training, data = whole_program(accumulate)
    graphs = {name: schedule(prepare(graph)) for name, graph in training.graphs.items()}
    ordered = tuple(graphs.values())
    return lower(ordered, plan(ordered)), replace(training, graphs=graphs), data


TARGETS = ["host", *(pytest.param(name, marks=pytest.mark.qemu) for name in ("qemu-zhinx", "qemu-zfh"))]


@pytest.mark.parametrize("accumulate", Accumulate, ids=lambda mode: mode.value)
@pytest.mark.parametrize("name", TARGETS)
def test_bits_are_equal_on_target(name: str, accumulate: Accumulate, tmp_path: Path) -> None:
    target, folder = find_target(name), tmp_path / "project"
    program, training, data = prepared_program(accumulate)
    moved = {Pad, FlipTranspose, FlipTaps, PairPixels, Conv2dPhases, PairedGradient, DepthwiseWeightGradient}
    moved |= {BetweenMask, MaskedGradient, MaskedSlope, PositiveMask}
    sums = {PairedSumsBegin, PairedSumsContinue, DepthwiseSumsBegin, DepthwiseSumsContinue}
    sums |= {PairedSumsEnd, DepthwiseSumsEnd} if accumulate is Accumulate.FP16 else set()
    assert {type(call.op) for _, _, call in program.calls()} >= moved | sums
    folder.mkdir()
    write_project(folder, "prepared", program, training, target)
    result = compile_project(folder, target, find_toolchain(target), trace=True)
    verdict = verify(program, training, data, Device(simulator_for(target), result.elf), silent)
    assert verdict.equal, verdict.first_difference
