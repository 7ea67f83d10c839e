"""A target that computes other bits is caught, and the report says exactly where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from models import cnn, compiled

from odl.api import Compiled, silent
from odl.compare import Device, Verdict, verify
from odl.data import load_data
from odl.errors import TargetError
from odl.fp16 import bits
from odl.graph import Slice
from odl.interpreter import interpret
from odl.program import LOCAL, Buffer
from odl.project import write_project
from odl.targets import simulator_for
from odl.tiling import region
from odl.toolchain import compile_project, find_toolchain
from odl.types import TensorType

STEPS = 3
RELU = "odl_map_by(y, x, x, odl_share_lanes(n_elems), relu, NULL, relu_words);"


@pytest.fixture
def network(tmp_path: Path) -> Compiled:
    return compiled(tmp_path, cnn())


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    rng = np.random.default_rng(4)
    np.savez(tmp_path / "data.npz", x=rng.standard_normal((STEPS, 2, 6, 6)), y=rng.integers(0, 3, STEPS))
    return tmp_path / "data.npz"


def broken(network: Compiled, samples: Path, folder: Path, source: str, old: str, new: str) -> Verdict:
    """The verdict on a project in which one line of C was changed."""
    project = folder / "project"
    project.mkdir()
    write_project(project, "broken", network.program, network.training, network.target)
    path = project / source
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    result = compile_project(project, network.target, find_toolchain(network.target), trace=True)
    data = load_data(samples, network.training).steps(STEPS, 0)
    device = Device(simulator_for(network.target), result.elf)
    return verify(network.program, network.training, data, device, silent)


def test_unbroken_is_equal(network: Compiled, samples: Path, tmp_path: Path) -> None:
    verdict = broken(network, samples, tmp_path, "src/kernels/relu.c", RELU, RELU)
    assert verdict.equal
    assert (verdict.steps, verdict.first_difference) == (STEPS, None)


def test_one_wrong_element_is_named(network: Compiled, samples: Path, tmp_path: Path) -> None:
    """Element 37 of the activation becomes 0.5 in every step."""
    verdict = broken(network, samples, tmp_path, "src/kernels/relu.c", RELU, f"{RELU} y[37] = (odl_half)0.5f;")
    found = verdict.first_difference
    assert found is not None
    assert not verdict.equal
    data = load_data(samples, network.training).steps(STEPS, 0)
    feeds = {network.training.sample: data.samples[0], network.training.target: data.targets[0]}
    expected = bits(interpret(network.training.step, feeds)[found.tensor])
    index = tuple(int(i) for i in np.unravel_index(37, expected.shape))
    assert (found.step, found.layer, found.kernel, found.index) == (0, "relu", "relu", index)
    assert (found.expected_bits, found.actual_bits) == (int(expected[index]), 0x3800)


def test_first_difference_is_the_cause(network: Compiled, samples: Path, tmp_path: Path) -> None:
    """One update's weight decay is wrong in the C: that weight is named, not all that it spoils."""
    verdict = broken(network, samples, tmp_path, "src/odl_model.c", ", 0.0f, 0.0f);", ", 900.0f, 0.0f);")
    found = verdict.first_difference
    assert found is not None
    assert found.kernel.startswith("sgd_update")
    assert found.step == 0


def test_a_loss_that_is_not_the_programs(network: Compiled, samples: Path, tmp_path: Path) -> None:
    with pytest.raises(TargetError) as caught:
        broken(network, samples, tmp_path, "src/odl_model.c", "*loss = *FLOAT(", "*loss = 1.0f + *FLOAT(")
    assert caught.value.code == "loss-differs"


@pytest.mark.parametrize("axis", range(4))
def test_an_element_of_a_tile_is_named_by_its_place_in_the_tensor(axis: int) -> None:
    whole = TensorType((2, 3, 5, 4))
    cut = Slice(axis, 1, whole.shape[axis])
    buffer = Buffer("v", cut.of(whole), LOCAL, 0, "", region(whole, cut), whole)
    tile = np.arange(whole.n_elems).reshape(whole.shape)[(slice(None),) * axis + (slice(1, None),)]
    places = [np.ravel_multi_index(buffer.index(at), whole.shape) for at in range(tile.size)]
    np.testing.assert_array_equal(places, tile.ravel())
