"""Compute a convolution's weight gradient in several goes over the image, where the image and the sums are too large."""

from __future__ import annotations

from dataclasses import replace

from odl.fp16 import Accumulate
from odl.graph import Graph, Node, Operator, fresh, verify
from odl.ops.conv2d import Conv2dWeightGradient
from odl.ops.conv2d_sums import Conv2dSumsBegin, Conv2dSumsContinue, Conv2dSumsEnd
from odl.types import DType, TensorType


def split_reductions(graph: Graph, capacity: int) -> Graph:
    """Cut every weight gradient of an unpadded convolution whose operands do not fit `capacity` bytes by output rows.

    Into as few goes as let two of them lie in memory at once, beside the sums. The order of a sum does not change, so
    no bit does.
    """
    types = dict(graph.types)
    names = {node.name for node in graph.nodes}
    nodes: list[Node] = []
    for node in graph.nodes:
        rows = _rows(graph, node, capacity)
        nodes += _goes(node, rows, types, names) if rows else [node]
    result = replace(graph, nodes=tuple(nodes), types=types)
    verify(result)
    return result


def _rows(graph: Graph, node: Node, capacity: int) -> int:
    """Output rows of one go, or 0 where everything fits."""
    op = node.op
    if not isinstance(op, Conv2dWeightGradient) or any(op.window.pads):
        return 0
    dy, x = graph.types_of(node.inputs)
    sums = graph.types[node.outputs[0]].n_elems * 4
    if dy.n_bytes + x.n_bytes + sums <= capacity:
        return 0
    height = dy.shape[1]
    for n_goes in range(2, height + 1):
        rows = -(-height // n_goes)
        seen = (rows - 1) * op.window.stride[0] + op.window.size[0]
        tile = rows * (dy.n_bytes // height) + seen * (x.n_bytes // x.shape[1])
        if 2 * tile + sums <= capacity:
            return rows
    return 1


def _goes(node: Node, step: int, types: dict[str, TensorType], names: set[str]) -> list[Node]:
    op = node.op
    assert isinstance(op, Conv2dWeightGradient)
    dy, x = (types[value] for value in node.inputs)
    count, height = op.count or dy.shape[3], dy.shape[1]
    made: list[Node] = []
    for first in range(0, height, step):
        last = min(first + step, height)
        kind: type[Conv2dSumsBegin | Conv2dSumsContinue | Conv2dSumsEnd] = Conv2dSumsContinue
        if first == 0:
            kind = Conv2dSumsBegin
        elif last == height and (op.accumulate, op.dtype) != (Accumulate.FP32, DType.F32):
            kind = Conv2dSumsEnd
        go: Operator = kind(op.window, op.accumulate, op.dtype, op.first, count, (first, last))
        inputs = (*node.inputs, *(each.outputs[0] for each in made[-1:]))
        output = node.outputs[0] if last == height else fresh(f"{node.outputs[0]}.rows{last}", types)
        types[output] = go.infer([types[value] for value in inputs])[0]
        name = fresh(f"{node.name}.rows{first}", names)
        names.add(name)
        made.append(replace(node, op=go, name=name, inputs=inputs, outputs=(output,)))
    return made
