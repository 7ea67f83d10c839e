"""`odl run --checkpoint`, `odl export --checkpoint` and `odl checkpoint inspect`."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import answer, odl

from odl import load_weights, open_folder
from odl.checkpoint import _HINT
from odl.errors import ExitCode

ROOT = Path(__file__).resolve().parent.parent
N_STEPS = 12


@pytest.fixture(scope="module")
def uncut(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of N_STEPS on the host without checkpoints."""
    folder = tmp_path_factory.mktemp("runs") / "uncut"
    assert odl(*command(model, data), "-o", folder).exit_code == 0
    return folder


def command(model: Path, data: Path, target: str = "host", steps: int = N_STEPS) -> list[object]:
    return ["run", model, "-t", target, "--data", data, "--steps", steps, "--momentum", 0.5]


def same_weights(one: Path, other: Path) -> bool:
    compiled = open_folder(one)
    found = [load_weights(folder, compiled) for folder in (one, other)]
    return all((found[0][name] == found[1][name]).all() for name in found[0])


@pytest.mark.parametrize(
    ("target", "on"), [("host", "host"), ("qemu-zhinx", "qemu"), ("qemu-zfh", "qemu"), ("pulp-open", "qemu")]
)
def test_a_run_in_parts_is_the_run(target: str, on: str, model: Path, data: Path, uncut: Path, tmp_path: Path) -> None:
    image, folder = tmp_path / "flash.bin", tmp_path / "run"
    kept = ["--on", on, "--checkpoint", image, "--checkpoint-every", 2]
    first = answer(*command(model, data, target, 5), *kept)
    assert (first["steps"], first["resumed_at"], first["checkpoints"]) == (5, 0, {"saved": 3, "failed": 0})
    then = answer(*command(model, data, target), *kept, "-o", folder)
    assert (then["steps"], then["resumed_at"], then["checkpoints"]) == (7, 5, {"saved": 4, "failed": 0})
    weights = [np.load(path / "weights.npz") for path in (folder, uncut)]
    names = [dict(zip(each["names"], range(len(each["names"])), strict=True)) for each in weights]
    assert names[0].keys() == names[1].keys()
    assert all((weights[0][f"w{names[0][n]}"] == weights[1][f"w{names[1][n]}"]).all() for n in names[0])
    kept_figures = (folder / "odl.json").read_bytes()
    done = answer(*command(model, data, target), *kept, "-o", folder)
    assert (done["steps"], done["resumed_at"], done["loss"]) == (0, N_STEPS, [])
    assert (folder / "odl.json").read_bytes() == kept_figures
    assert "all steps were done before" in odl(*command(model, data, target), *kept).stdout


def test_killed_and_started_again(model: Path, data: Path, tmp_path: Path) -> None:
    """SIGKILL to all of it, at any moment: what a power cut is to a program."""
    image, folder, uncut, killed = tmp_path / "flash.bin", tmp_path / "run", tmp_path / "uncut", 0
    steps = command(model, data, steps=1500)
    assert odl(*steps, "-o", uncut).exit_code == 0
    words = [*steps, "--checkpoint", image, "--checkpoint-every", 1, "-o", folder]
    for n_lines in (40, 200, 300):
        argv = [sys.executable, "-m", "odl", *map(str, words)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as child:
            assert child.stdout
            for _ in range(n_lines):
                child.stdout.readline()
            os.kill(child.pid, signal.SIGSTOP)
            for pid in Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
                killed += 1
            os.kill(child.pid, signal.SIGKILL)
    result = answer(*words)
    assert same_weights(folder, uncut)
    assert result["resumed_at"] >= 1
    assert killed


def test_what_an_image_holds(model: Path, data: Path, uncut: Path, tmp_path: Path) -> None:
    image = tmp_path / "flash.bin"
    odl(*command(model, data), "--checkpoint", image)
    found = answer("checkpoint", "inspect", image)
    assert [(s["state"], s["sequence"], s["position"]) for s in found["slots"]] == [("whole", 0, 10), ("whole", 1, 12)]
    assert found["tensors"] == []
    flags = ("--model", model, "-t", "host", "--momentum", 0.5)
    tensors = {t["name"]: t for t in answer("checkpoint", "inspect", image, *flags)["tensors"]}
    trained = load_weights(uncut, open_folder(uncut))
    assert list(tensors) == list(trained)
    assert tensors["conv.w"] | {"changed": 0} == {"name": "conv.w", "role": "weight", "elements": 72, "changed": 0}
    assert 20 < tensors["conv.w"]["changed"] <= 72
    assert tensors["progress"]["changed"] > 0
    text = odl("checkpoint", "inspect", image, *flags).stdout
    assert "whole" in text
    assert "conv.w" in text
    foreign = answer("checkpoint", "inspect", image, "--model", model, exit_code=ExitCode.MODEL_REFUSED)
    assert foreign["error"]["problems"][0]["code"] == "checkpoint-foreign"


def test_export_from_an_image(model: Path, data: Path, uncut: Path, tmp_path: Path) -> None:
    image, wanted, found = tmp_path / "flash.bin", tmp_path / "run.onnx", tmp_path / "image.onnx"
    odl(*command(model, data), "--checkpoint", image)
    assert odl("export", uncut, "-o", wanted).exit_code == 0
    made_with = (["export", uncut], ["export", model, "-t", "host", "--momentum", 0.5])
    for words in made_with:
        assert odl(*words, "--checkpoint", image, "-o", found).exit_code == 0
        assert found.read_bytes() == wanted.read_bytes()
    assert model.read_bytes() != wanted.read_bytes()
    code = odl("export", uncut, "--lr", 0.5, "-o", found)
    assert "recipe-fixed" in code.stderr


def refused(*words: object) -> str:
    error = answer(*words, exit_code=ExitCode.MODEL_REFUSED)["error"]
    return str(error["problems"][0]["code"])


def test_images_that_will_not_do(model: Path, data: Path, tmp_path: Path) -> None:
    image, run = tmp_path / "flash.bin", command(model, data)
    keep = ("--checkpoint", image)
    assert odl(*run, *keep).exit_code == 0
    other = tmp_path / "other.npz"
    np.savez(other, x=np.zeros((12, 2, 6, 6)), y=np.arange(12) % 3)
    assert refused(*command(model, other), *keep) == "checkpoint-other-data"
    assert refused(*run, "--lr", 0.3, *keep) == "checkpoint-foreign"
    assert refused(*command(model, data, steps=5), *keep) == "checkpoint-ahead"
    assert refused(*run, "--checkpoint", tmp_path) == "not-a-file"
    good = image.read_bytes()
    for content, code in (
        (good[:-1], "checkpoint-size"), (good[:4096], "checkpoint-size"), (b"", "checkpoint-size"),
        (good + good + b"12", "checkpoint-size"),
    ):  # fmt: skip
        image.write_bytes(content)
        assert refused(*run, *keep) == code
    assert refused("checkpoint", "inspect", tmp_path / "none.bin") == "file-missing"
    image.write_bytes(b"\xff" * len(good))
    export = ("export", model, "-t", "host", "--momentum", 0.5, *keep, "-o", tmp_path / "out.onnx")
    assert refused(*export) == "checkpoint-none"
    image.write_bytes(b"?" * len(good))
    assert refused(*export) == refused(*run, *keep) == "not-an-image"
    assert set(image.read_bytes()) == {ord("?")}
    image.write_bytes(damaged(good, 20, len(good) // 2 + 20))
    assert refused(*export) == "checkpoint-damaged"
    anew = odl(*run, *keep)
    assert f"{image}: begins anew, since slot 0: its header is damaged; slot 1: its header is damaged" in anew.stderr
    assert answer(*run, *keep)["resumed_at"] == N_STEPS


def damaged(image: bytes, *places: int) -> bytes:
    """An image with a bit flipped in each of these bytes."""
    content = bytearray(image)
    for at in places:
        content[at] ^= 4
    return bytes(content)


@pytest.fixture(scope="module")
def image(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Two whole slots."""
    path = tmp_path_factory.mktemp("image") / "flash.bin"
    assert odl(*command(model, data), "--checkpoint", path).exit_code == 0
    return path.read_bytes()


@pytest.mark.parametrize(
    ("content", "code", "why"),
    [
        (b"", "checkpoint-size", "it is empty"),
        (b"ODLC", "checkpoint-size", "4 bytes are not two slots of one size, 72 at least"),
        (b"\xff" * 101, "checkpoint-size", "101 bytes are not two slots of one size, 72 at least"),
        (b"x" * 101, "not-an-image", "101 bytes are not two slots of one size, 72 at least"),
        (b"\x89PNG\r\n\x1a\n" * 100, "not-an-image", "slot 0: it does not begin with a header"),
        (bytes(8192), "not-an-image", "slot 0: it does not begin with a header"),
    ],
    ids=["empty", "short", "odd", "odd text", "PNG", "zeros"],
)
def test_a_file_that_is_no_image(content: bytes, code: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "some.bin"
    path.write_bytes(content)
    error = answer("checkpoint", "inspect", path, exit_code=ExitCode.MODEL_REFUSED)["error"]
    assert (error["problems"][0]["code"], error["problems"][0]["hint"]) == (code, _HINT)
    assert error["problems"][0]["why"].endswith(why)


def test_a_region_that_is_not_the_checkpoints(image: bytes, tmp_path: Path) -> None:
    """More of the flash than it should be, before or behind; or less."""
    path = tmp_path / "dump.bin"
    path.write_bytes(bytes(512) + image)
    first, _ = answer("checkpoint", "inspect", path)["slots"]
    assert first["why"] == (
        "it does not begin with a header, but one lies at byte 512: this is more or less than the region of a flash"
    )
    path.write_bytes(image + bytes(len(image)))
    first, second = answer("checkpoint", "inspect", path)["slots"]
    assert first["state"] == "whole"
    assert second["why"].startswith(f"it does not begin with a header, but one lies at byte {len(image) // 2:,}: ")
    path.write_bytes(image[:600])
    first, _ = answer("checkpoint", "inspect", path)["slots"]
    assert first["why"].endswith("bytes are cut off: half of this file has room for 264")


@pytest.mark.parametrize(("at", "why"), [(20, "its header is damaged"), (300, "its tensors are damaged")])
def test_what_of_a_slot_is_damaged(at: int, why: str, image: bytes, model: Path, tmp_path: Path) -> None:
    path, half = tmp_path / "flash.bin", len(image) // 2
    path.write_bytes(damaged(image, at))
    found = answer("checkpoint", "inspect", path)["slots"]
    assert [(slot["state"], slot["why"]) for slot in found] == [("damaged", why), ("whole", "")]
    assert f"slot 0: {why}" in odl("checkpoint", "inspect", path).stdout.splitlines()
    path.write_bytes(damaged(image, at, half + 20))
    words = ("checkpoint", "inspect", path, "--model", model, "-t", "host", "--momentum", 0.5)
    (problem,) = answer(*words, exit_code=ExitCode.MODEL_REFUSED)["error"]["problems"]
    assert problem["why"] == f"neither of its slots is whole: slot 0: {why}; slot 1: its header is damaged"


def test_numpy_has_no_flash(model: Path, data: Path, tmp_path: Path) -> None:
    error = answer(*command(model, data), "--on", "numpy", "--checkpoint", tmp_path / "f", exit_code=ExitCode.USAGE)
    assert error["error"]["problems"][0]["code"] == "no-flash"


def test_two_runs_do_not_share_an_image(model: Path, data: Path, tmp_path: Path) -> None:
    image = tmp_path / "flash.bin"
    assert odl(*command(model, data), "--checkpoint", image).exit_code == 0
    image.write_bytes(b"\xff" * image.stat().st_size)
    with image.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        error = answer(*command(model, data), "--checkpoint", image, exit_code=ExitCode.USAGE)["error"]
    assert error["problems"][0]["code"] == "checkpoint-in-use"
    assert set(image.read_bytes()) == {0xFF}
