"""The kinds of hostile input: how chance draws one, and all that odl does with it.

`feed` does what commands do, by the library, and what they would show; it ends well or raises OdlError.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from campaigns import hostile_devices as devices
from campaigns import hostile_files as files
from campaigns import hostile_models as models
from campaigns.subjects import RECIPE
from campaigns.subjects import data as tiny_data
from campaigns.subjects import network as tiny_network
from odl import api, autotune, json_text, render, results, saved, wire
from odl.api import Compiled, compile_model
from odl.checkpoint import Checkpoints, prepare_image, read_image, sized
from odl.codegen import model_id, traced_buffers
from odl.console import printable
from odl.data import load_data
from odl.errors import TargetError
from odl.exporting import export_model
from odl.log import LogBuilder
from odl.project import MARKER, MODEL, WEIGHTS, is_run, note_origins, read_origins, walked, write_project
from odl.recipe import Recipe, read_recipe
from odl.targets import find_target
from odl.targets.simulate import FAULTS
from odl.toolchain import compile_project, find_toolchain
from odl.types import Array
from odl.wire import Flash, Job, LogReader

DEVICE_SECONDS = 10
RUNNER = "ODL_HOSTILE_RUNNER"  # a variable of the environment: a program that `runner` has built
SMALL = Flash(0, 256, 4)


@dataclass(frozen=True)
class Kind:
    """`file`: what the input is called where it lies. `open`: what `feed` needs, made before anything is limited.
    `starts`: whether `feed` starts programs. `cases`: how many a campaign tries. `adopt`: makes an input that is kept
    in tests/corpus one of this program, whose number changes with every change of odl."""

    name: str
    what: str
    file: str
    draw: Callable[[Random], bytes]
    feed: Callable[[Path, Any], None]
    open: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext)
    starts: bool = False
    cases: int = 10_000
    adopt: Callable[[bytes], bytes] = bytes


# --- models -----------------------------------------------------------------------------------------------------------


def shown(result: dict[str, Any], text: Callable[[dict[str, Any]], str]) -> None:
    """As JSON and as text, as a terminal gets it."""
    json_text.dumps(result).encode()
    assert all(c.isprintable() or c == "\n" for c in printable(text(result)))


def feed_model(folder: Path, _: object) -> None:
    """odl check, plan, dump and export of a model, and all of odl build but the compiler."""
    path = folder / MODEL
    (folder / "weights.bin").write_bytes(bytes(range(1, 17)) * 16)
    (folder / "link.bin").symlink_to(folder.parent / "outside.bin")
    some = zlib.crc32(path.read_bytes()) % 4
    recipe = Recipe(loss="cross_entropy" if some == 3 else "mse", momentum=0.5 * (some == 1))
    compiled = compile_model(path, recipe, "pulp-open" if some == 0 else "qemu-zhinx")
    written(compiled, folder / "project")


def written(compiled: Compiled, project: Path) -> None:
    """All that is shown and written of a model; its files are text of this world, in ASCII."""
    shown(results.checked(compiled), render.checked)
    shown(results.planned(compiled), render.plan)
    for stage in results.STAGES.values():
        stage(compiled)
    project.mkdir()
    write_project(project, compiled.title, compiled.program, compiled.training, compiled.target)
    note_origins(project, compiled.model, compiled.recipe, compiled.target.name)
    for path in project.rglob("*.[ch]"):
        text = path.read_text(encoding="ascii")
        assert all(c.isprintable() or c == "\n" for c in text), path.name
    held = compiled.program.held
    trained = {
        each.tensor.name: each.tensor.initial for each in held if each.tensor.name in compiled.training.trainable
    }
    export_model(compiled.model, trained)


# --- files beside a model ---------------------------------------------------------------------------------------------


@contextmanager
def small_models() -> Iterator[dict[str, Compiled]]:
    """An mlp to classify and one to approximate."""
    with tempfile.TemporaryDirectory(prefix="odl-") as scratch:
        path = Path(scratch, MODEL)
        path.write_bytes(models.mlp().SerializeToString())
        yield {loss: compile_model(path, Recipe(loss=loss), "host") for loss in ("cross_entropy", "mse")}


def feed_recipe(folder: Path, _: object) -> None:
    recipe = read_recipe(folder / "recipe.toml")
    path = folder / MODEL
    path.write_bytes(models.mlp().SerializeToString())
    compiled = compile_model(path, recipe, "pulp-open" if recipe.seed % 4 == 3 else "qemu-zhinx")
    shown(results.planned(compiled), render.plan)


def feed_data(folder: Path, compiled: dict[str, Compiled]) -> None:
    path = folder / "data.npz"
    some = "mse" if zlib.crc32(path.read_bytes()) % 3 == 0 else "cross_entropy"
    found = load_data(path, compiled[some].training)
    found.steps(3, 0)
    shown({"on": api.NUMPY, **api.evaluate(compiled[some], path)}, render.evaluated)


@cache
def measured_for() -> dict[str, str]:
    with tempfile.TemporaryDirectory(prefix="odl-") as scratch:
        path = Path(scratch, MODEL)
        path.write_bytes(models.mlp().SerializeToString())
        return autotune.measured_for(path, Recipe(), "pulp-open")


def feed_tuning(folder: Path, _: object) -> None:
    path, told = folder / MODEL, list[str]()
    path.write_bytes(models.mlp().SerializeToString())
    tuning = autotune.tuning_for(path, Recipe(), "pulp-open", told.append)
    shown(results.planned(compile_model(path, Recipe(), "pulp-open", tuning)), render.plan)
    assert all(printable(line).isprintable() for line in told)


def feed_folder(folder: Path, _: object) -> None:
    """odl plan, build and run --continue of a folder."""
    (folder / MODEL).write_bytes(models.mlp().SerializeToString())
    origins, note = read_origins(folder)
    is_run(folder)
    walked(folder, folder / MODEL)
    json_text.dumps({"model_sha256": str(note.get("model_sha256", ""))}).encode()
    made_for = origins.recipe, origins.target, origins.tuning, origins.ram_bytes
    compiled = compile_model(origins.model, *made_for, fix_batch=origins.fix_batch)
    shown(results.planned(compiled), render.plan)


def feed_weights(folder: Path, _: object) -> None:
    """odl eval, export and run --continue of a run's weights."""
    use(folder, saved.load_weights(folder, tiny()))


def use(folder: Path, found: dict[str, Array]) -> None:
    """Infer and train with what was kept, in NumPy, and put it into the model."""
    samples, labels = tiny_data(4)
    np.savez(folder / "data.npz", x=samples[:, 0], y=labels[:, 0])
    api.evaluate(tiny(), folder / "data.npz", found)
    run = api.train(tiny(), folder / "data.npz", 4, api.NUMPY, weights=found)
    shown(results.ran(run), render.ran)
    api.export(tiny(), found, folder / "tuned.onnx")


# --- the device -------------------------------------------------------------------------------------------------------


@cache
def tiny() -> Compiled:
    """The network of the power cuts, with all that a step can leave behind."""
    with tempfile.TemporaryDirectory(prefix="odl-") as scratch:
        path = Path(scratch, MODEL)
        path.write_bytes(tiny_network().SerializeToString())
        return compile_model(path, RECIPE, "host")


@cache
def held() -> dict[str, Array]:
    """What outlives a step, as it is at first."""
    return {each.tensor.name: each.tensor.initial for each in tiny().program.held}


@cache
def payload() -> bytes:
    return b"".join(np.ascontiguousarray(array).tobytes() for array in held().values())


@cache
def flash() -> Flash:
    return sized(SMALL, len(payload()))


def job(n: int = 6, **wishes: Any) -> Job:
    samples, labels = tiny_data(n)
    return Job(model_id(tiny().program), samples, labels, **wishes)


@cache
def jobs() -> tuple[bytes, ...]:
    """Jobs with first weights, with a flash, with both; one without targets."""
    first = [np.ascontiguousarray(array).tobytes() for array in held().values()]
    wishes: list[dict[str, Any]] = [
        {"initial": first, "weights": True}, {"flash": flash(), "weights": True}, {"initial": first, "flash": flash()},
        {"initial": first, "hashes": True, "dump": (1, 2)}, {"targets": None, "initial": first}, {"profile": True},
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="odl-") as scratch:
        path, found = Path(scratch, wire.JOB_FILE), []
        for wish in wishes:
            wire.write_job(path, replace(job(), **wish))
            found.append(path.read_bytes())
    return tuple(found)


def adopt_job(content: bytes) -> bytes:
    """Program 0 becomes this one."""
    return devices.renumbered(content, 2, 20, model_id(tiny().program))


def adopt_image(content: bytes) -> bytes:
    half, number = len(content) // 2, model_id(tiny().program)
    return b"".join(devices.renumbered(part, 2, 8, number) for part in (content[:half], content[half:]))


def draw_job(chance: Random) -> bytes:
    sound = chance.choice(jobs())
    (n_bytes,) = struct.unpack_from("<I", sound, 28)
    return devices.job(chance, sound, n_bytes)


@contextmanager
def warm() -> Iterator[None]:
    """What several kinds keep."""
    jobs(), flash(), said(), measured_for()
    yield


@contextmanager
def runner() -> Iterator[Path]:
    """The program for this machine, under sanitizers; built already where RUNNER says so."""
    jobs()
    tools, target = find_toolchain(find_target("host"), sanitize=True), find_target("host")
    if built := os.environ.get(RUNNER):
        yield Path(built)
        return
    with tempfile.TemporaryDirectory(prefix="odl-") as scratch:
        project = Path(scratch, "project")
        write_project(project, "tiny", tiny().program, tiny().training, target)
        yield compile_project(project, target, tools, trace=True, sanitize=True).elf.resolve()


def run(elf: Path, folder: Path) -> None:
    """A status that odl knows, the same in a log that is whole, and not a word of a sanitizer."""
    done = subprocess.run([elf], cwd=folder, capture_output=True, timeout=DEVICE_SECONDS, check=False)
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode in (0, *FAULTS), f"status {done.returncode}\n{said}"
    reader = LogReader()
    for _ in reader.feed((folder / wire.LOG_FILE).read_bytes()):
        pass
    reader.close()
    assert reader.end is not None
    assert reader.end.status == done.returncode, said
    if done.returncode:
        code, why = FAULTS[done.returncode]
        raise TargetError(code, elf.name, why)


def feed_job(folder: Path, elf: Path) -> None:
    (folder / wire.FLASH_FILE).write_bytes(b"\xff" * flash().n_bytes)
    run(elf, folder)


def feed_flash(folder: Path, elf: Path) -> None:
    (folder / wire.JOB_FILE).write_bytes(jobs()[1])
    run(elf, folder)


# --- what comes back from a device ------------------------------------------------------------------------------------


@cache
def said() -> list[devices.Said]:
    """The log of a job of three steps."""
    first = [np.ascontiguousarray(array).tobytes() for array in held().values()]
    program = tiny().program
    n_traced, n_calls, n_counters, n_outputs = len(list(traced_buffers(program))), len(list(program.calls())), 1, 4
    boot = struct.pack(
        "<8I", wire.VERSION, model_id(program), 4096, n_traced, n_calls, n_counters, len(first), n_outputs
    )
    records: list[devices.Said] = [(wire.TAG_BOOT, 0, 0, boot)]
    records.append((wire.TAG_RESUME, 0, 1, struct.pack("<2I", 0, 0)))
    records.append((wire.TAG_COUNTERS, 0, 0, b"instructions\0"))
    for step in range(3):
        records += [
            (wire.TAG_COUNT, step, 0, bytes(4)), (wire.TAG_LOSS, step, 0, struct.pack("<f", 0.5)),
            (wire.TAG_HASHES, step, 0, bytes(4 * n_traced)),
            (wire.TAG_PROFILE, step, 0, bytes(4 * n_calls * n_counters)),
            (wire.TAG_SAVE, step, 0, bytes(4)),
        ]  # fmt: skip
    records += [(wire.TAG_WEIGHT, 0, at, content) for at, content in enumerate(first)]
    return [*records, (wire.TAG_STACK, 0, 0, bytes(4)), (wire.TAG_END, 3, 0, bytes(4))]


def feed_log(folder: Path, _: object) -> None:
    """What follows a device that says this: the log, then what odl run makes of it."""
    wanted = job(3, hashes=True, profile=True, weights=True, flash=flash())
    reader, builder = LogReader(), LogBuilder(wanted)
    content = (folder / wire.LOG_FILE).read_bytes()
    for at in range(0, len(content) + 1, 100):
        for record in reader.feed(content[at : at + 100]):
            builder.add(record)
    reader.close()
    log = builder.finish()
    losses, counted = tuple(map(float, log.losses)), (log.profile, log.counters, log.counts)
    weights = tiny().program.held_arrays(log.weights)
    trained = api.Run(tiny(), "host", losses, weights, *counted, log.stack_bytes, log.first)
    shown(results.ran(trained), render.ran)


def draw_image(chance: Random) -> bytes:
    """Of pages of 256 bytes, as odl run makes them."""
    return devices.image(chance, Flash(8192, source=7), model_id(tiny().program), payload())


def feed_image(folder: Path, _: object) -> None:
    """odl checkpoint inspect, export --checkpoint, and what odl run --checkpoint looks at first."""
    path = folder / "flash.img"
    slots = read_image(path)
    shown(results.inspected(str(path), slots, None, {}), render.inspected)
    prepare_image(Checkpoints(path, 2), 7, model_id(tiny().program), len(payload()), 6)
    found = saved.load_checkpoint(path, tiny())
    shown(results.inspected(str(path), slots, tiny(), found), render.inspected)
    use(folder, found)


def adopt_tuning(content: bytes) -> bytes:
    return content.replace(b'"for": {}', b'"for": ' + json.dumps(measured_for()).encode())


_IMAGES, _ON_DEVICE = "checkpoint images", "on a device under sanitizers"
_ALL = (
    Kind("model-bytes", "models, bytes changed", MODEL, models.harmed_bytes, feed_model),
    Kind("model-structure", "models, structure changed", MODEL, models.harmed_structure, feed_model),
    Kind("recipe", "recipes", "recipe.toml", files.recipe, feed_recipe),
    Kind("data", "data files", "data.npz", files.data, feed_data, small_models),
    Kind(
        "tuning", "choices of `odl tune`", "model.tune.json", lambda chance: files.tuning(chance, measured_for()),
        feed_tuning, warm, cases=5_000, adopt=adopt_tuning,
    ),
    Kind("folder", "`odl.json` of folders", MARKER, files.note, feed_folder, cases=5_000),
    Kind(
        "weights", "weights of runs", WEIGHTS, lambda chance: files.weights(chance, held()), feed_weights, warm,
        cases=2_000,
    ),
    Kind("log", "logs of devices", wire.LOG_FILE, lambda chance: devices.log(chance, said()), feed_log, warm),
    Kind(
        "checkpoint", f"{_IMAGES}, on the host", "flash.img", draw_image, feed_image, warm, cases=2_000,
        adopt=adopt_image,
    ),
    Kind("job", f"jobs, {_ON_DEVICE}", wire.JOB_FILE, draw_job, feed_job, runner, True, 3_000, adopt_job),
    Kind(
        "flash", f"{_IMAGES}, {_ON_DEVICE}", wire.FLASH_FILE,
        lambda chance: devices.image(chance, flash(), model_id(tiny().program), payload()), feed_flash, runner, True,
        3_000, adopt_image,
    ),
)  # fmt: skip
KINDS = {kind.name: kind for kind in _ALL}
