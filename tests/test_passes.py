"""Passes for machines whose fast kernels know no padding and pairs of pixels alone: the same bits, another shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import models
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from pass_operators import draw
from test_random_models import RECIPES

from campaigns.random_models import networks
from odl import fp16
from odl.autodiff import differentiate
from odl.data import load_data
from odl.fp16 import Accumulate
from odl.frontend import load_model
from odl.graph import Builder, Graph, Node, Operator, Persistent
from odl.interpreter import interpret
from odl.ops._windows import Window
from odl.ops.add import Add
from odl.ops.conv2d import Conv2d, Conv2dInputGradient, Conv2dWeightGradient
from odl.ops.dense import Dense, DenseInputGradient, DenseWeightGradient
from odl.ops.depthwise import DepthwiseConv2d, DepthwiseInputGradient, DepthwiseWeightGradient
from odl.ops.pad import Pad
from odl.ops.paired_gradient import PairedGradient, PairedSumsBegin, PairedSumsContinue, PairedSumsEnd
from odl.passes.for_cluster import DIRECT, REARRANGED, forms, prepare
from odl.passes.input_gradients import input_gradients_as_convolutions
from odl.passes.pad_images import pad_images
from odl.passes.pair_pixels import pair_pixels
from odl.passes.split_gradients import split_gradients
from odl.passes.split_reductions import split_reductions
from odl.recipe import Recipe
from odl.schedule import schedule
from odl.training import INFER, STEP, Training, build_training
from odl.types import Array, DType, Shape, TensorType

WINDOWED = Conv2d | DepthwiseConv2d | DepthwiseWeightGradient
SUMS = PairedSumsBegin | PairedSumsContinue | PairedSumsEnd


def windows(graph: Graph) -> list[Window]:
    return [node.op.window for node in graph.nodes if isinstance(node.op, WINDOWED)]


def same_bits(before: Graph, after: Graph, feeds: Mapping[str, Array]) -> None:
    """All that was computed before is computed after, with the same bits."""
    expected, actual = interpret(before, feeds), interpret(after, feeds)
    missing = set(expected) - set(actual)
    assert not missing
    for name, value in expected.items():
        assert value.dtype == actual[name].dtype
        np.testing.assert_array_equal(fp16.bits(value), fp16.bits(actual[name]), err_msg=name)


# --- single operators


@dataclass(frozen=True)
class Layer:
    """One layer, forward and backward."""

    op: Operator
    x: Shape
    w: Shape
    bias: bool = True
    dtype: DType = DType.F32

    def graph(self, rng: np.random.Generator, special: float) -> tuple[Graph, dict[str, Array]]:
        """x is an input, w and b are weights, the output's gradient is constant."""

        def configure(op: Operator) -> Operator:
            changes = {"accumulate": self.op.accumulate, "dtype": self.dtype}  # type: ignore[attr-defined]
            return replace(op, **{name: value for name, value in changes.items() if hasattr(op, name)})

        build = Builder(configure=configure)
        build.layer = "layer"
        x = build.input("x", TensorType(self.x))
        n_outputs = self.w[-1] if isinstance(self.op, DepthwiseConv2d) else self.w[0]
        held = {"w": self.w, "b": (n_outputs,)} if self.bias else {"w": self.w}
        for name, shape in held.items():
            build.hold(Persistent(name, TensorType(shape), draw(rng, shape, special / 3)))
        y = build.add(self.op, (x, *held), "y")
        seed = Persistent("dy", build.types[y], draw(rng, build.types[y].shape, special))
        build.hold(seed)
        gradients = differentiate(build, tuple(build.nodes), (y, "dy"), ("x", *held))
        assert set(gradients) == {"x", *held}
        return build.graph("layer", (y, *gradients.values())), {"x": draw(rng, self.x, special)}


def random_layer(rng: np.random.Generator) -> Layer:
    """A convolution or a depthwise one of any geometry in which a window fits."""
    size, stride = (tuple(map(int, rng.integers(1, top, 2))) for top in (6, 4))
    pads = tuple(map(int, rng.integers(0, 5, 4)))
    height, width = (
        int(rng.integers(max(1, k - a - b), 9)) if k - a - b < 8 else k
        for k, a, b in ((size[0], pads[0], pads[2]), (size[1], pads[1], pads[3]))
    )
    window = Window(size, stride, pads)  # type: ignore[arg-type]
    accumulate = Accumulate.FP16 if rng.random() < 0.5 else Accumulate.FP32
    dtype = DType.F16 if rng.random() < 0.3 else DType.F32
    channels, outputs = (int(n) for n in rng.integers(1, 13, 2))
    bias = rng.random() < 0.7
    if rng.random() < 0.3:
        spread = int(rng.integers(1, 3))
        kernel = (*size, channels * spread)
        return Layer(DepthwiseConv2d(window, accumulate), (1, height, width, channels), kernel, bias, dtype)
    return Layer(Conv2d(window, accumulate), (1, height, width, channels), (outputs, *size, channels), bias, dtype)


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_random_layers_keep_their_bits(seed: int) -> None:
    """Each pass alone and all, in finite numbers and with infinities, NaNs and subnormals."""
    rng = np.random.default_rng(seed)
    for _ in range(12):
        layer = random_layer(rng)
        before, feeds = layer.graph(rng, rng.choice([0.0, 0.02, 0.2]))
        for run in (pad_images, input_gradients_as_convolutions, pair_pixels, prepare):
            same_bits(before, run(before), feeds)
        direct = prepare(before, lambda _: DIRECT)
        same_bits(before, direct, feeds)
        assert any(isinstance(node.op, Conv2dInputGradient) for node in direct.nodes) == isinstance(layer.op, Conv2d)
        for capacity in (0, int(rng.integers(1, 2000))):
            for paired in (pair_pixels(before), prepare(before)):
                same_bits(before, split_reductions(paired, capacity), feeds)
        check_structure(layer, prepare(before))


def check_structure(layer: Layer, after: Graph) -> None:
    """What a fast kernel may ask of what it gets, wherever the contract allows to give it."""
    assert all(window.pads == (0, 0, 0, 0) for window in windows(after)), after
    kinds = {type(node.op) for node in after.nodes}
    assert not kinds & {Conv2dWeightGradient, DenseWeightGradient}
    assert (PairedGradient in kinds) == isinstance(layer.op, Conv2d)
    live = 1
    for k, s in zip(layer.op.window.size, layer.op.window.stride, strict=True):  # type: ignore[attr-defined]
        live *= min(k, s)
    unit = max(layer.op.window.stride) == 1  # type: ignore[attr-defined]
    reached = bool(np.any(reachable(layer)))
    if isinstance(layer.op, Conv2d):
        assert (Conv2dInputGradient in kinds) == (not unit and (live > 4 or not reached))
        for node in after.nodes:
            if isinstance(node.op, Conv2d):
                channels = after.types[node.inputs[0]].shape[3]
                assert channels == 1 or channels % 2 == 0
    else:
        assert (DepthwiseInputGradient in kinds) == (not unit or layer.w[2] != layer.x[3])


def reachable(layer: Layer) -> Array:
    """Pixels of x that a tap of their phase sees or would see outside of dy."""
    window = layer.op.window  # type: ignore[attr-defined]
    rows, cols = (
        np.array([(q + pad) % stride < size for q in range(n)])
        for n, pad, stride, size in zip(layer.x[1:3], window.pads, window.stride, window.size, strict=False)
    )
    return rows[:, None] & cols


SHAPES = [
    # what the models have, and corners: (window, image, weights)
    (Window((3, 3), (1, 1), (1, 1, 1, 1)), (1, 8, 8, 3), (16, 3, 3, 3)),
    (Window((3, 3), (2, 2), (0, 0, 1, 1)), (1, 8, 8, 4), (6, 3, 3, 4)),
    (Window((1, 1), (2, 2), (0, 0, 0, 0)), (1, 8, 8, 4), (6, 1, 1, 4)),
    (Window((10, 4), (2, 2), (4, 1, 5, 1)), (1, 49, 10, 1), (8, 10, 4, 1)),
    (Window((1, 1), (2, 2), (1, 1, 1, 1)), (1, 1, 1, 5), (3, 1, 1, 5)),  # no tap reaches the pixel
    (Window((1, 1), (2, 2), (1, 1, 1, 1)), (1, 4, 4, 2), (1, 1, 1, 2)),  # the border takes away
    (Window((2, 2), (1, 1), (4, 4, 3, 3)), (1, 3, 3, 2), (3, 2, 2, 2)),
    (Window((5, 2), (4, 2), (2, 0, 2, 1)), (1, 7, 7, 3), (5, 5, 2, 3)),  # eight phases
    (Window((2, 2), (3, 3), (0, 0, 0, 0)), (1, 8, 8, 2), (2, 2, 2, 2)),  # gaps between windows
    (Window((3, 4), (1, 4), (1, 1, 1, 2)), (1, 5, 8, 1), (1, 3, 4, 1)),
    (Window((3, 2), (1, 2), (0, 0, 0, 0)), (1, 5, 7, 1), (2, 3, 2, 1)),  # a column that no window sees
    (Window((2, 2), (1, 4), (0, 0, 0, 0)), (1, 5, 7, 1), (2, 2, 2, 1)),  # room for one more
]


@pytest.mark.parametrize("accumulate", Accumulate)
@pytest.mark.parametrize(("window", "x", "w"), SHAPES)
def test_chosen_layers_keep_their_bits(window: Window, x: Shape, w: Shape, accumulate: Accumulate) -> None:
    rng = np.random.default_rng(1)
    layer = Layer(Conv2d(window, accumulate), x, w)
    for special in (0.0, 0.01, 0.1):
        before, feeds = layer.graph(rng, special)
        same_bits(before, prepare(before), feeds)
        same_bits(before, split_reductions(prepare(before), 0), feeds)
    check_structure(layer, prepare(before))


def test_border_is_multiplied() -> None:
    """An infinite weight meets the zeros of the border: NaN in both forms, in each phase and for an odd channel."""
    for window in (Window((3, 3), (1, 1), (1, 1, 1, 1)), Window((3, 3), (2, 2), (0, 0, 1, 1))):
        before, feeds = Layer(Conv2d(window), (1, 5, 5, 3), (3, 3, 3, 3)).graph(np.random.default_rng(0), 0)
        held = dict(before.persistent)
        held["w"] = replace(held["w"], initial=np.full((3, 3, 3, 3), np.inf, np.float16))
        held["dy"] = replace(held["dy"], initial=np.ones_like(held["dy"].initial))
        before = replace(before, persistent=held)
        values = interpret(before, feeds)
        dx = values[before.outputs[1]]
        assert np.isnan(dx).any()
        assert np.isinf(dx).any(), "every pixel sees the border: the test tells nothing"
        same_bits(before, prepare(before), feeds)


@pytest.mark.parametrize("kernel", ["", DIRECT, REARRANGED])
@pytest.mark.parametrize("rows", range(1, 8))
@pytest.mark.parametrize("dtype", [DType.F16, DType.F32], ids=lambda each: each.value)
@pytest.mark.parametrize("accumulate", Accumulate)
def test_dense_layers_keep_their_bits(rows: int, dtype: DType, accumulate: Accumulate, kernel: str) -> None:
    rng = np.random.default_rng(rows)
    for k, n in product((1, 2, 7, 8), (1, 3, 4)):
        words = k % 2 == 0 and kernel != REARRANGED
        products, sums = int(kernel == DIRECT or (words and rows <= 4)), int(words and rows == 1)
        before, feeds = Layer(Dense(accumulate), (rows, k), (n, k), dtype=dtype).graph(rng, 0.05)
        after = prepare(before, lambda _: kernel)
        same_bits(before, after, feeds)
        kinds = Counter(type(node.op) for node in after.nodes)
        assert (kinds[DenseInputGradient], kinds[DenseWeightGradient]) == (products, sums)
        assert kinds[PairedGradient] == 1 - sums
        split = split_reductions(after, 0)
        same_bits(before, split, feeds)
        assert any(isinstance(node.op, SUMS) for node in split.nodes) == (rows > 2)


@pytest.mark.parametrize("make", [models.mlp, models.cnn])
def test_one_layer_takes_the_form_that_is_asked_for(make: object, tmp_path: Path) -> None:
    """The others take theirs; a form that a node does not have is the usual one."""
    step = build_training(models.load(tmp_path, make()).graph, Recipe()).step  # type: ignore[operator]
    usual = prepare(step)
    wishes = {node.name: forms(step, node)[1:] or (DIRECT,) for node in step.nodes}
    for node in step.nodes:
        (wish,) = wishes[node.name]
        after = prepare(step, lambda each, name=node.name, wish=wish: wish if each.name == name else "")  # type: ignore[misc]
        kinds, before = (Counter(type(each.op) for each in graph.nodes) for graph in (after, usual))
        more = 0 if len(forms(step, node)) == 1 else 1 if wish == DIRECT else -1
        assert kinds[type(node.op)] - before[type(node.op)] == more, node
    assert any(len(forms(step, node)) > 1 for node in step.nodes)


# --- in several goes


@pytest.mark.parametrize("dtype", [DType.F16, DType.F32], ids=lambda each: each.value)
@pytest.mark.parametrize("accumulate", Accumulate)
@pytest.mark.parametrize(
    ("layer", "most"),
    [
        (Layer(Conv2d(Window((3, 3), (1, 1), (1, 1, 1, 1))), (1, 6, 5, 3), (4, 3, 3, 3)), 6),
        (Layer(Conv2d(Window((3, 2), (2, 2), (1, 0, 1, 0))), (1, 9, 8, 2), (5, 3, 2, 2)), 5),
        (Layer(Conv2d(Window((1, 1), (1, 1), (0, 0, 0, 0))), (1, 1, 7, 4), (3, 1, 1, 4)), 4),
        (Layer(Conv2d(Window((1, 3), (1, 1), (0, 1, 0, 1))), (1, 1, 8, 2), (3, 1, 3, 2)), 1),  # its pairs overlap
        (Layer(Dense(), (7, 5), (3, 5)), 4),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_gradient_in_any_number_of_goes(layer: Layer, most: int, accumulate: Accumulate, dtype: DType) -> None:
    """As many as the capacity asks for, up to one a row or a pair: they begin, continue and end, with the same bits."""
    layer = replace(layer, op=replace(layer.op, accumulate=accumulate), dtype=dtype)  # type: ignore[type-var]
    before, feeds = layer.graph(np.random.default_rng(7), 0.02)
    paired, numbers = pair_pixels(before), set()
    for capacity in range(0, 4000, 100):
        split = split_reductions(paired, capacity)
        same_bits(before, split, feeds)
        chain = [type(node.op) for node in split.nodes if isinstance(node.op, PairedGradient)]
        numbers.add(len(chain))
        assert chain == chain_of(len(chain), accumulate, dtype)
    assert {1, most} <= numbers
    assert max(numbers) == most


def chain_of(n_goes: int, accumulate: Accumulate, dtype: DType) -> list[type[PairedGradient]]:
    """The last one differs where a gradient is not what lies in an accumulator."""
    if n_goes == 1:
        return [PairedGradient]
    as_it_is = (accumulate, dtype) == (Accumulate.FP32, DType.F32)
    return [PairedSumsBegin, *[PairedSumsContinue] * (n_goes - 2), PairedSumsContinue if as_it_is else PairedSumsEnd]


def test_one_channel_rows_become_even() -> None:
    """Cut or lengthened where that changes no output."""
    for width, expected in ((7, 6), (9, 8)):
        before, feeds = Layer(Conv2d(Window((3, 2), (1, 2), (0, 0, 0, 0))), (1, 5, width, 1), (2, 3, 2, 1)).graph(
            np.random.default_rng(0), 0
        )
        after = prepare(before)
        seen = [after.types[node.inputs[0]].shape[2] for node in after.nodes if node.outputs == ("y",)]
        assert seen == [expected]
        same_bits(before, after, feeds)


# --- sharing

SQUARE = Window((3, 3), (1, 1), (1, 1, 1, 1))


def hold(build: Builder, name: str, shape: Shape) -> str:
    return build.hold(Persistent(name, TensorType(shape), models.draw(*shape).astype(np.float16)))


@pytest.mark.parametrize(
    ("op", "weights", "kinds"),
    [
        (
            Conv2d(SQUARE), (2, 3, 3, 2),
            ["Pad", "Conv2d", "Conv2d", "Add", "PairPixels", "PairPixels", "PairedGradient", "PairedGradient"],
        ),
        (
            DepthwiseConv2d(SQUARE), (3, 3, 2),
            ["Pad", "DepthwiseConv2d", "DepthwiseConv2d", "Add", "Pad", *["DepthwiseWeightGradient"] * 2],
        ),
    ],
)  # fmt: skip
def test_an_image_is_laid_out_once_forward_and_once_backward(op: Operator, weights: Shape, kinds: list[str]) -> None:
    build = Builder()
    x = build.input("x", TensorType((1, 4, 4, 2)))
    y = build.add(Add(), [build.add(op, (x, hold(build, name, weights))) for name in ("u", "v")], "y")
    seed = hold(build, "dy", (1, 4, 4, 2))
    gradients = differentiate(build, tuple(build.nodes), (y, seed), ("u", "v"))
    before = build.graph("two", (y, *gradients.values()))
    after = prepare(before)
    assert [type(node.op).__name__ for node in after.nodes] == kinds
    same_bits(before, after, {"x": models.draw(1, 4, 4, 2, seed=1).astype(np.float16)})


def test_padded_image_is_kept_if_only_weight_gradients_read_it_again() -> None:
    """A layer without activation between two: its output is saved with its border and no copy is made backward."""
    build = Builder()
    value = build.input("x", TensorType((1, 4, 4, 2)))
    for name in ("u", "v"):
        value = build.add(DepthwiseConv2d(SQUARE), (value, hold(build, name, (3, 3, 2))))
    seed = hold(build, "dy", (1, 4, 4, 2))
    gradients = differentiate(build, tuple(build.nodes), (value, seed), ("u", "v"))
    before = build.graph("chain", (value, *gradients.values()))
    after = prepare(before)
    pads = Counter(node.inputs[0] for node in after.nodes if isinstance(node.op, Pad))
    assert pads == {"x": 2, before.nodes[0].outputs[0]: 1, "dy": 1}
    same_bits(before, after, {"x": models.draw(1, 4, 4, 2, seed=1).astype(np.float16)})


# --- whole models


def feeds_of(training: Training, rng: np.random.Generator) -> dict[str, Array]:
    step = training.step
    target = step.inputs[training.target]
    label = np.array([0], np.int32)
    return {
        training.sample: draw(rng, step.inputs[training.sample].shape, 0),
        training.target: label if target.dtype is DType.I32 else draw(rng, target.shape, 0),
    }


def check_training(model: Graph, recipe: Recipe) -> Training:
    training = build_training(model, recipe)
    feeds = feeds_of(training, np.random.default_rng(5))
    for name, graph in training.graphs.items():
        fed = {n: v for n, v in feeds.items() if n in graph.inputs}
        for before in (graph, split_gradients(graph, lambda _: 64)):
            for cut in (prepare, lambda graph: split_reductions(prepare(graph), 512)):
                after = cut(before)
                same_bits(before, after, fed)
                assert (after.inputs, after.persistent, after.outputs, after.carries) == (
                    before.inputs, before.persistent, before.outputs, before.carries,
                ), name  # fmt: skip
                assert not any(any(window.pads) for window in windows(after))
                schedule(after)
    return training


@pytest.mark.parametrize("make", [models.mlp, models.cnn])
@pytest.mark.parametrize(
    "recipe", [Recipe(), Recipe(accumulate="fp16", gradients="fp16", momentum=0.9), Recipe(batch=2)]
)
def test_models_keep_their_bits(make: object, recipe: Recipe, tmp_path: Path) -> None:
    check_training(models.load(tmp_path, make()).graph, recipe)  # type: ignore[operator]


@given(networks(), RECIPES)
@settings(deadline=None, derandomize=True, max_examples=25, suppress_health_check=list(HealthCheck))
def test_random_models_keep_their_bits(network: tuple[onnx.ModelProto, int], recipe: Recipe) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        check_training(models.load(Path(folder), network[0]).graph, recipe)


COUNTS = {
    "resnet8_cifar10": {"conv2d": 13, "conv2d_phases": 4, "dense_input_gradient": 1},
    "dscnn_kws": {"conv2d": 1, "depthwise": 8, "dense": 9, "dense_input_gradient": 1},
}


@pytest.mark.parametrize("name", COUNTS)
def test_real_models(real: Path, name: str) -> None:
    """Every bit of a step, on real data; then there is no padded window and no input gradient of several rows."""
    training = build_training(load_model(real / f"models/{name}.onnx").graph, Recipe(lr=1e-4))
    data = {"resnet8_cifar10": "cifar10_train", "dscnn_kws": "speech_commands_mfcc"}[name]
    sample, label = next(iter(load_data(real / f"data/{data}.npz", training)))
    for entry, feeds in ((STEP, {training.sample: sample, training.target: label}), (INFER, {training.sample: sample})):
        before = split_gradients(training.graphs[entry])
        after = prepare(before)
        same_bits(before, after, feeds)
        assert windows(after)
        assert not any(any(window.pads) for window in windows(after))
        kinds = Counter(node.op.name for node in after.nodes)
        assert not {"conv2d_input_gradient", "depthwise_input_gradient"} & set(kinds)
        if entry == STEP:
            assert {kind: kinds[kind] for kind in COUNTS[name]} == COUNTS[name]
            (last,) = (node for node in after.nodes if isinstance(node.op, DenseInputGradient))
            assert after.types[last.outputs[0]].n_elems == after.types[last.outputs[0]].shape[-1], "more than a row"
        replaced = Counter(type(node.op) for node in before.nodes)
        gradients = replaced[Conv2dWeightGradient] + replaced[DenseWeightGradient]
        assert kinds["paired_gradient"] + kinds["dense_weight_gradient"] == gradients
        assert kinds["dense_weight_gradient"] == kinds["dense_input_gradient"], "not of one row alone"


def test_nodes_keep_their_names_unique(tmp_path: Path) -> None:
    step = build_training(models.load(tmp_path, models.cnn()).graph, Recipe()).step
    after = split_reductions(prepare(step), 0)
    names: list[Node] = list(after.nodes)
    assert len({node.name for node in names}) == len(names)
