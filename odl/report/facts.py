"""What a report tells of a run: what the run's folder noted, and what can be found out again from it.

Everything is in JSON's words. Where a part cannot be had, its place holds {"missing": why}: a page that left it out
would look as if all were well.
"""

from __future__ import annotations

import platform
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from odl import api, results
from odl.data import load_data
from odl.errors import OdlError, UsageError
from odl.project import MODEL, read_origins, sha256
from odl.recipe import Recipe
from odl.report.roofline import roofline
from odl.report.tiles import tiles
from odl.saved import load_weights
from odl.targets import machine_for
from odl.toolchain import doctor, find_toolchain
from odl.types import Array
from odl.version import VERSION

Result = dict[str, Any]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Wishes:
    """What a report shall look at.

    `data` is what the runs learned from (default: the file they noted), `test` what accuracy is measured on (default:
    `data`). `verified_steps` training steps are compared tensor by tensor; none if 0. `layer` is the one whose tiles
    are drawn (default: the one of most MACs). `clock_hz` turns cycles into time.
    """

    data: Path | None = None
    test: Path | None = None
    verified_steps: int = 2
    layer: str = ""
    clock_hz: float = 100e6
    timeout_s: float = 120.0


def facts(folder: Path, wishes: Wishes, tell: Tell = lambda _text: None) -> Result:
    """All that a report tells of the run in `folder`. Raises UsageError where that is no run, or `layer` no layer, and
    ModelError where `test` holds no such samples."""
    origins, noted = read_origins(folder)
    if "loss" not in noted or "per_step" not in noted:
        raise UsageError("not-a-run", str(folder), "holds no results", "give a folder that odl run -o wrote")
    compiled = api.open_folder(folder)
    if wishes.test:
        load_data(wishes.test, compiled.training)  # before the work is done
    weights = load_weights(folder, compiled)
    found = _Findings(folder, noted, compiled, weights, wishes, tell)
    return {
        "name": folder.name,
        "model": compiled.title,
        "model_sha256": noted.get("model_sha256", ""),
        "target": compiled.target.name,
        "on": noted["on"],
        "cores": compiled.target.cores,
        "recipe": asdict(compiled.recipe),
        "recipe_flags": shlex.join(recipe_flags(compiled.recipe)),
        "steps": len(noted["loss"]),
        "loss": noted["loss"],
        "resumed_at": noted.get("resumed_at", 0),
        "updates": noted["updates"],
        "data": {"file": noted.get("data", ""), "sha256": noted.get("data_sha256", "")},
        "reference": found.reference(),
        "verification": found.verification(),
        "accuracy": found.accuracy(),
        "memory": results.planned(compiled),
        "stack_bytes": noted["stack_bytes"] or compiled.target.stack_bytes,
        "stack_measured": bool(noted["stack_bytes"]),
        "flash": found.flash(),
        "per_step": noted["per_step"],
        "time": _time(noted["per_step"], wishes.clock_hz),
        "layers": noted["layers"],
        "roofline": roofline(compiled, noted["layers"]),
        "tiles": tiles(compiled, noted["layers"], wishes.layer),
        "environment": _environment(compiled, noted["on"]),
        "commands": _commands(folder, origins.ram_bytes, compiled, noted, wishes),
    }


@dataclass(frozen=True)
class _Findings:
    """What takes more than reading: the run again in NumPy, a verification, two evaluations, a build."""

    folder: Path
    noted: Mapping[str, Any]
    compiled: api.Compiled
    weights: Mapping[str, Array]
    wishes: Wishes
    tell: Tell

    def reference(self) -> Result:
        """The run again by the NumPy executor: its losses, and whether they and the weights at the end are the same
        bits. Of a run that went on from a checkpoint the losses behind that are compared."""
        if self.noted.get("continued"):
            return {"missing": "the run went on from another one's weights, which are not in its folder"}
        with _or_missing() as result:
            data, loss = self._data, self.noted["loss"]
            first = int(self.noted.get("resumed_at", 0))
            self.tell(f"{self.folder.name}: the same {first + len(loss)} steps in NumPy")
            again = api.train(self.compiled, data, first + len(loss), api.NUMPY)
            behind = again.loss[first:]
            same = [name for name, value in self.weights.items() if _same_bits(value, again.weights[name])]
            result |= {
                "loss": list(behind),
                "loss_equal": _same_bits(_losses(loss), _losses(behind)),
                "tensors": len(self.weights),
                "tensors_equal": len(same),
            }
        return result

    def verification(self) -> Result:
        """As `odl verify` has it, on the target's own simulator or where the run was."""
        on, steps = self.noted["on"], self.wishes.verified_steps
        if not steps:
            return {"missing": "it was not asked for"}
        with _or_missing() as result:
            on = "" if on == api.NUMPY else on
            self.tell(f"{self.folder.name}: verification of {steps} steps on {on or self.compiled.target.simulator}")
            verdict = api.verify(self.compiled, self._data, steps, on, timeout_s=self.wishes.timeout_s)
            result |= results.verified(self.compiled, on or self.compiled.target.simulator, verdict)
        return result

    def accuracy(self) -> Result:
        """Of the model before the run, and behind it: as `odl eval` has it, by the NumPy executor."""
        with _or_missing() as result:
            data = self.wishes.test or self._data
            self.tell(f"{self.folder.name}: how well it does on {data}, before and after")
            result |= {
                "file": data.name,
                "sha256": sha256(data),
                "held_out": self.wishes.test is not None,
                "before": api.evaluate(self.compiled, data),
                "after": api.evaluate(self.compiled, data, self.weights),
            }
        return result

    def flash(self) -> Result:
        """What the linked runner takes, in bytes: code and constants; initial values of variables."""
        machine = self.compiled.target
        if not machine.is_riscv:
            return {"missing": "a program on this machine has no flash"}
        with _or_missing() as result:
            sizes = api.measure(self.compiled)
            result |= {"text": sizes.text_bytes, "data": sizes.data_bytes}
        return result

    @cached_property
    def _data(self) -> Path:
        """What the run learned from. Raises UsageError where it is not there any more, or another."""
        path = self.wishes.data or Path(self.noted.get("data", ""))
        hint = "give with --data the file that it learned from"
        if not path.is_file():
            raise UsageError("no-data", str(path), "what the run learned from is not there", hint)
        if sha256(path) != self.noted.get("data_sha256"):
            raise UsageError("other-data", str(path), "is not what the run learned from", hint)
        load_data(path, self.compiled.training)
        return path


@contextmanager
def _or_missing() -> Iterator[Result]:
    """A result to fill; where the block is refused, it tells why instead."""
    result: Result = {}
    try:
        yield result
    except OdlError as error:
        problem = error.problems[0]
        result.clear()
        result["missing"] = f"{problem.where}: {problem.why}" + (f"; {problem.hint}" if problem.hint else "")


def _losses(values: Sequence[Any]) -> Array:
    """Losses (N,) of JSON, where those that are not finite are words."""
    return np.array([float(value) for value in values], np.float32)


def _same_bits(a: Any, b: Any) -> bool:
    """Whether two arrays are equal, NaNs too."""
    return bool(np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f"))


def _time(step: Mapping[str, Any], clock_hz: float) -> Result:
    """Seconds of a step at a clock. Where instructions are counted it is what one each cycle would take, not less."""
    unit = next((word for word in ("cycles", "instructions") if word in step), "")
    if not unit:
        return {"missing": "neither cycles nor instructions were counted"}
    return {"clock_hz": clock_hz, "unit": unit, "count": step[unit], "seconds": step[unit] / clock_hz}


def _environment(compiled: api.Compiled, on: str) -> Result:
    """Versions of what computed this: no paths, they are no part of any result."""
    versions = {"odl": VERSION, "Python": platform.python_version()}
    versions |= {name: metadata.version(name.lower()) for name in ("NumPy", "ONNX")}
    with _or_missing() as tool:
        machine = machine_for(compiled.target, "" if on == api.NUMPY else on)
        toolchain = find_toolchain(machine)
        tool["compiler"] = f"{toolchain.kind} {'.'.join(map(str, toolchain.version))}"
    found = {each.name: each.version or "found" for each in doctor({}) if each.found}
    return {**versions, **tool, **found}


def _commands(
    folder: Path, ram_bytes: int, compiled: api.Compiled, noted: Mapping[str, Any], wishes: Wishes
) -> list[str]:
    """What to type for the same run, and for this report of it."""
    data, name = noted.get("data") or "DATA.npz", folder.name
    ram = ["--ram", str(ram_bytes)] if ram_bytes else []
    batch = ["--fix-batch"] if compiled.model.fix_batch else []
    made = ["-t", compiled.target.name, *ram, *batch, *recipe_flags(compiled.recipe)]
    steps = str(int(noted.get("resumed_at", 0)) + len(noted["loss"]))
    on = [] if noted["on"] == compiled.target.simulator else ["--on", noted["on"]]
    test = ["--test", str(wishes.test)] if wishes.test else []
    return [
        shlex.join(words)
        for words in (
            ["odl", "run", f"{name}/{MODEL}", *made, *on, "--data", data, "--steps", steps, "-o", f"{name}-again"],
            ["odl", "verify", name, "--data", data, "--steps", str(wishes.verified_steps or 2)],
            ["odl", "report", name, "--data", data, *test, "-o", "report.html"],
        )
    ]


def recipe_flags(recipe: Recipe) -> list[str]:
    """The flags that make `recipe` of the default one."""
    flags = []
    for field in fields(Recipe):
        value, flag = getattr(recipe, field.name), field.name.replace("_", "-")
        if value == field.default:
            continue
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words = map(str, value) if isinstance(value, tuple) else [str(value)]
            flags += [part for word in words for part in (f"--{flag}", word)]
    return flags
