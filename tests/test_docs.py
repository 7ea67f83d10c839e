"""What the documentation says is so: links, paths, commands, code, and the tables that repeat what sources know."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from commands import VERBS, answer
from models import cnn
from test_house import FLOORS

import odl
from campaigns import first_contact
from odl import errors, render, targets
from odl.cli import cli
from odl.codegen import environment
from odl.errors import ExitCode
from odl.graph import Phase, Role
from odl.model_file import NEWEST_OPSET, OLDEST_OPSET
from odl.outcomes import Updates
from odl.project import write_project
from odl.recipe import CHOICES, RANGES, Recipe, range_text
from odl.share import share
from odl.toolchain import Toolchain, arch_flags, contract_flags, find_toolchain, project_variables

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "examples/README.md"]
TEMPLATE = "project/README.md.j2"

COMMANDS = [each for command in VERBS.values() for each in getattr(command, "commands", {"": command}).values()]
ALL_OPTIONS = {option for command in COMMANDS for param in command.params for option in param.opts}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(text: str, language: str) -> list[str]:
    """The fenced code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)


def words(text: str) -> list[str]:
    """What stands in backquotes, outside of fenced code."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))


# --- what is named exists ---------------------------------------------------------------------------------------------


@each_page
def test_links_resolve(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    local = [link.split("#")[0] for link in links if not link.startswith("http")]
    assert [link for link in local if not (page.parent / link).exists()] == []


@each_page
def test_paths_exist(page: Path) -> None:
    named = [
        word for word in words(page.read_text()) if re.match(r"(odl|tests|templates|firmware|examples|docs)/", word)
    ]
    assert [word for word in named if not re.search(r"[<*]|foo", word) and not (ROOT / word.split()[0]).exists()] == [
        word for word in named if "hard_sigmoid" in word
    ]


@each_page
def test_pages_know_no_machine_but_the_readers(page: Path) -> None:
    assert not re.search(r"(^|[\s`(\"'])/(work|tmp|root|home)/", page.read_text())


@each_page
def test_commands_exist(page: Path) -> None:
    """Every `odl VERB --option` and every `make target` in code."""
    text = page.read_text()
    code = [*words(text), *"\n".join(re.findall(r"(?:^```sh\n.*?^```)|(?:^    .*?$)", text, re.S | re.M)).splitlines()]
    makefile = (ROOT / "Makefile").read_text()
    for line in (line.split("#")[0].strip() for line in code):
        if match := re.match(r"make (\w+)", line):
            assert re.search(rf"^{match[1]}:", makefile, re.M) or page.name != "README.md", line
        if line.startswith("--") and "examples" not in page.parts:
            assert line.split()[0] in ALL_OPTIONS, line
        if match := re.match(r"odl ([a-z]+)(?: ([a-z]+))?", line):
            command = VERBS[match[1]]
            command = command.commands[match[2]] if isinstance(command, click.Group) else command
            known = {option for param in command.params for option in param.opts} | {"--help"}
            assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", line)) <= known, line


def test_every_verb_is_told() -> None:
    told = set(re.findall(r"^\| `odl (\w+)", (ROOT / "docs/CLI.md").read_text(), re.M))
    assert told == set(VERBS)


def test_the_index_of_decisions_is_whole() -> None:
    folder = ROOT / "docs/decisions"
    index = re.findall(r"^(\d+)\. \[(.*)\]\((.*)\)$", (folder / "README.md").read_text(), re.M)
    pages = sorted(page for page in folder.glob("*.md") if page.name != "README.md")
    titles = [page.read_text().splitlines()[0] for page in pages]
    assert [f"# {number}. {title}" for number, title, _ in index] == titles
    assert [name for _, _, name in index] == [page.name for page in pages]


# --- tables that sources know better ----------------------------------------------------------------------------------


def rows(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.startswith("|") and not line.startswith("|--"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def test_floors() -> None:
    text = (ROOT / "docs/ARCHITECTURE.md").read_text()
    told = [tuple(words(cells[1])) for cells in rows(text) if cells[0].isdigit()]
    assert told == list(FLOORS)


def test_exit_codes() -> None:
    text = (ROOT / "docs/RELIABILITY.md").read_text()
    told = {int(cells[0]): cells[2].strip("`") for cells in rows(text) if cells[0].isdigit()}
    known = {int(kind.exit_code): kind.__name__ for kind in errors.OdlError.__subclasses__()}
    assert told == {0: "", 1: "anything else", **known}


# Whose first argument is a code. A Problem's exit code is that of the error around it.
KINDS = {kind.__name__: kind for kind in errors.OdlError.__subclasses__()}
CARRIERS = {*KINDS, "Problem", "refuse", "fault"}


def codes_in_sources() -> Iterator[tuple[str, int]]:
    """(code, exit code or 0) of every refusal that spells its code out."""
    for path in sorted((ROOT / "odl").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                name = ast.unparse(node.func).split(".")[-1]
                if name in CARRIERS:
                    yield str(node.args[0].value), int(KINDS[name].exit_code) if name in KINDS else 0


def test_every_hazard_has_its_tests() -> None:
    told = re.findall(r"`(test_\w+)`", (ROOT / "docs/HAZARDS.md").read_text())
    there = {
        name
        for path in (ROOT / "tests").glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    assert [name for name in told if name not in there] == []
    assert len(told) > 100


def test_every_code_is_told_under_its_exit_code() -> None:
    text = (ROOT / "docs/RELIABILITY.md").read_text()
    told: dict[str, int] = {}
    for section in re.split(r"^### ", text, flags=re.M)[1:]:
        (first,) = re.findall(r"^Exit (\d)", section)
        for cells in rows(section.split("\n## ")[0]):
            stated = re.match(r"exit (\d)", cells[1])
            told |= dict.fromkeys(words(cells[0]), int(stated[1] if stated else first))
    found = set(codes_in_sources())
    assert {code for code, _ in found} - set(told) == set()
    assert {(code, told[code]) for code, exit_code in found if exit_code} == {item for item in found if item[1]}
    sources = "".join(path.read_text() for path in (ROOT / "odl").rglob("*.py"))
    assert {code for code in told if f'"{code}"' not in sources} == {"one-input", "one-output"}  # f"one-{what}"


def test_recipe_words_and_defaults() -> None:
    (text,) = blocks((ROOT / "docs/CLI.md").read_text(), "toml")
    assert {**tomllib.loads(text), "trainable": ("*",), "channels": ()} == asdict(Recipe())


@pytest.mark.parametrize("name", RANGES)
def test_recipe_ranges(name: str) -> None:
    """The range stands first behind a key, an upper end only where it is less than what the type can hold."""
    (text,) = blocks((ROOT / "docs/CLI.md").read_text(), "toml")
    (told,) = re.findall(rf"^{name} = \S+ +# ([^;\n]*)", text, re.M)
    assert in_words(told) == re.sub(r" and at most (2\^31 - 1|3\.4e38)$", "", range_text(name))


def in_words(told: str) -> str:
    """`[0, 1)` -> at least 0 and below 1."""
    found = re.fullmatch(r"([\[(])(.*), (.*)([\])])", told)
    if not found:
        return told.replace(">=", "at least").replace(">", "above")
    low, high = {"[": "at least", "(": "above"}[found[1]], {"]": "at most", ")": "below"}[found[4]]
    return f"{low} {found[2]} and {high} {found[3]}"


def told_fields() -> dict[str, set[str]]:
    """Verb -> the fields of its JSON, as docs/CLI.md has them."""
    told: dict[str, set[str]] = {}
    _, text = (ROOT / "docs/CLI.md").read_text().split("\n| of | field | what |\n")
    of = ""
    for cells in rows(text):
        of = cells[0].strip("`") or of
        told.setdefault(of, set()).update(words(cells[1]))
    return told


def test_the_fields_of_json(model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every verb but `tune`, which needs a simulator that not everyone has."""
    monkeypatch.chdir(tmp_path)
    Path("grid.toml").write_text('lr = [0.01]\ntarget = ["host"]\n')
    on_data, on_host = ("--data", data), ("-t", "host")
    commands = [
        ("doctor",), ("ops",), ("check", model), ("plan", model, *on_host), ("build", model, *on_host, "-o", "c"),
        ("verify", "c", *on_data, "--steps", 1), ("eval", "c", *on_data), ("dump", "c", "--stage", "graph"),
        ("run", "c", *on_data, "--steps", 3, "--checkpoint", "flash.bin", "-o", "run"),
        ("checkpoint", "inspect", "flash.bin", "--model", "c"), ("report", "run", "--steps", 0),
        ("export", "run", "-o", "trained.onnx"),
        ("select", model, *on_host, "--on", "host", *on_data),
        ("sweep", model, *on_data, "--test", data, "--steps", 2, "--grid", "grid.toml", "-o", "sweep"),
    ]  # fmt: skip
    told = told_fields()
    assert set(told) - {"all", "with a MODEL", "refused"} == set(VERBS)
    elsewhere = {"eval": {"mean_squared_error"}, "build": {"package"}}  # in another case than this one
    for command in commands:
        verb = str(command[0])
        found = set(answer(*command)) - told["all"] - told["with a MODEL"]
        assert found == told[verb] - elsewhere.get(verb, set()), verb
    error = answer("check", "none.onnx", exit_code=ExitCode.MODEL_REFUSED)
    assert set(error) == told["all"] | told["refused"]


def test_the_glossary_has_what_is_printed() -> None:
    """The words of columns, roles, phases, states and counts, and those that `odl plan` begins its lines with."""
    terms = " ".join(cells[0] for cells in rows((ROOT / "docs/GLOSSARY.md").read_text())).replace("`", "")
    printed = {
        *render.LAYERS, *(kind.value for kind in (*Role, *Phase)), *CHOICES["updates"],
        *(field.name for field in fields(Updates)),
        *("erased", "damaged", "whole", "newer", "changed"),
        *re.findall(r'^ *\("([\w ]+)", ', inspect.getsource(render.plan), re.M),
    } - {"output", "operators", "target", "of it", "inputs"}  # fmt: skip
    assert [word for word in sorted(printed) if not re.search(rf"\b{word.replace('_', ' ')}", terms)] == []


def test_opsets() -> None:
    assert f"opset {OLDEST_OPSET} to {NEWEST_OPSET}," in (ROOT / "README.md").read_text()


# --- code that runs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def beginner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and data of one's own, as the README has them."""
    example = ROOT / "examples/digits_resnet8"
    shutil.copy(example / "model.onnx", tmp_path)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", x=rng.random((8, 1, 8, 8)), y=rng.integers(0, 10, 8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_first_contact_on_record_typed_what_the_readme_says_and_nothing_failed() -> None:
    page = (ROOT / first_contact.PAGE).read_text()
    typed = re.findall(r"^\$ (.*)$", page, re.M)
    assert typed == [line for block in first_contact.blocks((ROOT / "README.md").read_text()) for line in block]
    assert re.search(r"^\d+ lines, .* cores, 0 failed\.$", page, re.M)
    assert "ended with" not in page


@pytest.mark.qemu
def test_quick_start(tmp_path: Path) -> None:
    """The commands of the README as they stand there, but for the environment, which is the test's own."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    text = (ROOT / "README.md").read_text().replace("--steps 240", "--steps 20")  # the same in less time
    activate, *lines = blocks(text, "sh")[1].splitlines()
    assert activate.startswith(". .venv/bin/activate")
    done = in_shell("\n".join(["set -e", *lines]), tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    verbs = [line.split()[1] for line in lines if line.startswith("odl ")]
    assert verbs == ["check", "plan", "build", "verify", "run", "eval", "report", "export"]
    made = tmp_path / "build/words"
    onnx.checker.check_model(onnx.load(made / "tuned.onnx"))
    assert (made / "c/include/odl_model.h").is_file()
    assert "same bits as NumPy" in (made / "report.html").read_text()


def in_shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A script in a shell in `folder`, in which `odl` and `python` are those of the test."""
    (folder / "bin").mkdir()
    for name, words in (("odl", "-m odl "), ("python", "")):
        (folder / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n')
        (folder / "bin" / name).chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )


def typed(page: str, folder: Path, *, without: int) -> list[tuple[list[str], str]]:
    """What a page has in `sh` blocks, but for the first `without`, typed into one shell in `folder`; for each block the
    lines that the page shows of its output, and the output."""
    found = re.findall(r"^```sh\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", (ROOT / page).read_text(), re.S | re.M)[
        without:
    ]
    script = "\n".join(["set -e", *(f"{code}\necho '=== end ==='" for code, _ in found)])
    done = in_shell(script, folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    outputs = done.stdout.split("=== end ===\n")
    return [(shown.splitlines(), output) for (_, shown), output in zip(found, outputs[:-1], strict=True)]


@pytest.mark.qemu
def test_the_tutorial_is_what_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    steps = typed("docs/tutorial.md", tmp_path, without=1)
    assert sum(bool(shown) for shown, _ in steps) == len(blocks((ROOT / "docs/tutorial.md").read_text(), "text"))
    for shown, output in steps:
        assert [line for line in shown if line not in output.splitlines()] == [], output
    folder = tmp_path / "build/words"
    assert "same bits as NumPy" in (folder / "report.html").read_text()
    monkeypatch.chdir(folder)
    (python,) = blocks((ROOT / "docs/tutorial.md").read_text(), "python")
    names: dict[str, object] = {}
    exec(python, names)
    assert isinstance(names["run"], odl.Run)


def test_your_own_data(beginner: Path) -> None:
    """The files that docs/howto/own-data.md writes are such as odl takes."""
    for code in blocks((ROOT / "docs/howto/own-data.md").read_text(), "python"):
        exec(code, {"np": np})
    ((_, output),) = typed("docs/howto/own-data.md", beginner, without=0)
    assert " of 20 on numpy" in output
    with np.load("motion.npz") as motion:
        assert motion["x"].shape == (99, 3, 1, 100)


def test_your_own_board(beginner: Path) -> None:
    """Its commands, with a chip that is large enough; a compiler that has no part in the bits is enough, too."""
    text = (ROOT / "docs/howto/own-board.md").read_text()
    commands = [shlex.split(line) for code in blocks(text, "sh") for line in code.splitlines()]
    assert [command[1] for command in commands] == ["plan", "build", "run"]
    for command in commands:
        words = ["1M" if word == "128K" else word for word in command[1:]]
        words = ["2" if word == "100" else word for word in words]
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["loss"]) == 2
    assert (beginner / "c/runner/self_test.c").is_file()


def compile_c(text: str, name: str, project: Path, target: targets.Target, toolchain: Toolchain) -> Path:
    source = project / f"{name}.c"
    source.write_text(text)
    flags = (
        *arch_flags(target, toolchain.kind),
        *contract_flags(target),
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wconversion",
    )
    made = source.with_suffix(".o")
    subprocess.run(
        [*toolchain.cc, *flags, "-Iinclude", "-Icheckpoint", "-c", source, "-o", made],
        cwd=project,
        check=True,
        timeout=120,
    )
    return made


# What docs/CHECKPOINTS.md leaves to its reader: a device, and a flash that is not there.
USERS_OWN = """
#include "odl_checkpoint.h"
#include "odl_model.h"
#define MY_DATA 1u
static _Alignas(ODL_ARENA_ALIGN) uint8_t arena[ODL_ARENA_BYTES];
static void learn(struct odl_cursor *cursor) { (void)cursor; }
static void ask_before_saving(void) {}
static void report(void) {}
void begin(void);
struct odl_flash_geometry odl_flash_geometry(void) { return (struct odl_flash_geometry){0, 0, 0}; }
bool odl_flash_read(uint32_t at, void *to, uint32_t n) { (void)at, (void)to, (void)n; return false; }
bool odl_flash_program(uint32_t at, const void *from, uint32_t n) { (void)at, (void)from, (void)n; return false; }
bool odl_flash_erase(uint32_t at) { (void)at; return false; }
bool odl_flash_sync(void) { return false; }
"""


@pytest.mark.parametrize("target", targets.TARGETS.values(), ids=list(targets.TARGETS))
def test_firmware_snippets_compile(target: targets.Target, tmp_path: Path) -> None:
    """Those of the README and of the project's own; on RISC-V they link with the model, a flash and four functions."""
    onnx.save(cnn(), tmp_path / "model.onnx")
    compiled, project = odl.compile_model(tmp_path / "model.onnx", target=target.name), tmp_path / "c"
    project.mkdir()
    write_project(project, "snippets", compiled.program, compiled.training, target)
    toolchain = find_toolchain(target)
    told = environment().get_template(TEMPLATE).render(project_variables(target))
    snippets = [
        *blocks((ROOT / "README.md").read_text(), "c"),
        "".join(blocks(told, "c")),
        USERS_OWN
        + "".join(blocks((ROOT / "docs/CHECKPOINTS.md").read_text(), "c")).replace("start(void)", "begin(void)"),
        *blocks((ROOT / "docs/howto/own-board.md").read_text(), "c"),
    ]
    assert len(snippets) == 4
    objects = [
        compile_c(text.replace("learn", f"learn{at}"), f"snippet{at}", project, target, toolchain)
        for at, text in enumerate(snippets)
    ]
    if target.is_riscv:
        sources = {*project.glob("src/**/*.c"), *project.glob("checkpoint/*.c")}
        model = sorted(sources - {project / "src/odl_trace.c"})
        given = share("firmware") / "port/qemu/mem.c"
        objects += [compile_c(path.read_text(), path.stem, project, target, toolchain) for path in (*model, given)]
        subprocess.run(
            [*toolchain.ld, "-e", "learn0", *objects, "-o", project / "firmware.elf"], check=True, timeout=60
        )


def test_the_projects_readme_names_its_files(tmp_path: Path) -> None:
    onnx.save(cnn(), tmp_path / "model.onnx")
    compiled, project = odl.compile_model(tmp_path / "model.onnx", target="host"), tmp_path / "c"
    odl.build(compiled, project)
    told = environment().get_template(TEMPLATE).render(project_variables(compiled.target))
    files = [
        word for word in words(told) if re.fullmatch(r"[a-z_]+/([a-z_/]+\.[ch])?|[A-Za-z]+\.(json|onnx|txt)", word)
    ]
    assert len(files) > 8
    assert [name for name in files if not (project / name).exists()] == []


def copied(tmp_path: Path) -> Path:
    for name in ("odl", "templates", "firmware", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_new_operator_works(tmp_path: Path) -> None:
    """The two files of the page that CONTRIBUTING.md sends to, in a copy of the tree: every test that the registry
    makes of them; and the model of one layer, which a mistake in the C makes differ."""
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    (page,) = re.findall(r"^## A new operator\n\n.*?\]\((.*?)\)", contributing, re.M | re.S)
    text = (ROOT / page).read_text()
    (python, one_layer), (template,) = blocks(text, "python"), blocks(text, "jinja")
    tree = copied(tmp_path)
    (tree / "odl/ops/hard_sigmoid.py").write_text(python)
    (tree / "templates/kernels/hard_sigmoid.c.j2").write_text(template)
    tests = ["tests/test_ops.py", "-k", "HardSigmoid or (bits and host and fp32)"]

    def python_says(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, capture_output=True,
            text=True, timeout=300,
        )  # fmt: skip
        return done.stdout + done.stderr

    told = python_says("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests)
    assert "\n10 passed, " in told, told
    assert python_says("-c", one_layer) == ""
    (command,) = re.findall(r"^    \.venv/bin/odl (verify .* -t host .*)$", text, re.M)
    assert python_says("-m", "odl", *command.split()).startswith("equal: 120 tensors")
    kernel = tree / "templates/kernels/hard_sigmoid.c.j2"
    kernel.write_text(template.replace("slope = (float)dy[i] * alpha", "slope = (float)dy[i] * (alpha * 1.01f)"))
    assert re.search(r"^kernel +hard_sigmoid_gradient$", python_says("-m", "odl", *command.split()), re.M)


@pytest.mark.qemu
def test_the_new_target_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = blocks((ROOT / "docs/NEW_TARGET.md").read_text(), "python")
    names = {"Target": targets.Target, "Memory": targets.Memory}
    exec(text, names)
    chip: targets.Target = names["MY_CHIP"]  # type: ignore[assignment]
    monkeypatch.setitem(targets.TARGETS, chip.name, chip)
    onnx.save(cnn(), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(1).normal(size=(2, 2, 6, 6)), y=[0, 2])
    compiled = odl.compile_model(tmp_path / "model.onnx", target=chip.name)
    assert odl.verify(compiled, tmp_path / "data.npz", 2).equal
