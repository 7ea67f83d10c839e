"""Passes for machines whose fast kernels know no padding: the same bits, nothing padded left, NumPy against C."""

from __future__ import annotations

import ctypes
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path

import models
import numpy as np
import onnx
import pytest
from host_c import FLAGS, compilers
from hypothesis import HealthCheck, given, settings
from random_models import networks
from test_random_models import RECIPES
from whole_program import whole_program

from odl import fp16
from odl.api import silent
from odl.autodiff import differentiate
from odl.codegen import write_sources
from odl.compare import Device, verify
from odl.data import Data, load_data
from odl.fp16 import Accumulate
from odl.frontend import load_model
from odl.graph import Builder, Graph, Node, Operator, Persistent, Slice
from odl.interpreter import interpret
from odl.lower import lower
from odl.memory import plan
from odl.ops._windows import Window
from odl.ops.add import Add
from odl.ops.conv2d import Conv2d, Conv2dInputGradient, Conv2dWeightGradient
from odl.ops.conv2d_phases import Conv2dPhases
from odl.ops.dense import Dense, DenseInputGradient
from odl.ops.depthwise import DepthwiseConv2d, DepthwiseInputGradient, DepthwiseWeightGradient
from odl.ops.flip_transpose import FlipTaps, FlipTranspose
from odl.ops.pad import Pad
from odl.passes.for_cluster import prepare
from odl.passes.input_gradients import input_gradients_as_convolutions
from odl.passes.pad_images import pad_images
from odl.passes.split_gradients import split_gradients
from odl.program import Call, Program
from odl.project import write_project
from odl.recipe import Recipe
from odl.schedule import schedule
from odl.targets import find_target, simulator_for
from odl.toolchain import compile_project, find_toolchain
from odl.training import INFER, STEP, Training, build_training
from odl.types import Array, DType, Shape, TensorType

WINDOWED = Conv2d | Conv2dWeightGradient | DepthwiseConv2d | DepthwiseWeightGradient
SPECIAL = np.array([np.inf, -np.inf, np.nan, 65504, -65504, 6e-8, -6e-8, 0.0, -0.0, 1e-5], np.float16)
MOVERS = Pad | FlipTranspose | FlipTaps
NEW = MOVERS | Conv2dPhases


def draw(rng: np.random.Generator, shape: Shape, special: float) -> Array:
    """Binary16 numbers, that fraction of them special."""
    drawn = fp16.half(rng.normal(0, 1, shape))
    return np.where(rng.random(shape) < special, rng.choice(SPECIAL, shape), drawn)


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
    """Each pass alone and both, in finite numbers and with infinities, NaNs and subnormals."""
    rng = np.random.default_rng(seed)
    for _ in range(12):
        layer = random_layer(rng)
        before, feeds = layer.graph(rng, rng.choice([0.0, 0.02, 0.2]))
        for run in (pad_images, input_gradients_as_convolutions, prepare):
            same_bits(before, run(before), feeds)
        check_structure(layer, prepare(before))


def check_structure(layer: Layer, after: Graph) -> None:
    """What a fast kernel may ask of what it gets, wherever the contract allows to give it."""
    assert all(window.pads == (0, 0, 0, 0) for window in windows(after)), after
    kinds = {type(node.op) for node in after.nodes}
    live = 1
    for k, s in zip(layer.op.window.size, layer.op.window.stride, strict=True):  # type: ignore[attr-defined]
        live *= min(k, s)
    unit = max(layer.op.window.stride) == 1  # type: ignore[attr-defined]
    reached = bool(np.any(reachable(layer)))
    if isinstance(layer.op, Conv2d):
        assert (Conv2dInputGradient in kinds) == (not unit and (live > 4 or not reached))
        for node in after.nodes:
            if isinstance(node.op, Conv2d | Conv2dWeightGradient):
                image = node.inputs[1 if isinstance(node.op, Conv2dWeightGradient) else 0]
                assert after.types[image].shape[3] == 1 or after.types[image].shape[3] % 2 == 0
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


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("accumulate", Accumulate)
def test_dense_layers_keep_their_bits(rows: int, accumulate: Accumulate) -> None:
    rng = np.random.default_rng(rows)
    for k, n in product((1, 2, 7, 8), (1, 3, 4)):
        before, feeds = Layer(Dense(accumulate), (rows, k), (n, k)).graph(rng, 0.05)
        after = prepare(before)
        same_bits(before, after, feeds)
        assert any(isinstance(node.op, DenseInputGradient) for node in after.nodes) == (rows == 1)


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


def test_padded_image_is_shared_forward_and_made_again_backward() -> None:
    build = Builder()
    window = Window((3, 3), (1, 1), (1, 1, 1, 1))
    x = build.input("x", TensorType((1, 4, 4, 2)))
    for name in ("u", "v"):
        build.hold(Persistent(name, TensorType((2, 3, 3, 2)), models.draw(2, 3, 3, 2).astype(np.float16)))
    y = build.add(Add(), [build.add(Conv2d(window), (x, name)) for name in ("u", "v")], "y")
    seed = build.hold(Persistent("dy", build.types[y], models.draw(1, 4, 4, 2).astype(np.float16)))
    gradients = differentiate(build, tuple(build.nodes), (y, seed), ("u", "v"))
    before = build.graph("two", (y, *gradients.values()))
    after = prepare(before)
    assert [type(node.op).__name__ for node in after.nodes] == [
        "Pad", "Conv2d", "Conv2d", "Add", "Pad", "Conv2dWeightGradient", "Conv2dWeightGradient",
    ]  # fmt: skip
    same_bits(before, after, {"x": models.draw(1, 4, 4, 2, seed=1).astype(np.float16)})


def test_padded_image_is_kept_if_only_weight_gradients_read_it_again() -> None:
    """A layer without activation between two: its output is saved with its border and no copy is made backward."""
    build = Builder()
    window = Window((3, 3), (1, 1), (1, 1, 1, 1))
    build.input("x", TensorType((1, 4, 4, 2)))
    value = "x"
    for name in ("u", "v"):
        build.hold(Persistent(name, TensorType((2, 3, 3, 2)), models.draw(2, 3, 3, 2).astype(np.float16)))
        value = build.add(Conv2d(window), (value, name))
    seed = build.hold(Persistent("dy", build.types[value], models.draw(1, 4, 4, 2).astype(np.float16)))
    gradients = differentiate(build, tuple(build.nodes), (value, seed), ("u", "v"))
    before = build.graph("chain", (value, *gradients.values()))
    pads = Counter(node.inputs[0] for node in prepare(before).nodes if isinstance(node.op, Pad))
    assert pads == {"x": 2, before.nodes[0].outputs[0]: 1, "dy": 1}


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
        for before in (graph, split_gradients(graph, 64)):
            after = prepare(before)
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
        assert (
            Counter(node.op.name for node in before.nodes)["conv2d_weight_gradient"] == kinds["conv2d_weight_gradient"]
        )


# --- the operators by themselves


OPERATORS: list[tuple[Operator, tuple[Shape, ...]]] = [
    (Pad((1, 1, 1, 1)), ((1, 5, 6, 4),)),
    (Pad((0, 2, 3, 0), -np.inf), ((1, 4, 3, 3),)),
    (Pad((1, 0, 2, 1), channels=1), ((1, 5, 4, 3),)),
    (Pad((-1, -2, 1, 0)), ((1, 6, 5, 2),)),
    (Pad((2, 1, -3, -2), 0.5), ((1, 6, 5, 3),)),
    (Pad((0, 1, 0, 0), channels=-2), ((3, 4, 2, 3),)),
    (Pad((4, 4, -5, -4)), ((1, 2, 1, 3),)),  # nothing of x is left
    (FlipTranspose(), ((6, 3, 2, 4),)),
    (FlipTranspose(), ((5, 2, 3, 4),)),
    (FlipTranspose(), ((4, 1, 3, 5),)),
    (FlipTranspose((2, 2), (0, 1)), ((3, 5, 4, 6),)),
    (FlipTranspose((2, 1), (1, 0)), ((8, 3, 3, 2),)),
    (FlipTranspose(), ((9, 7),)),
    (FlipTranspose(), ((5, 12),)),
    (FlipTaps(), ((3, 2, 5),)),
    (FlipTaps(), ((2, 5, 12),)),
    (
        Conv2dPhases((5, 6), (2, 3), (3, 3), (2, 2)),
        ((1, 4, 5, 4), (3, 2, 2, 4), (3, 2, 1, 4), (3, 1, 2, 4), (3, 1, 1, 4)),
    ),
    (Conv2dPhases((7, 4), (1, 0), (2, 1), (3, 2), Accumulate.FP16), ((1, 3, 3, 2), (5, 1, 1, 2), (5, 1, 1, 2))),
    (Conv2dPhases((4, 9), (0, 2), (1, 3), (2, 1)), ((1, 2, 11, 6), (4, 1, 3, 6))),
]  # fmt: skip
each_operator = pytest.mark.parametrize(("op", "shapes"), OPERATORS, ids=lambda each: getattr(each, "name", ""))


def evaluated(op: Operator, shapes: tuple[Shape, ...]) -> tuple[list[Array], Array]:
    rng = np.random.default_rng(2)
    inputs = [draw(rng, shape, 0.02 if isinstance(op, MOVERS) else 0.0) for shape in shapes]
    (y,) = op.evaluate(inputs)
    (type_,) = op.infer([TensorType(shape) for shape in shapes])
    assert (y.shape, y.dtype) == (type_.shape, type_.dtype.numpy)
    return inputs, y


@each_operator
def test_tiles_are_slices(op: Operator, shapes: tuple[Shape, ...]) -> None:
    """Each tile computes its slice of the whole from slices of the inputs."""
    inputs, y = evaluated(op, shapes)
    types = [TensorType(shape) for shape in shapes]
    cut_axes = set()
    for cut in every_cut(y.shape):
        tile = op.tile(cut, types, [TensorType(y.shape)])
        if tile is None:
            continue
        cut_axes.add(cut.axis)
        parts = [array if each is None else array[at(each)] for array, each in zip(inputs, tile.inputs, strict=True)]
        assert tile.op.infer([TensorType(part.shape) for part in parts]) == (cut.of(TensorType(y.shape)),)
        (part,) = tile.op.evaluate(parts)
        np.testing.assert_array_equal(fp16.bits(part), fp16.bits(y[at(cut)]), err_msg=str(cut))
    assert cut_axes or min(y.shape[:2]) == 1 or isinstance(op, Pad)
    if isinstance(op, Conv2dPhases):
        assert cut_axes == {1, 3}


def every_cut(shape: Shape) -> Iterator[Slice]:
    for axis, size in enumerate(shape):
        yield from (Slice(axis, a, b) for a in range(size) for b in range(a + 1, size + 1))


def at(cut: Slice) -> tuple[slice, ...]:
    return (*[slice(None)] * cut.axis, slice(cut.first, cut.last))


def test_narrow_binary32() -> None:
    wide = np.arange(24, dtype=np.float32).reshape(2, 1, 3, 4)
    np.testing.assert_array_equal(Pad((0, 0, 0, 0), channels=-1).evaluate([wide])[0], wide[..., :3])


# --- in C


@cache
def prepared_program(accumulate: Accumulate) -> tuple[Program, Training, Data]:
    """All samples of all operators, forward and backward, after the passes."""
    _, training, data = whole_program(accumulate)
    graphs = {name: schedule(prepare(graph)) for name, graph in training.graphs.items()}
    ordered = tuple(graphs.values())
    return lower(ordered, plan(ordered)), replace(training, graphs=graphs), data


TARGETS = ["host", *(pytest.param(name, marks=pytest.mark.qemu) for name in ("qemu-zhinx", "qemu-zfh"))]


@pytest.mark.parametrize("accumulate", Accumulate, ids=lambda mode: mode.value)
@pytest.mark.parametrize("name", TARGETS)
def test_bits_are_equal_on_target(name: str, accumulate: Accumulate, tmp_path: Path) -> None:
    target, folder = find_target(name), tmp_path / "project"
    program, training, data = prepared_program(accumulate)
    assert {type(call.op) for _, _, call in program.calls()} >= {Pad, FlipTranspose, FlipTaps, Conv2dPhases}
    folder.mkdir()
    write_project(folder, "prepared", program, training, target)
    result = compile_project(folder, target, find_toolchain(target), trace=True)
    verdict = verify(program, training, data, Device(simulator_for(target), result.elf), silent)
    assert verdict.equal, verdict.first_difference


CORES = 8


@cache
def team_library(compiler: tuple[str, ...], accumulate: Accumulate, folder: Path) -> ctypes.CDLL:
    """The kernels of this file's operators for a team played by one core."""
    program, training, _ = prepared_program(accumulate)
    write_sources(folder, program, training, "team")
    main = folder / "team.c"
    main.write_text(
        '#include "odl_kernels.h"\n#include "odl_team.h"\nuint32_t odl_played_core;\nconst odl_half odl_zeros[99];\n'
    )
    kernels = [folder / f"src/kernels/{name}.c" for name in ("pad", "flip_transpose", "conv2d_phases")]
    defines = [f"-DODL_CORES={CORES}", "-DODL_PLAYED_TEAM"]
    library = folder / "team.so"
    command = [*compiler, *FLAGS, "-fno-strict-aliasing", *defines, f"-I{folder / 'include'}"]
    subprocess.run([*command, "-o", library, main, *kernels], check=True, timeout=300)
    return ctypes.CDLL(str(library))


def run_core(library: ctypes.CDLL, core: int, call: Call, inputs: list[Array], out: Array) -> None:
    """One core's share of a call, into `out`."""
    assert call.kernel is not None
    ctypes.c_uint32.in_dll(library, "odl_played_core").value = core
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (out, *inputs)]
    pointers += [ctypes.c_void_p(0)] * (call.op.arity - len(inputs))
    numbers = [int(value) & 0xFFFFFFFF for value in call.kernel.scalars.values()]
    if call.kernel.struct:
        struct = (ctypes.c_uint32 * len(numbers))(*numbers)
        arguments: list[object] = [*pointers, ctypes.byref(struct)]
    else:
        arguments = [*pointers, *map(ctypes.c_uint32, numbers)]
    getattr(library, f"odl_{call.kernel.name}")(*arguments)


@pytest.mark.parametrize("accumulate", Accumulate, ids=lambda mode: mode.value)
@pytest.mark.parametrize("compiler", compilers(), ids=lambda words: Path(words[-1]).name)
def test_a_team_shares_the_outputs(compiler: list[str], accumulate: Accumulate, tmp_path: Path) -> None:
    """Eight cores: each element is written by one of them, and has the bits that NumPy computes."""
    library = team_library(tuple(compiler), accumulate, tmp_path)
    program, _, _ = prepared_program(accumulate)
    calls = [
        (call.op, [b.type.shape for b in call.inputs], call)
        for _, _, call in program.calls()
        if isinstance(call.op, NEW)
    ]
    assert len(calls) > 60
    calls += [(op, list(shapes), call_of(op, shapes)) for op, shapes in OPERATORS if wanted(op, accumulate)]
    rng = np.random.default_rng(3)
    for op, shapes, call in calls:
        halves = call.inputs[0].type.dtype is DType.F16
        inputs = [draw(rng, shape, 0.02) if halves else rng.random(shape, np.float32) for shape in shapes]
        (expected,) = op.evaluate(inputs)
        check_team(library, call, inputs, np.ascontiguousarray(expected))


def wanted(op: Operator, accumulate: Accumulate) -> bool:
    return getattr(op, "accumulate", accumulate) is accumulate


def call_of(op: Operator, shapes: tuple[Shape, ...]) -> Call:
    """A call of an operator outside of any program."""
    build = Builder()
    names = [build.input(f"i{at}", TensorType(shape)) for at, shape in enumerate(shapes)]
    graph = build.graph("one", (build.add(op, names, "y"),))
    return lower([graph], plan([graph])).entries["one"][0]


def check_team(library: ctypes.CDLL, call: Call, inputs: list[Array], expected: Array) -> None:
    written = np.zeros(expected.shape, np.int64)
    result = expected.copy()
    for core in range(CORES):
        for poison in (0x5A, 0xA5):
            out = np.frombuffer(bytearray([poison]) * expected.nbytes, expected.dtype).reshape(expected.shape).copy()
            before = out.view(f"u{out.itemsize}").copy()
            run_core(library, core, call, inputs, out)
            changed = out.view(f"u{out.itemsize}") != before
            result[changed] = out[changed]
            written = np.where(changed, written | 1 << core, written)
    assert (np.bitwise_count(written) == 1).all() if hasattr(np, "bitwise_count") else written.all(), call.op
    np.testing.assert_array_equal(fp16.bits(result), fp16.bits(expected), err_msg=str(call.op))


def test_nodes_keep_their_names_unique(tmp_path: Path) -> None:
    after = prepare(build_training(models.load(tmp_path, models.cnn()).graph, Recipe()).step)
    names: list[Node] = list(after.nodes)
    assert len({node.name for node in names}) == len(names)
