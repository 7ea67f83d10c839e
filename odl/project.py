"""The C project on disk: generated sources, firmware, build files, and a note of what they were made from."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from odl import json_text
from odl.codegen import environment, template_errors, write_sources
from odl.errors import UsageError
from odl.exporting import write_model
from odl.frontend import Model
from odl.program import Program
from odl.recipe import Recipe, recipe_of
from odl.share import share
from odl.targets import Target
from odl.toolchain import project_variables
from odl.training import Training
from odl.tuning import Tuning, tuning_from_json
from odl.version import VERSION

MARKER = "odl.json"
MODEL = "model.onnx"
WEIGHTS = "weights.npz"  # of a run
SCHEMA = 1
_MOST_RAM, _MOST_WALKED = 1 << 40, 1 << 28  # a walk is drawn again from its start, to go on behind it
_OURS = "give a folder that odl run -o or odl build -o wrote"


@dataclass(frozen=True)
class Origins:
    """What a project or a run was made from, as its odl.json says. `ram_bytes` is the budget, 0 if none was given;
    `fix_batch`: the model's batch is open, and was taken to be 1."""

    recipe: Recipe
    target: str
    model: Path
    tuning: Tuning
    ram_bytes: int = 0
    fix_batch: bool = False


def write_project(folder: Path, title: str, program: Program, training: Training, target: Target) -> None:
    """Write the C project of `program` for `target` into an empty folder; the same input gives the same bytes."""
    write_sources(folder, program, training, title)
    for part in ("checkpoint", "runner"):
        shutil.copytree(share("firmware") / part, folder / part)
    for port in target.ports:
        shutil.copytree(share("firmware") / "port" / port, folder / "port", dirs_exist_ok=True)
    for name in ("Makefile", "CMakeLists.txt", "README.md"):
        with template_errors():
            text = environment().get_template(f"project/{name}.j2").render(project_variables(target))
        (folder / name).write_text(text)


def note_origins(
    folder: Path,
    model: Model,
    recipe: Recipe,
    target: str,
    tuning: Tuning | None = None,
    ram_bytes: int = 0,
    **more: Any,
) -> None:
    """Write a copy of the model, and odl.json: versions, the model's hash, the recipe, the budget, and `more`."""
    write_model(model.proto, folder / MODEL)
    batch = {"fix_batch": True} if model.fix_batch else {}
    note = {
        "schema_version": SCHEMA, "odl_version": VERSION, "model_sha256": sha256(model.path), "target": target,
        "recipe": asdict(recipe), "tuning": (tuning or Tuning()).as_json(), "ram_bytes": ram_bytes, **batch,
        **more,
    }  # fmt: skip
    (folder / MARKER).write_text(json_text.dumps(note) + "\n")


def read_origins(folder: Path) -> tuple[Origins, dict[str, Any]]:
    """What a project or run folder was made from, and all of its odl.json. Raises UsageError `not-a-project`, or what
    is wrong with the recipe in it."""
    try:
        if not (folder / MARKER).is_file():
            raise UsageError("not-a-project", str(folder), _not_ours(folder), _OURS)
        note = json_text.loads((folder / MARKER).read_text())
        recipe = recipe_of(note["recipe"], folder / MARKER)
        tuning = tuning_from_json(note.get("tuning", {}), {})
        if not isinstance(note["target"], str):
            raise ValueError("target is no text")
        ram_bytes = _whole(note, "ram_bytes", _MOST_RAM)
        _whole(note, "walked", _MOST_WALKED)
        fix_batch = note.get("fix_batch", False)
        if not isinstance(fix_batch, bool):
            raise ValueError("fix_batch is neither true nor false")
        return Origins(recipe, note["target"], folder / MODEL, tuning, ram_bytes, fix_batch), note
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError("not-a-project", str(folder), f"its {MARKER} cannot be used", _OURS) from error


def _whole(note: Mapping[str, Any], word: str, most: int) -> int:
    """A number that a note has, 0 where it has none. Raises ValueError for what is none, or out of range."""
    number = note.get(word, 0)
    if not isinstance(number, int) or not 0 <= number <= most:
        raise ValueError(f"{word} is not within 0 and {most}")
    return number


def _not_ours(folder: Path) -> str:
    if folder.is_dir():
        return f"holds no {MARKER}"
    return "is a file, not a folder" if folder.exists() else "there is no such folder"


def is_run(folder: Path) -> bool:
    """Whether a folder of ours holds what `odl run` left, and not only what `odl build` wrote."""
    return (folder / MARKER).is_file() and "loss" in read_origins(folder)[1]


def without_a_run(folder: str | Path) -> Path:
    """The folder. Raises UsageError `holds-a-run` where writing it anew would remove trained weights."""
    if Path(folder, WEIGHTS).exists():
        raise UsageError("holds-a-run", str(folder), "what a run trained lies there", "choose another folder")
    return Path(folder)


def walked(folder: Path, data: Path) -> int:
    """How many samples of a walk through `data` the run in `folder` has behind it; 0 where it learned from others."""
    note = read_origins(folder)[1]
    same = data.is_file() and note.get("data_sha256") == sha256(data)
    return _whole(note, "walked", _MOST_WALKED) if same else 0


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
