"""Gradients of whole models against PyTorch in binary64, within what binary16 storage allows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from odl.frontend import load_model
from odl.interpreter import interpret
from odl.ops.sgd import SgdUpdate
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
            stored = values[node.inputs[1]].astype(np.float64) / training.recipe.loss_scale
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


@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.0, 0.01), (0.9, 0.0), (0.9, 0.01)])
def test_update_is_pytorchs_sgd(momentum: float, decay: float) -> None:
    """Ten steps on the same gradients; a step may be off by half a unit in the last place of w < 4 (and of v)."""
    rng = np.random.default_rng(8)
    w = rng.uniform(1, 2, (5, 7)).astype(np.float16)
    parameter = torch.nn.Parameter(torch.tensor(w.astype(np.float64)))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=momentum, weight_decay=decay)
    op = SgdUpdate(lr=0.1, momentum=momentum, decay=decay)
    state = [np.zeros_like(w)] if momentum else []
    for step in range(1, 11):
        g = rng.standard_normal(w.shape).astype(np.float32)
        w, *state = op.evaluate([w, g, *state])
        parameter.grad = torch.tensor(g.astype(np.float64))
        optimizer.step()
        error = np.abs(w - parameter.detach().numpy()).max()
        assert error <= step * (2.0**-10 + (2.0**-10 if momentum else 0)), f"step {step}: {error}"
