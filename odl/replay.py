"""Latent replay: a training graph that begins at a layer's activations, and a memory of them that trains along.

The layers up to the chosen one are frozen. Of a sample, `encode` makes the latent, and `train_step` trains on it; in
between, old latents that `recall` draws from the memory are trained on too, and `remember` offers the new one to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from odl.errors import UsageError
from odl.graph import Builder, Graph, Persistent, Role, fresh
from odl.masters import salt
from odl.ops.replay import FILLED, N_COUNTS, Keep, Recall, Remember
from odl.recipe import Recipe
from odl.types import Array, DType, TensorType

MOST_BYTES = 1 << 28  # of a memory: far beyond a device's, and a host can still plan and check it
ENCODE, RECALL, REMEMBER = "encode", "recall", "remember"


@dataclass(frozen=True)
class Replay:
    """The persistent tensors of replay, by name: the latent that a step trains on, and of the memory the latents, their
    labels and its counts (`odl.ops.replay`); `label` is that of a recalled latent."""

    latent: str
    label: str
    count: str
    memory: str
    labels: str


def damage(replay: Replay, held: Mapping[str, Array], n_classes: int) -> str:
    """What of a memory, among the tensors `held` by name, no training can have left; nothing where it is sound."""
    labels, n_filled = held[replay.labels], int(held[replay.count][FILLED])
    if not 0 <= n_filled <= len(labels):
        return f"{n_filled} of {len(labels)} slots of the replay memory are said to be in use"
    if ((labels[:n_filled] < 0) | (labels[:n_filled] >= n_classes)).any():
        return "the replay memory holds a label that is no class"
    return ""


@dataclass(frozen=True)
class Split:
    """A model in two: `encoder`, whose output is a layer's, and `rest`, which reads that as input `latent`."""

    encoder: Graph
    rest: Graph
    latent: str


def split(model: Graph, layer: str) -> Split:
    """Cut a model behind `layer`, the name of an ONNX node. Raises UsageError `no-such-layer` or `no-cut`."""
    latent = _output_of(model, layer)
    below = _below(model, latent)
    encoder = tuple(node for node in model.nodes if node.name in below)
    rest = tuple(node for node in model.nodes if node.name not in below)
    made = {value for node in encoder for value in node.outputs} | set(model.inputs)
    crossing = sorted({value for node in rest for value in node.inputs if value in made} - {latent})
    read = {value for node in rest for value in node.inputs}
    held = {name: tensor for name, tensor in model.persistent.items() if name in read}
    if crossing or not held or latent in model.outputs:
        many = f"{', '.join(crossing)} of the layers below are read above too"
        why = many if crossing else "nothing that has weights is above it"
        raise UsageError("no-cut", layer, why, "choose a layer that every path goes through, below the last one")
    inputs = {latent: model.types[latent]}
    above = replace(model, nodes=rest, inputs=inputs, persistent=held)
    return Split(replace(model, nodes=encoder, outputs=(latent,)), above, latent)


def _output_of(model: Graph, layer: str) -> str:
    """What a layer's last node computes."""
    found = [node.outputs[0] for node in model.nodes if node.layer == layer]
    if not found:
        names = ", ".join(dict.fromkeys(node.layer for node in model.nodes))
        raise UsageError("no-such-layer", layer, "no ONNX node has this name", f"names: {names}")
    return found[-1]


def _below(model: Graph, value: str) -> set[str]:
    """The names of the nodes that a value needs."""
    producer = model.producer()
    found: set[str] = set()
    waiting = [value]
    while waiting:
        node = producer.get(waiting.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            waiting += node.inputs
    return found


class Memory:
    """The tensors of a replay memory, and the graphs that fill it and draw from it.

    Raises UsageError `replay-too-large` where the latents would be more than MOST_BYTES.
    """

    def __init__(self, latent: TensorType, n_classes: int, recipe: Recipe, taken: Sequence[str]) -> None:
        n, slots = latent.n_elems, recipe.replay_slots
        self._recipe = recipe
        self._names = dict.fromkeys(taken)
        packs = recipe.replay_type == "int8"
        n_bytes = slots * n * (1 if packs else 2)
        if n_bytes > MOST_BYTES:
            why = f"{slots:,} latents of {n:,} elements are {n_bytes:,} bytes, more than 2^28"
            raise UsageError("replay-too-large", "replay_slots", why, "keep fewer")
        zero = np.zeros
        self.latent = self._tensor("latent", zero(latent.shape, np.float16))
        self._label = self._tensor("label", zero(1, np.int32))
        self._count = self._tensor("count", zero(N_COUNTS, np.int32))
        self._memory = self._tensor("memory", zero((slots, n), np.uint8 if packs else np.float16))
        self._labels = self._tensor("labels", zero(slots, np.int32))
        self._scales = [self._tensor("scales", zero((slots, 2), np.float32))] if packs else []
        balanced = recipe.replay_policy == "balanced"
        self._seen = [self._tensor("seen", zero(n_classes, np.int32))] if balanced else []

    @property
    def names(self) -> Replay:
        tensors = (self.latent, self._label, self._count, self._memory, self._labels)
        return Replay(*(tensor.name for tensor in tensors))

    def encode(self, encoder: Graph) -> Graph:
        """Sample -> the latent, which is kept until it has been trained on."""
        build = Builder(encoder)
        build.layer = ENCODE
        latent = build.hold(self.latent)
        kept = build.add(Keep(), (latent, encoder.outputs[0]), f"{latent}.new")
        return build.graph(ENCODE, (kept,), {latent: kept})

    def read(self, step: Graph, value: str) -> Graph:
        """A step that reads the latent instead of its input `value`."""
        name, inputs = self.latent.name, {each: t for each, t in step.inputs.items() if each != value}
        types = {(name if each == value else each): type_ for each, type_ in step.types.items()}
        nodes = tuple(
            replace(node, inputs=tuple(name if each == value else each for each in node.inputs)) for node in step.nodes
        )
        held = {**step.persistent, name: self.latent}
        return replace(step, inputs=inputs, persistent=held, nodes=nodes, types=types)

    def recall(self) -> Graph:
        """A slot in use becomes the latent and its label."""
        changed = [self.latent, self._label, self._count]
        return self._graph(RECALL, Recall(self._salt(1)), changed, [self._memory, self._labels, *self._scales], [])

    def remember(self, label: str) -> Graph:
        """Offer the latent, of a class that input `label` says."""
        op = Remember(self._recipe.replay_policy == "balanced", self._salt(2))
        changed = [self._memory, self._labels, self._count, *self._scales, *self._seen]
        return self._graph(REMEMBER, op, changed, [self.latent], [label])

    def _graph(
        self, name: str, op: Recall | Remember, changed: Sequence[Persistent], read: Sequence[Persistent],
        inputs: Sequence[str],
    ) -> Graph:  # fmt: skip
        build = Builder()
        build.layer = "replay"
        for tensor in (*changed, *read):
            build.hold(tensor)
        for label in inputs:
            build.input(label, TensorType((1,), DType.I32))
        names = [tensor.name for tensor in changed]
        operands = [*names, *(tensor.name for tensor in read), *inputs]
        new = build.add_many(op, operands, [f"{each}.new" for each in names])
        return build.graph(name, (), dict(zip(names, new, strict=True)))

    def _salt(self, stream: int) -> int:
        return salt(1, stream, self._recipe.seed)

    def _tensor(self, word: str, values: Array) -> Persistent:
        name = fresh(f"replay.{word}", self._names)
        self._names[name] = None
        return Persistent(name, TensorType(values.shape, DType.of(values)), values, Role.REPLAY)
