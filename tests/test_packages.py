"""Packages for CMake, Zephyr, PlatformIO and Arduino: what is in them, and when there is none."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path

import pytest
from commands import answer, odl
from host_c import compilers
from models import codes, refusal
from shop import NUMERICS, Shop, each_package, files, run

from odl import api, packages
from odl.errors import ExitCode
from odl.packages import PACKAGES
from odl.share import share
from odl.version import VERSION

ROOT = Path(__file__).parent.parent


# --- what is in them --------------------------------------------------------------------------------------------------


@each_package
def test_a_package_is_the_model_and_no_runner(shop: Shop, name: str, tmp_path: Path) -> None:
    """What include/ and src/ of the project hold is there, the same bytes, but what verifies and what sets flags."""
    held, headers = files(shop.package(name)), PACKAGES[name].headers
    api.build(shop.compiled, tmp_path / "project")
    project = files(tmp_path / "project")
    for path, data in project.items():
        folder, _, rest = path.partition("/")
        place = {"include": f"{headers}/{rest}", "src": path}.get(folder)
        if folder == "checkpoint":
            place = f"{headers}/{rest}" if rest.endswith(".h") else f"src/checkpoint/{rest}"
        if place and "odl_trace" not in path:
            flags = PACKAGES[name].flags_in_source and path == "include/odl_config.h"
            assert held[place].startswith(data) if flags else held[place] == data, place
    assert not [path for path in held if path.startswith(("runner/", "port/")) or "odl_trace" in path]
    assert held["model.onnx"] == project["model.onnx"]
    assert json.loads(held["odl.json"]) == {**json.loads(project["odl.json"]), "package": name}
    for part in ("learner.c", "learner.h", "sensor.c", "sensor.h"):
        (found,) = [path for path in held if path.endswith(f"/{part}")]
        assert held[found] == (share("firmware") / "example" / part).read_bytes()


@each_package
def test_the_same_input_gives_the_same_bytes(shop: Shop, name: str, tmp_path: Path) -> None:
    api.package(shop.compiled, tmp_path / "again", name)
    assert files(tmp_path / "again") == files(shop.package(name))


@each_package
def test_a_package_is_a_model_to_other_commands(shop: Shop, name: str) -> None:
    assert api.open_folder(shop.package(name)).recipe == shop.compiled.recipe


@each_package
def test_the_readme_names_its_files_and_its_code_compiles(shop: Shop, name: str, tmp_path: Path) -> None:
    folder = shop.package(name)
    text = (folder / "README.md").read_text()
    named = re.findall(r"`((?:[\w-]+/)+(?:[\w-]+\.\w+)?|[\w-]+\.(?:json|onnx|properties|md))`", text)
    assert len(named) > 4
    assert [word for word in named if not (folder / word).exists() and word != "libraries/" and word != "lib/"] == []
    assert f"{shop.compiled.program.spaces['arena']:,} bytes of arena" in text
    (code,) = re.findall(r"^```c\n(.*?)^```", text, re.S | re.M)
    (tmp_path / "snippet.c").write_text(code)
    learner = next(folder.rglob("learner.h")).parent
    includes = [f"-I{folder / PACKAGES[name].headers}", f"-I{learner}"]
    run(*compilers()[0], "-std=c11", "-Wall", *includes, "-c", tmp_path / "snippet.c", "-o", tmp_path / "snippet.o")


def test_library_json(shop: Shop) -> None:
    folder = shop.package("platformio")
    told = json.loads((folder / "library.json").read_text())
    assert {"name", "version", "description", "keywords", "build"} <= told.keys()
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", told["name"])
    assert len(told["name"]) <= 50
    assert told["version"] == VERSION
    assert told["build"]["flags"] == NUMERICS
    assert (folder / told["build"]["includeDir"] / told["headers"]).is_file()
    (example,) = told["examples"]
    assert {f"{example['base']}/{file}" for file in example["files"]} == {
        path for path in files(folder) if path.startswith("examples/")
    }
    ini = configparser.ConfigParser()
    ini.read(folder / example["base"] / "platformio.ini")
    assert (folder / example["base"] / ini["env:native"]["lib_deps"].removeprefix("symlink://")).samefile(folder)


def test_library_properties(shop: Shop) -> None:
    folder = shop.package("arduino")
    lines = (folder / "library.properties").read_text().splitlines()
    told = dict(line.split("=", 1) for line in lines)
    required = {
        "name", "version", "author", "maintainer", "sentence", "paragraph", "category", "url", "architectures",
    }  # fmt: skip
    assert required <= {key for key, value in told.items() if value}
    assert len(told) == len(lines)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,62}", told["name"])
    assert told["category"] == "Data Processing"
    assert (folder / "src" / told["includes"]).is_file()
    assert told["dot_a_linkage"] == "true"  # without it, the five functions of a flash would be missed
    assert (folder / "examples/learn/learn.ino").is_file()
    headers = [path for path in files(folder) if path.endswith(".h") and path.startswith("src/odl_")]
    assert len(headers) > 10


def yaml_of_a_module(text: str) -> dict[str, str | dict[str, str]]:
    """As much of YAML as module.yml has: mappings of words, in mappings."""
    told: dict[str, str | dict[str, str]] = {}
    inner: dict[str, str] = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        found = re.fullmatch(r"(  )?([a-z]+):(?: ([\w./-]+))?", line)
        assert found, line
        indent, key, value = found.groups()
        if indent:
            inner[key] = value
        else:
            inner = {}
            told[key] = value or inner
    return told


def test_module_yml_and_kconfig(shop: Shop) -> None:
    folder = shop.package("zephyr")
    told = yaml_of_a_module((folder / "zephyr/module.yml").read_text())
    assert told == {"name": "odl_model", "build": {"cmake": "zephyr", "kconfig": "zephyr/Kconfig"}}
    assert (folder / "zephyr/CMakeLists.txt").is_file()
    defined = re.findall(r"^config (\w+)$", (folder / "zephyr/Kconfig").read_text(), re.M)
    assert defined == ["ODL_MODEL", "ODL_MODEL_CHECKPOINT"]
    used = set(re.findall(r"CONFIG_(\w+)", (folder / "zephyr/CMakeLists.txt").read_text()))
    assert used == set(defined)
    assert "CONFIG_ODL_MODEL=y" in (folder / "examples/learn/prj.conf").read_text().splitlines()


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_an_unknown_package_is_refused(model: Path, tmp_path: Path) -> None:
    told = answer("build", model, "--package", "mbed", "-o", tmp_path / "out", exit_code=ExitCode.USAGE)
    (problem,) = told["error"]["problems"]
    assert (problem["code"], problem["where"]) == ("unknown-package", "mbed")
    assert all(name in problem["hint"] for name in PACKAGES)
    assert not (tmp_path / "out").exists()


@each_package
def test_a_team_of_cores_is_refused(model: Path, name: str, tmp_path: Path) -> None:
    result = odl("build", model, "--package", name, "-t", "pulp-open", "-o", tmp_path / "out")
    assert result.exit_code == ExitCode.USAGE
    assert "package-target: pulp-open" in result.stderr
    assert not (tmp_path / "out").exists()


@each_package
def test_a_foreign_folder_is_left_alone(shop: Shop, name: str, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert codes(refusal(lambda: api.package(shop.compiled, tmp_path, name))) == ["foreign-folder"]
    assert files(tmp_path) == {"mine.txt": b"mine"}


def test_what_a_run_trained_is_left_alone(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "weights.npz").write_bytes(b"trained")
    assert codes(refusal(lambda: api.package(shop.compiled, tmp_path, "cmake"))) == ["holds-a-run"]


@each_package
def test_a_package_is_written_whole_or_not_at_all(
    shop: Shop, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.package(shop.compiled, tmp_path / "out", "cmake")
    before = files(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packages, "_write_manifests", full)
    for place in ("out", "new"):
        refused = refusal(lambda place=place: api.package(shop.compiled, tmp_path / place, name))  # type: ignore[misc]
        assert codes(refused) == ["folder-unwritable"]
    assert files(tmp_path) == before
    monkeypatch.undo()
    api.package(shop.compiled, tmp_path / "out", name)
    assert files(tmp_path / "out") == files(shop.package(name))


def test_it_must_fit_as_a_project_must(model: Path, tmp_path: Path) -> None:
    result = odl("build", model, "--package", "cmake", "--ram", "1K", "-o", tmp_path / "out")
    assert (result.exit_code, "does-not-fit" in result.stderr) == (ExitCode.DOES_NOT_FIT, True)
    assert not (tmp_path / "out").exists()


@each_package
def test_the_command_says_what_it_wrote(model: Path, name: str, tmp_path: Path) -> None:
    told = answer("build", model, "--package", name, "-o", tmp_path / "out")
    assert (told["package"], told["folder"], told["target"]) == (name, str(tmp_path / "out"), "qemu-zhinx")
    assert (
        f"#define ODL_ARENA_BYTES {told['arena_bytes']['arena']}u"
        in next((tmp_path / "out").rglob("odl_model.h")).read_text()
    )


def test_the_page_has_every_package() -> None:
    page = (ROOT / "docs/PACKAGES.md").read_text()
    assert re.findall(r"^\| `(\w+)`", page, re.M) == 2 * list(PACKAGES)  # what each is, and what was tried
