"""A weight that the graph turns before it uses it stays the initializer, and is trained.

Exporters store the weight of a dense layer as PyTorch has it and put a Transpose behind it, or give a vector the axes
that it is broadcast along. Seen through such nodes, it is still the initializer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from odl.ops._importer import Axes, OnnxNode, View
from odl.types import Array, Shape


def seen_weights(
    nodes: Sequence[OnnxNode], constants: Mapping[str, Array], initializers: Collection[str]
) -> tuple[list[OnnxNode], dict[str, Array], dict[str, View]]:
    """Nodes that turn an initializer are left out, and it is seen through a view: (nodes, constants, views).

    So where all that read it turn it alike; a copy of a weight turned in another way would not learn with it.
    """
    held, views = dict(constants), dict[str, View]()
    found = list(nodes)
    while True:
        readers = Counter(name for node in found for name in node.inputs)
        turned: dict[str, tuple[Axes, list[OnnxNode]]] = {}
        for node in found:
            name = node.input(0)
            if name in initializers and held[name].dtype.kind == "f":
                view = axes_of(node, held[name].shape, held)
                known, users = turned.setdefault(name, (view or (), []))
                if view and view == known:
                    users.append(node)
        same: dict[str, str] = {}
        for name, (view, users) in turned.items():
            if users and len(users) == readers[name]:
                look(name, view, held, views)
                same.update((user.outputs[0], name) for user in users)
        if not same:
            return found, held, views
        found = [
            replace(node, inputs=tuple(same.get(name, name) for name in node.inputs))
            for node in found if node.outputs[0] not in same
        ]  # fmt: skip


def axes_of(node: OnnxNode, shape: Shape, constants: Mapping[str, Array]) -> Axes | None:
    """How a node turns a tensor of this shape, if that is all that it does: for each axis of its output the one of its
    input, or None for a new one of size 1."""
    if node.op_type == "Transpose":
        perm = tuple(node.attributes.get("perm", range(len(shape))[::-1]))
        return perm if sorted(perm) == list(range(len(shape))) else None
    if node.op_type not in ("Unsqueeze", "Squeeze") or node.input(1) not in constants:
        return None
    axes = [int(axis) for axis in constants[node.input(1)].ravel()]
    rank = len(shape) + (len(axes) if node.op_type == "Unsqueeze" else 0)
    if not all(-rank <= axis < rank for axis in axes) or len({axis % rank for axis in axes}) < len(axes):
        return None
    chosen = {axis % rank for axis in axes}
    if node.op_type == "Unsqueeze":
        rest = iter(range(len(shape)))
        return tuple(None if axis in chosen else next(rest) for axis in range(rank))
    if any(shape[axis] != 1 for axis in chosen):
        return None
    return tuple(axis for axis in range(rank) if axis not in chosen)


def look(name: str, axes: Axes, constants: dict[str, Array], views: dict[str, View]) -> None:
    """See the constant `name` through `axes` of what was seen of it."""
    shape = constants[name].shape
    constants[name] = View(axes, shape).of(constants[name])
    views[name] = views[name].then(axes) if name in views else View(axes, shape)
