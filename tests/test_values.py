"""Numbers at the edge: in files they are refused or counted, on the device they do what the executor says, in bits."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from host_c import FLAGS, compilers
from models import cnn, compiled, draw, infer, load, mlp, model, node, refusal

from odl.api import Compiled
from odl.codegen import model_id
from odl.compare import Device, Reference, verify
from odl.data import Data, load_data
from odl.errors import ExitCode, ModelError, TargetError, UsageError
from odl.fp16 import bits, half
from odl.project import write_project
from odl.recipe import Recipe
from odl.targets import simulator_for
from odl.toolchain import compile_project, find_toolchain
from odl.types import Array
from odl.wire import Job

INF, NAN, LARGEST, TINY = np.inf, np.nan, 65504.0, 2.0**-24
ODD = [0.0, -0.0, 1.0, -1.0, TINY, -TINY, 2.0**-15, LARGEST, -LARGEST, INF, -INF, NAN]


@dataclass(frozen=True)
class Machine:
    """A model compiled for this machine, with tracing."""

    program: Compiled
    device: Device
    folder: Path

    def run(self, samples: Array, targets: Array) -> tuple[float, ...]:
        """The losses, after every tensor of every step has been compared with the executor's, in bits."""
        data = Data(half(samples), targets)
        verdict = verify(self.program.program, self.program.training, data, self.device, lambda *_: None)
        assert verdict.equal, verdict.first_difference
        assert verdict.steps == len(samples)
        return verdict.loss


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Machine]:
    made: dict[object, Machine] = {}

    def machine(make: Callable[[], onnx.ModelProto], **recipe: object) -> Machine:
        key = (make, *recipe.items())
        if key not in made:
            folder = tmp_path_factory.mktemp("values")
            program = compiled(folder, make(), **recipe)
            project = folder / "project"
            project.mkdir()
            write_project(project, program.title, program.program, program.training, program.target)
            built = compile_project(project, program.target, find_toolchain(program.target), trace=True)
            made[key] = Machine(program, Device(simulator_for(program.target), built.elf), project)
        return made[key]

    return machine


def walked(program: Compiled, samples: Array, labels: Array) -> Iterator[tuple[np.float32, dict[str, Array]]]:
    """The loss and the weights after each step of the executor."""
    walk = Reference(program.program, program.training)
    for x, label in zip(half(samples), labels, strict=True):
        loss = walk.step(x, label, lambda *_: None)
        yield loss, {name: walk.executor.persistent(name) for name in program.training.trainable}


def labels(n: int, classes: int = 3) -> Array:
    return (np.arange(n, dtype=np.int32) % classes).reshape(-1, 1)


def same(before: dict[str, Array], after: dict[str, Array]) -> bool:
    return all(np.array_equal(bits(before[name]), bits(after[name])) for name in before)


# --- inputs


def logits() -> onnx.ModelProto:
    """The input itself, times one, as logits of three classes."""
    return model(node("Gemm", "x w b", "y"), x=(1, 3), w=np.eye(3, dtype=np.float32), b=np.zeros(3, np.float32))


@pytest.mark.parametrize("bad", [NAN, INF])
def test_input_that_is_no_number_touches_no_weight(machine: Callable[..., Machine], bad: float) -> None:
    host = machine(logits, lr=0.1)
    samples = draw(3, 1, 3)
    samples[1, 0, 2] = bad
    (_, first), (loss, second), (_, third) = walked(host.program, samples, labels(3))
    assert np.isnan(loss)
    assert same(first, second)
    assert not same(second, third), "training must go on"
    host.run(samples, labels(3))


@pytest.mark.parametrize("make", [mlp, cnn])
def test_odd_inputs_give_the_same_bits_on_the_device(
    machine: Callable[..., Machine], make: Callable[..., object]
) -> None:
    host = machine(make, lr=0.1)
    shape = host.program.training.step.inputs["x"].shape
    rng = np.random.default_rng(3)
    samples = np.where(rng.random((40, *shape)) < 0.1, rng.choice(ODD, (40, *shape)), draw(40, *shape))
    host.run(samples, labels(40))


def test_every_sample_is_one_odd_number(machine: Callable[..., Machine]) -> None:
    samples = np.stack([np.full((1, 6, 6, 2), value) for value in ODD])
    machine(cnn, lr=0.1).run(samples, labels(len(ODD)))


def test_max_pool_ties_go_to_the_first(machine: Callable[..., Machine]) -> None:
    """Equal pixels, zeros of both signs among them: of each window, one pixel alone is trained."""

    def pooled() -> onnx.ModelProto:
        pool = node("MaxPool", "h", "p", kernel_shape=[2, 2], strides=[2, 2])
        return model(node("Add", "x w", "h"), pool, node("Flatten", "p", "y"), x=(1, 1, 2, 4), w=np.zeros((2, 4), "f4"))

    host = machine(pooled, lr=1.0)
    samples = np.zeros((2, 1, 2, 4, 1))
    samples[1, 0, 0] = -0.0
    for x in samples:
        _, weights = next(walked(host.program, x[None], np.array([[0]], np.int32)))
        assert weights["w"].reshape(2, 4).tolist() == [[0.5, 0, -0.5, 0], [0, 0, 0, 0]]
    host.run(samples, labels(2, classes=2))


# --- logits and losses


def test_equal_logits(machine: Callable[..., Machine]) -> None:
    losses = machine(logits, lr=0.0625).run(np.zeros((1, 1, 3)), labels(1))
    np.testing.assert_allclose(losses, np.log(3), rtol=1e-6)


def test_huge_logits(machine: Callable[..., Machine]) -> None:
    host = machine(logits, lr=0.0625)
    samples = np.array([[[LARGEST, -LARGEST, 0]], [[-LARGEST, 0, LARGEST]], [[LARGEST] * 3]])
    host.run(samples, labels(3))
    loss = [next(walked(host.program, x[None], np.array([[0]], np.int32)))[0] for x in samples]
    np.testing.assert_allclose(loss, [0, 2 * LARGEST, np.log(3)], rtol=1e-6)


@pytest.mark.parametrize("label", [-1, 3, 2**31 - 1, -(2**31)])
def test_label_out_of_range_on_the_device(machine: Callable[..., Machine], label: int) -> None:
    host = machine(mlp, lr=0.1)
    wrong = labels(3)
    wrong[1] = label
    job = Job(model_id(host.program.program), half(draw(3, 1, 4)), wrong)
    with pytest.raises(TargetError) as caught:
        host.device.run(job)
    assert (caught.value.code, caught.value.exit_code) == ("bad-label", ExitCode.TARGET_FAULT)


def test_label_out_of_range_changes_nothing(machine: Callable[..., Machine], tmp_path: Path) -> None:
    """The C interface itself: ODL_BAD_LABEL, and neither the arena nor the loss is written."""
    host = machine(mlp, lr=0.1)
    sources = sorted(map(str, (host.folder / "src").rglob("*.c")))
    sources = [source for source in sources if not source.endswith("odl_trace.c")]
    library = tmp_path / "model.so"
    command = [*compilers()[0], *FLAGS, f"-I{host.folder / 'include'}", "-o", str(library), *sources]
    subprocess.run(command, check=True, timeout=120)
    c = ctypes.CDLL(str(library))
    arena = np.full(host.program.plan.n_bytes["arena"] + 64, 0xA5, np.uint8)
    start = ctypes.c_void_p(arena.ctypes.data + -arena.ctypes.data % 16)
    sample, loss = half(draw(1, 4)), ctypes.c_float(-1)
    c.odl_init(start)
    before = arena.copy()
    for label in (-1, 3, 2**31 - 1, -(2**31)):
        status = c.odl_train_step(start, ctypes.c_void_p(sample.ctypes.data), ctypes.c_int32(label), ctypes.byref(loss))
        assert status == 1
    assert loss.value == -1
    np.testing.assert_array_equal(arena, before)
    assert c.odl_train_step(start, ctypes.c_void_p(sample.ctypes.data), ctypes.c_int32(2), ctypes.byref(loss)) == 0
    assert loss.value > 0
    assert not np.array_equal(arena, before)


# --- weights


def test_weights_that_vanish_are_counted(tmp_path: Path) -> None:
    weight = np.array([[1e-8, -1e-9, 0, 1], [TINY, TINY / 2, 6e-8, 2e-8]], np.float32)
    proto = model(node("Gemm", "x w b", "y", transB=1), w=weight, b=np.array([1, 2], np.float32))
    assert load(tmp_path, proto).vanished == {"w": 4}


def test_subnormal_weights_and_zeros_of_both_signs_stay(tmp_path: Path) -> None:
    values = np.array([[TINY, -TINY, 0.0, -0.0], [2.0**-15, -(2.0**-15), 1023 * TINY, 65504]], np.float32)
    found = load(tmp_path, model(node("Gemm", "x w", "y", transB=1), w=values)).graph.persistent["w"].initial
    np.testing.assert_array_equal(bits(found), bits(values.astype(np.float16)))


def test_subnormal_numbers_are_not_flushed(machine: Callable[..., Machine]) -> None:
    def small() -> onnx.ModelProto:
        return model(node("Gemm", "x w", "y", transB=1), w=np.full((3, 4), 2.0**-12, np.float32))

    host = machine(small, lr=2.0**-12)
    samples = np.full((2, 1, 4), 2.0**-12)
    assert infer(host.program, samples[0])[0, 0] == 4 * TINY
    host.run(samples, labels(2))


# --- learning rates


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_exploding_learning_rate(machine: Callable[..., Machine], momentum: float) -> None:
    """Weights overflow, the loss is no number any more, and both sides still agree."""
    host = machine(mlp, lr=1e5, momentum=momentum)
    losses = host.run(np.tile(draw(5, 1, 4), (4, 1, 1)), labels(20))
    assert not np.isfinite(losses[-1])


def test_underflowing_learning_rate(machine: Callable[..., Machine]) -> None:
    host = machine(mlp, lr=1e-30)
    samples = draw(3, 1, 4)
    steps = [weights for _, weights in walked(host.program, samples, labels(3))]
    start = {name: host.program.model.graph.persistent[name].initial for name in steps[0]}
    assert all(same(start, weights) for weights in steps)
    host.run(samples, labels(3))


@pytest.mark.parametrize("lr", [1e-45, 1e-46, 3.4e38])
def test_learning_rate_at_the_ends_of_binary32(machine: Callable[..., Machine], lr: float) -> None:
    machine(mlp, lr=lr).run(draw(2, 1, 4), labels(2))


RANGES = [
    *({"lr": bad} for bad in (0.0, -1.0, NAN, INF)), {"momentum": 1.0}, {"momentum": NAN}, {"weight_decay": -0.1},
    {"batch": 0}, {"loss_scale": 0.0}, {"loss_scale": INF},
]  # fmt: skip
BEYOND = [{"lr": 1e39}, {"loss_scale": 1e-40}, {"seed": -1}]  # what binary32, or the generator, does not have


@pytest.mark.parametrize(
    "changes",
    [*RANGES, *BEYOND],
    ids=str,
)
def test_recipe_out_of_range(changes: dict[str, float]) -> None:
    with pytest.raises(UsageError) as caught:
        Recipe(**changes)  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.exit_code) == ("recipe-value", ExitCode.USAGE)


# --- data files


def data_error(folder: Path, program: Compiled, **arrays: object) -> str:
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]
    error = refusal(lambda: load_data(folder / "data.npz", program.training))
    assert error.exit_code == ExitCode.MODEL_REFUSED
    return error.code


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    return compiled(tmp_path_factory.mktemp("data"), mlp())


GOOD = draw(5, 4)
Y = np.array([0, 1, 2, 0, 1])


@pytest.mark.parametrize("bad", [-1, 3, 2**31, -(2**63)])
def test_label_out_of_range_in_a_file(tmp_path: Path, program: Compiled, bad: int) -> None:
    wrong = Y.copy()
    wrong[3] = bad
    assert data_error(tmp_path, program, x=GOOD, y=wrong) == "label-range"


def test_label_beyond_64_bits_of_sign(tmp_path: Path, program: Compiled) -> None:
    assert data_error(tmp_path, program, x=GOOD, y=np.array([0, 1, 2, 0, 2**64 - 1], np.uint64)) == "label-range"


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_data_that_is_no_number(tmp_path: Path, program: Compiled, bad: float) -> None:
    x = GOOD.copy()
    x[2, 1] = bad
    assert data_error(tmp_path, program, x=x, y=Y) == "data-not-finite"


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int32, np.uint64])
def test_data_beyond_binary16(tmp_path: Path, program: Compiled, kind: type) -> None:
    x = np.ones((5, 4), kind)
    x[4, 3] = 65520
    assert data_error(tmp_path, program, x=x, y=Y) == "data-overflow"
    x[4, 3] = 65519
    np.savez(tmp_path / "data.npz", x=x, y=Y)
    assert load_data(tmp_path / "data.npz", program.training).samples[4, 0, 3] == LARGEST


@pytest.mark.parametrize("kind", ["?", "u1", "i8", "f2", "f4", "f8"])
def test_every_real_type_is_read(tmp_path: Path, program: Compiled, kind: str) -> None:
    np.savez(tmp_path / "data.npz", x=np.ones((5, 4), kind), y=Y.astype("u1"))
    data = load_data(tmp_path / "data.npz", program.training)
    assert (data.samples == 1).all()
    assert data.targets.ravel().tolist() == Y.tolist()


@pytest.mark.parametrize("x", [GOOD + 1j, GOOD.astype(str), np.ones((5, 4), "M8[s]"), np.ones((5, 4), np.longdouble)],
                         ids=["complex", "text", "dates", "longdouble"])  # fmt: skip
def test_data_of_other_types(tmp_path: Path, program: Compiled, x: Array) -> None:
    assert data_error(tmp_path, program, x=x, y=Y) == "data-type"


def test_arrays_are_taken_as_a_file_of_them_is(tmp_path: Path, program: Compiled) -> None:
    np.savez(tmp_path / "data.npz", x=GOOD, y=Y)
    of_file = load_data(tmp_path / "data.npz", program.training)
    for arrays in ({"x": GOOD, "y": Y}, {"x": GOOD.tolist(), "y": Y.tolist()}):
        of_arrays = load_data(arrays, program.training)
        assert (of_arrays.samples == of_file.samples).all()
        assert (of_arrays.targets == of_file.targets).all()


@pytest.mark.parametrize(("arrays", "code"), [
    ({"X": GOOD}, "data-key"), ({"x": [[1.0], [2.0, 3.0]], "y": Y}, "data-shape"),
    ({"x": [[None] * 4] * 5, "y": Y}, "data-type"), ({"x": GOOD, "y": "cat"}, "data-type"),
])  # fmt: skip
def test_other_arrays_are_refused(program: Compiled, arrays: dict[str, object], code: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_data(arrays, program.training)
    assert caught.value.code == code


def test_objects_are_not_unpickled(tmp_path: Path, program: Compiled) -> None:
    assert data_error(tmp_path, program, x=np.array([[None] * 4] * 5), y=Y) == "data-unreadable"


@pytest.mark.parametrize(
    "y", [Y.astype(float), Y[:, None], Y > 0, np.array(1)], ids=["float", "column", "bool", "scalar"]
)
def test_labels_of_other_types(tmp_path: Path, program: Compiled, y: Array) -> None:
    assert data_error(tmp_path, program, x=GOOD, y=y) == "data-type"


@pytest.mark.parametrize("shape", [(5, 3), (5,), (), (4,), (5, 4, 1), (5, 2, 4)])
def test_data_of_another_shape(tmp_path: Path, program: Compiled, shape: tuple[int, ...]) -> None:
    assert data_error(tmp_path, program, x=np.ones(shape), y=Y) == "data-shape"


def test_arrays_that_are_missing(tmp_path: Path, program: Compiled) -> None:
    assert data_error(tmp_path, program, y=Y) == "data-key"
    assert data_error(tmp_path, program, x=GOOD) == "data-key"


def test_counts_that_differ_or_are_zero(tmp_path: Path, program: Compiled) -> None:
    assert data_error(tmp_path, program, x=GOOD, y=Y[:4]) == "data-count"
    assert data_error(tmp_path, program, x=GOOD[:0], y=Y[:0]) == "data-count"


def test_files_that_are_no_archives(tmp_path: Path, program: Compiled) -> None:
    np.savez_compressed(tmp_path / "whole.npz", x=GOOD, y=Y)
    np.save(tmp_path / "array.npy", GOOD)
    whole = (tmp_path / "whole.npz").read_bytes()
    paths = [tmp_path / "none.npz", tmp_path, tmp_path / "array.npy"]
    for at, content in enumerate([b"", b"\0", b"text", whole[:-30], whole[: len(whole) // 2]]):
        paths.append(tmp_path / f"broken{at}.npz")
        paths[-1].write_bytes(content)
    for path in paths:
        assert refusal(lambda path=path: load_data(path, program.training)).code == "data-unreadable"


def test_flipped_bytes_in_an_archive(tmp_path: Path, program: Compiled) -> None:
    """Refused, or read: nothing else."""
    np.savez_compressed(tmp_path / "whole.npz", x=GOOD, y=Y)
    whole = (tmp_path / "whole.npz").read_bytes()
    broken = tmp_path / "broken.npz"
    refused = 0
    for at in range(len(whole)):
        broken.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            load_data(broken, program.training)
        except ModelError:
            refused += 1
    assert refused > len(whole) // 2
