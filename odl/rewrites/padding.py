"""A Pad of zeros before a convolution becomes the convolution's own padding: the same products, and no copy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from odl.ops._importer import OnnxNode
from odl.types import Array


def with_padding_inside(
    nodes: Sequence[OnnxNode], constants: Mapping[str, Array], outputs: Collection[str]
) -> list[OnnxNode]:
    """The nodes without the Pads of zeros around images that only convolutions with padding of their own kind read."""
    readers = Counter(name for node in nodes for name in node.inputs)
    readers.update(outputs)
    pads = {}
    for node in nodes:
        sides = _sides(node, constants)
        if sides is not None:
            pads[node.outputs[0]] = node.input(0), sides
    taken = Counter(node.input(0) for node in nodes if node.input(0) in pads and _can_pad(node))
    inside = {name for name, count in taken.items() if count == readers[name]}
    return [
        _padded(node, *pads[node.input(0)]) if node.input(0) in inside else node
        for node in nodes if not inside.intersection(node.outputs)
    ]  # fmt: skip


def _sides(node: OnnxNode, constants: Mapping[str, Array]) -> list[int] | None:
    """(top, left, bottom, right) of zeros that a Pad puts around images; None where it does anything else."""
    if node.op_type != "Pad" or node.attributes.get("mode", "constant") != "constant":
        return None
    amounts, value = constants.get(node.input(1)), constants.get(node.input(2), np.zeros(1))
    if node.input(3) or amounts is None or amounts.size != 8 or (node.input(2) and node.input(2) not in constants):
        return None
    sides = amounts.ravel().tolist()
    if value.size != 1 or value.any() or min(sides) < 0 or any(sides[at] for at in (0, 1, 4, 5)):
        return None
    return [sides[at] for at in (2, 3, 6, 7)]


def _can_pad(node: OnnxNode) -> bool:
    given = node.attributes.get("pads", (0, 0, 0, 0))
    return node.op_type == "Conv" and node.attributes.get("auto_pad", "NOTSET") in ("NOTSET", "VALID") and (
        len(given) == 4 and not any(node.input(0) == name for name in node.inputs[1:])
    )  # fmt: skip


def _padded(node: OnnxNode, source: str, sides: Sequence[int]) -> OnnxNode:
    own = node.attributes.get("pads", (0, 0, 0, 0))
    if node.attributes.get("auto_pad", "NOTSET") == "VALID":
        own = (0, 0, 0, 0)
    pads = [there + more for there, more in zip(own, sides, strict=True)]
    changed = {**node.attributes, "pads": pads, "auto_pad": "NOTSET"}
    return replace(node, inputs=(source, *node.inputs[1:]), attributes=changed)
