"""What a machine wants whose fast kernels know no padding and no strided gradients, such as a PULP cluster."""

from __future__ import annotations

from collections.abc import Callable

from odl.graph import Graph, Node
from odl.ops.conv2d import Conv2dInputGradient
from odl.ops.dense import DenseInputGradient, DenseWeightGradient, rows
from odl.passes.input_gradients import input_gradients_as_convolutions
from odl.passes.pad_images import pad_images
from odl.passes.pair_pixels import pair_pixels

DIRECT, REARRANGED = "direct", "rearranged"

# Of so many rows or fewer, each in whole words, a product is faster by its own kernel: decisions 12 and 13.
_FEW_ROWS = {DenseInputGradient: 4, DenseWeightGradient: 1}


def prepare(graph: Graph, kernel: Callable[[Node], str] = lambda _: "") -> Graph:
    """The graph of a training step, of a batch's end or of inference, with the same bits in all values that remain.

    Before or after `split_gradients`: the pieces of a gradient stay pieces. `kernel` says which of its `forms` a node
    takes; where it says none of them, the first one.
    """

    def is_direct(node: Node) -> bool:
        can, wish = forms(graph, node), kernel(node)
        return (wish if wish in can else can[0]) == DIRECT

    direct = {node.name for node in graph.nodes if is_direct(node)}
    return pair_pixels(pad_images(input_gradients_as_convolutions(graph, direct)), direct)


def forms(graph: Graph, node: Node) -> tuple[str, ...]:
    """How a gradient may be computed, if that can be the fastest way; what usually is comes first.

    DIRECT: by its own kernel. REARRANGED: by another one, which multiplies neighbours in memory, behind passes over the
    operands that make them neighbours; of a node that no pass rearranges it is its own kernel as well.
    """
    few = _FEW_ROWS.get(type(node.op), 0)
    if few and rows(graph.types[node.inputs[0]]) <= few and graph.types[node.inputs[1]].shape[-1] % 2 == 0:
        return DIRECT, REARRANGED
    return (REARRANGED, DIRECT) if isinstance(node.op, DenseInputGradient | Conv2dInputGradient) else (REARRANGED,)
