"""Padding made real: convolutions read images that hold their border of zeros, and no window reaches beyond."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from odl.graph import Graph, Node, Phase
from odl.ops._pools import Pads
from odl.ops._windows import Window
from odl.ops.conv2d import Conv2d
from odl.ops.depthwise import DepthwiseConv2d, DepthwiseWeightGradient
from odl.ops.pad import Pad
from odl.passes._rewriter import Rewriter
from odl.types import Shape

WINDOWED = Conv2d | DepthwiseConv2d | DepthwiseWeightGradient


def pad_images(graph: Graph) -> Graph:
    """Give every convolution and depthwise weight gradient an image with a border of zeros, and a window without pads.

    For those that are not depthwise, an odd number of channels greater than 1 becomes even by a zero channel, in the
    image and in the weights: the contract multiplies one there anyway. An image of one channel, whose taps make the
    pairs, gets rows of even length where window and stride are even and that changes no output.

    A padded image is made once for all that read it forward, and again for the weight gradients, because activations
    (and the caller's input) stay in memory without padding for other readers anyway. Where nobody reads the plain one
    backward, the padded one is kept instead. No bit changes.
    """
    rewriter = Rewriter(graph)
    kept = _kept(graph)
    for node in graph.nodes:
        if isinstance(node.op, WINDOWED):
            _rewrite(rewriter, node, kept)
        else:
            rewriter.nodes.append(node)
    return rewriter.graph_of()


def _rewrite(rewriter: Rewriter, node: Node, kept: set[str]) -> None:
    op = node.op
    assert isinstance(op, WINDOWED)
    at = _image(node)
    inputs = list(node.inputs)
    image = inputs[at]
    pad = _padding(node, rewriter.types[image].shape)
    plain = replace(op, window=replace(op.window, pads=(0, 0, 0, 0)))
    if _pads_something(pad):
        reads_again = isinstance(op, DepthwiseWeightGradient)
        scope = "" if image in kept else (node.phase if reads_again else Phase.FORWARD).value
        inputs[at] = rewriter.make(pad, (image,), f"{image}.padded", node, scope)
    if pad.channels and isinstance(op, Conv2d):
        inputs[1] = rewriter.make(Pad((0, 0, 0, 0), channels=1), (inputs[1],), f"{inputs[1]}.padded", node)
    rewriter.put(node, plain, inputs)


def _image(node: Node) -> int:
    """Which input of a windowed node is the image."""
    return 1 if isinstance(node.op, DepthwiseWeightGradient) else 0


def _pads_something(pad: Pad) -> bool:
    return any(pad.pads) or pad.channels != 0


def _padding(node: Node, shape: Shape) -> Pad:
    """What makes the image of `shape` one that the node's window need not leave."""
    op = node.op
    assert isinstance(op, WINDOWED)
    _, height, width, channels = shape
    dense = isinstance(op, Conv2d)
    top, left, bottom, right = op.window.pads
    rows, cols = op.window.output(height, width)
    # Behind the last window nothing is read.
    bottom = max(0, min(bottom, (rows - 1) * op.window.stride[0] + op.window.size[0] - top - height))
    right = max(0, min(right, (cols - 1) * op.window.stride[1] + op.window.size[1] - left - width))
    right += _evening(op.window, left + width + right) if dense and channels == 1 else 0
    pads: Pads = (top, left, bottom, right)
    return Pad(pads, channels=1 if dense and channels > 1 and channels % 2 else 0)


def _evening(window: Window, width: int) -> int:
    """-1, 0 or 1 columns at the end of rows of `width`, so that words hold neighbours of every run of taps."""
    if width % 2 == 0 or window.size[1] % 2 or window.stride[1] % 2:
        return 0
    spare = (width - window.size[1]) % window.stride[1]
    return 1 if spare + 1 < window.stride[1] else -1 if spare else 0


def _kept(graph: Graph) -> set[str]:
    """The images whose padded form may outlive them: nothing but weight gradients of one window reads them backward."""
    free = {*graph.inputs, *graph.persistent, *graph.outputs, *graph.carries.values()}
    views = {value for node in graph.nodes if node.op.view for value in (*node.inputs, *node.outputs)}
    readers: dict[str, Counter[Pad | None]] = {}
    for node in graph.nodes:
        for at, value in enumerate(node.inputs):
            image = isinstance(node.op, DepthwiseWeightGradient) and at == _image(node)
            if image or node.phase is not Phase.FORWARD:
                pad = _padding(node, graph.types[value].shape) if image else None
                readers.setdefault(value, Counter())[pad] += 1
    return {
        value for value, pads in readers.items()
        if len(pads) == 1 and None not in pads and value not in free and value not in views
    }  # fmt: skip
