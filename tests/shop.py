"""A model, its packages for other builds, and what the application in them must say."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from models import cnn, compiled

from odl import api, toolchain
from odl.api import Compiled
from odl.compare import Reference
from odl.data import Data
from odl.packages import PACKAGES

NUMERICS = ["-ffp-contract=off", "-fno-math-errno", "-fno-strict-aliasing"]
STEPS = 32  # EXAMPLE_STEPS of main.c

each_package = pytest.mark.parametrize("name", PACKAGES)


@dataclass
class Shop:
    """A model, and its packages, each written once."""

    compiled: Compiled
    folder: Path

    def package(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            api.package(self.compiled, path, name)
        return path


def make_shop(folder: Path) -> Shop:
    return Shop(compiled(folder, cnn(), lr=0.01, momentum=0.9, batch=2, clip_norm=1.0), folder)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=toolchain._environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        stdin=subprocess.DEVNULL, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sensed(model: Compiled, n: int) -> Data:
    """The first `n` samples of firmware/example/sensor.c."""
    state = 1

    def draw() -> int:
        nonlocal state
        state ^= state << 13 & 0xFFFFFFFF
        state ^= state >> 17
        state ^= state << 5 & 0xFFFFFFFF
        return state

    program, training = model.program, model.training
    sample, target = program.inputs[training.sample], program.inputs[training.target]
    n_outputs = program.results["infer"][0].type.n_elems
    samples, targets = [], []
    for _ in range(n):
        label = (draw() >> 8) % n_outputs
        drawn = [(draw() >> 24) - 128 + 256 * (at % n_outputs == label) for at in range(sample.n_elems)]
        samples.append((np.array(drawn, np.float32) / np.float32(256)).astype(np.float16))
        is_label = target.dtype.c == "int32_t"
        targets.append(np.int32(label) if is_label else np.resize(samples[-1], target.n_elems))
    return Data(np.array(samples).reshape(n, *sample.shape), np.array(targets).reshape(n, *target.shape))


def expected(model: Compiled) -> list[str]:
    """What the application says: the loss of each step, by the executor."""
    losses = Reference(model.program, model.training).steps(sensed(model, STEPS))
    return [f"step {at}: loss {bits:08x}" for at, bits in enumerate(losses.view(np.uint32))]


def told(output: str) -> list[str]:
    return re.findall(r"^step \d+: loss [0-9a-f]{8}$", output, re.M)
