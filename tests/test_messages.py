"""What refusals of recipes, sizes, data and folders say: whole sentences of our own, all at once, and how to go on."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from models import cnn, compiled, draw, mlp, refusal, save

from odl import load_weights
from odl.api import Compiled
from odl.cli import cli
from odl.data import load_data
from odl.errors import OdlError
from odl.project import read_origins
from odl.recipe import Recipe, read_recipe
from odl.trainable import select

# --- recipes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("recipe", "told"), [
    ({"nesterov": True}, "nesterov: needs a momentum above 0"),
    ({"replay_slots": 10}, "replay_slots: needs a replay_layer, whose outputs the slots keep"),
    ({"replay_layer": "relu"}, "replay_slots: must be at least 1 where a replay_layer is given"),
    ({"optimizer": "adam", "momentum": 0.9}, "momentum: belongs to sgd alone: adam has beta1"),
    ({"clip_norm": 1.0}, 'clip_norm: needs all gradients at once: updates = "kept", or a batch above 1'),
    ({"replay_layer": "relu", "replay_slots": 3, "loss": "mse"},
     "replay_layer: needs labels, so the loss must be cross_entropy: mse has none"),
    ({"loss_scaling": "none", "loss_scale": 2.0}, "loss_scale: must be 1 where loss_scaling is none"),
    ({"loss_scaling": "dynamic", "scale_growth": 3.0},
     "scale_growth: 3.0 is no power of two, which a dynamic loss scale needs"),
    ({"lr_schedule": "cosine", "lr": 0.1, "lr_least": 0.2}, "lr_least: must not be above lr: 0.2 is above 0.1"),
    ({"trainable": ()}, "trainable: must hold at least one pattern"),
    ({"parameters": "biases", "lora_rank": 1},
     "lora_rank: needs parameters = all: it cannot choose among biases alone"),
    ({"channels": ("fc=0.5",), "lora_rank": 1},
     "channels: cannot be given where lora_rank is not 0: adapters have no channels"),
    ({"channels": ("fc",)},
     "channels: 'fc' is neither PATTERN=FIRST:LAST with FIRST < LAST nor PATTERN=SHARE with 0.0 < SHARE <= 1.0"),
    ({"last": -1}, "last: must be at least 0 and at most 2^31 - 1, not -1"),
    ({"momentum": 1.5}, "momentum: must be at least 0 and below 1, not 1.5"),
    ({"lr": 1e39}, "lr: must be above 0 and at most 3.4e38, not 1e+39"),
    ({"scale_backoff": 1.0}, "scale_backoff: must be at least 2^-16 and at most 0.5, not 1.0"),
    ({"replay_ratio": 0}, "replay_ratio: must be at least 1 and at most 1024, not 0"),
    ({"seed": 2**32}, "seed: must be at least 0 and at most 2^32 - 1, not 4294967296"),
    ({"optimizer": "sdg"}, "optimizer: must be one of sgd, adam, adamw, not 'sdg'"),
    ({"batch": 1.5}, "batch: must be a whole number, not 1.5"),
])  # fmt: skip
def test_a_rule_is_a_sentence(recipe: dict[str, Any], told: str) -> None:
    (problem,) = refusal(lambda: Recipe(**recipe)).problems
    assert f"{problem.where}: {problem.why}" == told


def test_the_largest_seed_is_one() -> None:
    assert Recipe(seed=2**32 - 1).seed == 2**32 - 1


def recipe_error(folder: Path, text: str) -> OdlError:
    (folder / "recipe.toml").write_text(text)
    return refusal(lambda: read_recipe(folder / "recipe.toml"))


def test_a_file_is_told_all_that_is_wrong_in_it(tmp_path: Path) -> None:
    text = 'lr = -1.0\nmomentum = 1.5\nbatch = 0\noptimizer = "sdg"\nseed = "x"\nlr_shedule = "step"\n'
    error = recipe_error(tmp_path, text)
    keys = ["lr_shedule", "optimizer", "lr", "momentum", "batch", "seed"]
    assert [problem.where for problem in error.problems] == [f"{tmp_path / 'recipe.toml'}: {key}" for key in keys]
    assert [problem.code for problem in error.problems] == ["recipe-word", *["recipe-value"] * 4, "recipe-type"]


def test_contradictions_are_told_at_once_and_only_of_sound_keys(tmp_path: Path) -> None:
    error = recipe_error(tmp_path, "nesterov = true\nclip_norm = 1.0\nreplay_slots = 3\n")
    assert [problem.where.split(": ")[1] for problem in error.problems] == ["nesterov", "clip_norm", "replay_slots"]
    (problem,) = recipe_error(tmp_path, 'momentum = 0.9\noptimizer = "sdg"\n').problems
    assert problem.where.endswith(": optimizer")


@pytest.mark.parametrize(("key", "near"), [("lr_shedule", "lr_schedule"), ("Momentum", "momentum"), ("rank", "lora_")])
def test_an_unknown_key_is_told_its_neighbour_and_not_all(tmp_path: Path, key: str, near: str) -> None:
    (problem,) = recipe_error(tmp_path, f"{key} = 1\n").problems
    assert problem.hint.startswith(f"did you mean {near}")
    assert "accumulate" not in problem.hint


def test_a_key_without_neighbours_is_told_all(tmp_path: Path) -> None:
    (problem,) = recipe_error(tmp_path, "epochs = 1\n").problems
    assert "accumulate, batch, " in problem.hint


@pytest.mark.parametrize("text", ["[training]\nlr = 0.1\n", "[[training]]\nlr = 0.1\n", "[lr]\nvalue = 1\n"])
def test_a_recipe_has_no_tables(tmp_path: Path, text: str) -> None:
    (problem,) = recipe_error(tmp_path, text).problems
    assert problem.code == "recipe-word"
    assert problem.why == "a recipe has no tables: keys stand at the top"


@pytest.mark.parametrize(("pattern", "hint"), [
    ("C*", "near it: c0, conv (case counts); all names: beta, c0, conv, "),
    ("cnov", "near it: conv (case counts); all names: beta, c0, conv, "),
    ("nothing*", "names: beta, c0, conv, "),
])  # fmt: skip
def test_a_pattern_is_told_names_near_it(tmp_path: Path, pattern: str, hint: str) -> None:
    graph = compiled(tmp_path, cnn()).model.graph
    assert refusal(lambda: select(graph, Recipe(trainable=(pattern,)))).problems[0].hint.startswith(hint)


# --- sizes ------------------------------------------------------------------------------------------------------------


def odl(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="odl")


@pytest.mark.parametrize(("text", "n_bytes"), [
    ("1.5K", 1536), ("0.5M", 1 << 19), ("1G", 1 << 30), ("1.5gib", 3 << 29), ("64KiB", 65536), ("0.3k", 307),
])  # fmt: skip
def test_sizes(tmp_path: Path, text: str, n_bytes: int) -> None:
    told = odl("plan", save(tmp_path, mlp()), "--ram", text).output
    assert f" of {n_bytes:,}" in told, told


@pytest.mark.parametrize("text", ["1.5", "1.M", ".5M", "1T", "0.0G", "0.0001K", "1.5.5M"])
def test_no_sizes(tmp_path: Path, text: str) -> None:
    result = odl("plan", save(tmp_path, mlp()), "--ram", text)
    assert (result.exit_code, "is no size such as 65536, 64K, 1.5M or 1G" in result.stderr) == (2, True)


# --- data -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    return compiled(tmp_path_factory.mktemp("images"), cnn())


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """4 inputs, 3 outputs, mse."""
    return compiled(tmp_path_factory.mktemp("vectors"), mlp(), loss="mse")


X, Y = draw(5, 2, 6, 6), np.array([0, 1, 2, 0, 1])


def data_error(folder: Path, network: Compiled, **arrays: Any) -> tuple[str, str]:
    np.savez(folder / "data.npz", **arrays)
    (problem,) = refusal(lambda: load_data(folder / "data.npz", network.training)).problems
    return problem.why, problem.hint


@pytest.mark.parametrize(("name", "content", "why"), [
    ("none.npz", None, "there is no such file"),
    ("text.npz", b"text", "is no .npz file, or not a whole one"),
    ("empty.npz", b"", "is no .npz file, or not a whole one"),
    ("array.npy", b"\x93NUMPY\x01\x00", "is a single array (.npy), not an .npz file with x and y"),
    (".", None, "this is a folder, not an .npz file"),
])  # fmt: skip
def test_files_that_are_no_data(tmp_path: Path, images: Compiled, name: str, content: bytes | None, why: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    (problem,) = refusal(lambda: load_data(tmp_path / name, images.training)).problems
    assert (problem.code, problem.why) == ("data-unreadable", why)
    assert "numpy.savez" in problem.hint


@pytest.mark.parametrize(("name", "content", "why"), [
    ("model.onnx", cnn().SerializeToString(), "is an ONNX model, not an .npz file with x and y"),
    ("model.bin", cnn().SerializeToString(), "is an ONNX model, not an .npz file with x and y"),
    ("model.onnx", b"", "is no .npz file, or not a whole one"),
    ("model.onnx", None, "there is no such file"),
])  # fmt: skip
def test_a_model_where_data_belong(
    tmp_path: Path, images: Compiled, name: str, content: bytes | None, why: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    (problem,) = refusal(lambda: load_data(tmp_path / name, images.training)).problems
    assert (problem.code, problem.why) == ("data-unreadable", why)
    assert problem.hint.startswith("an ONNX file goes where the command line says MODEL, data to --data: numpy.savez")


def test_data_where_a_model_belongs(tmp_path: Path) -> None:
    for name, write in (("data.npz", np.savez), ("data.npz", np.savez_compressed), ("x.npy", np.save)):
        write(tmp_path / name, X)
        told = odl("check", tmp_path / name).stderr
        assert told.startswith("error: file-unreadable: ")
        assert told.endswith(
            f"{name}: this is a file of NumPy arrays, not an ONNX file\n"
            "  hint: MODEL is the ONNX file, data goes to --data\n"
        ), told
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:  # as PyTorch writes, and Keras
        archive.writestr("data.pkl", "")
    assert "it cannot be read as ONNX" in odl("check", tmp_path / "net.pt").stderr


def test_objects_are_told_without_a_word_of_pickle(tmp_path: Path, images: Compiled) -> None:
    why, hint = data_error(tmp_path, images, x=np.array([None]), y=Y)
    assert why == "is damaged, or its arrays hold Python objects instead of numbers"
    assert "numpy.savez" in hint


@pytest.mark.parametrize(("shape", "hint"), [
    ((5, 6, 6, 2), "channels come first: x.transpose(0, 3, 1, 2)"),
    ((5, 6, 2, 6), "the first axis counts samples, the others are in the order of the ONNX file"),
])  # fmt: skip
def test_samples_of_another_shape(tmp_path: Path, images: Compiled, shape: tuple[int, ...], hint: str) -> None:
    found = data_error(tmp_path, images, x=np.ones(shape), y=Y)
    assert found == (f"holds {shape}, the model wants (N, 2, 6, 6)", hint)
    if "transpose" in hint:
        np.savez(tmp_path / "data.npz", x=np.ones(shape).transpose(0, 3, 1, 2), y=Y)
        assert len(load_data(tmp_path / "data.npz", images.training)) == 5


def test_labels_for_mse(tmp_path: Path, vectors: Compiled) -> None:
    why, hint = data_error(tmp_path, vectors, x=np.ones((5, 4)), y=Y)
    assert why == "holds (5,), the model wants (N, 3)"
    assert hint == "class labels are for --loss cross_entropy"


@pytest.mark.parametrize(("y", "hint"), [
    (np.eye(3)[Y], "of one-hot rows: y.argmax(axis=1)"),
    (Y.astype(float), "y.astype(int)"),
    (Y > 0, "y.astype(int)"),
    (Y[:, None], "y.ravel().astype(int)"),
    (Y + 0.5, "y holds the number of one class for each sample; for other targets use --loss mse"),
    (np.ones((5, 4)), "y holds the number of one class for each sample; for other targets use --loss mse"),
    (np.array(1), "y holds the number of one class for each sample; for other targets use --loss mse"),
    (Y.astype(str), "y holds the number of one class for each sample; for other targets use --loss mse"),
])  # fmt: skip
def test_labels_that_are_no_integers(tmp_path: Path, images: Compiled, y: Any, hint: str) -> None:
    why, told = data_error(tmp_path, images, x=X, y=y)
    assert (why, told) == (f"{y.dtype} of shape {y.shape} is not (N,) of integers", hint)
    if hint.endswith(")"):
        mended = eval(hint.split(": ")[-1], {"y": y})
        np.savez(tmp_path / "data.npz", x=X, y=mended)
        wanted = y.ravel() if y.shape != (5, 3) else Y
        assert (load_data(tmp_path / "data.npz", images.training).targets.ravel() == wanted).all()


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "content", "why"), [
    ("model.onnx", None, "is a file, not a folder"),
    ("nowhere", None, "there is no such folder"),
    (".", None, "holds no odl.json"),
    (".", "no JSON", "its odl.json cannot be used"),
    (".", '{"recipe": 3}', "its odl.json cannot be used"),
])  # fmt: skip
def test_export_of_what_is_no_run(tmp_path: Path, name: str, content: str | None, why: str) -> None:
    save(tmp_path, mlp())
    if content:
        (tmp_path / "odl.json").write_text(content)
    result = odl("export", tmp_path / name, "-o", tmp_path / "x.onnx")
    hint = "give a folder that odl run -o or odl build -o wrote"
    assert result.stderr == f"error: not-a-project: {tmp_path / name}: {why}\n  hint: {hint}\n"


def test_a_recipe_in_a_folder_is_told_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "odl.json").write_text('{"recipe": {"lr": 0.0, "wrong": 1}, "target": "host"}')
    problems = refusal(lambda: read_origins(tmp_path)).problems
    assert [problem.where for problem in problems] == [f"{tmp_path / 'odl.json'}: {key}" for key in ("wrong", "lr")]


@pytest.mark.parametrize("content", [None, b"text"])
def test_a_folder_without_weights(tmp_path: Path, vectors: Compiled, content: bytes | None) -> None:
    if content:
        (tmp_path / "weights.npz").write_bytes(content)
    (problem,) = refusal(lambda: load_weights(tmp_path, vectors)).problems
    assert problem.why == ("does not hold the weights of this model" if content else "holds no weights.npz")
    assert problem.hint == "give a folder that odl run -o wrote"
