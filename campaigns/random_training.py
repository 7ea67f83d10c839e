"""Random whole training graphs, as hypothesis draws them: a network, all that a recipe can say, and a cluster."""

from __future__ import annotations

from typing import Any

import onnx
from hypothesis import strategies as st

from campaigns.agreement import Case
from campaigns.random_clusters import cases as clusters
from campaigns.random_models import networks
from odl.recipe import Recipe

_UPDATES: dict[str, st.SearchStrategy[Any]] = {
    "lr": st.sampled_from([0.01, 0.3, 3.0]),
    "optimizer": st.sampled_from(["sgd", "sgd", "adam", "adamw"]),
    "weight_decay": st.sampled_from([0.0, 0.01]),
    "state": st.sampled_from(["fp16", "fp32"]),
    "master": st.sampled_from(["stochastic", "none", "fp32", "kahan"]),
    "lr_schedule": st.sampled_from(["constant", "step", "cosine"]),
    "lr_period": st.integers(1, 3),
    "warmup": st.integers(0, 2),
    "batch": st.integers(1, 3),
    "updates": st.sampled_from(["immediate", "kept"]),
    "accumulate": st.sampled_from(["fp32", "fp16"]),
    "gradients": st.sampled_from(["fp32", "fp16"]),
    "loss_scaling": st.sampled_from(["none", "static", "dynamic"]),
    "clip_value": st.sampled_from([0.0, 0.0, 0.1]),
    "seed": st.integers(0, 3),
}
_CHOICES: tuple[dict[str, Any], ...] = (
    {}, {}, {}, {"last": 1}, {"parameters": "biases"}, {"channels": ("*=0.5",)}, {"lora_rank": 1},
)  # fmt: skip


@st.composite
def recipes(draw: st.DrawFn, model: onnx.ModelProto) -> Recipe:
    """One whose words go together."""
    words = {name: draw(strategy) for name, strategy in _UPDATES.items()} | draw(st.sampled_from(_CHOICES))
    if words["optimizer"] == "sgd":
        words["momentum"] = draw(st.sampled_from([0.0, 0.9]))
        words["nesterov"] = words["momentum"] > 0 and draw(st.booleans())
    if words["loss_scaling"] != "none":
        words["loss_scale"] = draw(st.sampled_from([1.0, 128.0, 65536.0]))
    if words["loss_scaling"] == "dynamic":
        words["scale_interval"] = 1
    if words["batch"] > 1 or words["updates"] == "kept":
        words["clip_norm"] = draw(st.sampled_from([0.0, 0.5]))
    if draw(st.integers(0, 5)) == 0 and "last" not in words:
        words |= _replayed(draw, model)
    return Recipe(**words)


def _replayed(draw: st.DrawFn, model: onnx.ModelProto) -> dict[str, Any]:
    """A replay memory of what lies below the dense layer: every path goes through there."""
    flatten = next(node.name for node in model.graph.node if node.op_type == "Flatten")
    return {
        "replay_layer": flatten, "replay_slots": draw(st.integers(1, 2)), "replay_ratio": draw(st.integers(1, 2)),
        "replay_type": draw(st.sampled_from(["fp16", "int8"])),
        "replay_policy": draw(st.sampled_from(["reservoir", "balanced"])),
    }  # fmt: skip


@st.composite
def cases(draw: st.DrawFn) -> Case:
    model = draw(clusters()).model if draw(st.integers(0, 2)) == 2 else draw(networks())[0]
    return Case(model, draw(recipes(model)), draw(st.integers(1, 8)))
