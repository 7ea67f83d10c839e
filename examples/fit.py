"""Trains the base models, and checks and saves their ONNX files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch.nn import functional as F  # noqa: N812 - its customary name

from .network import fold_batch_norm
from .torch_graph import Rounding, TorchGraph

Array = np.ndarray[Any, np.dtype[Any]]
Samples = tuple[Array, Array]
Augment = Callable[[Array, np.random.Generator], Array]

TOLERANCE = 1e-5


def fit(
    model: onnx.ModelProto,
    samples: Samples,
    *,
    epochs: int,
    batch: int = 32,
    lr: float = 3e-3,
    seed: int = 0,
    augment: Augment = lambda x, _rng: x,
) -> TorchGraph:
    """Trains every parameter with AdamW under a one-cycle rate, on one core.

    Label smoothing keeps the logits small, and so the activations that binary16 has to hold.
    """
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    network = TorchGraph(model)
    optimizer = torch.optim.AdamW(network.parameters.values(), lr, weight_decay=1e-4)
    x, y = samples
    steps = len(y) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * steps)
    for epoch in range(1, epochs + 1):
        total = 0.0
        for rows in rng.permutation(len(y))[: steps * batch].reshape(steps, batch):
            optimizer.zero_grad()
            logits = network.logits(torch.from_numpy(augment(x[rows], rng)), training=True)
            loss = F.cross_entropy(logits, torch.from_numpy(y[rows]), label_smoothing=0.1)
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            total += loss.item()
        if epoch % 10 == 0:
            print(f"epoch {epoch}: loss {total / steps:.3f}")
    return network


def check(model: onnx.ModelProto, x: Array, expected: Array) -> None:
    """Refuses a model that onnx does not accept or whose reference evaluation is not `expected` (N, classes)."""
    onnx.checker.check_model(model, full_check=True)
    reference = ReferenceEvaluator(model)
    name = model.graph.input[0].name
    runs: list[Any] = [reference.run(None, {name: x[i : i + 1]}) for i in range(len(x))]
    difference = float(np.abs(np.concatenate([outputs[0] for outputs in runs]) - expected).max())
    print(f"{len(model.graph.node)} nodes: onnx.reference and PyTorch differ by {difference:.1e} at most")
    if difference > TOLERANCE:
        raise ValueError(f"probabilities differ by {difference}, more than {TOLERANCE}")


def ranges(model: onnx.ModelProto, x: Array) -> None:
    """Prints what binary16 has to hold of a model without BatchNormalization."""
    network = TorchGraph(model)
    with torch.no_grad():
        largest = max(float(value.abs().max()) for value in network.values(torch.from_numpy(x)).values())
    weights = torch.cat([weight.detach().flatten() for weight in network.weights.values()]).abs()
    subnormal = float((weights < torch.finfo(torch.float16).tiny).float().mean())
    print(f"{len(weights)} weights, largest {weights.max():.2f}, median {weights.median():.4f}")
    print(f"{subnormal:.2%} of the weights are subnormal in binary16; largest activation {largest:.1f}")


def finish(network: TorchGraph, test: Samples, path: Path, *, doc: str, data: str, folded: bool) -> None:
    """Checks the trained model, with BatchNormalization and without, and writes one of the two to `path`."""
    forms = {False: network.trained(), True: fold_batch_norm(network.trained())}
    x = test[0][:50]
    with torch.no_grad():
        expected = torch.softmax(network.logits(torch.from_numpy(x)), dim=1).numpy()
    for model in forms.values():
        check(model, x, expected)
    ranges(forms[True], test[0])
    stored16 = TorchGraph(forms[True], Rounding.FP16).accuracy(*test)
    model, accuracy = forms[folded], network.accuracy(*test)
    model.doc_string = doc
    facts = {"licence": "Apache-2.0", "training_data": data, "test_accuracy": f"{accuracy:.4f}"}
    onnx.helper.set_model_props(model, facts)
    onnx.save(model, path)
    print(f"{path.name}: test accuracy {accuracy:.1%}, {stored16:.1%} with binary16 storage")
