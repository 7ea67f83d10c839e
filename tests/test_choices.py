"""What comes of each choice: PyTorch's gradients, the ONNX file, the answers of the command line, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from models import codes, draw, mlp, model, node, reference, refusal, save
from onnx import numpy_helper
from partly_trained import CHOICES, held, network, of, walked, written

from odl import api
from odl.api import Compiled, compile_model
from odl.cli import cli
from odl.executor import Executor
from odl.fp16 import half
from odl.graph import Role
from odl.interpreter import interpret
from odl.recipe import Recipe
from odl.training import INFER
from odl.types import Array

each_choice = pytest.mark.parametrize("choice", CHOICES)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("trainable"))


# --- gradients against PyTorch ----------------------------------------------------------------------------------------


def gradients_of(found: Compiled, x: Array, label: int, state: dict[str, Array]) -> dict[str, Array]:
    """Trained tensor -> its gradient, as stored; a sum of one sample."""
    graph = found.training.step
    sample = half(x).transpose(0, 2, 3, 1)
    values = interpret(graph, {found.training.sample: sample, found.training.target: np.array([label], np.int32)},
                       {name: state[name] for name in state if name in graph.persistent})  # fmt: skip
    zero = {name: t for name, t in graph.persistent.items() if t.role is Role.GRADIENT}
    return {name.removesuffix(".sum"): values[graph.carries[name]].astype(np.float64) for name in zero}


def assert_near(found: Array, expected: Array) -> None:
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    assert error < 0.03, error


@pytest.mark.torch
@pytest.mark.parametrize("choice", ["biases", "norms", "channels", "adapters"])
def test_gradients_are_pytorchs(place: Path, tmp_path: Path, choice: str) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
    import torch
    from torch_model import logits_of, stored_in_half, weights_of

    found = of(place, **{**CHOICES[choice], "batch": 2, "momentum": 0.0})
    state = {name: t.initial for name, t in found.training.step.persistent.items()}
    for adapter in found.training.adapters:
        state[adapter.up] = half(draw(*state[adapter.up].shape, seed=3, scale=0.1))
    path = tmp_path / "merged.onnx"
    api.export(found, {name: state[name] for name in found.training.trainable}, path)
    proto = onnx.load(path)
    weights, x = weights_of(proto), draw(1, 3, 9, 7, seed=4, scale=1)
    out = logits_of(proto, weights, torch.tensor(half(x).astype(np.float64)), stored_in_half)
    torch.nn.functional.cross_entropy(out, torch.tensor([3])).backward()
    ours = gradients_of(found, x, 3, state)
    assert set(ours) == set(found.training.trainable)
    theirs = {name: weight.grad.numpy() for name, weight in weights.items() if weight.grad is not None}
    for adapter in found.training.adapters:
        whole = theirs[adapter.weight].reshape(len(theirs[adapter.weight]), -1)
        theirs[adapter.down] = state[adapter.up].astype(np.float64).T @ whole
        theirs[adapter.up] = whole @ state[adapter.down].astype(np.float64).T
    for name, gradient in ours.items():
        origin = found.training.step.persistent[name].origin
        expected = theirs[name] / origin.scale if origin else theirs[name]
        if origin:
            expected = expected.transpose(origin.perm)
        run = found.training.channels.get(name)
        expected = expected[run.first : run.last] if run else expected
        assert_near(gradient, expected.reshape(gradient.shape))


# --- back into the file -----------------------------------------------------------------------------------------------


def initializers(path: Path) -> dict[str, Array]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


@each_choice
def test_exported_weights_compute_the_same_in_onnx(place: Path, tmp_path: Path, choice: str) -> None:
    recipe = CHOICES[choice]
    found = of(place, **recipe)
    device = walked(found, 24)
    api.export(found, held(found, device), tmp_path / "tuned.onnx")
    x = draw(1, 3, 9, 7, seed=9, scale=1)
    y = device.run(INFER, {found.training.sample: half(x).transpose(0, 2, 3, 1)})[0]
    before, after = reference(network(), x), reference(onnx.load(tmp_path / "tuned.onnx"), x)
    assert np.abs(after - before).max() > 20 * np.abs(after - y).max(), "training changed nothing that could be seen"
    np.testing.assert_allclose(after, y, atol=3e-3)
    old, new = initializers(place / "model.onnx"), initializers(tmp_path / "tuned.onnx")
    changed = {name for name in old if not np.array_equal(old[name], new[name])}
    assert changed == set(found.training.initializers)
    for name, run in found.training.channels.items():
        rows = np.flatnonzero((old[name] != new[name]).reshape(len(old[name]), -1).any(axis=1))
        assert set(rows) <= set(range(run.first, run.last))


@each_choice
def test_untrained_model_is_the_file_bit_by_bit(place: Path, tmp_path: Path, choice: str) -> None:
    found = of(place, **CHOICES[choice])
    api.export(found, held(found, Executor(found.program)), tmp_path / "tuned.onnx")
    assert (tmp_path / "tuned.onnx").read_bytes() == (place / "model.onnx").read_bytes()


def test_adapters_are_merged_in_binary64(place: Path, tmp_path: Path) -> None:
    found = of(place, **CHOICES["adapters"])
    state = held(found, walked(found))
    api.export(found, state, tmp_path / "tuned.onnx")
    w, a, b = (found.model.graph.persistent["w3"].initial, state["w3.lora_a"], state["w3.lora_b"])
    expected = w.astype(np.float64) + b.astype(np.float64) @ a.astype(np.float64)
    np.testing.assert_allclose(initializers(tmp_path / "tuned.onnx")["w3"], expected, rtol=1e-7)


def test_adapters_that_overflowed_are_not_exported(place: Path, tmp_path: Path) -> None:
    found = of(place, **CHOICES["adapters"])
    state = held(found, Executor(found.program))
    state["w3.lora_b"] = np.full_like(state["w3.lora_b"], np.inf)
    assert refusal(lambda: api.export(found, state, tmp_path / "tuned.onnx")).code == "weight-not-finite"


# --- the command line -------------------------------------------------------------------------------------------------


def invoke(*words: object) -> dict[str, Any]:
    result = CliRunner().invoke(cli, [*map(str, words), "--json", "-q"], catch_exceptions=False)
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


@pytest.mark.parametrize("flags", [
    ("--channels", "conv=3:8", "--channels", "w3=0.5"), ("--lora-rank", 2), ("--parameters", "norms", "--last", 1),
])  # fmt: skip
def test_a_run_folder_remembers_what_is_trained(place: Path, tmp_path: Path, flags: tuple[object, ...]) -> None:
    run, data = tmp_path / "run", place / "data.npz"
    invoke("run", place / "model.onnx", "-t", "host", "--data", data, "--steps", 4, "-o", run, "--lr", 0.5, *flags)
    exported = invoke("export", run, "-o", tmp_path / "tuned.onnx")
    old, new = initializers(place / "model.onnx"), initializers(tmp_path / "tuned.onnx")
    assert {name for name in old if not np.array_equal(old[name], new[name])} == set(exported["trained"])
    outputs = [invoke("eval", which, "--data", data)["correct"] for which in (run, tmp_path / "tuned.onnx")]
    assert outputs[0] == outputs[1]


def test_a_recipe_file_says_which_channels(place: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('trainable = ["conv", "fc"]\nchannels = ["conv=3:8", "fc=0.5"]\n')
    found = invoke("check", place / "model.onnx", "-r", recipe)
    trained = {w["name"]: w["trained_elements"] for layer in found["layers"] for w in layer["weights"] if w["trained"]}
    assert trained == {"w0": 5 * 27, "beta": 9, "w3": 22, "b3": 5}
    assert found["trained_weights"] == sum(trained.values())


def test_plan_counts_what_is_saved_by_hand(tmp_path: Path) -> None:
    """4 -> 5 -> 3: w1 20, b1 5, w2 15, b2 3 numbers of two bytes; counts of steps, and of lost ones of each tensor."""
    counts = 4 * 4
    path = save(tmp_path, mlp())
    whole = {"macs": 35 + 35 + 15, "updated_elements": 43, "persistent_bytes": 86 + counts + 4 * 4}
    for flags, chosen in (
        (("--last", 1), {"macs": 35 + 15, "updated_elements": 18, "persistent_bytes": 36 + counts + 2 * 4}),
        (("--parameters", "biases"), {"macs": 35 + 15, "updated_elements": 8, "persistent_bytes": 16 + counts + 2 * 4}),
        (("--channels", "w1=1:4"), {"macs": 35 + 15 + 12 + 15, "updated_elements": 35,
                                    "persistent_bytes": 86 + counts + 4 * 4}),
        (("--lora-rank", 1), {"macs": 35 + 9 + 8 + (3 + 3 + 5) + (15 + 5) + (5 + 5 + 4),
                              "updated_elements": 17, "persistent_bytes": 34 + counts + 4 * 4}),
    ):  # fmt: skip
        plan = invoke("plan", path, *flags)
        found = plan["savings"]
        for costs, expected in ((found["everything"], whole), (found["chosen"], chosen)):
            assert {word: costs[word] for word in expected} == expected, flags
        assert found["chosen"]["ram_bytes"] == plan["arena_lower_bound"]
    assert invoke("plan", path)["savings"] is None
    assert invoke("plan", path)["arena_lower_bound"] == found["everything"]["ram_bytes"]


def test_plan_shows_what_is_saved(place: Path) -> None:
    text = CliRunner().invoke(cli, ["plan", str(place / "model.onnx"), "--parameters", "norms"]).stdout
    assert "what is saved" in text
    assert "updated elements" in text
    assert "what is saved" not in CliRunner().invoke(cli, ["plan", str(place / "model.onnx")]).stdout


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [
    {"last": -1}, {"lora_rank": -1}, {"parameters": "weights"}, {"channels": ("fc",)}, {"channels": ("fc=",)},
    {"channels": ("=0.5",)}, {"channels": ("fc=0.0",)}, {"channels": ("fc=1.5",)}, {"channels": ("fc=2",)},
    {"channels": ("fc=3:3",)}, {"channels": ("fc=4:3",)}, {"channels": ("fc=-1:3",)}, {"channels": ("fc=1:3:2",)},
    {"channels": ("fc=nan",)}, {"parameters": "biases", "channels": ("fc=0.5",)},
    {"parameters": "norms", "channels": ("fc=0.5",)}, {"parameters": "biases", "lora_rank": 1},
    {"parameters": "norms", "lora_rank": 1}, {"lora_rank": 1, "channels": ("fc=0.5",)},
])  # fmt: skip
def test_words_that_make_no_sense(recipe: dict[str, Any]) -> None:
    error = refusal(lambda: Recipe(**recipe))
    assert error.code == "recipe-value"
    assert error.problems[0].where in recipe


@pytest.mark.parametrize("recipe", [{"channels": "fc=0.5"}, {"last": 1.5}, {"lora_rank": True}, {"parameters": 1}])
def test_words_of_another_type(recipe: dict[str, Any]) -> None:
    assert refusal(lambda: Recipe(**recipe)).code == "recipe-type"


@pytest.mark.parametrize(("recipe", "code", "exit_code"), [
    ({"last": 9}, "too-few-layers", 2),
    ({"trainable": ("fc",), "last": 2}, "too-few-layers", 2),
    ({"channels": ("nowhere=0.5",)}, "no-such-weight", 2),
    ({"trainable": ("fc",), "channels": ("conv=0.5",)}, "no-such-weight", 2),
    ({"channels": ("dw=0.5",)}, "no-channels", 2),
    ({"channels": ("b?=0.5",)}, "no-channels", 2),
    ({"channels": ("fc=0:6",)}, "channel-range", 2),
    ({"channels": ("conv=9999999998:9999999999",)}, "channel-range", 2),
    ({"lora_rank": 6}, "rank-too-large", 2),
    ({"trainable": ("conv", "dw"), "lora_rank": 1}, "nothing-to-adapt", 3),
    ({"trainable": ("b3",), "lora_rank": 1}, "nothing-to-adapt", 3),
    ({"trainable": ("w?",), "parameters": "biases"}, "no-parameters", 3),
    ({"trainable": ("fc",), "parameters": "norms"}, "no-parameters", 3),
])  # fmt: skip
def test_choices_that_the_model_does_not_have(place: Path, recipe: dict[str, Any], code: str, exit_code: int) -> None:
    error = refusal(lambda: of(place, **recipe))
    assert codes(error) == [code]
    assert error.exit_code == exit_code


def test_the_largest_rank_is_allowed(place: Path) -> None:
    assert of(place, lora_rank=5).training.adapters


def test_a_weight_that_others_read_is_not_adapted_nor_cut(tmp_path: Path) -> None:
    """Its product alone would have the adapter, and the file one weight for both."""
    proto = model(node("Gemm", "x w", "h", "fc", transB=1), node("Mul", "h w", "y", "mul"), w=draw(1, 4))
    path = save(tmp_path, proto)
    for recipe, code in (({"lora_rank": 1}, "nothing-to-adapt"), ({"channels": ("w=0.5",)}, "no-channels")):
        error = refusal(lambda recipe=recipe: compile_model(path, Recipe(loss="mse", **recipe), "host"))  # type: ignore[misc]
        assert error.code == code
