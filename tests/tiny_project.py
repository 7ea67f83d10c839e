"""A hand-written model in the shape of a generated project, and the same model in NumPy."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import jinja2
import numpy as np
import numpy.typing as npt

from odl.share import share
from odl.targets import Target
from odl.toolchain import BuildResult, compile_project, find_toolchain, project_variables
from odl.wire import Job

MODEL_ID = 0x71E40001
N_TRACED, N_CALLS = 5, 4
READ_NULL, ILLEGAL_INSTRUCTION, HANG, RECURSE, UNDERRUN, OVERRUN = range(1000, 1006)

Halves = npt.NDArray[np.float16]


def write_project(folder: Path, target: Target) -> Path:
    """What codegen would write, around the hand-written model."""
    shutil.copytree(Path(__file__).with_name("fixtures") / "tiny_model", folder)
    shutil.copytree(share("firmware") / "include", folder / "include", dirs_exist_ok=True)
    for part in ("checkpoint", "runner"):
        shutil.copytree(share("firmware") / part, folder / part)
    for port in target.ports:
        shutil.copytree(share("firmware") / "port" / port, folder / "port", dirs_exist_ok=True)
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(share("templates") / "project"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for name in ("Makefile", "CMakeLists.txt"):
        (folder / name).write_text(templates.get_template(f"{name}.j2").render(project_variables(target)))
    return folder


@dataclass(frozen=True)
class Workshop:
    """Builds each variant of the project once."""

    folder: Path
    _built: dict[object, BuildResult] = field(default_factory=dict)

    def build(self, target: Target, *, trace: bool = True, **defines: object) -> BuildResult:
        key = (target.name, trace, *defines.items())
        if key not in self._built:
            project = write_project(self.folder / str(len(self._built)), target)
            self._built[key] = compile_project(project, target, find_toolchain(target), trace=trace, defines=defines)
        return self._built[key]


def samples(n: int, seed: int = 1) -> tuple[Halves, npt.NDArray[np.int32]]:
    """n samples, with a NaN, an infinity and a subnormal among them, and their labels."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 3)).astype(np.float16)
    x.view(np.uint16)[-1] = (0x7E01, 0x0001, 0xFC00)
    return x, random.integers(0, 3, n).astype(np.int32)


def canonical(values: npt.NDArray[np.floating]) -> bytes:
    nan = np.array(0x7E00, np.uint16).view(np.float16) if values.dtype == np.float16 else np.float32(np.nan)
    return np.where(np.isnan(values), nan, values).astype(values.dtype).tobytes()


@dataclass
class TinyModel:
    """The model of fixtures/tiny_model, operation by operation."""

    w: Halves = field(default_factory=lambda: np.array([1, 2, -3], np.float16))
    n_steps: int = 0

    def infer(self, x: Halves) -> Halves:
        return x * self.w

    def train(self, x: Halves, target: Halves) -> tuple[np.float32, list[bytes | None]]:
        """The loss, and what each traced tensor holds after its call."""
        y = self.infer(x)
        self.n_steps += 1
        loss = np.float32(0)
        for i in range(3):
            loss = loss + (np.float32(y[i]) - np.float32(target[i]))
        updates = self.n_steps % 2 == 0
        if updates:
            self.w = self.w - (y - target) * x * np.float16(0.125)
        steps = np.int32(self.n_steps).tobytes()
        return loss, [canonical(y), canonical(loss), steps, canonical(self.w) if updates else None, None]

    def run(self, job: Job) -> Iterator[tuple[np.float32, list[bytes | None]]]:
        assert job.targets is not None
        for x, target in zip(job.samples, job.targets, strict=True):
            onehot = target if job.targets.ndim == 2 else np.eye(3, dtype=np.float16)[target]
            with np.errstate(all="ignore"):
                yield self.train(x, onehot)


@cache
def crc(data: bytes | None) -> int:
    return 0 if data is None else zlib.crc32(data)
