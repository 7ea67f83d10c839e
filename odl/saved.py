"""What training leaves behind: the folder of a run, and the checkpoint image of a device."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from odl.api import Compiled, Run, note
from odl.checkpoint import newest, read_image
from odl.codegen import model_id
from odl.errors import UsageError
from odl.project import MARKER, WEIGHTS
from odl.staging import staged
from odl.types import Array


def require_writable(folder: str | Path) -> None:
    """Raises what `build` and `save_run` would raise about `folder`, before the work is done. Leaves nothing behind."""

    class Enough(Exception):  # noqa: N818  not an error: it keeps the staged folder from taking its place
        pass

    with suppress(Enough), staged(Path(folder), MARKER):
        raise Enough


def save_run(run: Run, folder: str | Path, **more: object) -> None:
    """Write a run folder: odl.json with the results, the model, and the trained weights.

    weights.npz holds `names`, and w0, w1, ... in that order, each in storage layout.
    """
    with staged(Path(folder), MARKER) as inside:
        results = {"on": run.on, "loss": run.loss, **more}
        note(inside, run.compiled, **results)
        arrays: dict[str, Any] = {f"w{i}": value for i, value in enumerate(run.weights.values())}
        np.savez(inside / WEIGHTS, names=np.array(list(run.weights)), **arrays)


def load_weights(folder: str | Path, compiled: Compiled) -> dict[str, Array]:
    """The trained weights of a run folder, by name. Raises UsageError `not-a-run`."""
    path, found = Path(folder) / WEIGHTS, {}
    hint = "give a folder that odl run -o wrote"
    try:
        if not path.is_file():
            raise UsageError("not-a-run", str(folder), f"holds no {WEIGHTS}", hint)
        with np.load(path) as archive:
            for i, held in enumerate(compiled.program.held):
                name, type_ = held.tensor.name, held.buffer.type
                found[name] = archive[f"w{i}"]
                if (found[name].shape, found[name].dtype) != (type_.shape, type_.dtype.numpy):
                    raise ValueError(f"'{name}' is not {type_}")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError("not-a-run", str(path), "does not hold the weights of this model", hint) from error
    return found


def load_checkpoint(image: str | Path, compiled: Compiled) -> dict[str, Array]:
    """The weights, and all else that persists, of the newest whole checkpoint in an image, by name.

    Raises ModelError as `odl.checkpoint` says.
    """
    sizes = [held.buffer.type.n_bytes for held in compiled.program.held]
    slot = newest(read_image(Path(image)), model_id(compiled.program), sum(sizes), str(image))
    ends = np.cumsum(sizes).tolist()
    return compiled.program.held_arrays([slot.payload[end - size : end] for size, end in zip(sizes, ends, strict=True)])
