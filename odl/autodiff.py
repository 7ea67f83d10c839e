"""Reverse-mode differentiation over a graph: from the gradient of one value to the gradients of chosen tensors."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from odl.graph import Builder, Node, Phase
from odl.ops.accumulate import AccumulateGradient
from odl.ops.add import Add
from odl.ops.row_sum import WeightRowSum
from odl.types import DType


def differentiate(
    build: Builder, forward: Sequence[Node], seed: tuple[str, str], wanted: Collection[str]
) -> dict[str, str]:
    """Append the backward pass of `forward`; returns the gradient value of each reachable tensor of `wanted`.

    `seed` is (value, its gradient). Only nodes on a path from a wanted tensor to the seed are differentiated, so
    layers nearer to the input than the first wanted one cost nothing. Where a value is read several times, its
    gradients are added in the order in which the backward pass meets the readers (the last reader first), each
    addition rounded to the gradient's type.
    """
    depends = _dependents(forward, wanted)
    gradients: dict[str, str] = {seed[0]: seed[1]}
    build.phase = Phase.INPUT_GRADIENT
    for node in reversed(forward):
        grad = gradients.get(node.outputs[0])
        if grad is None or node.outputs[0] not in depends:
            continue
        build.layer = node.layer
        needs = [value in depends for value in node.inputs]
        for value, contribution in zip(node.inputs, node.op.gradient(build, node, grad, needs), strict=True):
            if contribution is not None:
                known = gradients.get(value)
                gradients[value] = contribution if known is None else _sum(build, value, known, contribution)
    build.phase = Phase.FORWARD
    return {name: gradients[name] for name in wanted if name in gradients}


def _dependents(forward: Sequence[Node], wanted: Collection[str]) -> set[str]:
    """The values that depend on a wanted tensor, the tensors themselves included."""
    depends = set(wanted)
    for node in forward:
        if depends.intersection(node.inputs):
            depends.update(node.outputs)
    return depends


def _sum(build: Builder, value: str, known: str, more: str) -> str:
    """`known` + `more`, two gradients of `value`; where one of them is binary32, so is the sum."""
    terms = [known, more]
    kinds = [build.types[term].dtype for term in terms]
    if DType.F32 not in kinds:
        return build.add(Add(), terms, f"{value}.grad.sum")
    shape = build.types[value].shape
    wide = [
        term if kind is DType.F32 else build.add(WeightRowSum(shape), (term,), f"{value}.grad.wide")
        for term, kind in zip(terms, kinds, strict=True)
    ]
    return build.add(AccumulateGradient(), wide, f"{value}.grad.sum")
