"""The pages as a site: the reference tells all that the code knows; and mkdocs, where it is installed, builds it
strictly, with every link, and without asking anyone else for anything."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest
from commands import VERBS

import odl
from odl.ops._importer import IMPORTS
from odl.recipe import CHOICES, Recipe
from odl.targets import TARGETS

ROOT = Path(__file__).parent.parent
NEEDED = ("mkdocs", "material", "mkdocstrings_handlers")

needs_mkdocs = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason="mkdocs is not installed: pip install '.[docs]'",
)


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("_reference", ROOT / "docs/_reference.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the reference ----------------------------------------------------------------------------------------------------


def test_every_command_and_flag_is_there(reference: ModuleType) -> None:
    page = reference.commands()
    sections = dict(re.findall(r"^## odl ([\w ]+)\n(.*?)(?=^## |\Z)", page, re.S | re.M))
    assert {name.split()[0] for name in sections} == set(VERBS)
    recipe = {field.name for field in fields(Recipe)}
    for name, command in VERBS.items():
        for param in command.params:
            if param.name in recipe:
                assert "And the flags of a recipe." in sections[name]
            elif param.opts[0].startswith("-") and param.name not in ("as_json", "verbose", "quiet"):
                assert f"`{', '.join(param.opts)}" in sections[name], (name, param)


def test_every_key_of_a_recipe_is_there(reference: ModuleType) -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", reference.recipe(), re.M))
    assert list(rows) == [field.name for field in fields(Recipe)]
    for name, choices in CHOICES.items():
        assert all(f'`"{word}"`' in rows[name] for word in choices)
    assert "`0.0003`" in rows["lr"]
    assert all(row.split(" | ")[2].endswith(".") for row in rows.values())


def test_every_operator_and_target_is_there(reference: ModuleType) -> None:
    assert re.findall(r"^\| `(\w+)` \|", reference.operators(), re.M) == sorted(IMPORTS)
    assert re.findall(r"^\| `([\w-]+)` \|", reference.targets(), re.M) == list(TARGETS)


def test_everything_exported_is_there(reference: ModuleType) -> None:
    told = re.findall(r"^::: ([\w.]+)\.(\w+)$", reference.library(), re.M)
    assert sorted(name for _, name in told) == sorted(set(odl.__all__) - {"__version__"})
    for module, name in told:
        assert getattr(sys.modules[module], name) is getattr(odl, name)


FUNCTIONS = [name for name in odl.__all__ if inspect.isfunction(getattr(odl, name))]
OBVIOUS = {"compiled", "run", "path", "folder", "image"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_tells_its_arguments_and_its_errors(name: str) -> None:
    function = getattr(odl, name)
    told = inspect.getdoc(function) or ""
    assert [p for p in inspect.signature(function).parameters if f"`{p}`" not in told and p not in OBVIOUS] == []
    assert "Raises " in told or "what it raises" in told


# --- the site ---------------------------------------------------------------------------------------------------------


def build(tree: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = {**os.environ, "PYTHONPATH": str(tree), "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=300)


@needs_mkdocs
def test_the_site_is_built_and_asks_for_nothing(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 45
    for page in pages:
        text = page.read_text()
        asked = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=\"?([^\s\">]+)", text)
        assert [link for link in asked if re.match(r"(https?:)?//", link)] == [], page
    library = (tmp_path / "site/reference/library.html").read_text()
    assert all(f'id="{home}.{name}"' in library for home, names in odl.HOMES.items() for name in names)
    assert "Raises ModelError" in library
    index = (tmp_path / "site/index.html").read_text()
    assert 'href="examples.html"' in index
    for name in ("odl/ops/conv2d.py", "examples/adapt.ipynb", "LICENSE"):
        assert (tmp_path / "site/files" / name).read_bytes() == (ROOT / name).read_bytes()


@needs_mkdocs
def test_a_broken_link_is_no_site(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("docs", "odl", "examples", "templates"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "mkdocs.yml"):
        shutil.copy(ROOT / name, tree)
    (tree / "docs/LOST.md").write_text("# Lost\n\n[a](NOWHERE.md), [b](CLI.md#nothing), [c](../odl/nothing.py)\n")
    done = build(tree, tmp_path / "site")
    assert done.returncode == 1
    for said in ("LOST.md", "'NOWHERE.md'", "'#nothing'", "'../odl/nothing.py'"):
        assert said in done.stderr, done.stderr
    assert done.stderr.count("WARNING") == 4
