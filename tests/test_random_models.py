"""Random networks under random recipes: graph, program and C agree in every bit."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from models import draw, node
from models import model as small_model

from benchmarks.models import ROOT
from benchmarks.pages import between
from campaigns import graphs
from campaigns.agreement import EQUAL, WAYS, Case, code_agrees, compare, graph_agrees
from campaigns.random_training import cases
from odl import Recipe, compile_model, read_recipe
from odl.data import load_data
from odl.targets.pulp import PULP_OPEN

CHOSEN = ({}, {"last": 1}, {"parameters": "biases"}, {"channels": ("*=0.5",)}, {"lora_rank": 1})
RECIPES = st.builds(
    lambda chosen, **words: Recipe(**words, **chosen),
    chosen=st.sampled_from(CHOSEN),
    lr=st.sampled_from([0.01, 0.5]),
    momentum=st.sampled_from([0.0, 0.9]),
    weight_decay=st.sampled_from([0.0, 1e-3]),
    batch=st.integers(1, 3),
    accumulate=st.sampled_from(["fp32", "fp16"]),
    gradients=st.sampled_from(["fp32", "fp16"]),
    loss_scale=st.sampled_from([1.0, 128.0]),
)
STEPS = 4


def written(model: onnx.ModelProto, classes: int, folder: Path) -> tuple[Path, Path]:
    """The model and matching data as files."""
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(2)
    np.savez(folder / "data.npz", x=rng.standard_normal((STEPS, *shape[1:])), y=rng.integers(0, classes, STEPS))
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx", folder / "data.npz"


compiling = settings(
    deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)


@given(cases())
@settings(compiling, max_examples=200)
def test_whole_training_graphs_agree_in_numpy(case: Case) -> None:
    """Whatever a recipe says; flat, and every third in tiles."""
    with tempfile.TemporaryDirectory() as scratch:
        model, data = case.written(Path(scratch))
        target = "pulp-open" if case.cores % 3 == 0 else "host"
        compiled = compile_model(model, case.recipe, target)
        graph_agrees(compiled, load_data(data, compiled.training))


@pytest.mark.qemu
@pytest.mark.parametrize("part", range(8))  # so that several processes share them
def test_whole_training_graphs_agree_in_five_ways(part: int) -> None:
    @seed(part)
    @given(cases())
    @settings(compiling, derandomize=False, database=None, max_examples=25)
    def agree(case: Case) -> None:
        assert set(compare(case)) == set(WAYS)

    agree()


def test_an_update_of_some_channels_is_cut_within_these(tmp_path: Path) -> None:
    """Found by the campaign: gradients that are kept have fewer rows than the weight, and tiles were those of all."""
    layers = node("Gemm", "x w b", "g", "fc", transB=1), node("Softmax", "g", "y", "softmax")
    proto = small_model(*layers, x=(1, 140), w=draw(16, 140), b=draw(16))
    proto.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (1, 16)))
    case = Case(proto, Recipe(channels=("*=0.5",), batch=2), 1)
    model, data = case.written(tmp_path)
    compiled = compile_model(model, case.recipe, PULP_OPEN.resized(cores=1, l1_bytes=4096))
    assert any(call.cut for _, _, call in compiled.program.calls() if call.op.name.startswith("sgd"))
    samples = load_data(data, compiled.training).steps(STEPS, 0)
    graph_agrees(compiled, samples)
    code_agrees(compiled, "host", samples)


def test_a_difference_is_made_small_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a comparison that fails wherever there is a convolution, one layer and one class are left."""

    def fussy(case: Case) -> dict[str, str]:
        assert all(node.op_type != "Conv" for node in case.model.graph.node), "a convolution"
        return dict.fromkeys(WAYS, EQUAL)

    monkeypatch.setattr(graphs, "compare", fussy)
    monkeypatch.setattr(graphs, "ROOT", tmp_path)
    found = graphs.chunk(1, 30)
    assert found["failed"] == "AssertionError: a convolution"
    kept = onnx.load(tmp_path / graphs.FAILURES / "1/model.onnx")
    assert [node.op_type for node in kept.graph.node] == ["Conv", "Flatten", "Gemm", "Softmax"]
    assert kept.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 1
    assert read_recipe(tmp_path / graphs.FAILURES / "1/recipe.toml").batch == 1


def test_the_page_is_what_the_campaign_found() -> None:
    results = json.loads((ROOT / graphs.RESULTS).read_text())
    assert between((ROOT / "docs/RELIABILITY.md").read_text(), "graphs") == graphs.table(results)
    assert not any(chunk["failed"] for chunk in results["chunks"].values())
