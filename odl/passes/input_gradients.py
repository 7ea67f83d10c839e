"""Input gradients as forward operators: of the padded gradient of the output, under rearranged weights."""

from __future__ import annotations

from collections.abc import Container

from odl.graph import Graph, Node
from odl.ops._pools import Pads
from odl.ops._windows import Window
from odl.ops.conv2d import Conv2d, Conv2dInputGradient
from odl.ops.conv2d_phases import MAX_PHASES, Conv2dPhases, phases
from odl.ops.dense import Dense, DenseInputGradient
from odl.ops.depthwise import DepthwiseConv2d, DepthwiseInputGradient
from odl.ops.flip_transpose import FlipTaps, FlipTranspose
from odl.ops.pad import Pad
from odl.passes._rewriter import Rewriter


def input_gradients_as_convolutions(graph: Graph, but: Container[str] = ()) -> Graph:
    """Replace input gradients by convolutions and dense layers that compute the same sums in the same order.

    Conv2d with stride 1: a Conv2d of dy with a border, under `FlipTranspose`d weights. With another stride: a
    `Conv2dPhases`. DepthwiseConv2d with stride 1 and an output a channel: a DepthwiseConv2d under `FlipTaps`. Dense: a
    Dense under the transposed matrix. What fits none of these stays as it is: strided depthwise convolutions, and more
    than four phases. So do nodes named in `but`. No bit changes.
    """
    rewriter = Rewriter(graph)
    for node in graph.nodes:
        if node.name in but or not _rewrite(rewriter, node):
            rewriter.nodes.append(node)
    return rewriter.graph_of()


def _rewrite(rewriter: Rewriter, node: Node) -> bool:
    """Append what replaces `node`, if anything does."""
    op = node.op
    if isinstance(op, Conv2dInputGradient):
        return _strided(rewriter, node, op) if max(op.window.stride) > 1 else _convolution(rewriter, node, op)
    if isinstance(op, DepthwiseInputGradient):
        return _depthwise(rewriter, node, op)
    if isinstance(op, DenseInputGradient):
        return _dense(rewriter, node, op)
    return False


def _convolution(rewriter: Rewriter, node: Node, op: Conv2dInputGradient) -> bool:
    dy, w = node.inputs
    flipped = rewriter.make(FlipTranspose(), (w,), f"{w}.flipped", node)
    wide = _bordered(rewriter, node, _border(op.window), rewriter.types[dy].shape[3] % 2)
    rewriter.put(node, Conv2d(Window(op.window.size, (1, 1), (0, 0, 0, 0)), op.accumulate), (wide, flipped))
    return True


def _strided(rewriter: Rewriter, node: Node, op: Conv2dInputGradient) -> bool:
    dy, w = node.inputs
    window = op.window
    shape = rewriter.types[dy].shape
    axes = [_axis(window.size[at], window.stride[at], window.pads[at], op.size[at], shape[1 + at]) for at in (0, 1)]
    n_phases = min(window.size[0], window.stride[0]) * min(window.size[1], window.stride[1])
    if None in axes or n_phases > MAX_PHASES:
        return False
    (start_h, top, bottom), (start_w, left, right) = (axis for axis in axes if axis)
    new = Conv2dPhases(op.size, (start_h, start_w), window.size, window.stride, op.accumulate)
    weights = [
        rewriter.make(FlipTranspose(window.stride, (row.number, col.number)), (w,), f"{w}.flipped", node)
        for row, col in new.pairs()
    ]
    rewriter.put(node, new, (_bordered(rewriter, node, (top, left, bottom, right), shape[3] % 2), *weights))
    return True


def _axis(kernel: int, stride: int, pad: int, n_pixels: int, n_outputs: int) -> tuple[int, int, int] | None:
    """(start, border before, border behind) of a Conv2dPhases along one axis; None where no tap reaches a pixel."""
    live = [each for each in phases(kernel, stride, pad, n_pixels) if each.n_taps and each.count]
    if not live:
        return None
    before = max(-(pad // stride), *(-each.base for each in live))
    end = max(each.base + each.count + each.n_taps - 1 for each in live)
    return pad + stride * before, before, end - n_outputs


def _depthwise(rewriter: Rewriter, node: Node, op: DepthwiseInputGradient) -> bool:
    dy, w = node.inputs
    if max(op.window.stride) > 1 or rewriter.types[dy].shape[3] != op.size[2]:
        return False
    flipped = rewriter.make(FlipTaps(), (w,), f"{w}.flipped", node)
    wide = _bordered(rewriter, node, _border(op.window), 0)
    rewriter.put(node, DepthwiseConv2d(Window(op.window.size, (1, 1), (0, 0, 0, 0)), op.accumulate), (wide, flipped))
    return True


def _dense(rewriter: Rewriter, node: Node, op: DenseInputGradient) -> bool:
    dy, w = node.inputs
    rewriter.put(node, Dense(op.accumulate), (dy, rewriter.make(FlipTranspose(), (w,), f"{w}.flipped", node)))
    return True


def _border(window: Window) -> Pads:
    """The border of dy that a convolution with stride 1 needs to make its input's gradient."""
    (height, width), (top, left, bottom, right) = window.size, window.pads
    return height - 1 - top, width - 1 - left, height - 1 - bottom, width - 1 - right


def _bordered(rewriter: Rewriter, node: Node, pads: Pads, channels: int) -> str:
    """dy with zeros around it, or without what no pixel sees."""
    dy = node.inputs[0]
    if not any(pads) and not channels:
        return dy
    return rewriter.make(Pad(pads, channels=channels), (dy,), f"{dy}.padded", node)
