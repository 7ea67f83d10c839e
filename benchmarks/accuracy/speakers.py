"""DS-CNN for spoken digits, and a speaker whom it has never heard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from benchmarks.accuracy.task import Task, write_split

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
LEARNED = 12  # of a speaker's fifty recordings of each digit
_EPOCHS, _LR = 8, 3e-3


def write(case: str, needed: Mapping[str, Path], folder: Path) -> None:
    """The network of twelve words, trained on the digits of the five others; its last two outputs stay unused."""
    from examples.fit import fit  # PyTorch takes seconds to load

    with np.load(needed["spoken_digits_mfcc.npz"]) as arrays:
        x, y, speaker, index = (arrays[name] for name in ("x", "y", "speaker", "index"))
    others = speaker != case
    known = x[others].astype(np.float32), y[others].astype(np.int64)
    network = fit(onnx.load(needed["dscnn_kws.onnx"]), known, epochs=_EPOCHS, lr=_LR)
    onnx.save(network.trained(), folder / "model.onnx")
    write_split(folder, x[~others], y[~others], index[~others] < LEARNED)


TASK = Task(
    key="speakers",
    title="DS-CNN, a new speaker's digits",
    about=(
        "Trained in binary32 on five speakers, each of the six in turn is the new one: 120 recordings to learn from, "
        "380 others to be judged by. Numbers are means over the six."
    ),
    needs=("models/dscnn_kws.onnx", "data/spoken_digits_mfcc.npz"),
    cases=SPEAKERS,
    write=write,
    recipe={"lr": 1e-3, "momentum": 0.9, "batch": 8},
    steps=480,
    quick_steps=120,
    changes={"last": {"lr": 1e-1}, "quarter": {"lr": 3e-1}},
)
