"""DS-CNN knows six spoken digits and learns four more, one after the other, with latent replay and without."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.accuracy.task import Case, Changes, Task
from odl import Recipe, compile_model
from odl.compare import MOST_LANES, Reference
from odl.data import Data, load_data

N_KNOWN, N_CLASSES = 6, 10
AGAIN, LEARNED, JUDGED = 2, 8, 10  # recordings of each speaker: of a known digit, of a new one, of any to be judged by
_EPOCHS, _LR = 8, 3e-3
AT_ONCE = 8  # samples, with what is drawn from the memory for them


def write(_case: str, needed: Mapping[str, Path], folder: Path) -> None:
    """The network of twelve words, trained on six digits; its samples of the known digits, then of each new one."""
    from examples.fit import fit  # PyTorch takes seconds to load

    with np.load(needed["spoken_digits_mfcc.npz"]) as arrays:
        x, y, index = arrays["x"], arrays["y"].astype(np.int64), arrays["index"]
    known = (index >= JUDGED) & (y < N_KNOWN)
    network = fit(onnx.load(needed["dscnn_kws.onnx"]), (x[known].astype(np.float32), y[known]), epochs=_EPOCHS, lr=_LR)
    onnx.save(network.trained(), folder / "model.onnx")
    rows = [np.flatnonzero(known & (index < JUDGED + AGAIN))]
    rows += [
        np.flatnonzero((y == label) & (index >= JUDGED) & (index < JUDGED + LEARNED))
        for label in range(N_KNOWN, N_CLASSES)
    ]
    learned = np.concatenate(rows)
    np.savez(folder / "train.npz", x=x[learned], y=y[learned])
    judged = index < JUDGED
    np.savez(folder / "test.npz", x=x[judged], y=y[judged])


def learn(case: Case, changes: Changes) -> list[float]:
    """One session after the other, by odl's NumPy executor: after each, the accuracy on the classes seen so far."""
    compiled = compile_model(case.model, Recipe(**changes))
    reference = Reference(compiled.program, compiled.training, MOST_LANES)
    train, test = (load_data(path, compiled.training) for path in (case.train, case.test))
    sessions = np.maximum(train.targets.ravel(), N_KNOWN - 1)
    accuracies = []
    for label in range(N_KNOWN - 1, N_CLASSES):
        rows, seen = np.flatnonzero(sessions == label), np.flatnonzero(test.targets.ravel() <= label)
        session = Data(train.samples[rows], train.targets[rows]).steps(len(rows), compiled.recipe.seed)
        for at in range(0, len(session), AT_ONCE):
            reference.steps(Data(session.samples[at : at + AT_ONCE], session.targets[at : at + AT_ONCE]))
        right = reference.infer(test.samples[seen]).reshape(len(seen), -1).argmax(axis=1) == test.targets[seen].ravel()
        accuracies.append(float(right.mean()))
    return accuracies


TASK = Task(
    key="continual",
    title="DS-CNN, one new digit after the other",
    about="",
    needs=("models/dscnn_kws.onnx", "data/spoken_digits_mfcc.npz"),
    cases=("all",),
    write=write,
    recipe={"lr": 0.01, "momentum": 0.9, "master": "kahan", "batch": 10},
    steps=264,
    quick_steps=0,
)
