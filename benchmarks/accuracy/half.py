"""The recipe in binary16 by odl's NumPy executor, whose bits are those of every target."""

from __future__ import annotations

from typing import Any

from benchmarks.accuracy.task import Array, Case, Changes, judged_by
from benchmarks.accuracy.variants import arena, persistent
from odl import Compiled, Recipe, compile_model
from odl.api import infer
from odl.compare import Reference
from odl.data import Data, load_data
from odl.program import Call


def run(case: Case, changes: Changes, steps: int, n_test: int | None) -> dict[str, Any]:
    """Train for `steps` samples; the accuracy on `n_test` test samples, the loss of each sample, and RAM."""
    compiled = compile_model(case.model, Recipe(**changes))
    losses, weights = train(compiled, load_data(case.train, compiled.training).steps(steps, compiled.recipe.seed))
    test = load_data(case.test, compiled.training)
    rows = judged_by(len(test), n_test)
    judged = Data(test.samples[rows], test.targets[rows])
    hits = infer(compiled, judged, weights).argmax(axis=-1).ravel() == judged.targets.ravel()
    ram = {"arena_bytes": arena(compiled), "persistent_bytes": persistent(compiled)}
    return {"accuracy": float(hits.mean()), "losses": losses, **ram}


def train(compiled: Compiled, samples: Data) -> tuple[list[float], dict[str, Array]]:
    """One step a sample: the losses, and the trained weights by name."""
    reference = Reference(compiled.program, compiled.training)
    losses = [float(reference.step(sample, target, _ignore)) for sample, target in samples]
    return losses, {name: reference.executor.persistent(name) for name in compiled.training.trainable}


def _ignore(_number: int, _call: Call, _arrays: tuple[Array, ...]) -> None:
    pass
