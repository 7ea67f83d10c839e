"""A budget of RAM: what is kept as a mask, what is computed again, what that costs; and that no bit tells of it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from commands import VERBS
from hypothesis import HealthCheck, given, settings
from models import draw, load, node, refusal, save
from models import model as onnx_model
from test_random_models import RECIPES

from campaigns.random_models import networks
from odl import api, fp16
from odl.cli import cli
from odl.compare import Reference
from odl.errors import ExitCode
from odl.graph import Builder, Graph, Phase
from odl.interpreter import interpret
from odl.lighten import lighten, with_masks
from odl.memory import live_bytes
from odl.ops.add import Add
from odl.ops.pad import Pad
from odl.passes.fuse_movers import apart, fuse_movers
from odl.passes.mask_signs import can_mask, comes_in_time, mask_sign
from odl.passes.recompute import keep, recompute
from odl.project import read_origins
from odl.recipe import Recipe
from odl.remedies import _WAYS
from odl.schedule import floor, schedule
from odl.targets import TARGETS, Target, find_target
from odl.tiling import tile_chains
from odl.training import INFER, STEP, build_training
from odl.types import Array, DType, TensorType

STEPS = 3


def deep(frozen: str = "") -> onnx.ModelProto:
    """Six convolutions of 8 channels on 12x12 pixels, with every activation that knows a mask, and a sum."""
    weights = {f"{frozen if at == 3 else 'w'}{at}": draw(8, 8 if at else 3, 3, 3, scale=0.2) for at in range(6)}
    names = list(weights)
    acts = [("Relu", {}), ("LeakyRelu", {"alpha": 0.1}), ("Clip", {}), ("Relu", {}), ("LeakyRelu", {"alpha": -0.3})]
    nodes, last = [], "x"
    for at, name in enumerate(names):
        op, attributes = acts[at % len(acts)]
        nodes.append(node("Conv", f"{last} {name}", f"c{at}", f"conv{at}", pads=[1, 1, 1, 1]))
        bounds = " low high" if op == "Clip" else ""
        nodes.append(node(op, f"c{at}{bounds}", f"r{at}", f"act{at}", **attributes))
        last = f"r{at}"
        if at == 4:
            nodes.append(node("Add", f"{last} r2", "s", "sum"))
            last = "s"
    nodes += [node("GlobalAveragePool", last, "p", "pool"), node("Flatten", "p", "f"), node("Gemm", "f v", "y", "fc")]
    bounds = {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    return onnx_model(*nodes, x=(1, 3, 12, 12), v=draw(8, 4), **weights, **bounds)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model"), deep())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(3)
    file = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(file, x=rng.normal(0, 1, (STEPS, 3, 12, 12)).astype(np.float32), y=np.arange(STEPS) % 4)
    return file


def step_of(path: Path, recipe: Recipe | None = None) -> Graph:
    return schedule(build_training(api.load_model(path).graph, recipe or Recipe()).step)


def feeds(graph: Graph) -> dict[str, Array]:
    rng = np.random.default_rng(4)
    return {
        name: np.zeros(type_.shape, np.int32) if type_.dtype is DType.I32 else fp16.half(rng.normal(0, 1, type_.shape))
        for name, type_ in graph.inputs.items()
    }


def same(before: Graph, after: Graph) -> None:
    """What leaves the graph, and every gradient and update that both make."""
    expected, got = interpret(before, feeds(before)), interpret(after, feeds(before))
    assert {*before.outputs, *before.carries.values()} <= set(got)
    assert (after.outputs, after.carries) == (before.outputs, before.carries)
    for name in set(expected) & set(got):
        np.testing.assert_array_equal(fp16.bits(got[name]), fp16.bits(expected[name]), err_msg=name)


# --- the passes


def test_later_readers_read_a_copy_made_right_before_them(path: Path) -> None:
    graph = step_of(path)
    (act,) = (each for each in graph.nodes if each.name == "act3.relu")
    (conv,) = (each for each in graph.nodes if act.inputs[0] in each.outputs)
    later = [each.name for each in graph.consumers()[act.outputs[0]] if each.phase is not Phase.FORWARD]
    after, copies = recompute(graph, [conv.name, act.name], later)
    assert copies == {f"{value}.again": value for value in (*conv.outputs, *act.outputs)}
    names = [each.name for each in after.nodes]
    first = min(map(names.index, later))
    assert names[first - 2 : first] == [f"{conv.name}.again", f"{act.name}.again"]
    assert {each.name for each in after.consumers()[f"{act.outputs[0]}.again"]} == set(later)
    assert after.macs() - graph.macs() == graph.node_macs(conv) > 0
    same(graph, after)
    assert keep(after, copies) == graph


def test_a_mask_takes_the_place_of_the_value_for_those_who_ask_for_its_sign(path: Path) -> None:
    """Of layers above the only one that is trained: nobody asks for more."""
    graph = step_of(path, Recipe(trainable=("conv0",)))
    seen = set[str]()
    for value, readers in graph.consumers().items():
        signs = [each for each in readers if can_mask(graph, value, [each])]
        others = [each for each in readers if each not in signs]
        assert not signs or not others or not can_mask(graph, value, readers)
        if signs and comes_in_time(graph, value, signs):
            after = mask_sign(graph, value, signs)
            same(graph, after)
            made = [each.op.name for each in after.nodes if each.op.name.endswith("_mask")]
            read = [each.op.name for each in after.nodes if each.op.name.startswith("masked_")]
            assert (len(made), len(read)) == (1, len(signs))
            seen |= {*made, *read}
    assert seen == {"positive_mask", "between_mask", "masked_gradient", "masked_slope"}


def test_masks_are_made_where_they_lower_the_peak(tmp_path: Path) -> None:
    """All but the first layer frozen: nobody reads an activation again but for its sign."""
    training = build_training(load(tmp_path, deep()).graph, Recipe(trainable=("w0",)))
    graph = schedule(training.step)
    lighter = with_masks(graph)
    assert lighter.peak == max(live_bytes(lighter.graph)) < max(live_bytes(graph)) - 4 * 8 * 144
    assert sum(each.op.name.endswith("_mask") for each in lighter.graph.nodes) >= 4
    assert not lighter.copies
    same(graph, lighter.graph)
    small = training.graphs[INFER]
    assert with_masks(small).graph is small


# --- the search


def test_the_search_keeps_to_its_goal_at_a_price(path: Path) -> None:
    graph = step_of(path)
    peak, macs, costs = max(live_bytes(graph)), graph.macs(), [0]
    for part in (1.0, 0.8, 0.7, 0.65):
        lighter = lighten(graph, int(part * peak))
        assert lighter.peak == max(live_bytes(lighter.graph)) <= part * peak
        same(graph, lighter.graph)
        costs.append(lighter.graph.macs() - macs)
        assert (lighter.recomputed == ()) == (costs[-1] == 0)
    assert costs == sorted(costs)
    assert costs[1] == 0 < costs[-1]
    least = lighten(graph, 0)
    assert floor(graph) <= least.peak <= 0.65 * peak
    assert lighten(graph, 0) == least


@given(networks(), RECIPES)
@settings(deadline=None, derandomize=True, max_examples=15, suppress_health_check=list(HealthCheck))
def test_random_models_keep_their_bits(network: tuple[onnx.ModelProto, int], recipe: Recipe) -> None:
    with tempfile.TemporaryDirectory() as folder:
        training = build_training(load(Path(folder), network[0]).graph, recipe)
    for graph in map(schedule, training.graphs.values()):
        lighter = lighten(graph, 0)
        assert lighter.peak <= max(live_bytes(graph), default=0)
        same(graph, lighter.graph)


# --- the compiler


def machine(target: str) -> Target:
    """The cluster gets so little local memory that activations have to leave it."""
    return find_target(target).resized(l1_bytes=7 << 10)


@cache
def least(path: Path, target: str, batch: int = 1) -> int:
    """The fewest bytes of RAM, as the refusal says them."""
    error = refusal(lambda: api.compile_model(path, Recipe(batch=batch), machine(target), ram_bytes=9000))
    assert (error.code, error.exit_code) == ("does-not-fit", ExitCode.DOES_NOT_FIT)
    words = str(error).split()
    return int(words[words.index("least") + 1].replace(",", ""))


def budgets(path: Path, target: str, batch: int = 1) -> Iterator[api.Compiled]:
    """Everything kept; then with less and less RAM, the least last."""
    whole = api.compile_model(path, Recipe(batch=batch), machine(target))
    assert whole.saving is None
    yield whole
    most, fewest = whole.missing_bytes + whole.target.ram_bytes, least(path, target, batch)
    for n_bytes in ((most + fewest) // 2, fewest):
        yield api.compile_model(path, Recipe(batch=batch), machine(target), ram_bytes=n_bytes)


def trained(compiled: api.Compiled, data: Path) -> list[bytes]:
    """Losses, and weights afterwards, by the executor."""
    samples = api.load_data(data, compiled.training).steps(STEPS, 0)
    reference = Reference(compiled.program, compiled.training)
    pairs = zip(samples.samples, samples.targets, strict=True)
    losses = [reference.step(x, y, lambda *_: None).tobytes() for x, y in pairs]
    return losses + [reference.executor.persistent(name).tobytes() for name in compiled.training.trainable]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("target", ["host", "qemu-zhinx", "pulp-open"])
def test_a_budget_is_kept_and_changes_no_bit(target: str, batch: int, path: Path, data: Path) -> None:
    whole, *lighter = budgets(path, target, batch)
    expected = trained(whole, data)
    assert any(each.saving and each.saving.macs[STEP] > 0 for each in lighter)
    for each in lighter:
        assert each.missing_bytes <= 0
        assert each.saving
        assert each.saving.kept_bytes == whole.plan.n_bytes["arena"] > each.plan.n_bytes["arena"]
        assert each.saving.macs[STEP] == each.graphs[0].macs() - whole.graphs[0].macs()
        assert trained(each, data) == expected


def test_the_least_is_the_least(path: Path) -> None:
    """One byte less is refused with the same number."""
    fewest = least(path, "qemu-zhinx")
    assert str(fewest - 1) not in str(fewest)
    error = refusal(lambda: api.compile_model(path, target="qemu-zhinx", ram_bytes=fewest - 1))
    assert f"need at least {fewest:,} bytes" in str(error)
    assert "even with what can be computed again: 1 are missing" in str(error)


LESS = "train less (--last N, --channels PATTERN=SHARE, --lora-rank N), or "
BESIDE = "keep less beside the weights"
CHIP = "choose a chip with more memory"


@pytest.mark.parametrize(("recipe", "ways"), [
    ({}, LESS),
    ({"last": 2}, "train less (--lora-rank N), or "),
    ({"channels": ("*=0.5",)}, "train less (--last N), or "),
    ({"optimizer": "adam", "state": "fp32"}, f"{LESS}{BESIDE} (--optimizer sgd, --state fp16), or "),
    ({"optimizer": "adam"}, f"{LESS}{BESIDE} (--optimizer sgd), or "),
    ({"momentum": 0.9}, f"{LESS}{BESIDE} (--momentum 0), or "),
    ({"momentum": 0.9, "nesterov": True}, f"{LESS}{BESIDE} (--momentum 0 --no-nesterov), or "),
    ({"batch": 2}, f"{LESS}{BESIDE} (--batch 1, --gradients fp16), or "),
    ({"batch": 2, "updates": "kept", "gradients": "fp16"}, f"{LESS}{BESIDE} (--batch 1), or "),
    ({"updates": "kept", "accumulate": "fp16"}, f"{LESS}{BESIDE} (--updates immediate, --gradients fp16), or "),
    ({"batch": 2, "clip_norm": 1.0, "gradients": "fp16"}, LESS),
    ({"master": "fp32"}, f"{LESS}{BESIDE} (--master stochastic), or "),
    ({"replay_layer": "conv5", "replay_slots": 3},
     "keep fewer or smaller old samples (--replay-slots N, --replay-type int8), or "),
    ({"replay_layer": "conv5", "replay_slots": 9, "replay_type": "int8"},
     "keep fewer or smaller old samples (--replay-slots N), or "),
])  # fmt: skip
def test_a_refusal_names_what_is_not_in_use_and_helps(path: Path, recipe: dict[str, Any], ways: str) -> None:
    """Each word, given to the recipe, makes the program smaller."""

    def needed(own: Recipe) -> int:
        return api.compile_model(path, own, must_fit=False, ram_bytes=9000).ram_bytes_needed

    own = Recipe(**recipe)
    whole = needed(own)
    error = refusal(lambda: api.compile_model(path, own, ram_bytes=max(whole - 2048, 13000)))
    assert error.problems[0].hint == ways + CHIP
    meant = {flag: words for flags in _WAYS.values() for flag, words in flags.items()}
    flags = [flag for group in re.findall(r"\((.*?)\)", ways) for flag in group.split(", ")]
    assert {flag: needed(replace(own, **meant[flag])) < whole for flag in flags} == dict.fromkeys(flags, True)


def test_the_words_of_a_hint_are_those_of_the_command_line() -> None:
    known = {option for parameter in VERBS["plan"].params for option in (*parameter.opts, *parameter.secondary_opts)}
    words = [word for flags in _WAYS.values() for flag in flags for word in flag.split() if word.startswith("--")]
    assert {*words} <= known


def test_a_model_that_does_not_even_infer_is_told_so(path: Path) -> None:
    error = refusal(lambda: api.compile_model(path, ram_bytes=9000))
    assert (
        error.problems[0].hint
        == "inference alone takes 12,800 bytes: choose a smaller model, or a chip with more memory"
    )
    assert "inference" not in str(refusal(lambda: api.compile_model(path, ram_bytes=12800)))


def test_targets_that_are_large_enough_are_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no budget was given, and so the chip is the target's own."""
    monkeypatch.setitem(TARGETS, "qemu-zhinx", find_target("qemu-zhinx").resized(ram_bytes=14000))
    error = refusal(lambda: api.compile_model(path))
    assert error.problems[0].hint.endswith(", or choose a target with more memory (-t qemu-zfh or pulp-open)")


def test_without_a_budget_the_targets_ram_is_one(path: Path) -> None:
    fewest = least(path, "qemu-zhinx")
    small = find_target("qemu-zhinx").resized(ram_bytes=fewest)
    assert api.compile_model(path, target=small).saving
    assert api.compile_model(path).saving is None


SIMULATED = [
    ("host", "host"),
    *(pytest.param(*pair, marks=pytest.mark.qemu) for pair in (("qemu-zhinx", "qemu"), ("pulp-open", "qemu"))),
]


@pytest.mark.parametrize(("target", "on"), SIMULATED)
def test_the_target_computes_the_same(target: str, on: str, path: Path, data: Path) -> None:
    whole, *lighter = budgets(path, target)
    losses = [loss.hex() for loss in api.verify(whole, data, STEPS, on).loss]
    for each in lighter:
        verdict = api.verify(each, data, STEPS, on)
        assert verdict.equal, verdict.first_difference
        assert [loss.hex() for loss in verdict.loss] == losses


@pytest.mark.parametrize("target", ["host", pytest.param("pulp-open", marks=pytest.mark.qemu)])
def test_masks_of_frozen_layers_on_target(target: str, path: Path, data: Path) -> None:
    frozen = api.compile_model(path, Recipe(trainable=("w0",)), machine(target))
    kernels = {call.kernel.name for _, _, call in frozen.program.calls() if call.kernel}
    assert kernels >= {"positive_mask", "between_mask", "masked_gradient", "masked_slope"}
    verdict = api.verify(frozen, data, STEPS, "qemu" if target == "pulp-open" else "")
    assert verdict.equal, verdict.first_difference


# --- the command line


def odl(*words: object) -> str:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == ExitCode.OK, result.output
    return result.output


def test_plan_tells_what_it_costs(path: Path) -> None:
    fewest = least(path, "qemu-zhinx")
    told = odl("plan", path, "--ram", fewest)
    compiled = api.compile_model(path, ram_bytes=fewest)
    assert compiled.saving
    extra, arena = compiled.saving.macs[STEP], compiled.plan.n_bytes["arena"]
    assert f"the arena has {compiled.saving.kept_bytes - arena:,} bytes less than the" in told
    assert f"train_step: {extra:,} MACs more" in told
    assert compiled.saving.recomputed[STEP][0] in told
    assert "computed again" not in odl("plan", path)


def test_a_folder_remembers_its_budget(path: Path, data: Path, tmp_path: Path) -> None:
    fewest = least(path, "host")
    run, project = tmp_path / "run", tmp_path / "project"
    odl("run", path, "-t", "host", "--ram", fewest, "--data", data, "--steps", 2, "-o", run)
    odl("build", path, "-t", "host", "--ram", fewest, "-o", project)
    for folder in (run, project):
        assert read_origins(folder)[0].ram_bytes == fewest
        assert str(api.open_folder(folder).program) == str(
            api.compile_model(path, target="host", ram_bytes=fewest).program
        )
        assert "computed again" in odl("plan", folder)
        assert "computed again" not in odl("plan", folder, "--ram", 1 << 20)
        assert "computed again" not in odl("plan", folder, "-t", "qemu-zhinx")
    odl("eval", run, "--data", data)


# --- what only moves bytes


def moving() -> Graph:
    """Two padded images; one is read twice, and stands between the other and its only reader."""
    build = Builder()
    x, y = (build.input(name, TensorType((1, 4, 4, 2))) for name in "xy")
    one, two = (build.add(Pad((1, 1, 1, 1)), (value,), f"{value}.padded") for value in (x, y))
    total = build.add(Add(), (one, two), "total")
    return build.graph("moving", (build.add(Add(), (total, two), "all"),))


def test_a_mover_waits_for_its_reader_beside_one_that_several_read() -> None:
    """Each node has a call, and makes what it makes before it is read."""
    graph = moving()
    calls = [call for chain in tile_chains(graph, 1 << 12) for call in chain.calls]
    assert sorted(call.node.name for call in calls) == sorted(each.name for each in graph.nodes)
    made = set(graph.inputs)
    for call in calls:
        assert made.issuperset(call.node.inputs)
        made.update(call.node.outputs)


def test_readers_of_movers_are_ordered_as_readers_of_what_these_read() -> None:
    graph = moving()
    fused = fuse_movers(graph)
    assert [each.name for each in fused.nodes] == [each.name for each in graph.nodes if not each.op.moves]
    assert {value for each in fused.nodes for value in each.inputs} == {"x", "y", "total"}
    again = apart(fused, graph)
    assert sorted(each.name for each in again.nodes) == sorted(each.name for each in graph.nodes)
    same(graph, again)
