"""Weight gradients over pairs of pixels: their operands laid out so that a word holds what a dot product multiplies."""

from __future__ import annotations

from collections.abc import Container

from odl.graph import Graph, Node
from odl.ops.conv2d import Conv2dWeightGradient
from odl.ops.dense import DenseWeightGradient, rows
from odl.ops.pair_pixels import PairPixels
from odl.ops.paired_gradient import PairedGradient
from odl.ops.reshape import Reshape
from odl.passes._rewriter import Rewriter
from odl.types import Shape


def pair_pixels(graph: Graph, but: Container[str] = ()) -> Graph:
    """Replace weight gradients of convolutions and dense layers by `PairedGradient`s of `PairPixels`. No bit changes.

    Nodes named in `but` stay as they are. An image's border of zeros is made on the way. A kernel row's taps see words
    that follow each other: with an even number of pixels in a row of the output, pairs 2 * stride apart share theirs;
    else the last pair's second pixel has to be zero for each tap, and each has words of its own.
    """
    rewriter = Rewriter(graph)
    for node in graph.nodes:
        if node.name in but:
            rewriter.nodes.append(node)
        elif isinstance(node.op, Conv2dWeightGradient):
            _convolution(rewriter, node, node.op)
        elif isinstance(node.op, DenseWeightGradient):
            _dense(rewriter, node, node.op)
        else:
            rewriter.nodes.append(node)
    return rewriter.graph_of()


def _convolution(rewriter: Rewriter, node: Node, op: Conv2dWeightGradient) -> None:
    dy, x = node.inputs
    width = rewriter.types[dy].shape[2]
    (_, taps), (stride_h, stride) = op.window.size, op.window.stride
    is_odd = bool(width % 2)
    shifts = taps if is_odd else min(taps, 2 * stride)
    n_pairs = -(-width // 2)
    wide = PairPixels(op.window.pads, n_pairs + (taps - 1) // shifts, shifts, stride, is_odd)
    channels = rewriter.types[x].shape[3]
    paired = (_paired(rewriter, node, dy), rewriter.make(wide, (x,), f"{x}.pairs", node))
    shape = (*op.window.size, channels)
    rewriter.put(node, PairedGradient(shape, op.accumulate, op.dtype, stride_h, op.first, op.count), paired)


def _dense(rewriter: Rewriter, node: Node, op: DenseWeightGradient) -> None:
    dy, x = (_as_row(rewriter, node, value) for value in node.inputs)
    shape = (rewriter.types[x].shape[-1],)
    paired = (_paired(rewriter, node, dy), _paired(rewriter, node, x))
    rewriter.put(node, PairedGradient(shape, op.accumulate, op.dtype, 1, op.first, op.count), paired)


def _paired(rewriter: Rewriter, node: Node, value: str) -> str:
    """The pairs of neighbours in each row of an image."""
    width = rewriter.types[value].shape[2]
    op = PairPixels((0, 0, 0, 0), -(-width // 2), is_odd=bool(width % 2))
    return rewriter.make(op, (value,), f"{value}.pairs", node)


def _as_row(rewriter: Rewriter, node: Node, value: str) -> str:
    """A matrix of rows as an image of one row of pixels."""
    type_ = rewriter.types[value]
    shape: Shape = (1, 1, rows(type_), type_.shape[-1])
    return value if type_.shape == shape else rewriter.make(Reshape(shape), (value,), f"{value}.row", node)
