"""Models as PyTorch's two exporters and tf2onnx write them: each is accepted, computes what the framework computes,
trains, and goes back into the file it came from."""

from __future__ import annotations

import json
import re
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import answer
from models import codes, draw, infer, refusal, save
from onnx.reference import ReferenceEvaluator

from odl import api
from odl.api import Compiled
from odl.compare import Reference
from odl.fp16 import half
from odl.frontend import load_model
from odl.interpreter import interpret
from odl.ops._importer import CHANNELS_FIRST, CHANNELS_LAST
from odl.recipe import Recipe
from odl.training import build_training
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
    """By the executor of what one exporter writes, by the interpreter of the graphs of the rest, which is faster."""
    proto, x, y = exported(name, way)
    path = save(tmp_path, proto)
    if way == "script":
        check_inference(compiled(path), x, y)
        return
    graph = load_model(path, fix_batch=True).graph
    (source,), (output,) = graph.inputs, graph.outputs
    found = interpret(graph, {source: half(x.transpose(CHANNELS_LAST) if x.ndim == 4 else x)})[output]
    found = found.transpose(CHANNELS_FIRST) if found.ndim == 4 else found
    np.testing.assert_allclose(found.astype(np.float64), y, atol=BOUND * np.abs(y).max(), rtol=0)


@pytest.mark.torch
@pytest.mark.parametrize("way", ["script", "dynamo-open"])
@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_of_pytorch_is_trained(tmp_path: Path, name: str, way: str) -> None:
    """Those of convolutions and dense layers, and scale and shift where they are not folded into one."""
    proto, _, _ = exported(name, way)
    import torch
    from torch_networks import NETWORKS

    training = build_training(load_model(save(tmp_path, proto), fix_batch=True).graph, Recipe(loss="mse"))
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


@pytest.mark.torch
@pytest.mark.parametrize("way", ["script", "dynamo"])
@pytest.mark.parametrize("folded", [True, False])
def test_a_network_that_was_never_trained(tmp_path: Path, way: str, folded: bool) -> None:
    """Its means are shifts, its variances scales, and PyTorch's exporter writes each pair once: only one is trained."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
    pytest.importorskip("onnxscript", reason="torch.onnx wants onnxscript: pip install onnxscript")
    from torch_networks import dynamo_export, script_export

    torch.manual_seed(2)
    between = [] if folded else [torch.nn.ReLU()]
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3, bias=False), *between, torch.nn.BatchNorm2d(4),
                              torch.nn.Flatten(), torch.nn.Linear(36, 3)).eval()  # fmt: skip
    x = torch.randn(1, 2, 5, 5).half().float()
    proto = script_export(net, x) if way == "script" else dynamo_export(net, x)
    program = compiled(save(tmp_path, proto))
    assert ("sub" in [each.op.name for each in program.model.graph.nodes]) == (not folded)
    np.savez(tmp_path / "data.npz", x=np.tile(x, (8, 1, 1, 1)), y=draw(8, 3, scale=2))
    run = api.train(program, tmp_path / "data.npz", 16, on=api.NUMPY)
    api.export(program, run.weights, tmp_path / "tuned.onnx")
    tuned = onnx.load(tmp_path / "tuned.onnx")
    onnx.checker.check_model(tuned, full_check=True)
    reference = Reference(program.program, program.training)
    reference.load(run.weights)
    expected = reference.infer(half(x.numpy().transpose(CHANNELS_LAST))[None]).reshape(1, 3)
    (found,) = ReferenceEvaluator(tuned).run(None, {"input": x.numpy()})
    np.testing.assert_allclose(found, expected, atol=BOUND * np.abs(expected).max(), rtol=0)


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


# --- what the page says ---------------------------------------------------------------------------------------------


def page_code(which: int) -> str:
    page = Path(__file__).parent.parent / "docs/FROM_PYTORCH_AND_KERAS.md"
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M)[which]


@pytest.mark.torch
def test_the_code_for_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
    pytest.importorskip("onnxscript", reason="torch.onnx wants onnxscript: pip install onnxscript")
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(page_code(0), {})
    assert answer("check", "torch.onnx")["weights"] == 36 + 12 + 3  # a shift of zeros is left out, as the page says
    assert answer("check", "torchscript.onnx")["weights"] == 36 + 4 + 12 + 3  # here it is the convolution's bias
    assert "BatchNormalization" in [each.op_type for each in onnx.load("torchscript.onnx").graph.node]


def test_the_code_for_keras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorflow", "keras", "tf2onnx"):
        pytest.importorskip(name, reason=f"{name} is not installed: it is too large to ask for")
    monkeypatch.chdir(tmp_path)
    exec(page_code(1), {})
    answer("check", "keras.onnx")


# --- an open batch ----------------------------------------------------------------------------------------------------


def test_an_open_batch_is_refused_with_the_flag_that_fixes_it() -> None:
    error = refusal(lambda: api.compile_model(KERAS / "mobilenet.onnx", Recipe(loss="mse"), "host"))
    assert codes(error) == ["dynamic-shape"]  # and no arithmetic on shapes, which that leaves open
    assert "--fix-batch" in error.problems[0].hint
    (problem,) = answer("check", KERAS / "mobilenet.onnx", exit_code=3)["error"]["problems"]
    assert "--fix-batch" in problem["hint"]


def test_folders_remember_and_export_leaves_the_batch_open(tmp_path: Path) -> None:
    model, folder, run = KERAS / "conv_norm.onnx", tmp_path / "c", tmp_path / "run"
    data = tmp_path / "data.npz"
    np.savez(data, x=np.load(KERAS / "conv_norm.npz")["x"], y=np.arange(4))
    answer("build", model, "--fix-batch", "-t", "host", "-o", folder)
    assert json.loads((folder / "odl.json").read_text())["fix_batch"] is True
    assert answer("verify", folder, "--data", data, "--steps", 1)["equal"]
    answer("run", folder, "--data", data, "--steps", 8, "--on", "numpy", "-o", run)
    assert answer("eval", run, "--data", data)["samples"] == 4
    answer("select", run, "--data", data, "--on", "host", "--ram", "64K")
    answer("export", run, "-o", tmp_path / "tuned.onnx")
    shape = onnx.load(tmp_path / "tuned.onnx").graph.input[0].type.tensor_type.shape
    assert [dim.dim_param or dim.dim_value for dim in shape.dim] == ["unk__47", 12, 12, 3]
    assert api.open_folder(folder).model.fix_batch


def test_other_folders_say_nothing_of_a_batch(tmp_path: Path, model: Path) -> None:
    answer("build", model, "-t", "host", "-o", tmp_path / "c")
    assert "fix_batch" not in json.loads((tmp_path / "c/odl.json").read_text())
