"""MLPerf Tiny's models on their own data: every bit of their steps on every target, and what they need of RAM."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from odl import Recipe, compile_model, verify
from odl.program import ARENA
from odl.targets.pulp import find_gvsoc

STEPS = 10
FEW_STEPS = 3  # where another build of the same kernels takes ten, or eight cores are played by one
NO_GVSOC = pytest.mark.skipif(not find_gvsoc(), reason="GVSoC is not here: set ODL_GVSOC")

# Learning rates at which ten steps of these pre-trained models stay finite, so that the comparison is of numbers.
RECIPES = {
    "resnet8_cifar10": Recipe(lr=1e-5),
    "dscnn_kws": Recipe(lr=1e-3),
    "ad_autoencoder": Recipe(loss="mse", lr=1e-12, loss_scale=2.0**-10),
}
DATA = {"resnet8_cifar10": "cifar10_train", "dscnn_kws": "speech_commands_mfcc"}
ARENA_LIMIT = {"resnet8_cifar10": 400_000, "dscnn_kws": 230_000}
MACS = {"resnet8_cifar10": 37_062_528, "dscnn_kws": 7_650_304}

each_model = pytest.mark.parametrize("model", RECIPES)


def data_of(real: Path, model: str, scratch: Path) -> Path:
    """The model's own data; for the autoencoder spectra around the -30 dB at which it was trained."""
    if model in DATA:
        return real / f"data/{DATA[model]}.npz"
    frequency = np.linspace(0, 1, 640)
    rng = np.random.default_rng(11)
    hills = [np.exp(-((frequency - rng.uniform()) ** 2) / 0.01) for _ in range(STEPS)]
    spectra = np.stack([8 * hill - 34 + rng.standard_normal(640) for hill in hills])
    np.savez(scratch / "spectra.npz", x=spectra.astype(np.float32))
    return scratch / "spectra.npz"


@pytest.mark.parametrize("target", [
    "host", pytest.param("qemu-zhinx", marks=pytest.mark.qemu), pytest.param("qemu-zfh", marks=pytest.mark.qemu),
])  # fmt: skip
@each_model
def test_every_bit(real: Path, model: str, target: str, tmp_path: Path) -> None:
    steps = FEW_STEPS if target == "qemu-zfh" else STEPS
    compiled = compile_model(real / f"models/{model}.onnx", RECIPES[model], target)
    verdict = verify(compiled, data_of(real, model, tmp_path), steps)
    assert verdict.equal, verdict.first_difference
    assert verdict.steps == steps
    assert np.isfinite(verdict.loss).all(), verdict.loss


@pytest.mark.parametrize("accumulate", ["fp32", "fp16"])
@pytest.mark.parametrize("on", [
    pytest.param("qemu", marks=pytest.mark.qemu), pytest.param("gvsoc", marks=[pytest.mark.gvsoc, NO_GVSOC]),
])  # fmt: skip
@each_model
def test_every_bit_on_the_cluster(real: Path, model: str, on: str, accumulate: str, tmp_path: Path) -> None:
    steps = FEW_STEPS if accumulate == "fp16" or on == "qemu" else STEPS
    recipe = replace(RECIPES[model], accumulate=accumulate)
    compiled = compile_model(real / f"models/{model}.onnx", recipe, "pulp-open")
    verdict = verify(compiled, data_of(real, model, tmp_path), steps, on, timeout_s=1800)
    assert verdict.equal, verdict.first_difference
    assert verdict.steps == steps
    # The autoencoder's squares add up to more than binary16 holds; its tensors are numbers all the same.
    assert np.isfinite(verdict.loss).all() or (model, accumulate) == ("ad_autoencoder", "fp16"), verdict.loss


@each_model
def test_plan_is_tight(real: Path, model: str) -> None:
    compiled = compile_model(real / f"models/{model}.onnx", RECIPES[model])
    arena = compiled.program.spaces[ARENA]
    assert arena <= 1.02 * compiled.program.lower_bound
    assert arena <= ARENA_LIMIT.get(model, arena)
    assert compiled.training.step.macs() == MACS.get(model, compiled.training.step.macs())
