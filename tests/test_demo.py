"""The demo: what it shows is true, it needs no terminal, and it goes on without QEMU."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

import odl
from odl.compare import Difference, Verdict

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "examples/demo.py"


def run(output: Path, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, DEMO, "-o", output, *arguments], env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The demo as `make demo` runs it, but on the host, which computes the same bits sooner."""
    output = tmp_path_factory.mktemp("demo")
    return run(output, "--target", "host"), output


def accuracies(text: str, what: str) -> list[tuple[float, float]]:
    found = re.findall(rf"{what} +([\d.]+)% before, ([\d.]+)% after", text)
    return [(float(before), float(after)) for before, after in found]


def test_both_networks_learn_what_is_new(whole: tuple[str, Path]) -> None:
    (digits, words) = accuracies(whole[0], "held out")
    assert 40 < digits[0] < 55
    assert digits[1] > 85
    assert 25 < words[0] < 45
    assert words[1] > 90


def test_what_it_shows_is_what_it_leaves_behind(whole: tuple[str, Path]) -> None:
    text, output = whole
    for at, name in enumerate(("digits_resnet8", "words_dscnn")):
        folder = output / name
        tuned = folder / "tuned.onnx"
        onnx.checker.check_model(onnx.load(tuned), full_check=True)
        found = odl.evaluate(odl.compile_model(tuned, target="host"), folder / "data/eval.npz", on="host")
        assert f"{found['accuracy']:.1%}" == f"{accuracies(text, 'held out')[at][1]}%"
        assert (folder / "c/include/odl_model.h").is_file()
        with np.load(folder / "data/adapt.npz") as adapt:
            assert re.search(rf"steps \d+ to {len(adapt['y'])} ", text), "not every sample once"


def test_it_is_plain_text_that_tells_what_is_synthetic(whole: tuple[str, Path]) -> None:
    text, _ = whole
    assert text.isascii()
    assert text.replace("\n", "").isprintable()
    assert max(map(len, text.splitlines())) <= 110
    assert "synthetic" in text
    assert "a made one" in text
    assert text.count("the same bits as in NumPy") == 2


# In-process, for what cannot be had otherwise.


@pytest.fixture
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.qemu
def test_it_counts_instructions_on_the_microcontroller(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def of_eight(compiled: odl.Compiled, data: Path, weights: object = None) -> object:
        few = tmp_path / "few.npz"
        with np.load(data) as every:
            np.savez(few, x=every["x"][:8], y=every["y"][:8])
        return evaluate(compiled, few, weights)

    evaluate = odl.evaluate
    monkeypatch.setattr(odl, "evaluate", of_eight)
    monkeypatch.setattr(sys, "argv", ["demo.py", "-o", str(tmp_path), "--steps", "2"])
    demo.main()
    text = capsys.readouterr().out
    assert text.count("qemu-zhinx: RV32 with FP16") == 2
    counts = [int(count.replace(",", "")) for count in re.findall(r"([\d,]+) instructions for", text)]
    assert len(counts) == 2
    assert all(1e7 < count < 2e8 for count in counts)
    assert "of 8 samples" in text


def test_without_qemu_it_goes_on_with_the_host(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ODL_QEMU", str(tmp_path / "none"))
    example = demo.EXAMPLES[0]
    compiled = demo.checked(example, "qemu-zhinx", example.files(tmp_path) / "adapt.npz")
    assert compiled.target.name == "host"
    said = capsys.readouterr().out
    assert "simulator-missing" in said
    assert "apt-get install" in said
    assert said.index("Going on without it") < said.index("the same bits as in NumPy")


def test_a_wrong_bit_stops_it(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = Verdict(False, 1, 9, 99, (1.0,), Difference(0, "fc", "dense", "fc.out", (0, 3), 0, 1))
    monkeypatch.setattr(odl, "verify", lambda *_: wrong)
    monkeypatch.setattr(odl, "train", lambda *_: pytest.fail("trained all the same"))
    monkeypatch.setattr(sys, "argv", ["demo.py", "-o", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        demo.main()
    assert stop.value.code == odl.ExitCode.BITS_DIFFER
    assert "BITS DIFFER" in capsys.readouterr().out


def test_another_error_has_its_exit_code(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["demo.py", "-o", str(tmp_path), "--target", "toaster"])
    with pytest.raises(SystemExit) as stop:
        demo.main()
    assert stop.value.code == odl.ExitCode.USAGE
    assert "unknown-target" in capsys.readouterr().err
