"""The command line: what it prints where, what it writes, and how it ends."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest
from click.testing import Result
from commands import VERBS, answer, odl, save_model
from models import draw, node
from models import model as small_model
from onnx import numpy_helper

import odl as library
from odl import api, load_weights
from odl.cli import COMMANDS
from odl.console import printable
from odl.errors import ExitCode, OdlError
from odl.ops._importer import IMPORTS
from odl.ops.relu import Relu
from odl.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
STEPS = 5


@pytest.fixture(scope="session")
def trained(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A run's folder, and what `odl run` said."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, odl("run", model, "-t", "host", "--data", data, "--steps", STEPS, "--lr", 0.1, "-o", folder)


# --- the face ---------------------------------------------------------------------------------------------------------


def test_help_names_every_verb_exit_code_and_the_completion() -> None:
    text = odl("--help").stdout
    assert all(f"\n  {verb} " in text for verb in VERBS)
    assert all(f"{code.value} {code.name.lower().replace('_', ' ')}" in text for code in ExitCode)
    assert "_ODL_COMPLETE" in text


@pytest.mark.parametrize("verb", VERBS)
def test_help_says_of_a_verb_what_it_says_of_itself(verb: str) -> None:
    told = " ".join((VERBS[verb].help or "").split())
    assert told.startswith(COMMANDS[verb])


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_the_common_options(verb: str) -> None:
    command = VERBS[verb]
    for each in command.commands.values() if isinstance(command, click.Group) else [command]:
        assert {"--json", "-v", "-q"} <= {flag for parameter in each.params for flag in parameter.opts}


@pytest.mark.parametrize("field", fields(Recipe), ids=lambda field: field.name)
def test_every_word_of_the_recipe_is_a_flag_with_help(field: Field[Any]) -> None:
    (option,) = [parameter for parameter in VERBS["run"].params if parameter.name == field.name]
    assert isinstance(option, click.Option)
    assert option.opts == [f"--{field.name.replace('_', '-')}"]
    assert not (option.help or "").startswith(" ")


def test_version() -> None:
    assert odl("--version").stdout.split() == ["odl", library.__version__]


# --- verbs ------------------------------------------------------------------------------------------------------------


def test_ops_is_the_registry() -> None:
    told = {row["operator"]: row["limits"] for row in answer("ops")["operators"]}
    assert told == {name: imported.limits for name, imported in IMPORTS.items()}
    lines = odl("ops").stdout.splitlines()
    assert len(lines) == 1 + len(IMPORTS)
    assert all(line.endswith(told[line.split()[0]]) for line in lines[1:])


@pytest.mark.parametrize(
    ("variable", "tool"), [("ODL_QEMU", "QEMU"), ("ODL_CC", "compiler for qemu-zhinx")], ids=["QEMU", "compiler"]
)
def test_doctor_fails_where_the_default_target_cannot_run(
    monkeypatch: pytest.MonkeyPatch, variable: str, tool: str
) -> None:
    monkeypatch.setenv(variable, "/nowhere/tool")
    result = odl("doctor", "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["usable"]) == (ExitCode.TOOL_MISSING, False)
    (missing,) = [status for status in told["tools"] if status["name"] == tool]
    assert not missing["found"]
    assert missing["hint"] in odl("doctor").stdout


@pytest.mark.qemu
def test_doctor_is_content_here() -> None:
    result = odl("doctor")
    assert result.exit_code == ExitCode.OK
    assert "qemu-zhinx can be compiled and run here" in result.stdout


def test_check_counts_by_hand(model: Path) -> None:
    told = answer("check", model)
    conv, relu, *_, fc, _ = told["layers"]
    assert (conv["shape"], conv["storage"], conv["macs"]) == ([1, 4, 6, 6], [1, 6, 6, 4], 6 * 6 * 4 * 3 * 3 * 2)
    assert [weight["shape"] for weight in conv["weights"]] == [[4, 2, 3, 3], [4]]
    assert (relu["macs"], relu["weights"], fc["macs"]) == (0, [], 4 * 3)
    assert told["macs"] == {"forward": 2592 + 12, "step": 2 * 2592 + 3 * 12}
    assert (told["weights"], told["trained_weights"]) == (72 + 4 + 12 + 3, 91)
    lines = [line.split() for line in odl("check", model, "--trainable", "fc*").stdout.splitlines()]
    assert ["conv", "1x4x6x6", "2,592", "76", "0"] in [line[:5] for line in lines]
    assert ["fc", "1x3", "12", "15", "15"] in [line[:5] for line in lines]


def test_check_counts_a_shared_weight_once(tmp_path: Path) -> None:
    layers = [node("Gemm", "x w b", "h", "one", transB=1), node("Gemm", "h w b", "y", "two", transB=1)]
    onnx.save(small_model(*layers, w=draw(4, 4), b=draw(4)), tmp_path / "shared.onnx")
    told = answer("check", tmp_path / "shared.onnx")
    assert [len(layer["weights"]) for layer in told["layers"]] == [2, 0]
    assert told["weights"] == 4 * 4 + 4


def test_check_reports_what_binary16_loses(tmp_path: Path) -> None:
    path = save_model(tmp_path / "small.onnx", smallest=1e-9)
    assert answer("check", path)["vanished"] == {"conv.w": 1, "conv.b": 1, "fc.w": 1, "fc.b": 1}
    assert "1 elements of 'conv.w' become zero" in odl("check", path).stdout


def test_a_refusal_tells_every_problem_on_both_channels(tmp_path: Path) -> None:
    path = save_model(tmp_path / "odd.onnx", relu="Erf")
    proto = onnx.load(path)
    proto.graph.node[5].op_type = "Hardmax"
    onnx.save(proto, path)
    result = odl("check", path, "--json")
    assert result.exit_code == ExitCode.MODEL_REFUSED
    told = json.loads(result.stdout)
    assert {"schema_version", "odl_version"} <= set(told)
    assert told["error"]["exit_code"] == 3
    assert [problem["where"] for problem in told["error"]["problems"]] == ["Erf 'relu'", "Hardmax 'softmax'"]
    assert result.stderr.count("error: unsupported-operator") == 2
    assert odl("check", path).stdout == ""


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    path = save_model(tmp_path / "evil.onnx", name="a\x1b[31m\nb")
    text = odl("check", path).stdout
    assert "\x1b" not in text
    assert r"a\x1b[31m\nb" in text
    assert printable("a\x07\u202eb\n") == "a\\x07\\u202eb\n"


def test_plan_shows_order_and_map(model: Path) -> None:
    told = answer("plan", model)
    step, infer = told["entries"]
    assert (step["entry"], infer["entry"]) == ("train_step", "infer")
    assert told["ram"]["fits"]
    size = told["arena_bytes"]["arena"]
    assert told["arena_lower_bound"] <= size
    assert size == max(b["offset"] + b["bytes"] + -b["bytes"] % 8 for b in step["blocks"] if b["space"] == "arena")
    lines = odl("plan", model).stdout.splitlines()
    assert len([line for line in lines if line.strip()[:1].isdigit()]) == len(step["nodes"]) + len(infer["nodes"])
    assert any(f"{size:,} bytes: {told['persistent_bytes']:,} persistent" in line for line in lines)


def test_a_plan_ends_with_its_verdict(model: Path) -> None:
    """The first lines are out of sight on a terminal. Of a memory that no chip has nothing is said."""
    told = answer("plan", model, "--ram", "20K")
    needed, flash = told["ram"]["needed"], sum(told["flash_bytes"].values())
    verdict = odl("plan", model, "--ram", "20K").stdout.splitlines()[-1]
    assert verdict == f"fits: {needed:,} of 20,480 bytes of RAM at the peak, {flash:,} of flash beside the code"
    verdict = odl("plan", model, "--ram", "8K").stdout.splitlines()[-1]
    assert verdict.startswith(f"does not fit: {needed:,} of 8,192 bytes of RAM at the peak, {needed - 8192:,} too many")
    for target in ("qemu-zhinx", "host"):
        text = odl("plan", model, "-t", target).stdout
        ram = answer("plan", model, "-t", target)["ram"]
        assert text.splitlines()[-1].startswith(f"needs {ram['needed']:,} bytes of RAM at the peak, ")
        assert f"{ram['available']:,}" not in text


def test_a_plan_that_does_not_fit_is_shown_all_the_same(model: Path) -> None:
    told = answer("plan", model, "--ram", "8K", exit_code=ExitCode.DOES_NOT_FIT)
    assert told["ram"] == {
        "needed": told["arena_bytes"]["arena"] + 8192,
        "available": 8192,
        "fits": False,
        "open": False,
    }
    result = odl("plan", model, "--ram", "8K")
    assert "does not fit" in result.stdout
    assert "error: does-not-fit" in result.stderr
    assert odl("plan", model, "--ram", "20k").exit_code == ExitCode.OK


@pytest.mark.parametrize(("text", "exit_code"), [("1M", 0), ("64KiB", 0), ("0", 2), ("-1", 2), ("x", 2)])
def test_sizes(model: Path, text: str, exit_code: int) -> None:
    assert odl("plan", model, "--ram", text).exit_code == exit_code


def test_build_writes_a_project(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a project"
    told = answer("build", model, "-t", "host", "-o", folder)
    assert Path(told["elf"]).is_file()
    assert Path(told["elf"]).is_relative_to(folder)
    assert (folder / "Makefile").is_file()
    assert answer("plan", folder)["target"] == "host"
    assert odl("build", model, "-t", "host", "-o", folder).exit_code == ExitCode.OK


def test_build_leaves_a_foreign_folder_alone(model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    result = odl("build", model, "-t", "host", "-o", tmp_path)
    assert result.exit_code == ExitCode.USAGE
    assert "foreign-folder" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.qemu
def test_a_build_that_the_linker_refuses_leaves_nothing(model: Path, tmp_path: Path) -> None:
    needed = answer("plan", model)["ram"]["needed"]
    assert odl("build", model, "-o", tmp_path / "new", "--ram", needed).exit_code == ExitCode.DOES_NOT_FIT
    assert list(tmp_path.iterdir()) == []


def test_run_streams_what_verify_confirms(model: Path, data: Path, trained: tuple[Path, Result]) -> None:
    _, result = trained
    assert result.exit_code == ExitCode.OK, result.output
    told = answer("verify", model, "-t", "host", "--data", data, "--steps", STEPS, "--lr", 0.1)
    assert (told["equal"], told["steps"], told["first_difference"]) == (True, STEPS, None)
    assert set(told) >= {"tensors", "values", "loss", "schema_version", "odl_version", "model_sha256"}
    streamed = [line.split() for line in result.stdout.split("\n\n")[0].splitlines()]
    assert [int(step) for step, _ in streamed] == list(range(STEPS))
    assert [np.float32(loss) for _, loss in streamed] == [np.float32(loss) for loss in told["loss"]]
    assert result.stderr == ""


def test_run_json_has_the_contract(model: Path, data: Path) -> None:
    told = answer("run", model, "--on", "host", "--data", data, "--steps", 4, "--batch", 2)
    assert (told["steps"], len(told["loss"]), told["on"], told["target"]) == (4, 4, "host", "qemu-zhinx")
    assert told["per_step"] == {"macs": 5220}
    assert sum(layer["macs"] for layer in told["layers"]) == 5220
    (conv,) = [layer for layer in told["layers"] if layer["layer"] == "conv"]
    assert set(conv["phases"]) == {"forward", "weight_gradient", "update"}
    assert told["arena_lower_bound"] <= told["arena_bytes"]["arena"]
    assert told["stack_bytes"] == 0


def test_run_eval_export_agree(model: Path, data: Path, trained: tuple[Path, Result], tmp_path: Path) -> None:
    folder, _ = trained
    tuned = tmp_path / "tuned.onnx"
    told = answer("export", folder, "-o", tuned)
    assert sorted(told["trained"]) == ["conv.b", "conv.w", "fc.b", "fc.w"]
    before, after = (
        {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer} for path in (model, tuned)
    )
    assert all((before[name].astype(np.float16) != after[name]).any() for name in before)
    scores = [answer("eval", what, "--data", data) for what in (folder, tuned)]
    assert [score["correct"] for score in scores] == [scores[0]["correct"]] * 2
    assert scores[0]["samples"] == 12
    on_host = answer("eval", folder, "--data", data, "--on", "host")
    assert (on_host["on"], on_host["correct"]) == ("host", scores[0]["correct"])
    assert on_host["confusion"] == scores[0]["confusion"]
    assert sum(map(sum, on_host["confusion"])) == 12


def test_no_build_goes_over_what_was_trained(trained: tuple[Path, Result], tmp_path: Path) -> None:
    folder, _ = trained
    kept = (folder / "weights.npz").read_bytes()
    refused = odl("build", folder, "-o", folder)
    assert (refused.exit_code, "holds-a-run" in refused.stderr) == (ExitCode.USAGE, True)
    assert (folder / "weights.npz").read_bytes() == kept
    built = odl("build", folder, "-o", tmp_path / "c")
    assert "odl export it first" in built.stderr


def test_eval_takes_the_folder_of_a_build(model: Path, data: Path, tmp_path: Path) -> None:
    answer("build", model, "-t", "host", "-o", tmp_path / "c")
    told = answer("eval", tmp_path / "c", "--data", data)
    assert told["correct"] == answer("eval", model, "--data", data)["correct"]


@pytest.mark.parametrize(("words", "said"), [
    (("--batch", 300), "no batch of 300 was full"),
    ((), "% of the weights' steps not taken, by chance"), (("--master", "none"), "% of the weights' steps lost"),
])  # fmt: skip
def test_what_a_run_says_about_itself(model: Path, data: Path, words: tuple[object, ...], said: str) -> None:
    told = odl("run", model, "--on", "numpy", "-t", "host", "--data", data, "--steps", 5, *words)
    assert said in told.output


def test_a_run_in_numpy_is_a_run(model: Path, data: Path, tmp_path: Path) -> None:
    """It streams, counts nothing, and leaves a folder from which the same weights come as from the host's."""
    common = ("--data", data, "--steps", 7, "--batch", 3, "--lr", 0.1)
    runs = [odl("run", model, "--on", on, *common, "-o", tmp_path / on) for on in ("numpy", "host")]
    streams = [run.stdout.split("\n\n")[0] for run in runs]
    assert streams[0] == streams[1]
    assert len(streams[0].splitlines()) == 7
    assert "7 on numpy" in runs[0].stdout
    for on in ("numpy", "host"):
        answer("export", tmp_path / on, "-o", tmp_path / f"{on}.onnx")
    assert (tmp_path / "numpy.onnx").read_bytes() == (tmp_path / "host.onnx").read_bytes()
    told = answer("run", model, "--on", "numpy", *common)
    assert (told["on"], told["per_step"], told["stack_bytes"]) == ("numpy", {"macs": 5220}, 0)


def test_eval_shows_the_matrix(model: Path, data: Path) -> None:
    lines = odl("eval", model, "--data", data).stdout.splitlines()
    assert lines[0].startswith("accuracy ")
    assert lines[2].split()[:3] == ["class", "samples", "right"]
    assert len(lines) == 3 + 3


def test_a_run_folder_remembers(model: Path, trained: tuple[Path, Result]) -> None:
    folder, _ = trained
    note = json.loads((folder / "odl.json").read_text())
    assert note["recipe"]["lr"] == 0.1
    assert (note["steps"], note["on"]) == (STEPS, "host")
    own = hashlib.sha256(model.read_bytes()).hexdigest()
    assert own != hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    assert [note["model_sha256"], *(answer("check", path)["model_sha256"] for path in (model, folder))] == [own] * 3


def test_eval_takes_no_recipe_for_a_run(trained: tuple[Path, Result], data: Path) -> None:
    result = odl("eval", trained[0], "--data", data, "--momentum", 0)
    assert result.exit_code == ExitCode.USAGE
    assert "recipe-fixed" in result.stderr


def test_a_run_goes_on(model: Path, data: Path, trained: tuple[Path, Result], tmp_path: Path) -> None:
    """From the weights of the first, by its recipe; without the word it starts anew."""
    folder, _ = trained
    again = answer("run", folder, "--data", data, "--steps", 2)
    assert again["loss"] == answer("run", model, "-t", "host", "--lr", 0.1, "--data", data, "--steps", 2)["loss"]
    more = answer("run", folder, "--continue", "--data", data, "--steps", 2, "--output", tmp_path / "more")
    assert more["loss"] != again["loss"]
    compiled = api.open_folder(folder)
    n_seen = len(json.loads((folder / "odl.json").read_text())["loss"])
    wanted = api.train(compiled, data, n_seen + 5)
    assert more["loss"] == list(wanted.loss)[n_seen : n_seen + 2]
    most = answer("run", tmp_path / "more", "--continue", "--data", data, "--steps", 3)
    assert most["loss"] == list(wanted.loss)[n_seen + 2 :]
    others = shutil.copyfile(data, tmp_path / "others.npz")
    with others.open("ab") as file:
        file.write(bytes(1))
    wanted = api.train(compiled, data, 2, weights=load_weights(folder, compiled))
    assert answer("run", folder, "--continue", "--data", others, "--steps", 2)["loss"] == list(wanted.loss)
    assert answer("run", model, "--continue", "--data", data, "--steps", 2, exit_code=ExitCode.USAGE)["error"]
    fixed = odl("run", folder, "--continue", "--data", data, "--steps", 2, "--lr", 0.2)
    assert "recipe-fixed" in fixed.stderr


def other_shapes() -> bytes:
    file = io.BytesIO()
    np.savez(file, **{f"w{i}": np.zeros(1, np.float16) for i in range(4)})
    return file.getvalue()


@pytest.mark.parametrize("damage", [None, b"", b"not a zip", other_shapes()], ids=["gone", "empty", "text", "shapes"])
def test_damaged_weights_are_refused(
    trained: tuple[Path, Result], data: Path, tmp_path: Path, damage: bytes | None
) -> None:
    folder = shutil.copytree(trained[0], tmp_path / "run")
    (folder / "weights.npz").unlink()
    if damage is not None:
        (folder / "weights.npz").write_bytes(damage)
    for command in (("eval", folder, "--data", data), ("export", folder, "-o", tmp_path / "tuned.onnx")):
        result = odl(*command)
        assert result.exit_code == ExitCode.USAGE, result.output
        assert "not-a-run" in result.stderr
    assert not (tmp_path / "tuned.onnx").exists()


def test_a_bad_output_folder_is_told_before_the_work(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "train", lambda *_: pytest.fail("it trained"))
    (tmp_path / "mine.txt").write_text("mine")
    result = odl("run", model, "--data", data, "--steps", 1, "-o", tmp_path)
    assert (result.exit_code, "foreign-folder" in result.stderr) == (ExitCode.USAGE, True)


def test_flags_go_over_the_file_over_the_folder(model: Path, data: Path, tmp_path: Path) -> None:
    recipe, first, second = tmp_path / "recipe.toml", tmp_path / "first", tmp_path / "second"
    recipe.write_text('lr = 0.25\nmomentum = 0.5\ntrainable = ["fc"]\n')
    common = ("-t", "host", "--data", data, "--steps", 1)
    assert odl("run", model, "-r", recipe, "--momentum", 0, *common, "-o", first).exit_code == ExitCode.OK
    assert odl("run", first, "--lr", 2, *common, "-o", second).exit_code == ExitCode.OK
    recipes = [json.loads((folder / "odl.json").read_text())["recipe"] for folder in (first, second)]
    assert [(r["lr"], r["momentum"], r["trainable"]) for r in recipes] == [(0.25, 0.0, ["fc"]), (2.0, 0.0, ["fc"])]
    assert answer("check", first)["model_sha256"] == answer("check", second)["model_sha256"]


def break_relu(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's ReLU from now on says 0x0034 for one element."""
    right = Relu.evaluate

    def wrong(self: Relu, inputs: Any) -> Any:
        (result,) = right(self, inputs)
        bits = result.copy().view(np.uint16)
        bits[0, 1, 2, 3] = 0x0034
        return (bits.view(np.float16),)

    monkeypatch.setattr(Relu, "evaluate", wrong)


def test_verify_finds_the_bit(model: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_relu(monkeypatch)
    command = ("verify", model, "-t", "host", "--data", data, "--steps", 3)
    told = answer(*command, exit_code=ExitCode.BITS_DIFFER)
    found = told["first_difference"]
    assert not told["equal"]
    assert (found["step"], found["layer"], found["tensor"], found["index"]) == (0, "relu", "r", [0, 1, 2, 3])
    assert found["expected"] == {"bits": "0x0034", "value": 0x34 * 2.0**-24}
    actual = np.array(int(found["actual"]["bits"], 16), np.uint16).view(np.float16)
    assert found["actual"]["value"] == actual != found["expected"]["value"]
    result = odl(*command)
    assert result.exit_code == ExitCode.BITS_DIFFER
    words = ("relu", "[0, 1, 2, 3]", f"on host {found['actual']['bits']}", "in NumPy 0x0034")
    assert all(word in " ".join(result.stdout.split()) for word in words), result.stdout
    assert "error: bits-differ: relu" in result.stderr


def test_dump_prints_the_library_s_text(model: Path) -> None:
    text = str(api.compile_model(model).program)
    assert odl("dump", model, "--stage", "program").stdout == text
    assert answer("dump", model, "--stage", "program")["text"] == text


@pytest.mark.qemu
def test_run_counts_instructions(model: Path, data: Path) -> None:
    told = answer("run", model, "--data", data, "--steps", 4, "--batch", 2)
    step = told["per_step"]["instructions"]
    phases = [cost["instructions"] for layer in told["layers"] for cost in layer["phases"].values()]
    assert sum(phases) == pytest.approx(step)
    assert all(count > 0 for count in phases)
    assert told["stack_bytes"] > 0
    text = odl("run", model, "--data", data, "--steps", 4, "--batch", 2).stdout
    assert f"{step:,.0f} instructions" in text


# --- how it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        (("nonsense",), 2),
        (("check",), 2),
        (("run", "m.onnx", "--steps", "1"), 2),
        (("run", "m.onnx", "--data", "d", "--steps", "0"), 2),
        (("plan", "m.onnx", "-t", "abacus"), 2),
        (("check", "m.onnx", "--lr", "-1"), 2),
        (("check", "m.onnx", "--lr", "nan"), 2),
        (("check", "m.onnx", "-r", "missing.toml"), 2),
        (("check", "m.onnx", "--optimizer", "magic"), 2),
        (("export", ".", "-o", "t.onnx"), 2),
        (("check", "m.onnx"), 3),
        (("check", "."), 3),
    ],
)
def test_exit_codes(
    arguments: tuple[str, ...], exit_code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = odl(*arguments)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert result.stderr


def test_bad_data_and_on(model: Path, data: Path, tmp_path: Path) -> None:
    common = ("verify", model, "--steps", 1, "--data")
    assert odl(*common, tmp_path / "none.npz").exit_code == ExitCode.MODEL_REFUSED
    assert odl(*common, data, "-t", "host", "--on", "qemu").exit_code == ExitCode.USAGE
    assert odl(*common, data, "--trainable", "nothing*").exit_code == ExitCode.USAGE


@pytest.mark.parametrize("kind", OdlError.__subclasses__())
def test_every_refusal_has_its_exit_code(kind: type[OdlError], model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise kind("some-code", "here", "because", "do this")

    monkeypatch.setattr(api, "compile_model", refuse)
    told = answer("plan", model, exit_code=kind.exit_code)
    assert told["error"]["problems"] == [{"code": "some-code", "where": "here", "why": "because", "hint": "do this"}]
    result = odl("plan", model)
    assert result.stderr == "error: some-code: here: because\n  hint: do this\n"


def test_a_bug_is_one_line_and_with_v_a_traceback(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("two\nlines")

    monkeypatch.setattr(api, "compile_model", fail)
    result = odl("plan", model)
    assert result.exit_code == ExitCode.BUG
    assert result.stderr == "bug: ValueError: two lines; please report it, with the output of -v\n"
    assert "Traceback" in odl("plan", model, "-v").stderr


def test_infinities_are_valid_json(model: Path, data: Path) -> None:
    np.savez(data.with_name("huge.npz"), x=np.full((2, 2, 6, 6), 6e4), y=[0, 1])
    told = answer("run", model, "-t", "host", "--data", data.with_name("huge.npz"), "--steps", 3, "--lr", 1000)
    assert all(isinstance(loss, float) or loss in ("NaN", "Infinity") for loss in told["loss"])
    assert "NaN" in told["loss"]
    run = odl("run", model, "-t", "host", "--data", data.with_name("huge.npz"), "--steps", 3, "--lr", 1000)
    assert "a lower --lr may help" in run.stderr


def test_a_run_does_not_replace_c_code(model: Path, data: Path, tmp_path: Path) -> None:
    assert odl("build", model, "-t", "host", "-o", tmp_path / "c").exit_code == 0
    result = odl("run", model, "-t", "host", "--data", data, "--steps", 2, "-o", tmp_path / "c")
    assert result.exit_code == ExitCode.USAGE
    assert "holds-a-project" in result.stderr
    assert (tmp_path / "c/src/odl_model.c").is_file()
