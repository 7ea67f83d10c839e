"""Gradients of whole models against PyTorch in binary64, within what binary16 storage allows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from updates import Stepper

from odl.frontend import load_model
from odl.interpreter import interpret
from odl.masters import Master
from odl.ops._updates import Update
from odl.ops.adam import AdamUpdate
from odl.ops.rates import LearningRate, Rates
from odl.ops.sgd import SgdUpdate
from odl.ops.square_sums import SquareSums
from odl.recipe import Recipe
from odl.training import Training, build_training
from odl.types import Array

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
pytestmark = pytest.mark.torch

# Relative errors of a layer's gradient, in the Euclidean norm, as measured over the three real models. A wrong tap,
# stride or transposition makes 100 %.
SAME_ROUNDING = 0.03  # up to 2.0 %: PyTorch stores its activations in binary16 too, the backward pass does not
NO_ROUNDING = 0.12  # up to 8.6 %: rounding moves activations across ReLU's corner, and their whole gradient with them


def gradients(training: Training, sample: Array, target: Array) -> Iterator[tuple[str, Array]]:
    """(initializer, gradient in ONNX layout, binary64) of every trained weight; loss scale undone."""
    graph = training.step
    values = interpret(graph, {training.sample: sample, training.target: target})
    for node in graph.nodes:
        if isinstance(node.op, SgdUpdate):
            origin = graph.persistent[node.inputs[0]].origin
            assert origin is not None
            stored = values[node.inputs[node.op.gradient_at]].astype(np.float64) / training.recipe.loss_scale
            permuted = stored.reshape(tuple(origin.shape[axis] for axis in origin.perm))
            yield origin.initializer, permuted.transpose(np.argsort(origin.perm)) * origin.scale


def expected(path: Path, x: Array, y: Array, recipe: Recipe, *, rounded: bool) -> dict[str, Array]:
    """PyTorch's gradients by initializer. x and y in ONNX order with the batch axis, or y a label."""
    from torch_model import exact, logits_of, stored_in_half, weights_of

    model = onnx.load(path)
    weights = weights_of(model)
    out = logits_of(model, weights, torch.tensor(x), stored_in_half if rounded else exact)
    if recipe.loss == "cross_entropy":
        loss = torch.nn.functional.cross_entropy(out, torch.tensor([int(y)]))
    else:
        loss = torch.nn.functional.mse_loss(out, torch.tensor(y))
    loss.backward()
    return {name: weight.grad.numpy() for name, weight in weights.items() if weight.grad is not None}


def check(path: Path, x: Array, y: Array, recipe: Recipe) -> None:
    """Compare the gradients of every weight with PyTorch's, once rounded as on the device and once not at all."""
    half = x.astype(np.float16)
    training = build_training(load_model(path).graph, recipe)
    sample = half.transpose(0, 2, 3, 1) if half.ndim == 4 else half
    target = np.array([y], np.int32) if recipe.loss == "cross_entropy" else half
    ours = dict(gradients(training, sample, target))
    assert set(ours) == set(training.trainable)
    wide = half.astype(np.float64)
    for rounded, tolerance in ((True, SAME_ROUNDING), (False, NO_ROUNDING)):
        theirs = expected(path, wide, y if recipe.loss == "cross_entropy" else wide, recipe, rounded=rounded)
        errors = {n: float(np.linalg.norm(g - theirs[n]) / np.linalg.norm(theirs[n])) for n, g in ours.items()}
        assert max(errors.values()) < tolerance, errors


@pytest.mark.parametrize(("model", "data"), [
    ("resnet8_cifar10", "cifar10_train"), ("dscnn_kws", "speech_commands_mfcc"),
])  # fmt: skip
def test_gradients_of_real_classifier(real: Path, model: str, data: str) -> None:
    archive = np.load(real / f"data/{data}.npz")
    path = real / f"models/{model}.onnx"
    for at in range(3):
        # The label of another class: a confident model has no gradient for its own.
        label = (int(archive["y"][at]) + 1) % 10
        check(path, archive["x"][at : at + 1], np.array(label), Recipe())


def test_gradients_of_real_autoencoder(real: Path) -> None:
    spectrum = (np.random.default_rng(5).standard_normal((1, 640)) * 3 - 30).astype(np.float32)
    # Its untrained error is some 10^8, so the loss is scaled down to keep its gradients inside binary16.
    check(real / "models/ad_autoencoder.onnx", spectrum, spectrum, Recipe(loss="mse", loss_scale=2.0**-10))


@pytest.mark.parametrize("name", ["digits_resnet8", "words_dscnn"])
def test_gradients_of_examples(examples: Path, name: str) -> None:
    path = examples / name / "model.onnx"
    shape = [dim.dim_value for dim in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]
    for seed in range(2):
        sample = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        check(path, sample, np.array(seed), Recipe())


SGD = [
    SgdUpdate(),
    SgdUpdate(decay=0.01),
    SgdUpdate(momentum=0.9),
    SgdUpdate(momentum=0.9, decay=0.01),
    SgdUpdate(momentum=0.9, nesterov=True, decay=0.01),
]
ADAM = [
    AdamUpdate(),
    AdamUpdate(decay=0.01),
    AdamUpdate(decay=0.1, decoupled=True),
    AdamUpdate(beta1=0.5, beta2=0.9, epsilon=1e-3),
]


@pytest.mark.parametrize("op", [*SGD, *ADAM], ids=str)
@pytest.mark.parametrize("state", [np.float16, np.float32])
@pytest.mark.parametrize("master", Master)
def test_update_is_pytorchs(op: Update, state: type[np.floating], master: Master) -> None:
    """Twenty steps on the same gradients. What may be off: half a place of w < 4 in all if the master remembers, else
    one a step (stochastic rounding: up to a whole one); with states in binary16, what rounds there."""
    rng = np.random.default_rng(8)
    start = rng.uniform(1, 2, (5, 7)).astype(np.float16)
    parameter = torch.nn.Parameter(torch.tensor(start.astype(np.float64)))
    optimizer = _torch_optimizer(op, parameter)
    device = Stepper(replace(op, master=master), start, lr=0.01, state=state)
    for step in range(1, 21):
        g = rng.standard_normal(start.shape).astype(np.float32)
        device.step(g)
        parameter.grad = torch.tensor(g.astype(np.float64))
        optimizer.step()
        error = np.abs(device.weight - parameter.detach().numpy()).max()
        place = 2.0**-9 if start.max() * 2 > 2 else 2.0**-10
        of_weight = {Master.NONE: step / 2, Master.STOCHASTIC: step}.get(master, 0.51) * place
        of_state = step * 0.01 * (2.0**-8 if state is np.float16 else 2.0**-20)
        assert error <= of_weight + of_state, f"step {step}: {error}"


def _torch_optimizer(op: Update, parameter: torch.nn.Parameter) -> torch.optim.Optimizer:
    if isinstance(op, SgdUpdate):
        rule = {"momentum": op.momentum, "nesterov": op.nesterov, "weight_decay": op.decay}
        return torch.optim.SGD([parameter], lr=0.01, **rule)
    assert isinstance(op, AdamUpdate)
    kind = torch.optim.AdamW if op.decoupled else torch.optim.Adam
    return kind([parameter], lr=0.01, betas=(op.beta1, op.beta2), eps=op.epsilon, weight_decay=op.decay)


@pytest.mark.parametrize("bound", [0.5, 100.0])
def test_norm_is_clipped_as_pytorch_does(bound: float) -> None:
    g = np.random.default_rng(1).standard_normal((40, 3)).astype(np.float32)
    parameter = torch.nn.Parameter(torch.zeros(40, 3))
    parameter.grad = torch.tensor(g) / 8
    torch.nn.utils.clip_grad_norm_([parameter], bound)
    (squares,) = SquareSums().evaluate([g])
    op = Rates(batch=2, scale=4.0, has_squares=True, clip_norm=bound)
    (rates,) = op.evaluate([np.zeros(4, np.int32), squares])
    np.testing.assert_allclose(g * rates[0], parameter.grad.numpy(), rtol=1e-5)


@pytest.mark.parametrize("warmup", [0, 7])
def test_schedules_are_pytorchs(warmup: int) -> None:
    """LinearLR, and behind it StepLR or CosineAnnealingLR, over 60 steps."""
    lrs = torch.optim.lr_scheduler
    for rule, build in (
        (LearningRate(0.3), lambda o: lrs.ConstantLR(o, 1.0)),
        (LearningRate(0.3, "step", period=9, gamma=0.3), lambda o: lrs.StepLR(o, 9, 0.3)),
        (LearningRate(0.3, "cosine", period=60, least=0.01), lambda o: lrs.CosineAnnealingLR(o, 60, 0.01)),
    ):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
        behind = build(optimizer)
        expected = [optimizer.param_groups[0]["lr"]]
        for _ in range(59):
            optimizer.step()
            behind.step()
            expected.append(optimizer.param_groups[0]["lr"])
        rising = [0.3 * (step + 1) / warmup for step in range(warmup)]
        found = [replace(rule, warmup=warmup).at(step) for step in range(60 + warmup)]
        np.testing.assert_allclose(found, rising + expected, rtol=1e-5, atol=1e-7)
