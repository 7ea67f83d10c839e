"""Activations of which only the sign is needed again, kept as one bit an element."""

from __future__ import annotations

from odl.graph import Graph, Node, Operator, Phase
from odl.ops.clip import ClipGradient
from odl.ops.leaky_relu import LeakyReluGradient
from odl.ops.mask import BetweenMask, MaskedGradient, MaskedSlope, PositiveMask, mask_type
from odl.ops.relu import ReluGradient
from odl.passes._rewriter import Rewriter

_SIGNED = ReluGradient | LeakyReluGradient | ClipGradient


def mask_signs(graph: Graph) -> Graph:
    """Where nothing but gradients of Relu, LeakyRelu and Clip reads a value in the backward pass, let them read a mask.

    The mask is made behind the value's last forward reader, and the value lives no longer than that. A value that views
    show stays as it is, and so does one that outlives the graph, or whose mask is no smaller. No bit changes. Whether
    the peak falls is for a plan to say: behind the last reader there is value and mask, and a gradient that could be
    written over the value may need bytes of its own.
    """
    masks = _masks(graph)
    behind: dict[str, list[str]] = {}
    for value in masks:
        behind.setdefault(_last_forward(graph, value), []).append(value)
    rewriter = Rewriter(graph)
    made: dict[str, str] = {}
    for node in graph.nodes:
        if node.inputs and node.inputs[0] in made and isinstance(node.op, _SIGNED):
            rewriter.put(node, masked(node.op)[1], (made[node.inputs[0]], *node.inputs[1:]))
        else:
            rewriter.nodes.append(node)
        for value in behind.get(node.name, ()):
            maker, producer = masks[value], graph.producer()[value]
            made[value] = rewriter.make(maker, (value,), f"{value}.mask", producer)
    return rewriter.graph_of()


def _masks(graph: Graph) -> dict[str, Operator]:
    """Value -> the operator that makes its mask, for those that get one."""
    consumers, producer = graph.consumers(), graph.producer()
    bound = {*graph.outputs, *graph.carries.values()}
    shown = {value for node in graph.nodes if node.op.view for value in (*node.inputs, *node.outputs)}
    found: dict[str, Operator] = {}
    for value, readers in consumers.items():
        later = [node for node in readers if node.phase is not Phase.FORWARD]
        if value in bound or value in shown or value not in producer or not later:
            continue
        makers = {masked(node.op)[0] if _reads_sign(node, value) else None for node in later}
        (maker, *others) = makers
        if maker and not others and mask_type(graph.types[value]).n_bytes < graph.types[value].n_bytes:
            found[value] = maker
    return found


def _reads_sign(node: Node, value: str) -> bool:
    return isinstance(node.op, _SIGNED) and node.inputs[0] == value and value not in node.inputs[1:]


def masked(op: Operator) -> tuple[Operator, Operator]:
    """What makes the mask for a gradient, and what reads it in its place."""
    if isinstance(op, ClipGradient):
        return BetweenMask(op.low, op.high), MaskedGradient()
    if isinstance(op, LeakyReluGradient):
        return PositiveMask(), MaskedSlope(op.alpha)
    return PositiveMask(), MaskedGradient()


def _last_forward(graph: Graph, value: str) -> str:
    """The name of the last forward node that makes or reads a value."""
    touching = (node for node in graph.nodes if value in (*node.inputs, *node.outputs) and node.phase is Phase.FORWARD)
    return list(touching)[-1].name
