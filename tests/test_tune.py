"""`odl tune`: knobs change no bit, what was measured is kept and taken up again, and build uses what was chosen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from models import draw, node, save
from models import model as onnx_model

from odl import api, autotune
from odl.cli import cli
from odl.compare import Reference
from odl.errors import UsageError
from odl.fp16 import bits
from odl.graph import Phase
from odl.project import read_origins
from odl.recipe import Recipe
from odl.targets.pulp import find_gvsoc
from odl.training import STEP
from odl.tuning import Knobs, Tuning, read_tuning

NO_GVSOC = pytest.mark.skipif(not find_gvsoc(), reason="GVSoC is not here: set ODL_GVSOC")
RECIPE = Recipe(lr=0.01)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two convolutions whose images have to be cut, and a classifier."""
    proto = onnx_model(
        node("Conv", "x w b", "c", "conv1", kernel_shape=[3, 3], pads=[1, 1, 1, 1]), node("Relu", "c", "r", "relu1"),
        node("Conv", "r v d", "e", "conv2", kernel_shape=[3, 3], strides=[2, 2]), node("Relu", "e", "s", "relu2"),
        node("GlobalAveragePool", "s", "g", "pool"), node("Flatten", "g", "f", "flat"),
        node("Gemm", "f u a", "y", "fc", transB=1), x=(1, 3, 32, 32),
        w=draw(16, 3, 3, 3), b=draw(16), v=draw(48, 16, 3, 3), d=draw(48), u=draw(3, 48), a=draw(3),
    )  # fmt: skip
    return save(tmp_path, proto, "net.onnx")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Every kind of layer whose gradients have two forms, so small that each fits whole; dense ones of one row too."""
    proto = onnx_model(
        node("Conv", "x w1", "a", "conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Conv", "a w2", "b", "strided", kernel_shape=[3, 3], strides=[2, 2]), node("Relu", "b", "c", "relu"),
        node("Conv", "c w3", "d", "depthwise", kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=4),
        node("Conv", "d w4", "e", "pointwise", kernel_shape=[1, 1]), node("Flatten", "e", "f", "flat"),
        node("Gemm", "f w5", "g", "fc", transB=1), node("Gemm", "g w6", "y", "odd", transB=1), x=(1, 2, 8, 8),
        w1=draw(4, 2, 3, 3), w2=draw(4, 4, 3, 3), w3=draw(4, 1, 3, 3), w4=draw(6, 4, 1, 1), w5=draw(9, 54),
        w6=draw(3, 9),
    )  # fmt: skip
    return save(tmp_path, proto, "small.onnx")


def weights_after(compiled: api.Compiled) -> dict[str, bytes]:
    """Every weight after two steps in NumPy."""
    reference = Reference(compiled.program, compiled.training)
    generator = np.random.default_rng(3)
    for label in (0, 1):
        x = generator.standard_normal(compiled.program.inputs[compiled.training.sample].shape).astype(np.float16)
        reference.step(x, np.array([label], np.int32), lambda *_: None)
    return {name: bits(reference.executor.persistent(name)).tobytes() for name in compiled.training.trainable}


def everywhere(compiled: api.Compiled, knobs: Knobs) -> Tuning:
    """The same knobs for every layer and phase."""
    return Tuning({f"{call.layer}/{call.phase.value}": knobs for _, _, call in compiled.program.calls()})


@pytest.mark.parametrize(
    "knobs", [Knobs(part=0.5), Knobs(part=0.3, axis=1), Knobs(part=0.6, axis=3), Knobs(pieces=7)], ids=str
)
def test_tiles_change_the_program_and_no_bit(model: Path, knobs: Knobs) -> None:
    plain = api.compile_model(model, RECIPE, "pulp-open")
    tuned = api.compile_model(model, RECIPE, "pulp-open", everywhere(plain, knobs))
    assert str(tuned.program) != str(plain.program)
    assert weights_after(tuned) == weights_after(plain)


@pytest.mark.parametrize("gap", [0, 50])
def test_what_stays_changes_no_bit(model: Path, gap: int) -> None:
    plain = api.compile_model(model, RECIPE, "pulp-open")
    assert weights_after(api.compile_model(model, RECIPE, "pulp-open", Tuning(gap=gap))) == weights_after(plain)


KERNELS = {
    "direct": {"conv2d_input_gradient", "dense_input_gradient", "dense_weight_gradient"},
    "rearranged": {"flip_transpose", "conv2d_phases"},
}


@pytest.mark.qemu
@pytest.mark.parametrize("accumulate", ["fp32", "fp16"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_change_no_bit(small: Path, tmp_path: Path, kernel: str, accumulate: str) -> None:
    """Every gradient in one form, none in the other: the weights of the usual kernels, and QEMU has NumPy's bits."""
    recipe = replace(RECIPE, accumulate=accumulate)
    plain = api.compile_model(small, recipe, "pulp-open")
    tuned = api.compile_model(small, recipe, "pulp-open", everywhere(plain, Knobs(kernel=kernel)))
    used = {call.kernel.name for _, _, call in tuned.program.calls() if call.kernel}
    other = KERNELS["direct" if kernel == "rearranged" else "rearranged"]
    assert used >= KERNELS[kernel]
    assert not used & other
    assert weights_after(tuned) == weights_after(plain)
    data = tmp_path / "data.npz"
    np.savez(data, x=draw(2, 2, 8, 8), y=[0, 2])
    verdict = api.verify(tuned, data, 2, on="qemu")
    assert verdict.equal, verdict


KNOBS = [knobs for knobs, _ in autotune.CANDIDATES.values()]


class Simulated:
    """Stands in for the simulator: calls cost by a rule, and the whole step is their sum."""

    def __init__(self, fail_at: int = -1) -> None:
        self.fail_at, self.runs = fail_at, 0

    def __call__(self, compiled: api.Compiled, *_: object, **__: object) -> SimpleNamespace:
        self.runs += 1
        if self.runs == self.fail_at:
            raise KeyboardInterrupt
        knobs = compiled.tuning.choices
        n_calls = len(list(compiled.program.calls()))
        counts = np.full((1, n_calls, 1), 100, np.int64)
        for number, entry, call in compiled.program.calls():
            chosen = knobs.get(f"{call.layer}/{call.phase.value}", Knobs())
            if entry == STEP and chosen.part == 0.8 and call.phase is Phase.FORWARD:
                counts[0, number, 0] = 10
            if entry == STEP and chosen.pieces == 2:
                counts[0, number, 0] = {Phase.WEIGHT_GRADIENT: 10, Phase.UPDATE: 500}.get(call.phase, 100)
        step = [number for number, entry, _ in compiled.program.calls() if entry == STEP]
        return SimpleNamespace(counts=counts, whole=np.array([counts[0, step, 0].sum()]))


def test_every_layer_takes_its_cheapest(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "train", Simulated())
    found = autotune.tune(model, RECIPE, "pulp-open", jobs=1)
    assert found.after < found.before
    assert found.tuning.choices
    assert {knobs.part for key, knobs in found.tuning.choices.items() if key.endswith("/forward")} == {0.8}
    assert read_tuning(autotune.cache_path(model)) == found.tuning
    assert autotune.tuning_for(model, RECIPE, "pulp-open") == found.tuning
    assert autotune.tuning_for(model, RECIPE, "qemu-zhinx").is_empty


@pytest.mark.parametrize(
    ("change", "why"),
    [({"lr": 0.5}, ""), ({"seed": 3}, ""), ({"momentum": 0.5}, "measured for momentum none, this is some"),
     ({"batch": 4}, "measured for batch 1, this is 4"), ({"loss_scale": 8.0}, "gradient_scale none, this is some"),
     ({"weight_decay": 0.1}, "weight_decay none"), ({"trainable": ("fc",)}, "trainable *, this is fc"),
     ({"gradients": "fp16"}, "gradients fp32"), ({"accumulate": "fp16"}, "accumulate fp32")],
    ids=str,
)  # fmt: skip
def test_a_tuning_serves_what_calls_the_same_kernels(model: Path, change: dict[str, Any], why: str) -> None:
    tuning = Tuning({"fc/forward": Knobs(part=0.5)}, autotune.measured_for(model, RECIPE, "pulp-open"))
    autotune.cache_path(model).write_text(tuning.text())
    told: list[str] = []
    found = autotune.tuning_for(model, replace(RECIPE, **change), "pulp-open", told.append)
    assert (found == tuning, found.is_empty) == (not why, bool(why))
    assert (why or "as they were measured") in told[0]


def test_a_tuning_that_is_not_used_is_told(model: Path) -> None:
    """Of another model; of an odl that noted less; not with -q, and not where the target has no tiles."""
    about = autotune.measured_for(model, Recipe(), "pulp-open")
    for change, why in (
        ({**about, "model_sha256": "0"}, "the model has changed since"),
        ({word: text for word, text in about.items() if word != "loss"}, "it does not say for which loss"),
    ):
        autotune.cache_path(model).write_text(Tuning({}, change).text())
        assert CliRunner().invoke(cli, ["check", str(model)]).stderr == ""
        arguments = ["plan", str(model), "-t", "pulp-open"]
        assert f"net.tune.json is not used, {why}" in CliRunner().invoke(cli, arguments).stderr
        assert CliRunner().invoke(cli, [*arguments, "-q"]).stderr == ""


def test_progress_is_told_a_line_a_measurement(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "train", Simulated())
    finished = CliRunner().invoke(cli, ["tune", str(model), "-j", "1", "--json"])
    told = finished.stderr.splitlines()
    assert json.loads(finished.stdout)["target"] == "pulp-open"
    assert [line.split(": ")[0] for line in told] == [f"{n} of {len(told)}" for n in range(1, len(told) + 1)]
    assert told[0].startswith(f"1 of {len(told)}: cost model, ")
    assert told[-1].split(": ")[1].startswith("choices, ")
    autotune.cache_path(model).unlink()
    assert CliRunner().invoke(cli, ["tune", str(model), "-q"]).stderr == ""


def test_kernels_are_offered_to_layers_that_may_gain(model: Path, small: Path) -> None:
    """What is rearranged may be direct where it is small; what is direct may be rearranged."""
    backward = ("weight_gradient", "input_gradient")
    offered = autotune._candidates(api.compile_model(small, RECIPE, "pulp-open"), {})
    assert set(offered["direct"].choices) == {f"{layer}/input_gradient" for layer in ("strided", "pointwise", "odd")}
    assert set(offered["rearranged"].choices) == {f"fc/{phase}" for phase in backward}
    offered = autotune._candidates(api.compile_model(model, RECIPE, "pulp-open"), {})
    assert "direct" not in offered
    assert set(offered["rearranged"].choices) == {f"fc/{phase}" for phase in backward}


def test_choices_mix_kernels_and_tiles(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stood in for, a call more costs more: gradients that are not laid out first are cheaper. A gradient in two pieces
    is as well, but what that costs its update is more."""
    monkeypatch.setattr(api, "train", Simulated())
    found = autotune.tune(small, RECIPE, "pulp-open", jobs=1)
    chosen = {knobs: {key for key, each in found.tuning.choices.items() if each == knobs} for knobs in KNOBS}
    assert chosen[Knobs(part=0.8)] >= {"conv/forward", "fc/forward"}
    offered = autotune._candidates(api.compile_model(small, RECIPE, "pulp-open"), {})
    assert chosen[Knobs(kernel="direct")] == set(offered["direct"].choices)
    assert not chosen[Knobs(kernel="rearranged")]
    assert not chosen[Knobs(pieces=2)]


def test_an_interrupted_call_goes_on(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Simulated(fail_at=4)
    monkeypatch.setattr(api, "train", broken)
    with pytest.raises(KeyboardInterrupt):
        autotune.tune(model, RECIPE, "pulp-open", jobs=1)
    kept = json.loads(autotune.cache_path(model).read_text())["measured"]
    assert 1 <= len(kept) <= 3
    rest = Simulated()
    monkeypatch.setattr(api, "train", rest)
    autotune.tune(model, RECIPE, "pulp-open", jobs=1)
    n_missing = len(autotune._candidates(api.compile_model(model, RECIPE, "pulp-open"), {})) - len(kept)
    assert rest.runs == n_missing + 1, "the choices together are one more"


def tuning_text(tuning: object) -> str:
    return json.dumps({"schema_version": 2, "for": {}, "tuning": tuning})


@pytest.mark.parametrize(
    ("text", "why"),
    [("", "it is no JSON"), ("[]", "it is no object"), ("{}", "it lacks schema_version"),
     ('{"schema_version": 2, "for": {}}', "it lacks tuning"),
     ('{"schema_version": 1, "for": {}, "tuning": {}}', "its schema_version is 1, not 2"),
     ('{"schema_version": 2, "for": {"loss": 1}, "tuning": {}}', "for: loss is 1, not a text"),
     (tuning_text([]), "it: tuning is [], not an object"),
     (tuning_text({"gap": -1}), "gap -1 is not within 0 and 1000"),
     (tuning_text({"gap": 1.5}), "tuning: gap is 1.5, not a whole number"),
     (tuning_text({"gaps": 1}), "tuning has an unknown word 'gaps'; known: gap, choices"),
     (tuning_text({"choices": {"a/b": 1}}), "a/b is no object"),
     (tuning_text({"choices": {"a/b": {"part": 7}}}), "a/b: part 7 is not within 0.1 and 1"),
     (tuning_text({"choices": {"a/b": {"part": "1"}}}), "a/b: part is '1', not a number"),
     (tuning_text({"choices": {"a/b": {"axis": 1.5}}}), "a/b: axis is 1.5, not a whole number"),
     (tuning_text({"choices": {"a/b": {"axis": True}}}), "a/b: axis is True, not a whole number"),
     (tuning_text({"choices": {"a/b": {"pieces": 2.5}}}), "a/b: pieces is 2.5, not a whole number"),
     (tuning_text({"choices": {"a/b": {"kernel": "magic"}}}), "a/b: kernel 'magic' is none"),
     (tuning_text({"choices": {"a/b": {"wings": 2}}}), "unknown word 'wings'; known: part, axis, pieces, kernel")],
)  # fmt: skip
def test_a_file_that_is_no_tuning_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "x.tune.json"
    path.write_text(text)
    with pytest.raises(UsageError) as refused:
        read_tuning(path)
    (problem,) = refused.value.problems
    assert problem.code == "bad-tuning"
    assert problem.why.startswith("is no tuning: ")
    assert problem.why.endswith(why)


def test_a_flat_target_is_refused(model: Path) -> None:
    with pytest.raises(UsageError) as refused:
        autotune.tune(model, RECIPE, "qemu-zhinx")
    assert refused.value.problems[0].code == "not-tunable"


def test_what_is_no_onnx_file_is_refused(model: Path, tmp_path: Path) -> None:
    """A folder of ours has its tuning already; of others the importer says what is wrong."""
    api.build(api.compile_model(model, RECIPE, "host"), tmp_path / "c")
    for path, code in ((tmp_path / "c", "not-tunable"), (tmp_path / "none.onnx", "file-missing")):
        finished = CliRunner().invoke(cli, ["tune", str(path)])
        assert f"error: {code}: {path}" in finished.stderr


def test_help_tells_the_target_that_is_tuned(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "[pulp-open]" in CliRunner().invoke(cli, ["tune", "--help"]).output
    monkeypatch.setattr(api, "train", Simulated())
    assert json.loads(CliRunner().invoke(cli, ["tune", str(model), "--json"]).stdout)["target"] == "pulp-open"


def test_build_uses_what_was_chosen_and_notes_it(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "train", Simulated())
    found = autotune.tune(model, RECIPE, "pulp-open", jobs=1)
    monkeypatch.undo()
    arguments = ["build", str(model), "-t", "pulp-open", "--lr", "0.01", "-o", str(tmp_path / "c"), "-q"]
    finished = CliRunner().invoke(cli, arguments)
    assert finished.exit_code == 0, finished.output
    origins, _ = read_origins(tmp_path / "c")
    assert (dict(origins.tuning.choices), origins.tuning.gap) == (dict(found.tuning.choices), found.tuning.gap)
    assert api.open_folder(tmp_path / "c").tuning == origins.tuning
    assert "its tuning is not used" in CliRunner().invoke(cli, ["plan", str(tmp_path / "c"), "--batch=2"]).stderr
    assert CliRunner().invoke(cli, ["plan", str(tmp_path / "c"), "--lr=0.5"]).stderr == ""


@pytest.mark.gvsoc
@NO_GVSOC
def test_on_the_simulator(model: Path) -> None:
    finished = CliRunner().invoke(cli, ["tune", str(model), "--json", "-q"])
    assert finished.exit_code == 0, finished.output
    told = json.loads(finished.stdout)
    assert told["cycles"]["tuned"] <= told["cycles"]["cost_model"] == told["candidates"]["cost model"]
    assert set(told["candidates"]) == set(autotune.CANDIDATES) - {"direct"}
