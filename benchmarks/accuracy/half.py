"""The recipe in binary16 by odl's NumPy executor, whose bits are those of every target."""

from __future__ import annotations

from typing import Any

from benchmarks.accuracy.task import Case, Changes, judged_by
from benchmarks.accuracy.variants import arena, persistent
from odl import Recipe, compile_model
from odl.api import NUMPY, Run, infer, train
from odl.data import Data, load_data


def run(case: Case, changes: Changes, steps: int, n_test: int | None) -> dict[str, Any]:
    """Train for `steps` samples; the accuracy on `n_test` test samples, the loss of each sample, RAM, and
    with steps how the updates went: of single elements, those tried and those lost to rounding; skipped steps."""
    compiled = compile_model(case.model, Recipe(**changes))
    trained = train(compiled, case.train, steps, NUMPY) if steps else None
    test = load_data(case.test, compiled.training)
    rows = judged_by(len(test), n_test)
    judged = Data(test.samples[rows], test.targets[rows])
    outputs = infer(compiled, judged, trained.weights if trained else None)
    hits = outputs.argmax(axis=-1) == judged.targets.ravel()
    ram = {"arena_bytes": arena(compiled), "persistent_bytes": persistent(compiled)}
    told = {"losses": list(trained.loss), **_updates(trained)} if trained else {"losses": []}
    return {"accuracy": float(hits.mean()), **told, **ram}


def _updates(run: Run) -> dict[str, int]:
    went, persistent = run.updates, run.compiled.training.step.persistent
    n_elems = sum(persistent[name].type.n_elems for name in went.lost)
    return {"updates": n_elems * went.tried, "lost_updates": sum(went.lost.values()), "skipped_steps": went.skipped}
