"""Cuts of an operator's output, and the tiles that compute them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pass_operators import slices
from team import Work

from odl import fp16
from odl.graph import Slice
from odl.types import DType, Shape, TensorType


def every_cut(shape: Shape) -> Iterator[Slice]:
    for axis, size in enumerate(shape):
        yield from (Slice(axis, a, b) for a in range(size) for b in range(a + 1, size + 1))


def tiled(work: Work, cut: Slice) -> Work | None:
    """The tile that computes slice `cut` of the output, with the slices of the operands that it asks for."""
    types = [TensorType(array.shape, DType.of(array)) for array in work.inputs]
    whole = work.op.infer(types)
    tile = work.op.tile(cut, types, whole)
    if not tile:
        return None
    assert tile.outputs == (cut,) * len(whole)
    parts = zip(work.inputs, tile.inputs, strict=True)
    return Work(tile.op, tuple(np.ascontiguousarray(array[slices(each)]) for array, each in parts))


def checked_axes(work: Work) -> set[int]:
    """The axes along which the operator can be cut, after a look at every bit and at the types of every tile."""
    found = set()
    (y,) = work.expected()
    for cut in every_cut(y.shape):
        tile = tiled(work, cut)
        if tile:
            found.add(cut.axis)
            (part,) = tile.expected()
            np.testing.assert_array_equal(fp16.bits(part), fp16.bits(y[slices(cut)]), err_msg=f"{work.op}{cut}")
            (type_,) = tile.op.infer([TensorType(array.shape, DType.of(array)) for array in tile.inputs])
            assert (part.shape, part.dtype) == (type_.shape, type_.dtype.numpy)
    return found
