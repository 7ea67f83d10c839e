"""Names that C dislikes, folders that cannot be written: what comes out compiles without a warning, or not at all."""

from __future__ import annotations

import ast
import ctypes
import errno
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import odl
from host_c import FLAGS, compilers
from hypothesis import given
from hypothesis import strategies as st
from models import cnn, compiled, draw, mlp, model, node, refusal, save

from odl import api, cnames, codegen
from odl.api import Compiled
from odl.compare import Device, verify
from odl.data import Data
from odl.errors import ExitCode, UsageError
from odl.fp16 import half
from odl.program import ARENA
from odl.project import write_project
from odl.recipe import Recipe, read_recipe
from odl.share import share
from odl.staging import staged
from odl.targets import simulator_for
from odl.toolchain import BuildResult, compile_project, find_toolchain, project_variables

MARKER = "odl.json"

NAMES: dict[str, Sequence[str]] = {
    "keywords": ("while", "int", "return", "_Bool", "typeof", "asm", "bool", "true", "constexpr"),
    "types-of-headers": ("uint32_t", "int32_t", "size_t", "odl_half", "odl_window", "uint8_t", "uintptr_t"),
    "macros": ("NULL", "HALF", "FLOAT", "AFTER", "SAMPLES_SEEN", "ODL_MODEL_H", "UINT32_MAX", "INFINITY", "I", "unix"),
    "functions": ("main", "odl_init", "odl_train_step", "train_step", "infer", "memcpy", "exp", "y1", "printf", "abs"),
    "variables": ("sample", "arena", "label", "loss", "output", "i", "at", "from", "to", "odl_zeros", "odl_state"),
    "leading-digits": ("0", "1conv", "2/3", "3.14", "0x10", "1e5"),
    "collisions": ("a.b", "a_b", "a/b", "a b", "a__b", "A_B", "a_b_2", "a.b.2", ".a.b.", "a-b", "A-B"),
    "one-window-name": ("conv", "conv_window", "conv/window", "conv_window_2", "CONV"),
    "comment-enders": ("a*/b", "*/", "/*", "a/*b", "*/ int x = ; /*", "**//", "/*/", "*\\", "\\*", "//", "*\\/"),
    "line-ends": ("a\nb", "a\\", "a\\\nb", "\r\n", "a\tb", "#define x\n#if", "\x00z", "\x1b[31m", "a\u2028b", "a\x85b"),
    "trigraphs": ("a??/", "??/", "*??/\n/", "??=define", "a??'b", "?\\?/"),
    "quotes-and-formats": ('"', "'", '";}', "%s%n", "\\x41", "\\0", "\\", '\\"', "{{ x }}", "{% raw %}", "{#", "$(rm)"),
    "paths": ("../../up", "/root", "C:\\x", "a/b/c:0", "~", ".", ".."),
    "other-scripts": ("größe", "大小", "вес", "😀", "e\u0301", "\u202egnp.exe", "\u200b", "ﬁ", "ＡＢ"),
    "long": ("n" * 1000, "n" * 999 + "m", "N" * 1000, "*/" * 500, "é" * 1000, "??/" * 333),
    "empty": ("", "", ""),
}  # fmt: skip


def by_nodes_and_weights(names: Sequence[str]) -> onnx.ModelProto:
    """A chain of convolutions whose nodes and kernels bear `names`."""
    nodes, weights, source = [], {}, "\x01in"
    for at, name in enumerate(names):
        weight = name or f"kernel {at}"
        weights[weight] = draw(2, 2, 3, 3, seed=at)
        conv = node("Conv", "", "", name, pads=[1, 1, 1, 1])
        conv.input.extend([source, weight])
        source = f"step {at}"
        conv.output.append(source)
        nodes.append(conv)
    return finished(nodes, weights, source)


def by_values(names: Sequence[str]) -> onnx.ModelProto:
    """A chain of activations whose values, the input too, bear `names`."""
    nodes, source = [], names[0]
    for name in names[1:]:
        step = node("Tanh", "", "")
        step.input.append(source)
        step.output.append(name)
        nodes.append(step)
        source = name
    return finished(nodes, {}, source, names[0])


def finished(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], source: str, first: str = "\x01in"
) -> onnx.ModelProto:
    """The chain with a pool and a dense layer behind it, and all names in the graph's own name."""
    pool = node("GlobalMaxPool", "", "end pool", "end pool")
    pool.input.append(source)
    tail = [pool, node("Flatten", "", "end flat"), node("Gemm", "", "end", "end")]
    tail[1].input.append("end pool")
    tail[2].input.extend(["end flat", "end weight"])
    for last in (pool, *tail[1:]):
        del last.output[:]
    pool.output.append("end pool")
    tail[1].output.append("end flat")
    tail[2].output.append("end")
    proto = model(*nodes, *tail, x=(1, 2, 3, 3), outputs="end", **weights, **{"end weight": draw(2, 3)})
    proto.graph.input[0].name = first
    proto.graph.name = "".join(weights) or first
    return proto


def generated(folder: Path, proto: onnx.ModelProto, **recipe: object) -> tuple[Compiled, Path]:
    program = compiled(folder, proto, **recipe)
    project = folder / "project"
    project.mkdir()
    write_project(project, program.title, program.program, program.training, program.target)
    return program, project


def agrees(program: Compiled, result: BuildResult) -> None:
    """Two steps on this machine give the executor's bits."""
    shape = program.training.step.inputs[program.training.sample].shape
    data = Data(half(draw(2, *shape)), np.array([[0], [1]], np.int32))
    device = Device(simulator_for(program.target), result.elf)
    assert verify(program.program, program.training, data, device, lambda *_: None).equal


# --- names


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        *((kind, by_nodes_and_weights) for kind in NAMES),
        *((kind, by_values) for kind in NAMES if kind != "empty"),
    ],
)
def test_names(tmp_path: Path, kind: str, make: Callable[[Sequence[str]], onnx.ModelProto]) -> None:
    """The sources that names reach are C, with all warnings as errors."""
    program, project = generated(tmp_path, make(NAMES[kind]), momentum=0.5)
    told = project_variables(program.target)
    flags = [*str(told["flags"]).split(), *str(told["warnings"]).split(), "-fsyntax-only", "-Iinclude", "-DODL_TRACE"]
    sources = [f"src/odl_{name}.c" for name in ("model", "weights", "trace")]
    subprocess.run([*find_toolchain(program.target).cc, *flags, *sources], cwd=project, check=True, timeout=60)


EVERY = list(dict.fromkeys(name for names in NAMES.values() for name in names if name))


@pytest.mark.parametrize("compiler", compilers(), ids=lambda command: Path(command[0]).name)
@pytest.mark.parametrize("make", [by_nodes_and_weights, by_values])
def test_all_names_at_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Sequence[str]], onnx.ModelProto],
    compiler: list[str],
) -> None:
    """The program runs, gives the executor's bits, and tells the names of its weights as ONNX has them."""
    monkeypatch.setenv("ODL_CC", " ".join(compiler))
    program, project = generated(tmp_path, make(EVERY), batch=2)
    agrees(program, compile_project(project, program.target, find_toolchain(program.target), trace=True))
    assert weight_names(project, tmp_path) == [
        resident.tensor.name.replace("\0", "\ufffd")
        for resident in program.program.residents
        if resident.buffer.space == ARENA
    ]


def weight_names(project: Path, scratch: Path) -> list[str]:
    """The names in odl_state, as the C library of the model tells them."""

    class Weight(ctypes.Structure):
        _fields_ = (("name", ctypes.c_char_p), ("n_bytes", ctypes.c_uint32), ("offset", ctypes.c_uint32))

    library = scratch / "model.so"
    sources = [str(path) for path in sorted((project / "src").rglob("*.c")) if path.name != "odl_trace.c"]
    command = [*compilers()[0], *FLAGS, f"-I{project / 'include'}", "-o", str(library), *sources]
    subprocess.run(command, check=True, timeout=120)
    model = ctypes.CDLL(str(library))
    count = ctypes.c_uint32.in_dll(model, "odl_state_count").value
    table = (Weight * count).in_dll(model, "odl_state")
    return [weight.name.decode() for weight in table]


@given(st.text())
def test_any_name_becomes_an_identifier(name: str) -> None:
    word = cnames.Names()[name]
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,60}", word)
    assert not word.isupper()
    assert word not in ("while", "int", "arena", "uint32_t")


@given(st.lists(st.text(alphabet="aA._/ 2", min_size=1, max_size=5), unique=True, max_size=40))
def test_two_names_never_share_an_identifier(names: list[str]) -> None:
    known = cnames.Names()
    words = [known[name] for name in names]
    others = [known.new(name) for name in names]
    assert len({*words, *others}) == 2 * len(names)
    assert [known[name] for name in names] == words


@given(st.text(alphabet=st.sampled_from("*/\\?\n\r\u2028a'=")) | st.text())
def test_any_text_fits_into_a_comment(text: str) -> None:
    comment = cnames.comment(text)
    assert "*/" not in comment
    assert "/*" not in comment
    assert "??" not in comment
    assert "\\" not in comment
    assert len(comment.splitlines()) <= 1


@given(st.text())
def test_any_text_survives_as_a_string(text: str) -> None:
    literal = cnames.string(text)
    assert literal.isascii()
    assert literal.isprintable()
    assert "?" not in literal
    assert ast.literal_eval("b" + literal).decode() == text.replace("\0", "\ufffd")


# --- folders


def build(program: Compiled, folder: Path) -> Path:
    """What `odl build` does to a folder, without the compiler."""
    with staged(folder, MARKER) as inside:
        write_project(inside, program.title, program.program, program.training, program.target)
        (inside / MARKER).write_text("{}")
    return folder


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    return compiled(tmp_path_factory.mktemp("program"), mlp())


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def folder_error(program: Compiled, folder: Path) -> str:
    error = refusal(lambda: build(program, folder))
    assert error.exit_code == ExitCode.USAGE
    return error.code


def test_new_folder_with_new_parents(tmp_path: Path, program: Compiled) -> None:
    folder = build(program, tmp_path / "a" / "b" / "project")
    assert (folder / "src/odl_model.c").is_file()
    assert [path.name for path in folder.parent.iterdir()] == ["project"]


def test_own_folder_is_replaced_whole(tmp_path: Path, program: Compiled) -> None:
    folder = build(program, tmp_path / "project")
    before = tree(folder)
    (folder / "stray").write_text("left over")
    assert tree(build(program, folder)) == before
    assert [path.name for path in tmp_path.iterdir()] == ["project"]


def test_empty_folder_is_filled(tmp_path: Path, program: Compiled) -> None:
    (tmp_path / "project").mkdir()
    assert (build(program, tmp_path / "project") / MARKER).is_file()


def test_foreign_folder_is_not_touched(tmp_path: Path, program: Compiled) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1").write_text("words")
    assert folder_error(program, folder) == "foreign-folder"
    assert tree(tmp_path) == {"thesis/chapter1": b"words"}


def test_file_in_the_place_of_the_folder(tmp_path: Path, program: Compiled) -> None:
    (tmp_path / "project").write_text("a file")
    assert folder_error(program, tmp_path / "project") == "foreign-folder"
    assert (tmp_path / "project").read_text() == "a file"


@pytest.mark.parametrize("below", ["project", "deep/project"])
def test_folder_below_a_file(tmp_path: Path, program: Compiled, below: str) -> None:
    """What even root cannot write to."""
    (tmp_path / "file").write_text("")
    assert folder_error(program, tmp_path / "file" / below) == "folder-unwritable"
    assert tree(tmp_path) == {"file": b""}


@pytest.mark.parametrize("name", ["n" * 300, "n" * 250, "a\0b"], ids=["too-long", "too-long-for-a-sibling", "nul"])
def test_folder_name_that_cannot_be(tmp_path: Path, program: Compiled, name: str) -> None:
    assert folder_error(program, tmp_path / name) == "folder-unwritable"
    assert not tree(tmp_path)


@pytest.mark.parametrize("name", ["with spaces", " leading", "größe 大小", "-o", "$(id);'\"", "a\nb", "x" * 200])
def test_odd_folder_names(tmp_path: Path, program: Compiled, name: str) -> None:
    assert tree(build(program, tmp_path / name)) == tree(build(program, tmp_path / "plain"))


def test_project_compiles_in_a_folder_with_an_odd_name(tmp_path: Path, program: Compiled) -> None:
    folder = build(program, tmp_path / "größe 大小 $x;'")
    agrees(program, compile_project(folder, program.target, find_toolchain(program.target), trace=True))


def test_current_folder(tmp_path: Path, program: Compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    build(program, Path())
    assert (tmp_path / "here" / MARKER).is_file()


def test_link_to_a_folder(tmp_path: Path, program: Compiled) -> None:
    build(program, tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    before = tree(tmp_path / "real")
    (tmp_path / "real" / "stray").write_text("")
    build(program, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert tree(tmp_path / "real") == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_run_that_fails_leaves_what_was_there(tmp_path: Path, program: Compiled, error: type[BaseException]) -> None:
    def fail() -> None:
        with staged(tmp_path / "project", MARKER) as inside:
            (inside / "half").write_text("done")
            raise error

    before = tree(build(program, tmp_path / "project"))
    with pytest.raises((error, UsageError)):
        fail()
    assert tree(tmp_path / "project") == before
    assert [path.name for path in tmp_path.iterdir()] == ["project"]


def test_move_that_fails_brings_back_what_was_there(
    tmp_path: Path, program: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(build(program, tmp_path / "project"))
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(errno.EIO, "the disk is gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    assert folder_error(program, tmp_path / "project") == "folder-unwritable"
    assert tree(tmp_path / "project") == before


def test_folder_that_becomes_foreign_meanwhile(tmp_path: Path) -> None:
    folder = tmp_path / "project"

    def collide() -> None:
        with staged(folder, MARKER) as inside:
            (inside / MARKER).write_text("{}")
            folder.mkdir()
            (folder / "theirs").write_text("words")

    assert refusal(collide).code == "foreign-folder"
    assert tree(tmp_path) == {"project/theirs": b"words"}


def test_runs_at_once(tmp_path: Path) -> None:
    """Eight writers of one folder: none fails, and the folder is always one run's alone."""
    errors: list[BaseException] = []

    def write(run: int) -> None:
        try:
            for turn in range(20):
                with staged(tmp_path / "project", MARKER) as inside:
                    for name in (MARKER, "a", "b"):
                        (inside / name).write_text(f"{run} {turn}")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(run,)) for run in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(set(tree(tmp_path / "project").values())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["project"]


# --- the same bytes again


def test_rerun_is_byte_identical_under_another_hash_seed(tmp_path: Path) -> None:
    path = save(tmp_path, cnn())
    script = (
        "import sys; from pathlib import Path; from odl import Recipe, compile_model; from odl.project import *\n"
        "program = compile_model(sys.argv[1], Recipe(momentum=0.5, batch=2), 'qemu-zhinx')\n"
        "folder = Path(sys.argv[2]); folder.mkdir()\n"
        "write_project(folder, program.title, program.program, program.training, program.target)\n"
        "note_origins(folder, program.model, program.recipe, program.target.name)\n"
        "(folder / 'stages').write_text('\\n'.join(map(str, (*program.graphs, program.plan, program.program))))\n"
    )
    for seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", script, str(path), str(tmp_path / seed)]
        subprocess.run(command, env=environment, check=True, timeout=120)
    assert tree(tmp_path / "0") == tree(tmp_path / "1") == tree(tmp_path / "4242")


def test_generated_files_are_ascii_and_tell_no_time(tmp_path: Path) -> None:
    _, project = generated(tmp_path, by_nodes_and_weights(NAMES["other-scripts"]))
    for path in (project / "src").rglob("*.c"):
        text = path.read_text(encoding="ascii")
        assert str(tmp_path) not in text
        assert not re.search(r"\b20\d\d-\d\d", text)


# --- recipes


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("lr = 'fast'", "recipe-type"), ("lr = true", "recipe-type"), ("lr = [0.1]", "recipe-type"),
        ("batch = 1.5", "recipe-type"), ("batch = '4'", "recipe-type"), ("seed = 1979-05-27", "recipe-type"),
        ("loss = 3", "recipe-type"), ("trainable = 'fc*'", "recipe-type"), ("trainable = [1]", "recipe-type"),
        ("loss = 'hinge'", "recipe-value"), ("optimizer = 'lion'", "recipe-value"), ("trainable = []", "recipe-value"),
        ("lr = nan", "recipe-value"), ("lr = -1", "recipe-value"), ("batch = 0", "recipe-value"),
        ("learning_rate = 1", "recipe-word"), ("[train]\nlr = 1", "recipe-word"), ("lr =", "recipe-syntax"),
        ("lr = 1\nlr = 2", "recipe-syntax"), ("\x00", "recipe-syntax"),
    ],
)  # fmt: skip
def test_recipe_file(tmp_path: Path, text: str, code: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    error = refusal(lambda: read_recipe(path))
    assert (error.code, error.exit_code) == (code, ExitCode.USAGE)


def test_recipe_that_is_no_file(tmp_path: Path) -> None:
    assert refusal(lambda: read_recipe(tmp_path / "none.toml")).code == "recipe-unreadable"
    assert refusal(lambda: read_recipe(tmp_path)).code == "recipe-unreadable"


def test_recipe_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"lr = 0.1 # \xff")
    assert refusal(lambda: read_recipe(path)).code == "recipe-syntax"


@pytest.mark.parametrize("changes", [{"lr": "fast"}, {"batch": None}, {"momentum": [1]}])
def test_recipe_of_wrong_types_in_python(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Recipe(**changes)  # type: ignore[arg-type]


def test_build_is_whole_or_not_at_all(tmp_path: Path, program: Compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that fails leaves no folder behind."""
    monkeypatch.setattr(api, "compile_project", lambda *_, **__: (_ for _ in ()).throw(UsageError("no", "", "")))
    assert refusal(lambda: api.build(program, tmp_path / "project")).code == "no"
    assert not list(tmp_path.iterdir())


# --- templates --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "old", "new", "place", "why"), [
    ("kernels/relu.c.j2", "{% macro source(used) %}", "{% makro source(used) %}", "kernels/relu.c.j2:12",
     "TemplateSyntaxError: Encountered unknown tag 'makro'."),
    ("kernels/relu.c.j2", '{% if "relu_gradient" in used %}', '{% if "relu_gradient" in usd %}', "kernels/relu.c.j2:7",
     "UndefinedError: 'usd' is undefined"),
    ("kernels/relu.c.j2", "ODL_STREAMED(relu_words", "ODL_STREAMED({{ 1 // 0 }}, relu_words", "kernels/relu.c.j2:23",
     "ZeroDivisionError: integer division or modulo by zero"),
    ("kernels/sgd.c.j2", '{% import "update.j2" as update %}', '{% import "apdate.j2" as update %}',
     "kernels/sgd.c.j2:2", "TemplateNotFound: "),
    ("update.j2", '"const float *guard"', '"const float *guard" + no', "update.j2:15", "UndefinedError: 'no' is"),
    ("project/odl_weights.c.j2", "{% for", "{{ own }}\n{% for", "project/odl_weights.c.j2:5", "'own' is undefined"),
    ("project/Makefile.j2", "RAM_BYTES   =", "{{ own }}\nRAM_BYTES   =", "project/Makefile.j2:30", "'own' is"),
    ("packages/odl.h.j2", "#ifndef", "{{ guard() }}\n#ifndef", "packages/odl.h.j2:2", "UndefinedError: 'guard' is"),
])  # fmt: skip
def test_what_is_wrong_with_a_template_is_told_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, old: str, new: str, place: str, why: str
) -> None:
    """For whoever writes the template of a new operator: neither a traceback through jinja2 nor a report as a bug."""
    shutil.copytree(share("templates"), tmp_path / "templates")
    text = (tmp_path / "templates" / name).read_text()
    assert old in text
    (tmp_path / "templates" / name).write_text(text.replace(old, new, 1))
    monkeypatch.setattr(codegen, "share", lambda part: (tmp_path if part == "templates" else share(part).parent) / part)
    package = () if name == "project/Makefile.j2" else ("--package", "cmake")
    result = odl("build", save(tmp_path, mlp()), *package, "-o", tmp_path / "out")
    assert result.exit_code == ExitCode.TOOL_MISSING
    assert result.stderr.startswith(f"error: template-failed: templates/{place}: ")
    assert why in result.stderr
    assert not (tmp_path / "out").exists()
