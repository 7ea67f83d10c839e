"""BatchNormalization behind a convolution: when it is folded, when it must not be, and that both compute the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from models import compiled, draw, infer, input_shape, load, model, node, reference, refusal

from odl.types import Array


def conv(inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return node("Conv", inputs, output, output, **attributes)


def norm(inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return node("BatchNormalization", inputs, output, output, **attributes)


def statistics(channels: int, suffix: str = "", seed: int = 0) -> dict[str, Array]:
    """gamma, beta, mean and var, each under its name and `suffix`."""
    drawn = {name: draw(channels, seed=seed + at) for at, name in enumerate(("gamma", "beta", "mean", "var"))}
    drawn["var"] = 0.5 + drawn["var"] ** 2
    return {name + suffix: array for name, array in drawn.items()}


PAIR = "gamma beta mean var"
IMAGE = {"x": (1, 2, 5, 6)}

FOLDED = {
    "bias": model(conv("x w b", "c"), norm(f"c {PAIR}", "y"), **IMAGE, w=draw(4, 2, 3, 3), b=draw(4), **statistics(4)),
    "no-bias": model(conv("x w", "c"), norm(f"c {PAIR}", "y"), **IMAGE, w=draw(4, 2, 3, 3), **statistics(4)),
    "epsilon": model(
        conv("x w", "c"), norm(f"c {PAIR}", "y", epsilon=0.5), **IMAGE, w=draw(3, 2, 1, 1), **statistics(3)
    ),
    "depthwise": model(
        conv("x w b", "c", group=2), norm(f"c {PAIR}", "y"), **IMAGE, w=draw(4, 1, 3, 2), b=draw(4), **statistics(4)
    ),
    "shared-constants": model(  # exporters store equal constants once
        conv("x w0", "c0"), norm("c0 gamma beta0 mean var", "n0"), conv("n0 w1", "c1"),
        norm("c1 gamma beta1 mean var", "y"), **IMAGE, w0=draw(2, 2, 3, 3), w1=draw(2, 2, 3, 3, seed=1),
        beta0=draw(2), beta1=draw(2, seed=1), **statistics(2),
    ),
}  # fmt: skip

KEPT = {
    "result-read-twice": model(
        conv("x w", "c"), norm(f"c {PAIR}", "n"), node("Add", "n c", "y"), **IMAGE, w=draw(4, 2, 3, 3), **statistics(4)
    ),
    "kernel-shared": model(
        conv("x w", "c"), norm(f"c {PAIR}", "n"), conv("n w", "y"), **IMAGE, w=draw(2, 2, 3, 3), **statistics(2)
    ),
    "beta-shared": model(
        conv("x w", "c"), norm(f"c {PAIR}", "n"), conv("n v beta", "y"), **IMAGE, w=draw(2, 2, 3, 3),
        v=draw(2, 2, 2, 2), **statistics(2),
    ),
    "conv-bias-trained-elsewhere": model(
        conv("x w b", "c"), norm(f"c {PAIR}", "n"), conv("n v b", "y"), **IMAGE, w=draw(2, 2, 3, 3), b=draw(2),
        v=draw(2, 2, 2, 2), **statistics(2),
    ),
    "gamma-trained-elsewhere": model(
        conv("x w", "c"), norm(f"c {PAIR}", "n"), node("Relu", "n", "r"), norm("r gamma beta2 mean var", "y"), **IMAGE,
        w=draw(2, 2, 3, 3), beta2=draw(2), **statistics(2),
    ),
    "zero-channel": model(
        conv("x w", "c"), norm(f"c {PAIR}", "y"), **IMAGE, w=draw(3, 2, 3, 3),
        **statistics(3) | {"gamma": np.array([1, 0, 2], np.float32)},
    ),
    "too-large-for-binary16": model(
        node("Mul", "x small", "z"), conv("z w", "c"), norm(f"c {PAIR}", "y"), **IMAGE, w=draw(3, 2, 1, 1, scale=5),
        small=np.float32(0.001), **statistics(3) | dict.fromkeys(("mean", "var"), np.zeros(3, np.float32))
        | {"gamma": np.full(3, 100, np.float32)},
    ),
    "behind-an-activation": model(
        conv("x w", "c"), node("Relu", "c", "r"), norm(f"r {PAIR}", "y"), **IMAGE, w=draw(4, 2, 3, 3), **statistics(4)
    ),
    "no-convolution": model(norm(f"x {PAIR}", "y"), **IMAGE, **statistics(2)),
    "behind-a-dense-layer": model(node("Gemm", "x w", "h"), norm(f"h {PAIR}", "y"), w=draw(4, 3), **statistics(3)),
}  # fmt: skip


def operators(folder: Path, proto: onnx.ModelProto) -> list[str]:
    return [n.op.name for n in load(folder, proto).graph.nodes]


@pytest.mark.parametrize("which", FOLDED)
def test_folded(tmp_path: Path, which: str) -> None:
    assert not {"sub", "mul", "add"} & set(operators(tmp_path, FOLDED[which]))


@pytest.mark.parametrize("which", KEPT)
def test_not_folded(tmp_path: Path, which: str) -> None:
    found = operators(tmp_path, KEPT[which])
    assert found.count("sub") == sum(n.op_type == "BatchNormalization" for n in KEPT[which].graph.node)


@pytest.mark.parametrize("which", [*FOLDED, *KEPT])
def test_inference_agrees_with_onnx(tmp_path: Path, which: str) -> None:
    proto = {**FOLDED, **KEPT}[which]
    x = draw(*input_shape(proto), seed=5, scale=1)
    expected = reference(proto, x)
    found = infer(compiled(tmp_path, proto, loss="mse"), x)
    np.testing.assert_allclose(found, expected, atol=4e-3 * np.abs(expected).max())


def test_values_keep_their_names(tmp_path: Path) -> None:
    graph = load(tmp_path, FOLDED["bias"]).graph
    assert [(n.layer, n.inputs, n.outputs) for n in graph.nodes] == [("c", ("x", "w", "beta"), ("y",))]


def test_statistics_of_another_size(tmp_path: Path) -> None:
    proto = model(conv("x w", "c"), norm(f"c {PAIR}", "y"), **IMAGE, w=draw(4, 2, 3, 3), **statistics(3))
    assert refusal(lambda: load(tmp_path, proto)).code == "shape-mismatch"


def test_training_mode(tmp_path: Path) -> None:
    proto = model(
        conv("x w", "c"), norm(f"c {PAIR}", "y mean2 var2", training_mode=1), **IMAGE, w=draw(4, 2, 3, 3),
        **statistics(4),
    )  # fmt: skip
    assert refusal(lambda: load(tmp_path, proto)).code == "unsupported-attribute"


def test_computed_statistics(tmp_path: Path) -> None:
    proto = model(
        conv("x w", "c"), node("Relu", "var", "v"), norm("c gamma beta mean v", "y"), **IMAGE, w=draw(4, 2, 3, 3),
        **statistics(4),
    )  # fmt: skip
    assert refusal(lambda: load(tmp_path, proto)).code == "not-constant"
