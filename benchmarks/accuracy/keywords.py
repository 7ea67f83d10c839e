"""DS-CNN and recordings of its own twelve words that it has not seen."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.accuracy.task import Task, write_split

LEARNED = 700


def write(_case: str, needed: Mapping[str, Path], folder: Path) -> None:
    """The first 700 of the thousand are learned from; they are in no order."""
    shutil.copyfile(needed["dscnn_kws.onnx"], folder / "model.onnx")
    with np.load(needed["speech_commands_mfcc.npz"]) as arrays:
        x, y = arrays["x"], arrays["y"]
    write_split(folder, x, y, np.arange(len(y)) < LEARNED)


TASK = Task(
    key="keywords",
    title="DS-CNN, Speech Commands",
    about="700 words to learn from, 300 others to be judged by, each a third of a point.",
    needs=("models/dscnn_kws.onnx", "data/speech_commands_mfcc.npz"),
    cases=("all",),
    write=write,
    recipe={"lr": 1e-4, "momentum": 0.9, "batch": 16},
    steps=1392,
    quick_steps=160,
    changes={"lean": {"lr": 1e-5}, "last": {"lr": 1e-1}, "quarter": {"lr": 1e-1}},
)
