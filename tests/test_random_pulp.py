"""Random networks on clusters with little L1: graph, program and SIMD code agree in every bit of two steps.

`ODL_RANDOM_CASES` is how many are drawn: the first few dozen always, thousands where one has an afternoon.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from campaigns.agreement import graph_agrees
from campaigns.random_clusters import Case, case
from odl import compile_model, verify
from odl.api import Compiled
from odl.data import load_data
from odl.errors import FitError
from odl.frontend import load_model
from odl.passes.split_gradients import split_gradients
from odl.training import build_training

STEPS = 2
N_CASES = int(os.environ.get("ODL_RANDOM_CASES", "36"))  # of which a third runs in QEMU

_MISSING = re.compile(r"needs [\d,]+ bytes .* of [\d,]+: [\d,]+ are missing; its largest tensor is \S+, \w+\[[\dx]+\]")


def written(drawn: Case, folder: Path) -> tuple[Path, Path]:
    """The model and matching data as files."""
    shape = [dim.dim_value for dim in drawn.model.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(2)
    np.savez(folder / "data.npz", x=rng.standard_normal((STEPS, *shape[1:])), y=rng.integers(0, drawn.classes, STEPS))
    onnx.save(drawn.model, folder / "model.onnx")
    return folder / "model.onnx", folder / "data.npz"


def compiled(drawn: Case, folder: Path) -> Compiled | None:
    """For the smallest cluster on which it fits, so that it is cut; None where it fits none.

    Every refusal on the way must say which tensor is how much too large.
    """
    model, _ = written(drawn, folder)
    for machine in drawn.machines():
        try:
            return compile_model(model, drawn.recipe, machine)
        except FitError as error:
            refusal = str(error)
        assert refusal.startswith("tile-too-large: "), refusal
        assert _MISSING.search(refusal), refusal
    return None


@pytest.mark.parametrize("seed", range(N_CASES))
def test_tiles_agree_with_the_graph(seed: int, tmp_path: Path) -> None:
    """The executor, from L2 through L1 and back, against the graph as it was before any pass."""
    drawn = case(seed)
    found = compiled(drawn, tmp_path)
    if not found:
        return
    losses = graph_agrees(found, load_data(tmp_path / "data.npz", found.training))
    assert len(losses) == STEPS
    assert np.isfinite(losses).all()


@pytest.mark.qemu
@pytest.mark.parametrize("seed", range(0, N_CASES, 3))
def test_simd_code_agrees_with_the_executor(seed: int, tmp_path: Path) -> None:
    found = compiled(case(seed), tmp_path)
    if found:
        verdict = verify(found, tmp_path / "data.npz", STEPS, "qemu")
        assert verdict.equal, verdict.first_difference
        assert verdict.steps == STEPS


def test_nearly_all_draws_run_and_most_of_them_in_tiles(tmp_path: Path) -> None:
    """So that the tests above test something."""
    programs = [compiled(case(seed), tmp_path) for seed in range(12)]
    found = [each for each in programs if each]
    assert len(found) >= 11
    assert sum(any("[" in call.name for _, _, call in each.program.calls()) for each in found) >= 6


def test_pieces_of_a_gradient_have_names_of_their_own(tmp_path: Path) -> None:
    """The second update of a layer is called what the second piece of the first would be: one of them was lost."""
    path = tmp_path / "model.onnx"
    onnx.save(case(0).model, path)
    step = build_training(load_model(path).graph, case(0).recipe).step
    names = [node.name for node in split_gradients(step, lambda _: 1).nodes]
    assert len(set(names)) == len(names)
