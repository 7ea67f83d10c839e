"""What a machine wants whose fast kernels know no padding and no strided gradients, such as a PULP cluster."""

from __future__ import annotations

from odl.graph import Graph
from odl.passes.input_gradients import input_gradients_as_convolutions
from odl.passes.pad_images import pad_images
from odl.passes.pair_pixels import pair_pixels


def prepare(graph: Graph) -> Graph:
    """The graph of a training step, of a batch's end or of inference, with the same bits in all values that remain.

    Before or after `split_gradients`: the pieces of a gradient stay pieces.
    """
    return pair_pixels(pad_images(input_gradients_as_convolutions(graph)))
