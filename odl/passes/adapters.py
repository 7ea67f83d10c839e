"""Low-rank adapters: a dense layer's weight stays as it is, and a product of two thin matrices beside it is trained.

Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models (2021), with its alpha equal to the rank, so that
no factor stands before the product. First values as in the authors' library: A uniform, B zero.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from odl import fp16
from odl.errors import ModelError, UsageError
from odl.graph import Graph, Node, Persistent, fresh
from odl.ops.add import Add
from odl.ops.dense import Dense
from odl.passes._rewriter import Rewriter
from odl.trainable import kernels
from odl.types import Array, TensorType


@dataclass(frozen=True)
class Adapter:
    """Names: `weight` W (N, K), which is frozen, and the adapter's `down` A (r, K) and `up` B (N, r)."""

    weight: str
    down: str
    up: str


def add_adapters(model: Graph, weights: Sequence[str], rank: int, seed: int) -> tuple[Graph, tuple[Adapter, ...]]:
    """Give every Dense of one of `weights` an adapter of `rank`: y = round16(dense(x, W, b) + dense(dense(x, A), B)).

    Each product is rounded to binary16 as Dense is, the sum as Add is. Nodes that share a weight share its adapter. A
    starts from +-1 / sqrt(K), evenly drawn from `seed` and the weight's name; B from +0, so the model is at first what
    it was. Raises ModelError `nothing-to-adapt`, UsageError `rank-too-large`.
    """
    can_be = kernels(model, Dense)
    wanted = [weight for weight in weights if weight in can_be]
    if not wanted:
        why = "no Gemm, MatMul or pointwise convolution has a weight of its own that the recipe chooses"
        raise ModelError("nothing-to-adapt", "lora_rank", why, "choose other layers, or train without adapters")
    held, types = dict(model.persistent), dict(model.types)
    adapters = {name: _held(held, types, model.persistent[name], rank, seed) for name in wanted}
    rewriter = Rewriter(replace(model, persistent=held, types=types))
    for node in model.nodes:
        if isinstance(node.op, Dense) and node.inputs[1] in adapters:
            _adapt(rewriter, node, adapters[node.inputs[1]])
        else:
            rewriter.nodes.append(node)
    return rewriter.graph_of(), tuple(adapters.values())


def merged(weight: Array, down: Array, up: Array) -> Array:
    """W + B A in binary64, of binary16 W (N, K), A (r, K) and B (N, r); products added in order of r, then to W."""
    change = np.zeros(weight.shape)
    with np.errstate(all="ignore"):
        for column, row in zip(up.T.astype(np.float64), down.astype(np.float64), strict=True):
            change += np.outer(column, row)
    return weight.astype(np.float64) + change


def _held(
    held: dict[str, Persistent], types: dict[str, TensorType], weight: Persistent, rank: int, seed: int
) -> Adapter:
    """Add the adapter's two matrices to the persistent tensors and their types."""
    n_outputs, n_inputs = weight.type.shape
    if rank > min(n_outputs, n_inputs):
        why = f"'{weight.name}' is {n_outputs} x {n_inputs}, so {rank} is beyond its rank"
        raise UsageError("rank-too-large", "lora_rank", why, f"at most {min(n_outputs, n_inputs)} for this weight")
    names = []
    for suffix, values in (("a", _drawn(weight, rank, seed)), ("b", np.zeros((n_outputs, rank), np.float16))):
        names.append(fresh(f"{weight.name}.lora_{suffix}", types))
        types[names[-1]] = TensorType(values.shape)
        held[names[-1]] = Persistent(names[-1], types[names[-1]], values)
    return Adapter(weight.name, *names)


def _drawn(weight: Persistent, rank: int, seed: int) -> Array:
    """(r, K) binary16, uniform over +-1 / sqrt(K): 53 bits of Philox a number, whose stream NumPy promises to keep."""
    n_inputs = weight.type.shape[1]
    source = np.random.Philox(np.random.SeedSequence([seed, zlib.crc32(weight.name.encode())]))
    unit = (source.random_raw(rank * n_inputs) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return fp16.half((2 * unit - 1) / np.sqrt(n_inputs)).reshape(rank, n_inputs)


def _adapt(rewriter: Rewriter, node: Node, adapter: Adapter) -> None:
    """The frozen product under another name, the way through the adapter, and their sum as what the node made."""
    y = node.outputs[0]
    frozen = fresh(f"{y}.frozen", rewriter.types)
    rewriter.types[frozen] = rewriter.types[y]
    rewriter.nodes.append(replace(node, outputs=(frozen,)))
    low = rewriter.make(Dense(), (node.inputs[0], adapter.down), f"{y}.low", node)
    change = rewriter.make(Dense(), (low, adapter.up), f"{y}.change", node)
    rewriter.put(replace(node, name=f"{node.name}.adapted"), Add(), (frozen, change))
