"""From a model and a recipe to the graphs that a device runs: a training step, a batch's end, inference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial

from odl.autodiff import differentiate
from odl.errors import ModelError
from odl.fp16 import Accumulate
from odl.graph import Builder, Graph, Operator, Phase, Role, Slice, fresh, prune
from odl.ops.accumulate import AccumulateGradient, ClearGradient
from odl.ops.count import Count
from odl.ops.cross_entropy import SoftmaxCrossEntropy, SoftmaxCrossEntropyGradient
from odl.ops.mean_squared_error import MeanSquaredError, MeanSquaredErrorGradient
from odl.ops.softmax import Softmax
from odl.passes.adapters import Adapter, add_adapters
from odl.recipe import Recipe
from odl.replay import ENCODE, RECALL, REMEMBER, Memory, Replay, damage, split
from odl.trainable import cut_gradients, select
from odl.types import Array, DType, TensorType
from odl.updates import Control, Updater, hold_loss_scale, hold_zeros

STEP, APPLY, INFER = "train_step", "apply_batch", "infer"
COUNTER = "samples_seen"


@dataclass(frozen=True)
class Training:
    """The graphs of a device, by entry name, and the names that the outside needs.

    `step` sees one sample: forward, loss, backward and, with batch 1, the updates. With a larger batch it adds its
    gradients to sums, and `apply` updates from the sums and clears them; `counter` is the persistent tensor that is 0
    when a batch is full. `target` is the label or the target tensor. `trainable` are the tensors that are trained;
    `channels` says of those that are trained in part which channels are. With `adapters`, those are what is trained.
    With `replay`, `step` reads the latent that it names instead of a sample.
    """

    recipe: Recipe
    graphs: Mapping[str, Graph]
    sample: str
    target: str
    loss: str
    trainable: tuple[str, ...]
    control: Control
    counter: str = ""
    channels: Mapping[str, Slice] = field(default_factory=dict)
    adapters: tuple[Adapter, ...] = ()
    replay: Replay | None = None

    @property
    def step(self) -> Graph:
        return self.graphs[STEP]

    @property
    def initializers(self) -> tuple[str, ...]:
        """What training changes of the ONNX file."""
        return tuple(adapter.weight for adapter in self.adapters) or self.trainable

    @property
    def often(self) -> dict[str, float]:
        """How often each graph of the training runs for one sample, as soon as a replay memory holds another."""
        olds = self.recipe.replay_ratio if self.replay else 0
        found: dict[str, float] = {ENCODE: 1, RECALL: olds, STEP: olds + 1, REMEMBER: 1}
        return {name: found.get(name, (olds + 1) / self.recipe.batch) for name in self.graphs if name != INFER}

    @property
    def macs(self) -> int:
        """The products of one sample's training: an end of a batch has none."""
        return round(sum(n * self.graphs[name].macs() for name, n in self.often.items()))

    def damage(self, held: Mapping[str, Array]) -> str:
        """What of the tensors that outlive a step, by name, no training can have left; nothing where all are sound."""
        seen = int(held[self.counter][0]) if self.counter else 0
        if not 0 <= seen < self.recipe.batch:
            return f"{seen} samples are said to be in an open batch of {self.recipe.batch}"
        if not self.replay:
            return ""
        inference = self.graphs[INFER]
        return damage(self.replay, held, inference.types[inference.outputs[0]].shape[-1])

    def trained_elements(self, name: str) -> int:
        """How many elements of a tensor an update may change."""
        if name not in self.trainable:
            return 0
        type_ = self.step.types[name]
        return (self.channels[name].of(type_) if name in self.channels else type_).n_elems


def build_training(model: Graph, recipe: Recipe) -> Training:
    """The training graphs of `model`, which has one input and one output."""
    if recipe.replay_layer:
        return _with_replay(model, recipe)
    chosen: Mapping[str, Slice | None] = select(model, recipe)
    adapters: tuple[Adapter, ...] = ()
    if recipe.lora_rank:
        model, adapters = add_adapters(model, tuple(chosen), recipe.lora_rank, recipe.seed)
        chosen = dict.fromkeys(name for adapter in adapters for name in (adapter.down, adapter.up))
    model = _configured_graph(model, recipe)
    forward = _without_head(model) if recipe.loss == "cross_entropy" else model
    build = Builder(forward, partial(_configured, recipe=recipe))
    loss_scale = hold_loss_scale(build, recipe)
    target, loss, seed = _loss(build, forward.outputs[0], recipe, loss_scale)
    gradients = differentiate(build, forward.nodes, (forward.outputs[0], seed), tuple(chosen))
    trained = tuple(name for name in chosen if name in gradients)
    if not trained:
        raise ModelError("nothing-to-train", "", "no path leads from the loss to a trainable weight")
    gradients = {name: gradients[name] for name in trained}
    channels = {name: run for name, run in chosen.items() if run and name in gradients}
    cut_gradients(build, gradients, channels)
    updater = Updater(build, recipe, _layers(forward), loss_scale, channels)
    graphs, control, counter = _with_updates(updater, loss, gradients)
    graphs[INFER] = replace(model, name=INFER)
    graphs = {name: prune(graph) for name, graph in graphs.items()}
    sample = next(iter(model.inputs))
    return Training(recipe, graphs, sample, target, loss, trained, control, counter, channels, adapters)


def _with_replay(model: Graph, recipe: Recipe) -> Training:
    """The graphs of latent replay: those of what is above the layer, and what feeds them."""
    parts = split(model, recipe.replay_layer)
    above = build_training(parts.rest, replace(recipe, replay_layer="", replay_slots=0))
    n_classes = above.graphs[INFER].types[above.graphs[INFER].outputs[0]].shape[-1]
    memory = Memory(parts.rest.types[parts.latent], n_classes, recipe, list(above.step.types))
    whole, encoder = (_configured_graph(graph, recipe) for graph in (model, parts.encoder))
    graphs = {
        **above.graphs, STEP: memory.read(above.step, parts.latent), INFER: replace(whole, name=INFER),
        ENCODE: memory.encode(encoder), RECALL: memory.recall(), REMEMBER: memory.remember(above.target),
    }  # fmt: skip
    graphs = {name: prune(graph) for name, graph in graphs.items()}
    return replace(above, recipe=recipe, graphs=graphs, sample=next(iter(model.inputs)), replay=memory.names)


def _with_updates(updater: Updater, loss: str, gradients: Mapping[str, str]) -> tuple[dict[str, Graph], Control, str]:
    """The step, with its updates or, for a larger batch, with sums and an end of the batch; the counter of samples."""
    build = updater.build
    build.phase = Phase.UPDATE
    if updater.recipe.batch == 1:
        control = updater.append(gradients)
        return {STEP: build.graph(STEP, (loss,), updater.carries)}, control, ""
    sums = _accumulations(build, gradients, updater.layers)
    counted = _counted(build, updater.recipe.batch)
    step = build.graph(STEP, (loss,), {held: value for held, value in sums.values()} | counted)
    apply, control = _apply_batch(updater, step, {name: held for name, (held, _) in sums.items()})
    return {STEP: step, APPLY: apply}, control, next(iter(counted))


def _without_head(model: Graph) -> Graph:
    """The model without its final Softmax or LogSoftmax, which the loss contains."""
    last = model.producer().get(model.outputs[0])
    if last is None or not isinstance(last.op, Softmax):
        return model
    nodes = tuple(node for node in model.nodes if node is not last)
    types = {name: type_ for name, type_ in model.types.items() if name not in last.outputs}
    return replace(model, nodes=nodes, types=types, outputs=(last.inputs[0],))


def _loss(build: Builder, output: str, recipe: Recipe, loss_scale: str) -> tuple[str, str, str]:
    """Append the loss and the start of the backward pass; returns (target, loss, gradient of the output)."""
    build.layer = "loss"
    type_ = build.types[output]
    factor, scale = (1.0, (loss_scale,)) if loss_scale else (recipe.loss_scale, ())
    if recipe.loss == "cross_entropy":
        target = build.input(fresh("label", build.types), TensorType((1,), DType.I32))
        loss, saved = build.add_many(SoftmaxCrossEntropy(), (output, target), ("loss", "probabilities"))
        seed = build.add(SoftmaxCrossEntropyGradient(factor), (saved, target, *scale), f"{output}.grad")
    else:
        target = build.input(fresh("target", build.types), type_)
        loss, saved = build.add_many(MeanSquaredError(), (output, target), ("loss", "difference"))
        seed = build.add(MeanSquaredErrorGradient(factor), (saved, *scale), f"{output}.grad")
    return target, loss, seed


def _layers(forward: Graph) -> dict[str, str]:
    """Weight -> the first layer that reads it."""
    found: dict[str, str] = {}
    for node in forward.nodes:
        for value in node.inputs:
            found.setdefault(value, node.layer)
    return found


def _accumulations(
    build: Builder, gradients: Mapping[str, str], layers: Mapping[str, str]
) -> dict[str, tuple[str, str]]:
    """Append one addition a weight; returns weight -> (persistent sum, its value after this sample)."""
    sums: dict[str, tuple[str, str]] = {}
    for name, gradient in gradients.items():
        build.layer = layers[name]
        held = hold_zeros(build, f"{name}.sum", build.types[gradient], Role.GRADIENT)
        sums[name] = held, build.add(AccumulateGradient(), (held, gradient), f"{held}.new")
    return sums


def _counted(build: Builder, batch: int) -> dict[str, str]:
    """Append the count of samples that tells when a batch is full: it is then 0 again."""
    build.layer = "batch"
    counter = hold_zeros(build, COUNTER, TensorType((1,), DType.I32), Role.COUNTER)
    return {counter: build.add(Count(batch), (counter,), f"{counter}.new")}


def _apply_batch(updater: Updater, step: Graph, held: Mapping[str, str]) -> tuple[Graph, Control]:
    """The end of a batch: update from the sums, then clear them."""
    build = Builder()
    for name in (*held, *held.values(), *([updater.loss_scale] if updater.loss_scale else [])):
        build.hold(step.persistent[name])
    updater = replace(updater, build=build)
    control = updater.append(held)
    for name, total in held.items():
        build.layer = updater.layers[name]
        updater.carries[total] = build.add(ClearGradient(), (total,), f"{total}.cleared")
    return build.graph(APPLY, (), updater.carries), control


def _configured_graph(graph: Graph, recipe: Recipe) -> Graph:
    return replace(graph, nodes=tuple(replace(node, op=_configured(node.op, recipe)) for node in graph.nodes))


def _configured(op: Operator, recipe: Recipe) -> Operator:
    """The operator with the recipe's accumulator, and, for weight gradients, the recipe's type."""
    names = {f.name for f in fields(op)}
    changes: dict[str, object] = {}
    if "accumulate" in names:
        changes["accumulate"] = Accumulate(recipe.accumulate)
    if "dtype" in names and recipe.gradients == "fp16":
        changes["dtype"] = DType.F16
    return replace(op, **changes)
