"""What is an image under another shape is computed as the image that it is.

odl's windows, and whatever works by channels, want images (1, C, H, W). Exporters have them in other guises too:
signals (1, C, L) of 1-D networks, which are images of height 1, and Keras's order (1, H, W, C), with a Transpose before
and behind each convolution. Here every value that is an image in disguise is known as such, from the node that
disguises it on; what reads it works on the image instead where it can, and two disguises that undo each other vanish.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from odl.graph import fresh
from odl.ops._importer import Axes, OnnxNode, View
from odl.rewrites.weights import axes_of, look
from odl.types import Array, Shape

_PLAIN: Axes = (0, 1, 2, 3)
_SIGNAL: Axes = (0, 1, None, 2)  # (1, C, L)
_SERIES: Axes = (0, 2, None, 1)  # (1, L, C)
_UNARY = ("Clip", "Dropout", "HardSwish", "Identity", "LeakyRelu", "Neg", "Relu", "Sigmoid", "Tanh")
_BINARY = ("Add", "Mul", "Sub")
_WINDOWS = ("AveragePool", "Conv", "MaxPool")
_GLOBAL = ("GlobalAveragePool", "GlobalMaxPool")


@dataclass(frozen=True)
class _Image:
    """An image (1, C, H, W) by name, and for each of its axes that of the value that it is.

    None is an axis of size 1 that the value does not have.
    """

    name: str
    axes: Axes


def as_images(
    nodes: Sequence[OnnxNode],
    constants: Mapping[str, Array],
    views: Mapping[str, View],
    initializers: Collection[str],
    shapes: Mapping[str, Shape],
    outputs: Collection[str],
) -> tuple[list[OnnxNode], dict[str, Array], dict[str, View], Mapping[str, Shape]]:
    """Nodes that compute the same `outputs` with fewer disguises, and constants, views and shapes of what they read.

    As they came where there is no disguise. `shapes` are those of computed values, as far as they are known.
    """
    turns = any(node.op_type == "Transpose" for node in nodes)
    signals = any(node.op_type in (*_WINDOWS, *_GLOBAL, "BatchNormalization", "Pad")
                  and len(shapes.get(node.input(0), ())) == 3 for node in nodes)  # fmt: skip
    if not turns and not signals:
        return list(nodes), dict(constants), dict(views), shapes
    work = _Work(nodes, constants, views, initializers, shapes)
    for node in nodes:
        work.take(node)
    return needed(_without_identities(work.found, outputs), outputs), work.constants, work.views, work.shapes


def _without_identities(nodes: Sequence[OnnxNode], outputs: Collection[str]) -> list[OnnxNode]:
    """Identities give a value a second name, which only an output needs."""
    same: dict[str, str] = {}
    kept = []
    for node in nodes:
        inputs = tuple(same.get(name, name) for name in node.inputs)
        if node.op_type == "Identity" and node.outputs[0] not in outputs:
            same[node.outputs[0]] = inputs[0]
        else:
            kept.append(replace(node, inputs=inputs))
    return kept


def needed(nodes: Sequence[OnnxNode], outputs: Collection[str]) -> list[OnnxNode]:
    """The nodes whose results are read, or are outputs."""
    wanted, kept = set(outputs), list[OnnxNode]()
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            kept.append(node)
    return kept[::-1]


class _Work:
    """Nodes so far, and which values are known as images."""

    def __init__(
        self,
        nodes: Sequence[OnnxNode],
        constants: Mapping[str, Array],
        views: Mapping[str, View],
        initializers: Collection[str],
        shapes: Mapping[str, Shape],
    ) -> None:
        self.found: list[OnnxNode] = []
        self.constants, self.views, self.shapes = dict(constants), dict(views), dict(shapes)
        self.images: dict[str, _Image] = {}
        self.initializers = initializers
        self.readers = Counter(name for node in nodes for name in node.inputs)
        self.taken = {name for node in nodes for name in (node.name, *node.inputs, *node.outputs)} | {*constants}

    # What becomes of a node

    def take(self, node: OnnxNode) -> None:
        """Find the node's place: on images if it can work on them, else as it is."""
        rule = _RULES.get(node.op_type)
        operands = node.inputs if node.op_type in _BINARY else node.inputs[:1]
        if rule is None or not any(map(self.is_known, operands)) or not rule(self, node):
            self.found.append(node)

    def is_known(self, name: str) -> bool:
        return bool(name) and name not in self.constants and len(self.shapes.get(name, ())) in (3, 4)

    def image(self, name: str, entry: Axes | None = None) -> _Image | None:
        """The image that a value is; a plain one is its own. A signal gets one by `entry`, where it has none."""
        if name in self.images:
            return self.images[name]
        if len(self.shapes[name]) == 4:
            return _Image(name, _PLAIN)
        if entry is None:
            return None
        image = self.fresh(f"{name}.image")
        if entry == _SIGNAL:
            self.add("Unsqueeze", (name, self.numbers((2,))), image)
        else:
            row = self.fresh(f"{name}.row")
            self.add("Unsqueeze", (name, self.numbers((1,))), row)
            self.add("Transpose", (row,), image, perm=(0, 3, 1, 2))
        self.images[name] = _Image(image, entry)
        return self.images[name]

    def move(self, node: OnnxNode, inputs: Sequence[str], axes: Axes, **attributes: Any) -> bool:
        """Have the node work on images, and its output known as one."""
        (output,) = node.outputs[:1]
        if any(node.outputs[1:]):
            return False
        image = self.fresh(f"{output}.image")
        changed = {**node.attributes, **attributes}
        self.found.append(replace(node, inputs=tuple(inputs), outputs=(image,), attributes=changed))
        self.know(output, _Image(image, axes))
        return True

    def know(self, name: str, image: _Image) -> None:
        """A value is an image: whoever wants it as it is gets it by nodes that turn the image."""
        if shape := self.shapes.get(name):
            self.shapes[image.name] = tuple(1 if axis is None else shape[axis] for axis in image.axes)
        if image.axes == _PLAIN:
            self.add("Identity", (image.name,), name)
            return
        self.images[name] = image
        places = [image.axes.index(axis) for axis in range(4) if axis in image.axes]
        missing = [place for place in range(4) if image.axes[place] is None]
        perm = (*places[:1], *missing, *places[1:])
        turned = image.name
        if places != sorted(places):
            # Axes of size 1 in front: odl has the pixels of a row, one behind the other, at no cost.
            turned = self.fresh(f"{name}.turned") if missing else name
            self.add("Transpose", (image.name,), turned, perm=perm)
            missing = list(range(1, 1 + len(missing)))
        if missing:
            self.add("Squeeze", (turned, self.numbers(missing)), name)

    # What nodes are made of

    def fresh(self, base: str) -> str:
        name = fresh(base, self.taken)
        self.taken.add(name)
        return name

    def add(self, op_type: str, inputs: tuple[str, ...], output: str, **attributes: object) -> None:
        self.found.append(OnnxNode(op_type, self.fresh(f"{output}.{op_type}"), inputs, (output,), attributes))

    def numbers(self, values: Sequence[int]) -> str:
        name = self.fresh("axes")
        self.constants[name] = np.array(values, np.int64)
        return name

    def turned(self, name: str, axes: Axes) -> str | None:
        """A constant as images want it, one axis of theirs each; None for an initializer that others read as it is."""
        array = self.constants[name]
        if any(axis not in axes and size != 1 for axis, size in enumerate(array.shape)):
            return None
        if name not in self.initializers:  # it is not trained: a copy will do
            copy = self.fresh(f"{name}.image")
            self.constants[copy] = View(axes, array.shape).of(array)
            return copy
        if self.readers[name] > 1:
            return None
        look(name, axes, self.constants, self.views)
        return name


def _disguise(work: _Work, node: OnnxNode) -> bool:
    """Transpose, Squeeze, Unsqueeze: the same image in another disguise, or in none."""
    name = node.input(0)
    axes = axes_of(node, work.shapes[name], work.constants)
    image = work.image(name)
    if axes is None or image is None:
        return False
    places = [axes.index(axis) if axis is not None and axis in axes else None for axis in image.axes]
    for new in (place for place, axis in enumerate(axes) if axis is None):
        if None not in places:
            return False
        places[places.index(None)] = new
    if sorted(place for place in places if place is not None) != list(range(len(axes))):
        return False
    if tuple(places) == _PLAIN:
        work.know(node.outputs[0], _Image(image.name, _PLAIN))
    elif len(axes) in (3, 4):
        work.images[node.outputs[0]] = _Image(image.name, tuple(places))
        work.found.append(node)
    else:
        return False
    return True


def _unary(work: _Work, node: OnnxNode) -> bool:
    image = work.image(node.input(0))
    if image is None or image.axes == _PLAIN:
        return False
    return work.move(node, (image.name, *node.inputs[1:]), image.axes)


def _together(work: _Work, names: Sequence[str]) -> tuple[dict[str, str], Axes] | None:
    """Computed values as images that are disguised alike."""
    own = [name for name in names if name not in work.constants]
    known = [work.images[name].axes for name in own if name in work.images]
    if not known or any(not work.is_known(name) for name in own):
        return None
    entry = known[0] if known[0] in (_SIGNAL, _SERIES) else None
    images = {name: work.image(name, entry) for name in own}
    if any(image is None or image.axes != known[0] for image in images.values()):
        return None
    return {name: image.name for name, image in images.items() if image}, known[0]


def _binary(work: _Work, node: OnnxNode) -> bool:
    found = _together(work, node.inputs)
    if found is None:
        return False
    names, axes = found
    rank = len(work.shapes.get(node.outputs[0], ()))
    if rank not in (3, 4) or any(len(work.shapes[name]) != rank for name in names):
        return False
    turned: dict[str, Axes] = {}
    for name in {*node.inputs} - {*names}:
        missing = rank - work.constants[name].ndim
        if missing < 0:
            return False
        if work.constants[name].size == 1:
            names[name] = name
        else:
            turned[name] = tuple(None if axis is None or axis < missing else axis - missing for axis in axes)
    for name, own in turned.items():
        seen = work.turned(name, own)
        if seen is None:
            return False
        names[name] = seen
    return work.move(node, [names[name] for name in node.inputs], axes)


def _normalised(work: _Work, node: OnnxNode) -> bool:
    image = work.image(node.input(0), _SIGNAL)
    if image is None or image.axes[1] != 1 or image.axes == _PLAIN:
        return False
    return work.move(node, (image.name, *node.inputs[1:]), image.axes)


def _window(work: _Work, node: OnnxNode) -> bool:
    """A window over a signal is one over an image of height 1."""
    name = node.input(0)
    if len(work.shapes[name]) != 3:
        return False
    image = work.image(name, _SIGNAL)
    if image is None or image.axes[:2] != (0, 1):
        return False
    row = image.axes.index(2) - 2  # where L is: 1, or 0 in an image of width 1

    def pair(values: Sequence[int], other: int) -> list[int]:
        return [values[0], other] if row == 0 else [other, values[0]]

    changed: dict[str, Any] = {}
    for key, other in (("kernel_shape", 1), ("strides", 1), ("dilations", 1)):
        if len(node.attributes.get(key, ())) == 1:
            changed[key] = pair(node.attributes[key], other)
    if len(node.attributes.get("pads", ())) == 2:
        begin, end = node.attributes["pads"]
        changed["pads"] = [*pair([begin], 0), *pair([end], 0)]
    inputs = [image.name, *node.inputs[1:]]
    if node.op_type == "Conv":
        kernel = node.inputs[1]
        if kernel not in work.constants or work.constants[kernel].ndim != 3:
            return False
        turned = work.turned(kernel, (0, 1, 2, None) if row == 0 else (0, 1, None, 2))
        if turned is None:
            return False
        inputs[1] = turned
    return work.move(node, inputs, image.axes, **changed)


def _globally(work: _Work, node: OnnxNode) -> bool:
    name = node.input(0)
    image = work.image(name, _SIGNAL)
    if image is None or image.axes[:2] != (0, 1) or image.axes == _PLAIN:
        return False
    return work.move(node, (image.name,), image.axes)


def _mean(work: _Work, node: OnnxNode) -> bool:
    """A mean over all that is not channel is a global pool."""
    image = work.image(node.input(0))
    axes = node.attributes.get("axes", ())
    if node.input(1) in work.constants:
        axes = work.constants[node.input(1)].ravel().tolist()
    if image is None or image.axes == _PLAIN or not len(axes):
        return False
    rank = len(work.shapes[node.input(0)])
    reduced = {int(axis) % rank for axis in axes}
    if {axis for axis in image.axes[2:] if axis is not None} != reduced or image.axes[0] != 0:
        return False
    pooled = work.fresh(f"{node.outputs[0]}.pooled")
    work.found.append(replace(node, op_type="GlobalAveragePool", inputs=(image.name,), outputs=(pooled,),
                              attributes={}))  # fmt: skip
    if node.attributes.get("keepdims", 1):
        work.know(node.outputs[0], _Image(pooled, image.axes))
    else:
        work.add("Squeeze", (pooled, work.numbers((2, 3))), node.outputs[0])
    return True


def _concat(work: _Work, node: OnnxNode) -> bool:
    if any(name in work.constants for name in node.inputs):
        return False
    found = _together(work, node.inputs)
    if found is None:
        return False
    names, axes = found
    axis = node.attributes["axis"] % len(work.shapes[node.input(0)])
    return work.move(node, [names[name] for name in node.inputs], axes, axis=axes.index(axis))


def _pad(work: _Work, node: OnnxNode) -> bool:
    """Padding of a signal, or of an image in Keras's order, at its pixels."""
    name = node.input(0)
    rank = len(work.shapes[name])
    amounts = work.constants.get(node.input(1))
    axes = work.constants.get(node.input(3), np.arange(rank)) if len(node.inputs) > 3 else np.arange(rank)
    if amounts is None or amounts.size != 2 * axes.size or (node.input(3) and node.input(3) not in work.constants):
        return False
    begin, end = np.zeros(rank, np.int64), np.zeros(rank, np.int64)
    begin[axes.ravel() % rank], end[axes.ravel() % rank] = np.split(amounts.ravel(), 2)
    image = work.image(name, _SERIES if begin[1] or end[1] else _SIGNAL)
    if image is None or image.axes == _PLAIN:
        return False
    places = [0 if axis is None else axis for axis in image.axes]
    is_there = np.array([axis is not None for axis in image.axes])
    pads = np.concatenate([begin[places] * is_there, end[places] * is_there])
    return work.move(node, (image.name, work.numbers(pads.tolist()), *node.inputs[2:3]), image.axes)


_RULES: dict[str, Callable[[_Work, OnnxNode], bool]] = {
    **dict.fromkeys(("Transpose", "Squeeze", "Unsqueeze"), _disguise),
    **dict.fromkeys(_UNARY, _unary),
    **dict.fromkeys(_BINARY, _binary),
    **dict.fromkeys(_WINDOWS, _window),
    **dict.fromkeys(_GLOBAL, _globally),
    "BatchNormalization": _normalised,
    "Concat": _concat,
    "Pad": _pad,
    "ReduceMean": _mean,
}
