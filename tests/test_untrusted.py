"""Models from anyone: what is generated of them holds no text of theirs but as names, comments and strings; compiling
them takes bounded time and memory; nothing is written outside of the output folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from models import cnn, save
from test_code_generation import EVERY, by_nodes_and_weights, by_values

from campaigns.blowups import BLOWUPS, BYTES, SECONDS, measured
from odl.api import Compiled, compile_model, note
from odl.project import MARKER, MODEL, write_project
from odl.recipe import Recipe

ROOT = Path(__file__).parent.parent

# --- text -------------------------------------------------------------------------------------------------------------

_TRIGRAPHS = {"=": "#", "/": "\\", "'": "^", "(": "[", ")": "]", "!": "|", "<": "{", ">": "}", "-": "~"}
_TOKEN = re.compile(
    r"/\*.*?\*/|//[^\n]*|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'|[A-Za-z_]\w*|\.?[0-9](?:[eEpP][+-]|[\w.])*|\s+|.",
    re.S,
)


def tokens(text: str) -> list[str]:
    """What a C compiler sees, one that knows trigraphs: lines spliced, comments gone, strings all the same."""
    text = re.sub(r"\?\?([=/'()!<>-])", lambda found: _TRIGRAPHS[found[1]], text).replace("\\\n", "")
    found = [token for token in _TOKEN.findall(text) if not token.isspace() and not token.startswith(("/*", "//"))]
    return ['""' if token.startswith('"') else token for token in found]


def test_the_lexer_sees_what_a_compiler_sees() -> None:
    assert tokens("a /* b */ c // d\ne") == ["a", "c", "e"]
    assert tokens("a /* b *??/\n/ c */ d") == ["a", "c", "*", "/", "d"]
    assert tokens("// a \\\nb\nc // d ??/\ne\nf") == ["c", "f"]
    assert tokens('x = "a\\"b"; 1.5e-3f') == ["x", "=", '""', ";", "1.5e-3f"]


def told_everywhere(proto: onnx.ModelProto, text: str) -> onnx.ModelProto:
    """The model with `text` wherever ONNX has room for words."""
    proto.producer_name = proto.producer_version = proto.domain = proto.doc_string = text
    proto.graph.name = proto.graph.doc_string = text
    proto.metadata_props.add(key=text, value=text)
    for each in (*proto.graph.node, *proto.graph.initializer, *proto.graph.input, *proto.graph.output):
        each.doc_string = text
    return proto


def project(folder: Path, proto: onnx.ModelProto) -> tuple[Compiled, Path]:
    folder.mkdir()
    compiled = compile_model(save(folder, proto), Recipe(momentum=0.5), "host")
    made = folder / "project"
    made.mkdir()
    write_project(made, compiled.title, compiled.program, compiled.training, compiled.target)
    note(made, compiled)
    return compiled, made


def files(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("make", [by_nodes_and_weights, by_values])
def test_no_text_of_a_model_becomes_c(tmp_path: Path, make: object) -> None:
    """Every hostile name that there is, and as many harmless ones: the same C but for identifiers, one for one."""
    hostile_names = EVERY
    harmless_names = [f"plain{at}" for at in range(len(hostile_names))]
    text = "".join(hostile_names)
    _, hostile = project(tmp_path / "hostile", told_everywhere(make(hostile_names), text))  # type: ignore[operator]
    _, harmless = project(tmp_path / "harmless", told_everywhere(make(harmless_names), "plain"))  # type: ignore[operator]
    ours, theirs = files(harmless), files(hostile)
    assert list(ours) == list(theirs)
    forth: dict[str, str] = {}
    back: dict[str, str] = {}
    for name in ours:
        if not name.endswith((".c", ".h")):
            continue
        one, two = (tokens(path.read_text(encoding="ascii")) for path in (ours[name], theirs[name]))
        assert len(one) == len(two), name
        for mine, other in zip(one, two, strict=True):
            if mine != other and not (mine.startswith("0x") and other.startswith("0x")):  # the model's number
                assert re.fullmatch(r"[A-Za-z]\w*", mine), (name, mine, other)
                assert re.fullmatch(r"[A-Za-z]\w*", other), (name, mine, other)
                assert forth.setdefault(mine, other) == other, (name, mine, other)
                assert back.setdefault(other, mine) == mine, (name, mine, other)
    assert len(forth) > len(hostile_names) // 2, "names that no identifier shows prove nothing"


def test_no_text_of_a_model_reaches_other_files(tmp_path: Path) -> None:
    """Makefile, CMakeLists.txt and README.md are those of any model; odl.json tells of it by its hash."""
    _, hostile = project(tmp_path / "hostile", told_everywhere(by_nodes_and_weights(EVERY), "".join(EVERY)))
    _, harmless = project(tmp_path / "harmless", cnn())
    for name, path in files(hostile).items():
        if (
            name.startswith(("include/odl_model", "include/odl_k", "include/odl_w", "include/odl_t", "src/"))
            or name == MODEL
        ):
            continue
        if name == MARKER:
            notes = [json.loads((folder / MARKER).read_text()) for folder in (hostile, harmless)]
            for each in notes:
                del each["model_sha256"]
            assert notes[0] == notes[1]
        elif (harmless / name).exists() and name != "include/odl_config.h":
            assert path.read_bytes() == (harmless / name).read_bytes(), name
    assert {"Makefile", "CMakeLists.txt", "README.md"} <= set(files(hostile)) & set(files(harmless))


# --- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, blowup in BLOWUPS.items() if blowup.quick])
def test_blowups_stay_within_bounds(name: str) -> None:
    """The others are measured by `make fuzz`."""
    found = measured(name)
    assert found["within"], found


def test_the_bounds_are_those_of_the_page() -> None:
    told = (ROOT / "docs/RELIABILITY.md").read_text()
    assert f"{SECONDS} seconds and {BYTES >> 30} GiB" in told


# --- folders ----------------------------------------------------------------------------------------------------------


def odl(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """The command line, with all places of this world below `folder`."""
    here = {**os.environ, "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-B", "-m", "odl", *arguments]
    return subprocess.run(command, cwd=folder / "here", env=here, capture_output=True, timeout=180, check=False)


def test_nothing_is_written_outside_of_the_output_folder(tmp_path: Path) -> None:
    """Whatever nodes are called; and what is shown on a terminal cannot steer it."""
    for name in ("home", "tmp", "here", "in"):
        (tmp_path / name).mkdir()
    path = save(tmp_path / "in", told_everywhere(by_nodes_and_weights(EVERY[::5]), "\x1b]0;mine\x07../../up"))
    before = set(files(tmp_path))
    for arguments in (["check"], ["plan", "--json"], ["build", "-o", "out", "-t", "host"]):
        done = odl(tmp_path, arguments[0], str(path), *arguments[1:])
        assert done.returncode == 0, done.stderr
        shown = (done.stdout + done.stderr).decode()
        assert all(character.isprintable() or character == "\n" for character in shown)
    new = set(files(tmp_path)) - before
    cached = {name for name in new if name.startswith("home/.cache/")}  # objects, by what they are made of
    assert all(name.startswith("here/out/") for name in new - cached), sorted(new)[:5]
    assert not list((tmp_path / "tmp").iterdir())
    assert not [name for name in new if "up" in Path(name).parts or "passwd" in name]
