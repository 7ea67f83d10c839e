"""Activations of which only the sign is needed again, kept as one bit an element."""

from __future__ import annotations

from collections.abc import Sequence

from odl.graph import Graph, Node, Operator, Phase
from odl.ops.clip import ClipGradient
from odl.ops.leaky_relu import LeakyReluGradient
from odl.ops.mask import BetweenMask, MaskedGradient, MaskedSlope, PositiveMask, mask_type
from odl.ops.relu import ReluGradient
from odl.passes._rewriter import Rewriter

_SIGNED = ReluGradient | LeakyReluGradient | ClipGradient


def mask_signs(graph: Graph) -> Graph:
    """Where nothing but gradients of Relu, LeakyRelu and Clip reads a value in the backward pass, let them read a mask.

    A value that views show stays as it is, and so does one that outlives the graph, or whose mask is no smaller. No bit
    changes. Whether the peak falls is for a plan to say: when the mask is made, the value lives beside it, and a
    gradient that could be written over the value may need bytes of its own.
    """
    for value, readers in graph.consumers().items():
        later = [node for node in readers if node.phase is not Phase.FORWARD]
        if can_mask(graph, value, later):
            graph = mask_sign(graph, value, later)
    return graph


def can_mask(graph: Graph, value: str, readers: Sequence[Node]) -> bool:
    """Whether one mask tells those readers, and there are any, all that they ask of the value."""
    shown = any(node.op.view and value in (*node.inputs, *node.outputs) for node in graph.nodes)
    makers = {masked(node.op)[0] if _reads_sign(node, value) else None for node in readers}
    is_smaller = mask_type(graph.types[value]).n_bytes < graph.types[value].n_bytes
    made = value not in graph.inputs and value not in graph.persistent
    return made and is_smaller and not shown and len(makers) == 1 and None not in makers


def comes_in_time(graph: Graph, value: str, readers: Sequence[Node]) -> bool:
    """Whether all others who make and read the value run before these readers, so that a mask can be made between."""
    names = {node.name for node in readers}
    order = [node.name in names for node in graph.nodes if value in (*node.inputs, *node.outputs)]
    return order == sorted(order)


def mask_sign(graph: Graph, value: str, readers: Sequence[Node]) -> Graph:
    """Let the readers, which it comes in time for, read a mask of the value, made behind the last of the others."""
    names = {node.name for node in readers}
    others = [node for node in graph.nodes if value in (*node.inputs, *node.outputs) and node.name not in names]
    rewriter = Rewriter(graph)
    mask = ""
    for node in graph.nodes:
        if node.name in names:
            rewriter.put(node, masked(node.op)[1], (mask, *node.inputs[1:]))
        else:
            rewriter.nodes.append(node)
        if node is others[-1]:
            mask = rewriter.make(masked(readers[0].op)[0], (value,), f"{value}.mask", others[0])
    return rewriter.graph_of()


def masked(op: Operator) -> tuple[Operator, Operator]:
    """What makes the mask for a gradient, and what reads it in its place."""
    if isinstance(op, ClipGradient):
        return BetweenMask(op.low, op.high), MaskedGradient()
    if isinstance(op, LeakyReluGradient):
        return PositiveMask(), MaskedSlope(op.alpha)
    return PositiveMask(), MaskedGradient()


def _reads_sign(node: Node, value: str) -> bool:
    return isinstance(node.op, _SIGNED) and node.inputs[0] == value and value not in node.inputs[1:]
