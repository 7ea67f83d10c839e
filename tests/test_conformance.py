"""ONNX's own backend tests: what odl makes of each is what campaigns/conformance.json says, both ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from models import draw, model, node

from benchmarks.models import ROOT
from benchmarks.pages import between
from campaigns import conformance, conformance_report, near
from campaigns.conformance import Result
from campaigns.onnx_cases import OnnxCase, select
from campaigns.onnx_models import parts
from odl.ops import conv2d
from odl.ops.cross_entropy import SoftmaxCrossEntropy
from odl.ops.relu import Relu
from odl.ops.sgd import SgdUpdate
from odl.types import Array

FOUND = json.loads((ROOT / conformance_report.RESULTS).read_text())
RECORDED = {case["name"]: case for case in FOUND["cases"]}
SAME_VERSION = onnx.__version__ == FOUND["onnx_version"]


@pytest.fixture(scope="module")
def offered() -> dict[str, OnnxCase]:
    """The cases of the onnx that is installed."""
    cases, left_out = select()
    assert not SAME_VERSION or dict(left_out) == FOUND["left_out"], "a new operator? make conformance, and see the diff"
    return {case.name: case for case in cases}


def test_every_case_is_told_and_ends_as_it_is_told(offered: dict[str, OnnxCase]) -> None:
    """Of another release of onnx than the table's, the cases that both have."""
    common = [name for name in offered if name in RECORDED]
    assert len(common) > 200
    assert not SAME_VERSION or common == list(RECORDED) == list(offered)
    results = {name: conformance.result(offered[name]) for name in common}
    ends = {name: (each.verdict, each.code) for name, each in results.items()}
    assert ends == {name: (RECORDED[name]["verdict"], RECORDED[name].get("code", "")) for name in common}
    for name, each in results.items():
        assert each.worst == pytest.approx(RECORDED[name].get("worst", 0), abs=0.02) or not SAME_VERSION, name


def test_c_computes_the_same_bits(offered: dict[str, OnnxCase]) -> None:
    """Of some of those that pass; `make conformance` compares all."""
    passed = [name for name in offered if name in RECORDED and RECORDED[name]["verdict"] == "passed"]
    assert conformance_report.in_c([offered[name] for name in passed[::21]]) == []


# --- what the table says ----------------------------------------------------------------------------------------------


def test_nothing_fails_and_all_was_compiled() -> None:
    passed = [case for case in FOUND["cases"] if case["verdict"] == "passed"]
    assert {case["verdict"] for case in FOUND["cases"]} == {"passed", "refused"}
    assert (FOUND["compiled"], FOUND["other_bits"]) == (len(passed), [])
    assert all(case["worst"] <= 1 for case in passed)


def test_bounds_are_as_narrow_as_binary16() -> None:
    """Those that are not are told on the page."""
    wide = {case["name"] for case in FOUND["cases"] if case.get("width", 0) >= conformance_report.WIDE}
    assert wide == {"test_softmax_large_number", "test_logsoftmax_large_number"}


def test_the_pages_are_what_the_campaign_found() -> None:
    assert (ROOT / conformance_report.PAGE).read_text() == conformance_report.page(FOUND)
    assert between((ROOT / "docs/RELIABILITY.md").read_text(), "onnx cases") == conformance_report.summary(FOUND)
    assert between((ROOT / "README.md").read_text(), "onnx cases") == conformance_report.headline(FOUND)


# --- that a mistake would be seen -------------------------------------------------------------------------------------


def relu(_self: Relu, inputs: list[Array]) -> tuple[Array, ...]:
    return (np.abs(inputs[0]),)


def loss(self: SoftmaxCrossEntropy, inputs: list[Array]) -> tuple[Array, ...]:
    logits, label = inputs
    return _loss(self, [logits, (label + 1) % logits.shape[1]])


def product(x: Array, w: Array, bias: Array | None, accumulate: Any) -> Array:
    """The first channels are lost."""
    return _product(x[2:], w[2:], bias, accumulate)


def move(self: SgdUpdate, w: Array, states: Any, g: Array, rates: Array, types: Any) -> Any:
    """A velocity that is dampened."""
    return _move(self, w, states, np.float32(0.9) * g, rates, types)


_loss, _product, _move = SoftmaxCrossEntropy.evaluate, conv2d.product, SgdUpdate.move


@pytest.mark.parametrize(
    ("owner", "name", "wrong", "case"),
    [
        (Relu, "evaluate", relu, "test_relu"),
        (SoftmaxCrossEntropy, "evaluate", loss, "test_sce_mean"),
        (conv2d, "product", product, "test_Conv2d_no_bias"),
        (SgdUpdate, "move", move, "test_momentum"),
        (SgdUpdate, "move", move, "test_gradient_of_add_and_mul"),
    ],
)
def test_a_wrong_operator_fails(
    offered: dict[str, OnnxCase], monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, wrong: Callable[..., Any],
    case: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(owner, name, wrong)
    result = conformance.result(offered[case])
    assert result.verdict == "failed"
    assert result.worst > 1


def test_the_bound_of_one_rounding_is_half_a_place() -> None:
    proto, x = model(node("Relu", "x", "y")), np.array([[1, 1.5, -1, 2.0**-20]])
    (found,) = near.through(proto, {"x": x})
    assert found.error.tolist() == [[2.0**-11 + 2.0**-25, 1.5 * 2.0**-11 + 2.0**-25, *found.error[0, 2:]]]


@pytest.mark.parametrize("seed", range(20))
def test_bounds_hold_where_roundings_are_the_worst(seed: int) -> None:
    """Inputs and weights moved by half a place, all in the direction that hurts most: the sum moves nearly that far."""
    x, w = draw(1, 40, seed=seed), draw(40, 3, seed=seed + 100)
    proto = model(node("MatMul", "x w", "y"), x=(1, 40), w=w)
    (found,) = near.through(proto, {"x": x})
    wide, unit = np.asarray(w, np.float64), 1 + 2.0**-11
    moved = (abs(x) * unit).astype(np.float64) @ (abs(wide) * unit) - abs(x).astype(np.float64) @ abs(wide)
    assert (moved <= found.error).all()
    assert (found.error <= 1.01 * moved + 2.0**-11 * abs(found.value) * 1.01 + 1e-4).all()


# --- what a case is turned into ---------------------------------------------------------------------------------------


def case_of(proto: onnx.ModelProto, inputs: dict[str, Array], y: Array) -> OnnxCase:
    return OnnxCase("case", "node", "", proto, inputs, {"y": y})


def test_samples_that_do_not_mix_are_asked_about_one_by_one() -> None:
    x, w = draw(3, 4), draw(4, 2)
    proto = model(node("MatMul", "x w", "y"), inputs=[_value("x", (3, 4)), _value("w", (4, 2))])
    (part,) = parts(case_of(proto, {"x": x, "w": w}, x @ w))
    assert (part.samples.shape, part.expected.shape) == ((3, 1, 4), (3, 1, 2))
    assert [tensor.name for tensor in part.model.graph.initializer] == ["w"]


def test_samples_that_mix_stay_together() -> None:
    """A transposition of a square batch gives a batch of the same length."""
    x = draw(3, 3)
    proto = model(node("Transpose", "x", "y"), inputs=[_value("x", (3, 3))])
    (part,) = parts(case_of(proto, {"x": x}, x.T))
    assert part.samples.shape == (1, 3, 3)


def test_operands_of_a_batch_are_taken_apart_with_it() -> None:
    x, b = draw(2, 3, 4), draw(2, 3, 4, seed=1)
    proto = model(node("Add", "x b", "y"), inputs=[_value("x", (2, 3, 4)), _value("b", (2, 3, 4))])
    found = parts(case_of(proto, {"x": x, "b": b}, x + b))
    assert [part.samples.shape for part in found] == [(1, 1, 3, 4)] * 2


def test_a_number_that_is_not_there_is_no_result() -> None:
    compared = conformance.Compared(np.array([np.nan]), np.array([1.0]), np.array([9.0]))
    assert conformance.share_of_bound(compared) == np.inf
    far = conformance.Compared(np.array([np.inf]), np.array([1e6]), np.array([500.0]))
    assert conformance.share_of_bound(far) == 0


def test_a_failure_is_told_and_ends_the_campaign(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    cases, told = [dict(case) for case in FOUND["cases"]], dict[str, str]()
    cases[0] = conformance_report.row(Result("test_adagrad", "node", "Adagrad", "failed", worst=2.0))
    monkeypatch.setattr(conformance_report, "measured", lambda: {**FOUND, "cases": cases})
    monkeypatch.setattr(conformance_report, "ROOT", tmp_path)
    (tmp_path / "campaigns").mkdir()
    (tmp_path / "docs").mkdir()
    with pytest.raises(SystemExit, match="test_adagrad"):
        conformance_report.main(lambda page, _mark, made: told.update({page: made}))
    assert ", 1 fail" in told["README.md"]
    assert "| 1 |" in told["docs/RELIABILITY.md"]


def _value(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
