"""What is trained: which weights and rows, that the rest costs nothing, and every bit of each choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import compiled, draw, infer, model, node, reference, save
from partly_trained import CHOICES, held, of, walked, written

from odl import api
from odl.api import Compiled
from odl.compare import Reference
from odl.executor import Executor
from odl.fp16 import half
from odl.frontend import load_model
from odl.graph import Phase, Role
from odl.interpreter import interpret
from odl.ops.sgd import SgdUpdate
from odl.passes.adapters import add_adapters
from odl.program import ARENA, FLASH
from odl.training import INFER, STEP

QEMU = pytest.mark.qemu
each_choice = pytest.mark.parametrize("choice", CHOICES)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("trainable"))


def elements(network: Compiled) -> dict[str, int]:
    return {name: network.training.trained_elements(name) for name in network.training.trainable}


def layers(network: Compiled, phase: Phase) -> set[str]:
    return {node.layer for node in network.training.step.nodes if node.phase is phase}


# --- every bit --------------------------------------------------------------------------------------------------------


@each_choice
@pytest.mark.parametrize(("target", "on"), [
    ("host", ""), pytest.param("qemu-zhinx", "", marks=QEMU), pytest.param("pulp-open", "qemu", marks=QEMU),
])  # fmt: skip
def test_every_bit(place: Path, choice: str, target: str, on: str) -> None:
    verdict = api.verify(of(place, target, **CHOICES[choice]), place / "data.npz", 4, on)
    assert verdict.equal, verdict.first_difference
    assert verdict.steps == 4
    assert np.isfinite(verdict.loss).all()


@each_choice
def test_program_computes_what_the_graph_does(place: Path, choice: str) -> None:
    """The executor on its arena against the graph without memory, over two batches."""
    found = of(place, **CHOICES[choice])
    graphs = found.training.graphs
    reference = Reference(found.program, found.training)
    state = {name: tensor.initial for graph in graphs.values() for name, tensor in graph.persistent.items()}
    for step in range(4):
        sample, label = half(draw(1, 9, 7, 3, seed=step, scale=1)), np.array([step], np.int32)
        reference.step(sample, label, lambda *_: None)
        entries = [STEP, *(name for name in graphs if name not in (STEP, INFER) and (step + 1) % 2 == 0)]
        for entry in entries:
            graph = graphs[entry]
            feeds = {found.training.sample: sample, found.training.target: label} if entry == STEP else {}
            values = interpret(graph, feeds, {name: state[name] for name in graph.persistent})
            state |= {name: values[value] for name, value in graph.carries.items()}
        for name in held(found, reference.executor):
            np.testing.assert_array_equal(reference.executor.persistent(name), state[name], err_msg=name)


# --- which weights, and that the others cost nothing ------------------------------------------------------------------


@pytest.mark.parametrize(("recipe", "trained"), [
    ({"last": 1}, {"w3", "b3"}),
    ({"last": 3}, {"w2", "b2", "gamma2", "beta2", "w3", "b3"}),
    ({"last": 1, "trainable": ("conv", "dw")}, {"w1", "b1"}),
    ({"parameters": "biases"}, {"beta", "b1", "b2", "b3"}),
    ({"parameters": "biases", "last": 2}, {"b2", "b3"}),
    ({"parameters": "norms"}, {"gamma", "beta", "gamma2", "beta2"}),
    ({"parameters": "norms", "trainable": ("bn2",)}, {"gamma2", "beta2"}),
    ({"lora_rank": 1}, {"w2.lora_a", "w2.lora_b", "w3.lora_a", "w3.lora_b"}),
    ({"lora_rank": 1, "last": 1}, {"w3.lora_a", "w3.lora_b"}),
])  # fmt: skip
def test_chosen_weights(place: Path, recipe: dict[str, Any], trained: set[str]) -> None:
    found = of(place, **recipe)
    assert set(found.training.trainable) == trained
    residents = found.program.residents
    spaces = {r.tensor.name: r.buffer.space for r in residents if r.tensor.role is Role.WEIGHT}
    assert {name for name, space in spaces.items() if space == ARENA} == trained
    assert set(spaces.values()) == {ARENA, FLASH}


@pytest.mark.parametrize(("recipe", "weights", "inputs"), [
    ({"last": 1}, {"fc"}, set()),
    ({"last": 2}, {"fc", "bn2"}, {"fc", "p", "f"}),
    ({"parameters": "biases", "trainable": ("dw", "fc")}, {"dw", "fc"}, None),
    ({"lora_rank": 1, "trainable": ("pw",)}, {"pw"}, None),
])  # fmt: skip
def test_frozen_layers_have_no_gradients(
    place: Path, recipe: dict[str, Any], weights: set[str], inputs: set[str] | None
) -> None:
    found = of(place, **recipe)
    assert layers(found, Phase.WEIGHT_GRADIENT) == weights == layers(found, Phase.UPDATE) - {"step"}
    below = {"conv", "bn"} | ({"dw"} - weights)
    assert not below & layers(found, Phase.INPUT_GRADIENT)
    if inputs is not None:
        named = {node.layer for node in found.model.graph.nodes if node.layer in {"conv", "bn", "dw", "pw", "fc"}}
        assert named & layers(found, Phase.INPUT_GRADIENT) == inputs & named


def test_biases_need_no_weight_gradient_and_no_products(place: Path) -> None:
    step = of(place, parameters="biases").training.step
    assert {n.op.name for n in step.nodes if n.phase is Phase.WEIGHT_GRADIENT} == {"weight_row_sum"}
    assert sum(step.node_macs(n) for n in step.nodes if n.phase is Phase.WEIGHT_GRADIENT) == 0


def test_the_bias_of_a_matrix_product_is_one(tmp_path: Path) -> None:
    proto = model(
        node("MatMul", "x w", "h", "mm"), node("Add", "h b", "r", "add"), node("Add", "r c", "s", "more"),
        node("MatMul", "s v", "y", "mm2"), w=draw(4, 5), b=draw(5), c=draw(5), v=draw(5, 3),
    )  # fmt: skip
    assert compiled(tmp_path, proto, parameters="biases").training.trainable == ("b",)


def test_a_shared_weight_counts_to_the_first_layer_that_reads_it(tmp_path: Path) -> None:
    proto = model(
        node("Gemm", "x w b", "h", "one"), node("Tanh", "h", "r", "tanh"), node("Gemm", "r w c", "y", "two"),
        w=draw(4, 4), b=draw(4), c=draw(4),
    )  # fmt: skip
    assert compiled(tmp_path, proto, last=1).training.trainable == ("c",)


# --- runs of channels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "sizes"), [
    (("*=0.25",), {"w0": 2 * 27, "w1": 81, "w2": 2 * 9, "w3": 11}),
    (("*=0.01",), {"w0": 27, "w2": 9, "w3": 11}),
    (("*=1.0",), {"w0": 9 * 27, "w2": 99, "w3": 55}),
    (("*=0.5", "w2=1.0", "fc=2:3"), {"w0": 4 * 27, "w2": 99, "w3": 11}),
    (("w2=10:11",), {"w0": 9 * 27, "w2": 9, "w3": 55, "beta": 9, "b2": 11}),
])  # fmt: skip
def test_sizes_of_runs(place: Path, words: tuple[str, ...], sizes: dict[str, int]) -> None:
    found = elements(of(place, channels=words))
    assert {name: found[name] for name in sizes} == sizes


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_run_moves_as_in_the_whole_and_the_rest_stays(place: Path, momentum: float) -> None:
    """One step of a batch of two: what is trained of a weight moves as it would if all of it were."""
    runs = {"w0": slice(3, 8), "w2": slice(0, 5), "w3": slice(4, 5)}
    words = ("w0=3:8", "w2=0.5", "w3=4:5")
    part, whole = (of(place, batch=2, momentum=momentum, channels=which) for which in (words, ()))
    after, expected = walked(part, 2), walked(whole, 2)
    for name in whole.training.trainable:
        first, moved = part.model.graph.persistent[name].initial, expected.persistent(name)
        kept = runs.get(name, slice(None))
        wanted = first.copy()
        wanted[kept] = moved[kept]
        np.testing.assert_array_equal(after.persistent(name), wanted, err_msg=name)
        assert name not in runs or (moved != first).reshape(len(first), -1).any(axis=1).sum() > len(wanted[kept])


def test_gradient_sums_and_state_have_the_trained_rows_alone(place: Path) -> None:
    found = of(place, channels=("w0=3:8",), batch=2, momentum=0.9)
    shapes = {r.tensor.name: r.tensor.type.shape for r in found.program.residents if r.tensor.role is not Role.WEIGHT}
    assert shapes["w0.sum"] == shapes["w0.velocity"] == (5, 3, 3, 3)
    assert shapes["w2.sum"] == (11, 9)


def test_a_large_run_is_cut_into_pieces(tmp_path: Path) -> None:
    """192 of 256 rows of 64 numbers: six pieces of 32, whose bits are those of the whole."""
    proto = model(node("Gemm", "x w b", "y", "fc", transB=1), x=(1, 64), w=draw(256, 64), b=draw(256))
    part, whole = (
        compiled(tmp_path, proto, loss="mse", lr=100.0, momentum=0.5, channels=words) for words in (("w=8:200",), ())
    )
    updates = [n.op for n in part.graphs[0].nodes if isinstance(n.op, SgdUpdate) and n.inputs[0].startswith("w")]
    assert [(op.row, op.first, op.count) for op in updates] == [(8, 32 * at, 32) for at in range(6)]
    feeds = {"x": half(draw(1, 64)), "target": half(draw(1, 256))}
    devices = [Executor(network.program) for network in (part, whole)]
    for device in devices:
        device.run(STEP, feeds)
    found, expected = (device.persistent("w") for device in devices)
    assert (expected != draw(256, 64).astype(np.float16)).any(axis=1).all()
    np.testing.assert_array_equal(found[8:200], expected[8:200])
    for rows in (slice(0, 8), slice(200, 256)):
        np.testing.assert_array_equal(found[rows], draw(256, 64).astype(np.float16)[rows])


def test_the_gradient_of_a_shared_weight_is_cut_term_by_term(tmp_path: Path) -> None:
    proto = model(
        node("Gemm", "x w", "h", "one"), node("Tanh", "h", "r", "tanh"), node("Gemm", "r w", "y", "two"), w=draw(4, 4)
    )
    part, whole = (compiled(tmp_path, proto, lr=0.5, channels=words) for words in (("w=1:3",), ()))
    found, expected = (walked(network, 1).persistent("w") for network in (part, whole))
    first = part.model.graph.persistent["w"].initial
    assert (expected != first).any(axis=1).all()
    np.testing.assert_array_equal(found, np.concatenate([first[:1], expected[1:3], first[3:]]))


# --- scale and shift --------------------------------------------------------------------------------------------------


def test_frozen_statistics_cost_nothing(place: Path) -> None:
    """What is left of the folded normalisation is a Mul and an Add; that on its own has its four operations."""
    nodes = of(place, parameters="norms").model.graph.nodes
    assert [n.op.name for n in nodes if n.layer == "bn"] == ["mul", "add"]
    assert [n.op.name for n in nodes if n.layer == "bn2"] == ["sub", "mul", "mul", "add"]


SEPARATE = {
    "plain": {"w": draw(4, 2, 3, 3), "gamma": 1 + draw(4), "var": 0.5 + draw(4, seed=3) ** 2},
    "zero-channel": {
        "w": draw(4, 2, 3, 3), "gamma": np.array([1, 0, 2, -1], np.float32), "var": 0.5 + draw(4, seed=3) ** 2
    },
    "too-large-for-binary16": {
        "w": draw(4, 2, 3, 3, scale=5), "gamma": np.full(4, 0.01, np.float32), "var": np.full(4, 1e-9, np.float32)
    },
}  # fmt: skip


@pytest.mark.parametrize("bias", ["", " b"])
@pytest.mark.parametrize("kind", SEPARATE)
def test_inference_with_separate_norms_agrees_with_onnx(tmp_path: Path, kind: str, bias: str) -> None:
    proto = model(
        node("Mul", "x small", "z"), node("Conv", f"z w{bias}", "c", "conv"),
        node("BatchNormalization", "c gamma beta mean var", "y", "bn", epsilon=1e-12), x=(1, 2, 5, 6),
        small=np.float32(0.001), b=draw(4, scale=0.01), beta=draw(4), mean=draw(4, scale=0.01), **SEPARATE[kind],
    )  # fmt: skip
    x = draw(1, 2, 5, 6, seed=5)
    found = compiled(tmp_path, proto, loss="mse", parameters="norms")
    expected = reference(proto, x)
    np.testing.assert_allclose(infer(found, x), expected, atol=1e-2 * np.abs(expected).max())
    left = ["sub", "mul"] if kind == "too-large-for-binary16" else []
    assert [n.op.name for n in found.model.graph.nodes] == ["mul", "conv2d", *left, "mul", "add"]


def test_statistics_that_are_trained_elsewhere_are_not_folded(tmp_path: Path) -> None:
    proto = model(
        node("Conv", "x w", "c", "conv"), node("BatchNormalization", "c one beta mean one", "n", "bn"),
        node("Relu", "n", "y"), x=(1, 2, 5, 6), w=draw(4, 2, 3, 3), one=np.ones(4, np.float32), beta=draw(4),
        mean=draw(4),
    )  # fmt: skip
    names = [n.op.name for n in compiled(tmp_path, proto, loss="mse", parameters="norms").model.graph.nodes]
    assert names == ["conv2d", "sub", "mul", "mul", "add", "relu"]


# --- adapters ---------------------------------------------------------------------------------------------------------


def test_adapters_compute_what_they_say(tmp_path: Path) -> None:
    """y = round16(dense(x, W, b) + dense(dense(x, A), B)), in bits; nothing at first."""
    found = compiled(tmp_path, model(node("Gemm", "x w b", "y", "fc", transB=1), x=(1, 4), w=draw(5, 4), b=draw(5)),
                     loss="mse", lora_rank=2)  # fmt: skip
    device, x = Executor(found.program), half(draw(1, 4, seed=1))
    w, b, down, up = (device.persistent(name) for name in ("w", "b", "w.lora_a", "w.lora_b"))
    assert down.shape == (2, 4)
    assert up.shape == (5, 2)
    assert not up.any()
    dense = next(n.op for n in found.training.step.nodes if n.op.name == "dense")
    (plain,) = dense.evaluate([x, w, b])
    np.testing.assert_array_equal(device.run(INFER, {"x": x})[0], plain)
    up = half(draw(5, 2, seed=2))
    device.load("w.lora_b", up)
    (low,) = dense.evaluate([x, down])
    (change,) = dense.evaluate([low, up])
    np.testing.assert_array_equal(device.run(INFER, {"x": x})[0], half(plain + change))


def test_first_values_of_adapters(tmp_path: Path) -> None:
    """Uniform over +-1 / sqrt(K), another stream for each weight and seed, the same whatever else is adapted."""
    proto = model(node("Gemm", "x w", "h"), node("Gemm", "h v", "y"), x=(1, 100), w=draw(100, 90), v=draw(90, 80))
    graph = load_model(save(tmp_path, proto)).graph
    adapted, adapters = add_adapters(graph, ("w", "v"), 64, 0)
    down = {adapter.weight: adapted.persistent[adapter.down].initial for adapter in adapters}
    for name, n_inputs in (("w", 100), ("v", 90)):
        bound = half(1 / np.sqrt(n_inputs))
        assert np.abs(down[name]).max() <= bound
        assert np.abs(down[name]).max() > 0.99 * bound
        assert abs(down[name].astype(np.float64).mean()) < 0.03 * bound
        assert abs(down[name].astype(np.float64).std() / float(bound) - 3**-0.5) < 0.02
    alone, (adapter,) = add_adapters(graph, ("v",), 64, 0)
    np.testing.assert_array_equal(alone.persistent[adapter.down].initial, down["v"])
    other, (adapter,) = add_adapters(graph, ("v",), 64, 1)
    assert (other.persistent[adapter.down].initial != down["v"]).mean() > 0.9
    # Another NumPy may not draw other numbers: a run folder is compiled again to export it.
    assert down["w"].view(np.uint16)[0, :3].tolist() == [0x9FD2, 0x28DB, 0x2E46]


def test_nodes_that_share_a_weight_share_its_adapter(tmp_path: Path) -> None:
    proto = model(
        node("Gemm", "x w b", "h", "one"), node("Tanh", "h", "r", "tanh"), node("Gemm", "r w b", "y", "two"),
        w=draw(4, 4), b=draw(4),
    )  # fmt: skip
    found = compiled(tmp_path, proto, lr=0.5, lora_rank=2)
    assert found.training.trainable == ("w.lora_a", "w.lora_b")
    assert walked(found).persistent("w.lora_a").shape == (2, 4)
