"""Tiles of every operator of the registry, forward and backward: slices of the whole, in NumPy and in C."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
from host_c import compilers
from numpy.testing import assert_array_equal
from samples import works
from team import Team, Work
from tiles import checked_axes, every_cut, tiled

from odl.fp16 import Accumulate, bits

# Along which axes of images, kernels or vectors; what is not here is cut in its own way, or never.
AXES = {
    "depthwise": {1, 3},
    "depthwise_input_gradient": {1, 3},
    "depthwise_weight_gradient": {2},
    "conv2d": {1, 3},
    "max_pool": {1, 3},
    "max_pool_gradient": {1, 3},
    "average_pool": {1, 3},
    "average_pool_share": {1, 3},
    "average_pool_spread": {1, 3},
    "pad": {0, 1, 3},
    "transpose": {0, 1, 2, 3},
    "softmax": {0},
    "softmax_gradient": {0},
    "concat": {0, 1, 2, 3},
    "slice": {0, 1, 2, 3},
    "row_sum": {3},
    "weight_row_sum": {0},
    "relu": {0, 1, 2, 3},
}

each_accumulate = pytest.mark.parametrize("accumulate", Accumulate, ids=lambda mode: mode.value)


@each_accumulate
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_tiles_are_slices(accumulate: Accumulate) -> None:
    """All of them, of samples of all shapes: odd sizes, strides, pads that are not alike, several outputs a channel."""
    axes = defaultdict(set)
    for work in works(accumulate):
        if max(work.expected()[0].shape) < 1000:
            axes[work.op.name] |= checked_axes(work)
    assert {name: axes[name] for name in AXES} == AXES


@each_accumulate
def test_tiles_are_slices_in_c(accumulate: Accumulate, tmp_path: Path) -> None:
    """Of each operator with a window or with steps in memory, along each axis: parts of it and its ends."""
    chosen = [tile for work in works(accumulate) if work.op.name in AXES for tile in some_tiles(work)]
    defines = {"ODL_PAIRWISE": 1, "ODL_ACCUMULATE_FP16": int(accumulate is Accumulate.FP16)}
    team = Team(tmp_path, compilers()[0], {tile.kernel.name for tile in chosen}, 3, **defines)
    for tile in chosen:
        got, want = team.run(tile), tile.expected()
        shapes = ", ".join(str(array.shape) for array in tile.inputs)
        assert_array_equal(bits(got[0]), bits(want[0]), err_msg=f"{tile.op} of {shapes}")


def some_tiles(work: Work) -> list[Work]:
    shape = work.expected()[0].shape
    if max(shape) >= 1000:
        return []
    ends = {size: {0, size // 2, size - 1} for size in shape}
    cuts = (cut for cut in every_cut(shape) if {cut.first, cut.last - 1} <= ends[shape[cut.axis]])
    return [tile for cut in cuts if (tile := tiled(work, cut))]
