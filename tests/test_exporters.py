"""Models as PyTorch's two exporters and tf2onnx write them: each is accepted, computes what the framework computes,
trains, and goes back into the file it came from."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from models import codes, infer, refusal, save
from onnx.reference import ReferenceEvaluator

from odl import api
from odl.api import Compiled
from odl.cli import main
from odl.fp16 import half
from odl.recipe import Recipe
from odl.types import Array

KERAS = Path(__file__).parent / "fixtures/keras"
KERAS_NETWORKS = ("conv_norm", "dense_norm", "mobilenet", "separable", "temporal")

# Of the largest output. What binary16 takes is 0.1 % and less; a wrong axis or pad makes tens of percents.
BOUND = 8e-3


def compiled(path: Path, target: str = "host") -> Compiled:
    return api.compile_model(path, Recipe(loss="mse", lr=0.01), target, fix_batch=True)


def check_inference(program: Compiled, x: Array, expected: Array) -> None:
    """What the NumPy executor computes of one sample against a framework's binary32."""
    found = infer(program, x).astype(np.float64)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=BOUND * np.abs(expected).max(), rtol=0)


def check_verified(program: Compiled, folder: Path, x: Array, y: Array) -> None:
    """Two steps on the host: every tensor in bits as in NumPy, and weights that move."""
    data = folder / "data.npz"
    np.savez(data, x=np.concatenate([x, x]), y=np.concatenate([y, y]) + 0.5)
    assert api.verify(program, data, 2).equal
    run = api.train(program, data, 4, on=api.NUMPY)
    api.export(program, run.weights, folder / "tuned.onnx")


def check_exported(program: Compiled, folder: Path, x: Array, rank_of_batch: int | str) -> None:
    """The trained file: the exporter's own graph with other numbers, which ONNX accepts and which computes them."""
    before, after = program.model.proto, onnx.load(folder / "tuned.onnx")
    onnx.checker.check_model(after, full_check=True)
    bare = [onnx.ModelProto.FromString(each.SerializeToString()) for each in (before, after)]
    changed = [a.name for a, b in zip(before.graph.initializer, after.graph.initializer, strict=True) if a != b]
    for each in bare:
        del each.graph.initializer[:]
    assert bare[0] == bare[1]
    assert {after.graph.initializer[0].name, *changed} > {*()}
    origins = {tensor.origin.initializer for tensor in program.model.graph.persistent.values() if tensor.origin}
    assert changed
    assert {*changed} <= origins
    (dim, *_) = after.graph.input[0].type.tensor_type.shape.dim
    assert (dim.dim_param or dim.dim_value) == rank_of_batch
    again = compiled(folder / "tuned.onnx")
    expected = ReferenceEvaluator(after).run(None, {after.graph.input[0].name: half(x).astype(np.float32)})[0]
    check_inference(again, x, np.asarray(expected))


# --- PyTorch ----------------------------------------------------------------------------------------------------------

WAYS = ("script", "script-folded", "script-open", "dynamo", "dynamo-optimized", "dynamo-open")


@cache
def exported(name: str, way: str) -> tuple[onnx.ModelProto, Array, Array]:
    """What an exporter writes of a network, a sample, and what PyTorch computes of it in binary32."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
    if way.startswith("dynamo"):
        pytest.importorskip("onnxscript", reason="torch.onnx wants onnxscript: pip install onnxscript")
    from torch_networks import NETWORKS, dynamo_export, script_export

    network = NETWORKS[name]
    net, x = network.drawn(), torch.randn(network.shape, generator=torch.Generator().manual_seed(1)).half().float()
    is_open = way.endswith("open")
    if way.startswith("dynamo"):
        proto = dynamo_export(net, x, optimize=way == "dynamo-optimized", dynamic=is_open)
    else:
        proto = script_export(net, x, folded=way == "script-folded", dynamic=is_open)
    with torch.no_grad():
        return proto, x.numpy(), net(x).numpy()


NAMES = (
    "autoencoder", "conv_autoencoder", "ds_cnn", "kws_residual", "mixer", "mobilenet_v2", "mobilenet_v3",
    "resnet_bottleneck", "sensor_cnn", "squeezenet_fire", "temporal_cnn", "vgg",
)  # fmt: skip


@pytest.mark.torch
def test_every_network_is_tested() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
    from torch_networks import NETWORKS

    assert sorted(NETWORKS) == sorted(NAMES)


@pytest.mark.torch
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_computes_what_pytorch_computes(tmp_path: Path, name: str, way: str) -> None:
    proto, x, y = exported(name, way)
    check_inference(compiled(save(tmp_path, proto)), x, y)


@pytest.mark.torch
@pytest.mark.parametrize("way", ["script", "dynamo-open"])
@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_of_pytorch_is_trained(tmp_path: Path, name: str, way: str) -> None:
    """Those of convolutions and dense layers, and scale and shift where they are not folded into one."""
    import torch
    from torch_networks import NETWORKS

    proto, _, _ = exported(name, way)
    training = compiled(save(tmp_path, proto)).training
    parameters = [p for m in NETWORKS[name].drawn().modules() for p in m.parameters(recurse=False)
                  if not isinstance(m, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)]  # fmt: skip
    n_folded = sum(isinstance(m, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d) and m.affine
                   for m in NETWORKS[name].drawn().modules())  # fmt: skip
    biases = 1 if name != "autoencoder" else 2  # a bias takes the shift in; a dense layer's normalisation stays
    if name == "sensor_cnn":
        n_folded = 0  # its convolutions have biases of their own, which the shifts replace
    assert len(training.trainable) == len(parameters) + n_folded * biases


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "way"),
    [("mobilenet_v2", "script"), ("squeezenet_fire", "dynamo"), ("temporal_cnn", "dynamo-open"),
     ("sensor_cnn", "script-open"), ("mobilenet_v3", "dynamo-optimized"), ("mixer", "script"),
     ("kws_residual", "dynamo-open")],
)  # fmt: skip
def test_trains_bit_for_bit_and_goes_back(tmp_path: Path, name: str, way: str) -> None:
    proto, x, y = exported(name, way)
    program = compiled(save(tmp_path, proto))
    check_verified(program, tmp_path, x, y)
    batch: int | str = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param or 1
    assert (batch != 1) == way.endswith("open")
    check_exported(program, tmp_path, x, batch)


# --- Keras ------------------------------------------------------------------------------------------------------------


def keras_sample(name: str) -> tuple[Array, Array]:
    archive = np.load(KERAS / f"{name}.npz")
    return half(archive["x"][:1]).astype(np.float32), archive["y"][:1]


@pytest.mark.parametrize("name", KERAS_NETWORKS)
def test_computes_what_keras_computes(name: str) -> None:
    x, y = keras_sample(name)
    check_inference(compiled(KERAS / f"{name}.onnx"), x, y)


@pytest.mark.parametrize("name", KERAS_NETWORKS)
def test_keras_trains_bit_for_bit_and_goes_back(tmp_path: Path, name: str) -> None:
    x, y = keras_sample(name)
    program = compiled(KERAS / f"{name}.onnx")
    batch = program.model.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert batch.startswith("unk__")
    check_verified(program, tmp_path, x, y)
    check_exported(program, tmp_path, x, batch)


def test_fixtures_are_small_and_all_tested() -> None:
    assert sorted(path.stem for path in KERAS.glob("*.onnx")) == sorted(KERAS_NETWORKS)
    assert all(path.stat().st_size < 100_000 for path in KERAS.iterdir() if path.is_file())


# --- an open batch ----------------------------------------------------------------------------------------------------


def odl(*words: object) -> dict[str, Any]:
    """The JSON of a command."""
    done = CliRunner().invoke(main, [*map(str, words), "--json"])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_an_open_batch_is_refused_with_the_flag_that_fixes_it() -> None:
    error = refusal(lambda: api.compile_model(KERAS / "mobilenet.onnx", Recipe(loss="mse"), "host"))
    assert codes(error) == ["dynamic-shape"]  # and no arithmetic on shapes, which that leaves open
    assert "--fix-batch" in error.problems[0].hint
    (problem,) = odl("check", KERAS / "mobilenet.onnx")["error"]["problems"]
    assert "--fix-batch" in problem["hint"]


def test_folders_remember_and_export_leaves_the_batch_open(tmp_path: Path) -> None:
    model, folder, run = KERAS / "conv_norm.onnx", tmp_path / "c", tmp_path / "run"
    data = tmp_path / "data.npz"
    np.savez(data, x=np.load(KERAS / "conv_norm.npz")["x"], y=np.arange(4))
    assert "error" not in odl("build", model, "--fix-batch", "-t", "host", "-o", folder)
    assert json.loads((folder / "odl.json").read_text())["fix_batch"] is True
    assert odl("verify", folder, "--data", data, "--steps", 1)["equal"]
    assert "error" not in odl("run", folder, "--data", data, "--steps", 8, "--on", "numpy", "-o", run)
    assert odl("eval", run, "--data", data)["samples"] == 4
    assert "error" not in odl("select", run, "--data", data, "--on", "host", "--ram", "64K")
    assert "error" not in odl("export", run, "-o", tmp_path / "tuned.onnx")
    shape = onnx.load(tmp_path / "tuned.onnx").graph.input[0].type.tensor_type.shape
    assert [dim.dim_param or dim.dim_value for dim in shape.dim] == ["unk__47", 12, 12, 3]
    assert api.open_folder(folder).model.fix_batch


def test_other_folders_say_nothing_of_a_batch(tmp_path: Path, model: Path) -> None:
    assert "error" not in odl("build", model, "-t", "host", "-o", tmp_path / "c")
    assert "fix_batch" not in json.loads((tmp_path / "c/odl.json").read_text())
