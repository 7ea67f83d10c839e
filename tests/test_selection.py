"""`odl select`: what contributes, what is offered, that the best is chosen, fits, and takes the time that it may."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from models import codes, draw, mlp, model, node, refusal, save
from onnx import numpy_helper
from partly_trained import written

from odl import api
from odl.cli import cli
from odl.contribution import Contributions, analysed, contributions
from odl.data import load_data
from odl.errors import ExitCode, FitError
from odl.frontend import load_model
from odl.graph import Graph, Phase, Slice, verify
from odl.interpreter import interpret
from odl.memory import live_bytes
from odl.options import best_run, offered, recipe_for
from odl.passes.split_gradients import split_gradients
from odl.program import ARENA
from odl.recipe import Recipe, read_recipe
from odl.recipe_toml import recipe_toml
from odl.schedule import promptly, schedule
from odl.selection import Selection, choose
from odl.step_time import Bench, measure
from odl.targets import find_target
from odl.trainable import select
from odl.training import build_training
from odl.types import Array

RATE = 0.05


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("selection"))


def chosen(place: Path, target: str = "host", recipe: Mapping[str, Any] | None = None, **bounds: Any) -> Selection:
    return choose(place / "model.onnx", place / "data.npz", Recipe(lr=RATE, **(recipe or {})), target, **bounds)


def needed(place: Path, target: str = "host", **recipe: Any) -> int:
    """Arena and stack of a recipe."""
    found = api.compile_model(place / "model.onnx", Recipe(lr=RATE, **recipe), target)
    return found.program.spaces[ARENA] + found.target.stack_bytes


def found_rows(place: Path, recipe: Recipe) -> tuple[Graph, Contributions]:
    network = load_model(place / "model.onnx", keeps_norms=recipe.parameters == "norms").graph
    training = build_training(network, analysed(recipe))
    return network, contributions(training, load_data(place / "data.npz", training))


# --- contributions ----------------------------------------------------------------------------------------------------


def directly(place: Path, recipe: Recipe) -> dict[str, Array]:
    """The same numbers by another way: a batch's sums after one sample are its gradients."""
    training = build_training(load_model(place / "model.onnx").graph, replace(recipe, batch=8))
    step, data = training.step, load_data(place / "data.npz", training)
    found: dict[str, Array] = {}
    for sample, target in data:
        values = interpret(step, {training.sample: sample, training.target: target})
        for name in training.trainable:
            weight = step.persistent[name].initial.astype(np.float64)
            product = weight * values[step.carries[f"{name}.sum"]].astype(np.float64) / recipe.loss_scale
            for at, channel in enumerate(np.moveaxis(product, -1 if name == "w1" else 0, 0)):
                found.setdefault(name, np.zeros(len(product) if name != "w1" else product.shape[-1]))
                found[name][at] += channel.sum() ** 2 / len(data)
    return found


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(loss_scale=64.0, gradients="fp16"), Recipe(batch=4, momentum=0.9)])
def test_contributions_are_those_of_the_gradients(place: Path, recipe: Recipe) -> None:
    _, found = found_rows(place, recipe)
    expected = directly(place, recipe)
    assert list(found.rows) == list(expected)
    for name, rows in found.rows.items():
        np.testing.assert_allclose(rows, expected[name], rtol=1e-12, err_msg=name)
    assert (found.samples, found.skipped) == (4, 0)
    assert found.total > 0


def test_contributions_are_those_of_the_loss_to_first_order(tmp_path: Path) -> None:
    """w * dw of a channel is what the loss changes by when the channel's weights grow by a factor."""
    proto, x, label = mlp(), draw(1, 4, scale=1), 2
    weights = {each.name: np.array(each_of(proto, each.name), np.float64) for each in proto.graph.initializer}

    def loss(channel: int, factor: float) -> float:
        w2 = weights["w2"].copy()
        w2[channel] *= factor
        hidden = np.maximum(x.astype(np.float16).astype(np.float64) @ weights["w1"].T + weights["b1"], 0)
        logits = (hidden @ w2.T + weights["b2"])[0]
        return float(np.log(np.exp(logits).sum()) - logits[label])

    save(tmp_path, proto)
    np.savez(tmp_path / "data.npz", x=x, y=np.array([label]))
    _, found = found_rows(tmp_path, Recipe())
    slopes = [(loss(channel, 1 + 1e-5) - loss(channel, 1 - 1e-5)) / 2e-5 for channel in range(3)]
    np.testing.assert_allclose(found.rows["w2"], np.square(slopes), rtol=0.01)  # binary16 on the way


def each_of(proto: Any, name: str) -> Array:
    (tensor,) = [each for each in proto.graph.initializer if each.name == name]
    return np.asarray(numpy_helper.to_array(tensor))


def test_scaling_a_layer_against_its_data_changes_no_contribution(tmp_path: Path) -> None:
    found = []
    for factor in (1.0, 16.0):
        proto = model(
            node("Gemm", "x w1 b1", "h", "fc1", transB=1), node("Tanh", "h", "r"),
            node("Gemm", "r w2 b2", "y", "fc2", transB=1),
            w1=draw(5, 4) / np.float32(factor), b1=draw(5), w2=draw(3, 5), b2=draw(3),
        )  # fmt: skip
        folder = tmp_path / str(factor)
        folder.mkdir()
        save(folder, proto)
        np.savez(folder / "data.npz", x=factor * draw(6, 4, scale=1), y=np.arange(6) % 3)
        found.append(found_rows(folder, Recipe())[1].rows)
    for name, rows in found[0].items():
        np.testing.assert_array_equal(rows, found[1][name])


def test_samples_whose_gradients_are_not_finite_do_not_count(tmp_path: Path) -> None:
    save(tmp_path, mlp())
    x = draw(3, 4, scale=1)
    np.savez(tmp_path / "one.npz", x=x[:2], y=np.array([0, 1]))
    x[2] = 60000
    np.savez(tmp_path / "data.npz", x=x, y=np.array([0, 1, 2]))
    _, found = found_rows(tmp_path, Recipe(loss_scale=2.0**15))
    assert (found.samples, found.skipped) == (3, 1)
    (tmp_path / "one.npz").rename(tmp_path / "data.npz")
    _, expected = found_rows(tmp_path, Recipe(loss_scale=2.0**15))
    for name, rows in expected.rows.items():
        np.testing.assert_array_equal(found.rows[name], rows)


def test_nothing_to_compare_is_refused(tmp_path: Path) -> None:
    save(tmp_path, mlp())
    np.savez(tmp_path / "data.npz", x=np.full((2, 4), 60000.0), y=np.array([0, 1]))
    error = refusal(lambda: chosen(tmp_path, recipe={"loss_scale": 2.0**15}))
    assert codes(error) == ["no-gradients"]
    assert "2 of 2 samples have gradients that are not finite" in str(error)


# --- options ----------------------------------------------------------------------------------------------------------


def test_the_best_run_is_the_best() -> None:
    rows = np.array([1.0, 5.0, 0.0, 6.0, 2.0, 4.0])
    assert best_run(rows, 1) == Slice(0, 3, 4)
    assert best_run(rows, 3) == Slice(0, 3, 6)
    assert best_run(rows, 6) == Slice(0, 0, 6)
    assert best_run(np.ones(4), 2) == Slice(0, 0, 2)


def test_options_grow_and_are_what_the_recipe_then_trains(place: Path) -> None:
    network, found = found_rows(place, Recipe())
    offers = offered(network, Recipe(), found.rows)
    assert list(offers) == ["conv", "dw", "pw", "bn2", "fc"]
    assert [each.share for each in offers["dw"]] == [0, 1]  # a depthwise kernel cannot be cut
    assert [each.share for each in offers["bn2"]] == [1]
    assert [dict(each.weights)["w3"] for each in offers["fc"][1:-1]] == [
        best_run(found.rows["w3"], length) for length in (1, 2, 3, 4)
    ]
    for options in offers.values():
        assert options[-1].gain == pytest.approx(sum(found.rows[name].sum() for name, _ in options[-1].weights))
        for smaller, larger in itertools.pairwise(options):
            assert smaller.share < larger.share
            assert smaller.elements < larger.elements
        for option in options:
            recipe = recipe_for(Recipe(), [option])
            assert select(network, recipe) == dict(option.weights)
            training = build_training(network, recipe)
            assert sum(map(training.trained_elements, training.trainable)) == option.elements


@pytest.mark.parametrize(
    "name", ["a[0]", "[", "a*b", "what?", "two\nlines", "]", "w=0:1", "!x", "[!a]", 'q"\\', "\x7f"]
)
def test_names_are_names_and_no_patterns(tmp_path: Path, name: str) -> None:
    """Beside a weight that the name, read as a pattern, would match."""
    other = name.replace("[0]", "0").replace("*", "**").replace("?", "!")
    other = other if other != name else "other"
    proto = model(
        node("Gemm", "x w b", "h", "one", transB=1), node("Gemm", "h v c", "y", "two", transB=1),
        w=draw(5, 4), b=draw(5), v=draw(3, 5), c=draw(3),
    )  # fmt: skip
    for tensor, new in zip(proto.graph.initializer, (name, "b", other, "c"), strict=True):
        tensor.name = new
    proto.graph.node[0].input[1], proto.graph.node[1].input[1] = name, other
    network = load_model(save(tmp_path, proto)).graph
    rows = {each: np.ones(network.types[each].shape[0]) for each in network.persistent}
    least = offered(network, Recipe(), rows)["one"][1]
    (tmp_path / "recipe.toml").write_bytes(recipe_toml(recipe_for(Recipe(), [least])).encode())
    assert select(network, read_recipe(tmp_path / "recipe.toml")) == {"b": None, name: Slice(0, 0, 1)}


def test_weights_that_share_a_name_with_a_node_are_not_offered(tmp_path: Path) -> None:
    proto = model(
        node("Gemm", "x fc2 b", "h", "fc1", transB=1), node("Gemm", "h v c", "y", "fc2", transB=1),
        fc2=draw(5, 4), b=draw(5), v=draw(3, 5), c=draw(3),
    )  # fmt: skip
    network = load_model(save(tmp_path, proto)).graph
    offers = offered(network, Recipe(), {each: np.ones(network.types[each].shape[0]) for each in network.persistent})
    assert {layer: [dict(each.weights) for each in options] for layer, options in offers.items()} == {
        "fc1": [{"b": None}], "fc2": offers_of("v", "c", 3),
    }  # fmt: skip


def offers_of(kernel: str, bias: str, n_rows: int) -> list[dict[str, Slice | None]]:
    runs = [Slice(0, 0, length) for length in range(1, n_rows)]
    return [{bias: None}, *({kernel: run, bias: None} for run in runs), {kernel: None, bias: None}]


# --- the recipe's file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [
    Recipe(), Recipe(nesterov=True, momentum=0.9, lr=1e-7, seed=2**32 - 1, epsilon=1e-30),
    Recipe(trainable=("a[[]0]", 'q"\\\n\t\x00\x1f\x7f\u2028😀'), channels=("x=0:4", "w[*]=0.25"), batch=8, loss="mse"),
])  # fmt: skip
def test_a_recipe_written_is_the_recipe_read(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / "recipe.toml").write_bytes(recipe_toml(recipe, "two\nlines").encode())
    assert read_recipe(tmp_path / "recipe.toml") == recipe


# --- the choice -------------------------------------------------------------------------------------------------------


def budgets(place: Path, **recipe: Any) -> list[int]:
    least, most = needed(place, trainable=("b3",), **recipe), needed(place, **recipe)
    return [least + (most - least) * part // 4 for part in range(5)]


RECIPES: list[dict[str, Any]] = [{}, {"momentum": 0.9, "master": "kahan"}, {"batch": 2, "optimizer": "adam"}]


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_fits_and_more_ram_is_no_worse(place: Path, recipe: dict[str, Any]) -> None:
    shares = []
    for ram in budgets(place, **recipe):
        found = chosen(place, recipe=recipe, ram_bytes=ram)
        compiled_as = api.compile_model(place / "model.onnx", found.recipe, "host")
        assert compiled_as.program.spaces[ARENA] == found.price.ram_bytes <= ram
        assert {**found.recipe.__dict__, "trainable": (), "channels": ()} == {
            **Recipe(lr=RATE, **recipe).__dict__, "trainable": (), "channels": (),
        }  # fmt: skip
        weights = {name for option in found.chosen for name, _ in option.weights}
        assert set(compiled_as.training.trainable) == weights
        shares.append(found.share)
    assert shares == sorted(shares)
    assert shares[0] < 0.5
    assert shares[-1] == pytest.approx(1)


@pytest.mark.parametrize("target", ["host", "qemu-zhinx", "pulp-open"])
def test_one_byte_less_is_less(place: Path, target: str) -> None:
    """Without a bound on time nothing is run, so no simulator is needed."""
    middle = (needed(place, target, trainable=("b3",)) + needed(place, target)) // 2
    found = chosen(place, target, ram_bytes=middle)
    plan = api.compile_model(place / "model.onnx", found.recipe, target)
    assert plan.program.spaces[ARENA] + plan.target.stack_bytes == found.price.ram_bytes <= middle
    smaller = chosen(place, target, ram_bytes=int(found.price.ram_bytes) - 1)
    assert smaller.price.ram_bytes < found.price.ram_bytes
    assert smaller.share < found.share


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights are most of its memory, and gradients come in pieces."""
    folder = tmp_path_factory.mktemp("wide")
    nodes = [
        node("Gemm", "x a", "h", "one", transB=1), node("Relu", "h", "r"),
        node("Gemm", "r b", "g", "two", transB=1), node("Relu", "g", "s"), node("Gemm", "s c", "y", "three", transB=1),
    ]  # fmt: skip
    save(folder, model(*nodes, x=(1, 64), a=draw(64, 64), b=draw(64, 64), c=draw(64, 64)))
    np.savez(folder / "data.npz", x=draw(3, 64, scale=1), y=np.array([0, 1, 2]))
    return folder


def test_runs_save_the_ram_of_states(wide: Path) -> None:
    recipe = {"optimizer": "adam", "state": "fp32", "trainable": ("c",)}
    whole = needed(wide, **recipe)
    found = chosen(wide, recipe=recipe, ram_bytes=whole - 64 * 64 * 8 // 2)
    ((option,),) = [found.chosen]
    assert 0.375 <= option.share <= 0.5
    assert len(found.recipe.channels) == 1


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(batch=2), Recipe(updates="kept"), Recipe(momentum=0.5)])
def test_the_prompt_order_is_nearly_as_good_as_a_search(wide: Path, place: Path, recipe: Recipe) -> None:
    for folder, most in ((wide, 1.01), (place, 1.25)):
        graph = split_gradients(build_training(load_model(folder / "model.onnx").graph, recipe).step)
        prompt = promptly(graph)
        assert sorted(node.name for node in prompt.nodes) == sorted(node.name for node in graph.nodes)
        verify(prompt)
        assert max(live_bytes(prompt)) <= most * max(live_bytes(schedule(graph)))


def exhaustive(found: Selection, fits: Any) -> float:
    """The greatest gain of all choices that fit."""
    best = 0.0
    for picks in itertools.product(*([None, *options] for options in found.offers.values())):
        taken = [each for each in picks if each]
        gain = sum(each.gain for each in taken)
        if taken and gain > best and fits(recipe_for(Recipe(lr=RATE), taken)):
            best = gain
    return best


@pytest.mark.parametrize("part", [0.3, 0.5, 0.7, 0.9])
def test_near_the_best_of_all_choices(tmp_path: Path, part: float) -> None:
    """Of a small network, by time in MACs, which are exact."""
    proto = model(
        node("Gemm", "x w1 b1", "h", "fc1", transB=1), node("Relu", "h", "r"),
        node("Gemm", "r w2 b2", "g", "fc2", transB=1), node("Relu", "g", "s"),
        node("Gemm", "s w3 b3", "y", "fc3", transB=1),
        w1=draw(6, 4), b1=draw(6), w2=draw(5, 6), b2=draw(5), w3=draw(3, 5), b3=draw(3),
    )  # fmt: skip
    save(tmp_path, proto)
    np.savez(tmp_path / "data.npz", x=draw(6, 4, scale=1), y=np.arange(6) % 3)
    network = load_model(tmp_path / "model.onnx").graph

    def macs(recipe: Recipe) -> int:
        return build_training(network, recipe).step.macs()

    bound = int(macs(Recipe(trainable=("b3",))) * (1 - part) + macs(Recipe()) * part)
    found = chosen(tmp_path, time=bound)
    best = exhaustive(found, lambda recipe: macs(recipe) <= bound)
    assert macs(found.recipe) <= bound
    assert 0.9 * best <= found.share * found.contributions.total <= best * (1 + 1e-9)


def test_the_same_again(place: Path) -> None:
    first, again = (chosen(place, ram_bytes=budgets(place)[2], time=12000) for _ in range(2))
    assert first.recipe == again.recipe
    assert first.price == again.price


def test_what_the_recipe_leaves_out_is_not_chosen(place: Path) -> None:
    found = chosen(place, recipe={"trainable": ("conv", "fc"), "last": 1, "channels": ("fc=0.25",)})
    assert found.recipe.trainable == ("w3", "b3")
    assert (found.recipe.channels, found.recipe.last) == ((), 0)
    biases = chosen(place, recipe={"parameters": "biases"})
    assert set(biases.recipe.trainable) == {"beta", "b1", "b2", "b3"}
    norms = chosen(place, recipe={"parameters": "norms"})
    assert set(norms.recipe.trainable) == {"gamma", "beta", "gamma2", "beta2"}
    assert norms.recipe.parameters == "norms"


# --- time -------------------------------------------------------------------------------------------------------------


def test_time_in_macs_is_exact_where_nothing_is_counted(place: Path) -> None:
    everything = chosen(place, time=10**9)
    for part in (0.7, 0.8, 0.9):
        bound = int(everything.price.time * part)
        found = chosen(place, time=bound)
        step = api.compile_model(place / "model.onnx", found.recipe, "host").training.step
        assert step.macs() == found.price.time == found.estimate <= bound
        assert found.unit == "MACs"


def measured(place: Path, recipe: Recipe) -> float:
    """Instructions of a step, as `odl run` tells them."""
    n_first = 1 if recipe.replay_layer else 0  # which has no old samples yet
    run = api.train(api.compile_model(place / "model.onnx", recipe), place / "data.npz", n_first + recipe.batch)
    return int(run.counts[n_first:, :, 0].sum()) / recipe.batch


REPLAYED = {"replay_layer": "dw", "replay_slots": 4, "replay_ratio": 3, "batch": 2}


@pytest.mark.qemu
@pytest.mark.parametrize("recipe", [{}, {"batch": 3, "momentum": 0.5}, REPLAYED])
def test_a_measured_step_takes_no_more(place: Path, recipe: dict[str, Any]) -> None:
    bound = int(measured(place, Recipe(lr=RATE, **recipe)) * 0.8)
    found = chosen(place, "qemu-zhinx", recipe, time=bound)
    assert measured(place, found.recipe) == pytest.approx(found.price.time, rel=0.01)  # of other samples
    assert found.price.time <= bound
    assert found.estimate == pytest.approx(found.price.time, rel=0.02)
    assert found.unit == "instructions"
    assert sum(found.layer_time.values()) < found.price.time


def test_layers_that_do_not_fit_together_are_measured_apart(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, found = found_rows(place, Recipe())
    offers = offered(network, Recipe(), found.rows)
    bench = Bench(place / "model.onnx", network, find_target("host"), "", place / "data.npz", 60.0)
    together = measure(bench, Recipe(), offers)
    whole = Bench.step

    def narrow(self: Bench, recipe: Recipe, name: str) -> dict[tuple[str, Phase], float]:
        kernels = {"w0", "w1", "w2", "w3"} & set(recipe.trainable)
        if len(kernels) > 1 or "w1" in kernels:
            raise FitError("does-not-fit")
        return whole(self, recipe, name)

    monkeypatch.setattr(Bench, "step", narrow)
    apart = measure(bench, Recipe(), offers)
    assert set(apart.trained) == set(offers) - {"dw"}
    assert apart.trained == {layer: together.trained[layer] for layer in apart.trained}
    assert apart.constant == together.constant
    assert sum(apart.input_gradients.values()) == sum(together.input_gradients.values())


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_budget_that_nothing_meets_is_told_with_the_least_that_can(place: Path) -> None:
    least = min(needed(place, trainable=names) for names in (("b3",), ("beta2", "gamma2"), ("b2",)))
    assert chosen(place, ram_bytes=least).price.ram_bytes <= least
    error = refusal(lambda: chosen(place, ram_bytes=least - 1))
    assert codes(error) == ["does-not-fit"]
    assert f"needs {least:,} bytes" in str(error)
    assert error.exit_code is ExitCode.DOES_NOT_FIT
    forward = refusal(lambda: chosen(place, time=1))
    macs = api.compile_model(place / "model.onnx", Recipe(trainable=("b3",)), "host").training.step.macs()
    assert f"{macs:,} MACs a step at least (fc)" in str(forward)


@pytest.mark.parametrize(("recipe", "code"), [
    ({"lora_rank": 1}, "recipe-value"), ({"trainable": ("nowhere",)}, "no-such-weight"),
    ({"last": 9}, "too-few-layers"),
])  # fmt: skip
def test_recipes_that_leave_nothing_to_choose(place: Path, recipe: dict[str, Any], code: str) -> None:
    assert codes(refusal(lambda: chosen(place, recipe=recipe))) == [code]


def test_a_model_without_weights(tmp_path: Path) -> None:
    save(tmp_path, model(node("Relu", "x", "y")))
    np.savez(tmp_path / "data.npz", x=draw(2, 4), y=np.array([0, 1]))
    assert codes(refusal(lambda: chosen(tmp_path))) == ["nothing-to-train"]


# --- the command ------------------------------------------------------------------------------------------------------


def odl(*arguments: object) -> Any:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="odl")


def test_the_command_writes_a_recipe_that_plans_and_verifies(place: Path, tmp_path: Path) -> None:
    ram, path = budgets(place)[2], tmp_path / "recipe.toml"
    common = (place / "model.onnx", "-t", "host", "--data", place / "data.npz", "--ram", ram, "--time", 12000)
    result = odl("select", *common, "--lr", RATE, "--momentum", 0.5, "-o", path, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    recipe = read_recipe(path)
    assert (recipe.lr, recipe.momentum) == (RATE, 0.5)
    assert told["recipe"] == json.loads(json.dumps(recipe.__dict__))
    assert told["ram"]["needed"] <= ram
    assert told["time"]["needed"] <= 12000
    assert sum(each["trained"] for each in told["layers"]) == pytest.approx(told["share"])
    assert sum(each["contribution"] for each in told["layers"]) == pytest.approx(1)
    plan = odl("plan", place / "model.onnx", "-t", "host", "-r", path, "--ram", ram, "--json")
    assert plan.exit_code == 0, plan.output
    assert json.loads(plan.stdout)["ram"]["needed"] == told["ram"]["needed"]
    assert json.loads(plan.stdout)["savings"]["chosen"]["macs"] == told["time"]["needed"]
    verdict = odl("verify", place / "model.onnx", "-t", "host", "-r", path, "--data", place / "data.npz", "--steps", 3)
    assert verdict.exit_code == 0, verdict.output
    kept = {each["layer"]: each["bytes"] for each in told["layers"] if each["weights"]}
    assert sum(kept.values()) < json.loads(plan.stdout)["persistent_bytes"]


def test_the_text_of_the_command(place: Path) -> None:
    bounds = ("--time", 12000, "--samples", 2)
    result = odl("select", place / "model.onnx", "-t", "host", "--data", place / "data.npz", *bounds)
    assert result.exit_code == 0, result.output
    assert "on 2 samples" in result.stdout
    assert "not kept; -o recipe.toml writes it" in result.stdout
    assert "frozen" in result.stdout
    assert "everything: " in result.stderr


def test_the_command_on_a_folder(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    how = ("-t", "host", "--data", place / "data.npz", "--steps", 1, "--lr", 0.25, "-o", folder)
    assert odl("run", place / "model.onnx", *how).exit_code == 0
    result = odl("select", folder, "--data", place / "data.npz", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["recipe"]["lr"] == 0.25
    assert json.loads(result.stdout)["target"] == "host"


def test_the_command_refuses(place: Path, tmp_path: Path) -> None:
    common = ("select", place / "model.onnx", "-t", "host", "--data")
    assert odl(*common, tmp_path / "no.npz").exit_code == ExitCode.MODEL_REFUSED
    assert odl(*common, place / "data.npz", "--ram", 100).exit_code == ExitCode.DOES_NOT_FIT
    assert odl(*common, place / "data.npz", "--time", 0).exit_code == ExitCode.USAGE
    assert odl(*common, place / "data.npz", "-o", tmp_path / "no" / "recipe.toml").exit_code == ExitCode.USAGE
