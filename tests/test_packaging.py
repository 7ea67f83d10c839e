"""The wheel and the source archive, and odl as it is installed: in a fresh environment, away from the checkout."""

from __future__ import annotations

import email
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import cnn

from odl.targets.qemu import QEMU_ZHINX
from odl.toolchain import find_toolchain
from odl.version import VERSION

ROOT = Path(__file__).parent.parent
SHARED = ("templates", "firmware")


def hatch(tree: Path, out: Path, *what: str) -> None:
    """Build `what` of `tree` (the backend of pyproject.toml, called directly: no network, no isolation)."""
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(out), *(f"-t{word}" for word in what)]
    subprocess.run(command, cwd=tree, check=True, capture_output=True, timeout=120)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(wheel, source archive)."""
    out = tmp_path_factory.mktemp("dist")
    hatch(ROOT, out, "wheel", "sdist")
    return out / f"odl-{VERSION}-py3-none-any.whl", out / f"odl-{VERSION}.tar.gz"


@pytest.fixture(scope="module")
def wheel(archives: tuple[Path, Path]) -> Path:
    return archives[0]


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sources(folder: Path) -> dict[str, bytes]:
    """Files below a folder by their path in it, without what Python and editors leave behind."""
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_the_wheel_is_the_package_and_its_share(wheel: Path) -> None:
    info = f"odl-{VERSION}.dist-info"
    held = {name: data for name, data in contents(wheel).items() if not name.startswith(info)}
    expected = {f"odl/{name}": data for name, data in sources(ROOT / "odl").items()}
    for shared in SHARED:
        expected |= {f"odl/_share/{shared}/{name}": data for name, data in sources(ROOT / shared).items()}
    assert held == expected
    assert f"{info}/licenses/LICENSE" in contents(wheel)


def test_metadata(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    held = contents(wheel)
    metadata = email.message_from_bytes(held[f"odl-{VERSION}.dist-info/METADATA"])
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"] == "odl contributors"
    assert metadata.get_all("Classifier") == project["classifiers"]
    assert metadata["Keywords"].split(",") == sorted(project["keywords"])
    assert metadata["Requires-Python"] == project["requires-python"]
    assert metadata.get_payload() == (ROOT / "README.md").read_text()
    assert set(metadata.get_all("Provides-Extra", [])) == set(project["optional-dependencies"])
    needs = metadata.get_all("Requires-Dist", [])
    assert any(need.startswith("ziglang") and "extra == 'compiler'" in need for need in needs)
    assert len([need for need in needs if "extra ==" not in need]) == len(project["dependencies"])


def test_an_index_would_take_both(archives: tuple[Path, Path]) -> None:
    command = [sys.executable, "-m", "twine", "--no-color", "check", "--strict", *map(str, archives)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.count("PASSED") == 2, done.stdout + done.stderr
    assert done.returncode == 0


def test_the_changelog_begins_with_this_version() -> None:
    headings = re.findall(r"^## \[(.+?)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0][0] == VERSION
    assert all(re.fullmatch(r"unreleased|\d{4}-\d\d-\d\d", date) for _, date in headings)
    assert "unreleased" not in [date for _, date in headings[1:]]


def test_the_version_stands_in_one_place() -> None:
    """Generated files and measurements tell which one made them."""
    found = [path for path in (*ROOT.glob("*.*"), *(ROOT / "odl").rglob("*.py"), *(ROOT / "templates").rglob("*.j2"))
             if path.is_file() and path.name != "CHANGELOG.md" and f'"{VERSION}"' in path.read_text()]  # fmt: skip
    assert found == [ROOT / "odl/version.py"]


def names_in(source: Path) -> set[str]:
    with tarfile.open(source) as archive:
        return {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}


def test_the_source_archive_has_what_the_checkout_has(archives: tuple[Path, Path]) -> None:
    """Without what tools left behind, which git ignores, and CI's own file."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    wanted = {name for name in listed.stdout.splitlines() if (ROOT / name).is_file() and not name.startswith(".ci/")}
    assert names_in(archives[1]) == wanted | {"PKG-INFO"}
    assert archives[1].stat().st_size < 5_000_000


def test_the_source_archive_builds_the_same_wheel(archives: tuple[Path, Path], tmp_path: Path) -> None:
    wheel, source = archives
    shutil.unpack_archive(source, tmp_path)
    hatch(tmp_path / f"odl-{VERSION}", tmp_path / "again", "wheel")
    assert contents(tmp_path / "again" / wheel.name) == contents(wheel)


# --- installed --------------------------------------------------------------------------------------------------------


class Installed:
    """odl and its dependencies in a fresh environment, run in a folder far from the checkout."""

    def __init__(self, wheel: Path, place: Path) -> None:
        venv.create(place / "env", with_pip=True)
        self.place = place
        bare = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        self.environment = {**bare, "PATH": f"{place / 'env/bin'}{os.pathsep}{bare['PATH']}"}
        self.run("python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel))
        # The compiler that the tests use need not be on PATH: zig lies in their own environment.
        self.environment["ODL_CC"] = shlex.join(find_toolchain(QEMU_ZHINX).cc)

    def run(self, program: str, *arguments: str) -> str:
        command: list[str | Path] = [self.place / "env/bin" / program, *arguments]
        done = subprocess.run(
            command, cwd=self.place, env=self.environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    place = tmp_path_factory.mktemp("installed")
    onnx.save(cnn(), place / "model.onnx")
    np.savez(place / "data.npz", x=np.random.default_rng(1).normal(size=(4, 2, 6, 6)), y=np.arange(4) % 3)
    return Installed(wheel, place)


def test_it_starts_and_uses_its_own_files(installed: Installed) -> None:
    assert installed.run("odl", "--version") == f"odl {VERSION}\n"
    ask = "from odl.share import share; print(share('templates'), share('firmware'))"
    for place in installed.run("python", "-c", ask).split():
        assert Path(place).is_relative_to(installed.place)


@pytest.mark.parametrize("target", ["host", pytest.param("qemu-zhinx", marks=pytest.mark.qemu)])
def test_it_builds_and_verifies(installed: Installed, target: str) -> None:
    assert "runner" in installed.run("odl", "build", "model.onnx", "-t", target, "-o", f"c-{target}")
    said = installed.run("odl", "verify", "model.onnx", "-t", target, "--data", "data.npz", "--steps", "1")
    assert said.startswith("equal: ")
