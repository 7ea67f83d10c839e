"""What the training graph costs and does: frozen layers, immediate updates, mini-batches, the optimizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from models import cnn, compiled, draw, mlp, model, node

from odl.api import Compiled
from odl.compare import Reference
from odl.errors import ModelError, UsageError
from odl.executor import Executor
from odl.graph import Phase, Role
from odl.ops.accumulate import AddSums
from odl.ops.sgd import SgdUpdate
from odl.ops.square_sums import SquareSums
from odl.program import ARENA, FLASH
from odl.training import APPLY, STEP


def layers(network: Compiled, phase: Phase) -> set[str]:
    return {node.layer for node in network.training.step.nodes if node.phase is phase}


def train(network: Compiled, samples: np.ndarray, labels: np.ndarray) -> tuple[list[float], Executor]:
    """Losses of one pass over samples in storage order, and the device afterwards."""
    reference = Reference(network.program, network.training)
    pairs = zip(samples, labels, strict=True)
    losses = [float(reference.step(x, np.array([y], np.int32), lambda *_: None)) for x, y in pairs]
    return losses, reference.executor


def test_layers_before_the_first_trainable_one_cost_nothing(tmp_path: Path) -> None:
    network = compiled(tmp_path, cnn(), trainable=("fc",))
    assert layers(network, Phase.WEIGHT_GRADIENT) == {"fc"}
    assert layers(network, Phase.INPUT_GRADIENT) == set()
    assert layers(network, Phase.UPDATE) == {"fc", "step"}


def test_the_first_trainable_layer_has_no_input_gradient(tmp_path: Path) -> None:
    network = compiled(tmp_path, cnn())
    assert "conv" in layers(network, Phase.WEIGHT_GRADIENT)
    assert "conv" not in layers(network, Phase.INPUT_GRADIENT)


def test_frozen_weights_stay_in_flash(tmp_path: Path) -> None:
    network = compiled(tmp_path, mlp(), trainable=("fc2",))
    residents = network.program.residents
    spaces = {each.tensor.name: each.buffer.space for each in residents if each.tensor.role is Role.WEIGHT}
    assert spaces == {"w1": FLASH, "b1": FLASH, "w2": ARENA, "b2": ARENA}


def test_patterns_match_initializers_and_nodes(tmp_path: Path) -> None:
    assert compiled(tmp_path, mlp(), trainable=("w?",)).training.trainable == ("w1", "w2")
    assert compiled(tmp_path, mlp(), trainable=("fc1", "b2")).training.trainable == ("w1", "b1", "b2")


def test_a_pattern_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        compiled(tmp_path, mlp(), trainable=("fc9",))
    assert caught.value.code == "no-such-weight"


def test_no_full_gradient_ever_exists(tmp_path: Path) -> None:
    """The largest weight has 64 KiB; its gradient in binary32 would have 128. Pieces of 8 KiB are made and consumed."""
    network = compiled(
        tmp_path,
        model(node("Gemm", "x w b", "y", "fc", transB=1), x=(1, 128), w=draw(256, 128), b=draw(256)),
        loss="mse",
    )
    transient = network.program.spaces[ARENA] - network.program.persistent_bytes
    assert transient < 16 * 1024
    updates = [node for node in network.graphs[0].nodes if isinstance(node.op, SgdUpdate)]
    assert len([node for node in updates if "w" in node.inputs[0]]) == 16


def test_weight_is_updated_as_soon_as_its_gradient_is_known(tmp_path: Path) -> None:
    """In the scheduled order the update of a kernel follows its gradient, but for guards and what belongs to a bias."""
    network = compiled(tmp_path, cnn())
    types, nodes = network.graphs[0].types, network.graphs[0].nodes
    for at, gradient in enumerate(nodes):
        if gradient.phase is Phase.WEIGHT_GRADIENT and len(types[gradient.outputs[0]].shape) > 1:
            to = next(to for to, node in enumerate(nodes) if gradient.outputs[0] in node.inputs)
            assert isinstance(nodes[to].op, SgdUpdate)
            between = [node for node in nodes[at + 1 : to] if not isinstance(node.op, SquareSums | AddSums)]
            assert all(len(types[node.inputs[0]].shape) == 1 for node in between), gradient.name


def test_mini_batch_is_one_step_on_the_mean_gradient(tmp_path: Path) -> None:
    """Four equal samples in a batch move the weights as one of them alone: 4 * g / 4 is exact."""
    x = np.repeat(draw(1, 4).astype(np.float16)[None], 4, axis=0)
    y = np.array([1, 1, 1, 1])
    batch = compiled(tmp_path, mlp(), batch=4)
    assert [graph.name for graph in batch.graphs] == [STEP, APPLY, "infer"]
    losses, device = train(batch, x, y)
    assert len(set(losses)) == 1, "weights move only at the end of the batch"
    _, single = train(compiled(tmp_path, mlp()), x[:1], y[:1])
    for name in ("w1", "b1", "w2", "b2"):
        np.testing.assert_array_equal(device.persistent(name), single.persistent(name))
    assert device.persistent("samples_seen") == 0
    assert not any(device.persistent(f"{name}.sum").any() for name in ("w1", "b1", "w2", "b2"))


def test_loss_falls(tmp_path: Path) -> None:
    """Three well-separated classes are learnt in 200 steps, from 3 ln 3 or so to almost nothing."""
    rng = np.random.default_rng(6)
    labels = rng.integers(0, 3, 200)
    centres = rng.standard_normal((3, 4)) * 2
    samples = (centres[labels] + 0.2 * rng.standard_normal((200, 4))).astype(np.float16)[:, None]
    losses, _ = train(compiled(tmp_path, mlp(), lr=0.05, momentum=0.5), samples, labels)
    assert np.mean(losses[-40:]) < 0.2 * np.mean(losses[:20])


def test_momentum_keeps_a_velocity_a_weight(tmp_path: Path) -> None:
    network = compiled(tmp_path, mlp(), momentum=0.9)
    held = [r.tensor for r in network.program.residents if r.tensor.role is Role.STATE]
    assert sorted(tensor.name for tensor in held) == [f"{name}.velocity" for name in ("b1", "b2", "w1", "w2")]


def test_a_weight_is_never_touched_by_a_gradient_that_is_not_finite(tmp_path: Path) -> None:
    network = compiled(tmp_path, mlp(), momentum=0.9)
    before = {name: tensor.initial for name, tensor in network.training.step.persistent.items()}
    _, device = train(network, np.full((1, 1, 4), np.inf, np.float16), np.array([0]))
    for name in before:
        assert np.isfinite(device.persistent(name)).all()


def test_label_shape_is_refused_where_the_model_has_no_row_of_logits(tmp_path: Path) -> None:
    conv = model(node("Conv", "x w", "y", "conv"), x=(1, 2, 4, 4), w=draw(3, 2, 3, 3))
    with pytest.raises(ModelError) as caught:
        compiled(tmp_path, conv)
    assert caught.value.code == "loss-shape"
