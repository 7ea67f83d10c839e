"""What training leaves behind: the folder of a run, and the checkpoint image of a device."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from odl import results
from odl.api import Compiled, Run, note
from odl.checkpoint import newest, read_image
from odl.codegen import model_id
from odl.errors import ModelError, UsageError
from odl.npz import read_npz
from odl.project import MARKER, WEIGHTS, is_run, sha256
from odl.staging import staged
from odl.types import Array, Shape

_NOTED_ANYWAY = ("target", "on", "loss")


def require_room(folder: Path) -> None:
    """That a run may be kept in `folder`, before the work is done: an older run gives way, C code does not.

    Raises UsageError `holds-a-project`, or what `save_run` would raise. Leaves nothing behind.
    """
    if (folder / MARKER).is_file() and not is_run(folder):
        raise UsageError("holds-a-project", str(folder), "a C project lies there", "choose another folder")

    class Enough(Exception):  # noqa: N818  not an error: it keeps the staged folder from taking its place
        pass

    with suppress(Enough), staged(Path(folder), MARKER):
        raise Enough


def save_run(run: Run, folder: str | Path, data: str | Path | None = None, /, **more: object) -> None:
    """Write a run folder, whole or not at all: odl.json with the results and `more`, the model, the trained weights.

    weights.npz holds `names`, and w0, w1, ... in that order, each in storage order. The command line takes such a
    folder wherever it takes a model. With `data`, what the run learned from, the folder remembers which file that was:
    `odl run --continue` then goes on behind its samples, and `odl report` finds it. Raises UsageError where `folder`
    holds what odl did not write, or cannot be written.
    """
    source: dict[str, object] = {}
    if data:
        walked = run.first + len(run.loss)
        source = {"data": str(data), "data_sha256": sha256(Path(data)), "walked": walked, "continued": False}
    figures = {word: value for word, value in results.ran(run).items() if word not in _NOTED_ANYWAY}
    with staged(Path(folder), MARKER) as inside:
        note(inside, run.compiled, **{"on": run.on, "loss": run.loss, **source, **more, **figures})
        arrays: dict[str, Any] = {f"w{i}": value for i, value in enumerate(run.weights.values())}
        np.savez(inside / WEIGHTS, names=np.array(list(run.weights)), **arrays)


def load_weights(folder: str | Path, compiled: Compiled) -> dict[str, Array]:
    """The trained weights of a run folder, by name, in storage order: what `evaluate`, `export` and `train` take.

    `compiled` is what `open_folder` makes of the same folder. Raises UsageError `not-a-run`.
    """
    path, held = Path(folder) / WEIGHTS, compiled.program.held
    types = {f"w{i}": each.buffer.type for i, each in enumerate(held)}
    hint = "give a folder that odl run -o wrote"

    def look(name: str, shape: Shape, dtype: np.dtype[Any]) -> None:
        if (shape, dtype) != (types[name].shape, types[name].dtype.numpy):
            raise ValueError(f"{name} is not {types[name]}")

    if not path.is_file():
        raise UsageError("not-a-run", str(folder), f"holds no {WEIGHTS}", hint)
    try:
        arrays, _ = read_npz(path, types, look)
        found = {each.tensor.name: arrays[name] for each, name in zip(held, types, strict=True)}
    except Exception as error:  # a broken file can raise nearly anything in zipfile, zlib and NumPy
        raise UsageError("not-a-run", str(path), "does not hold the weights of this model", hint) from error
    if why := compiled.training.damage(found):
        raise UsageError("not-a-run", str(path), why, hint)
    return found


def load_checkpoint(image: str | Path, compiled: Compiled) -> dict[str, Array]:
    """The weights, and all else that persists, of the newest whole checkpoint in an image, by name.

    Raises ModelError as `odl.checkpoint` says.
    """
    sizes = [held.buffer.type.n_bytes for held in compiled.program.held]
    slot = newest(read_image(Path(image)), model_id(compiled.program), sum(sizes), str(image))
    ends = np.cumsum(sizes).tolist()
    parts = [slot.payload[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    found = compiled.program.held_arrays(parts)
    if why := compiled.training.damage(found):
        raise ModelError("checkpoint-damaged", str(image), why, "remove it to begin anew")
    return found
