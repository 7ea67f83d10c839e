"""The model as a module of somebody else's build: CMake, Zephyr, PlatformIO, Arduino.

A package has the model and what keeps it over a reset, but no runner; the files that its ecosystem looks for
(templates/packages/<name>); and an application that trains on samples from a callback (firmware/example).

Error codes: `unknown-package`, `package-target` (UsageError).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odl.codegen import environment, template_errors, write_sources
from odl.errors import UsageError
from odl.program import ARENA, Program
from odl.share import share
from odl.targets import DEFAULT, HOST, Target
from odl.targets.qemu import cpu
from odl.toolchain import OLDEST, arch_flags, contract_flags
from odl.training import Training
from odl.version import VERSION

EXAMPLE = "examples/learn"
_NEWEST_CLANG = 22  # whose programs with a number in their names are looked for
_TRACE = ("include/odl_trace.h", "include/odl_traced.h", "src/odl_trace.c")  # for a runner that verifies


@dataclass(frozen=True)
class Package:
    """An ecosystem, and where its packages have what.

    `headers` is the folder that it puts on the include path. `main` are the files of firmware/example that are an
    application there, in folder `main_folder` of the example. `with_qemu` adds what starts it on QEMU's machine.
    `flags_in_source`: its manifest has no place for compiler flags.
    """

    name: str
    headers: str
    main: tuple[str, ...]
    main_folder: str
    with_qemu: bool = False
    flags_in_source: bool = False


_APPLICATION = ("main.c", "board.h", "learner.c", "learner.h", "sensor.c", "sensor.h")

_CMAKE = Package(
    name="cmake",
    headers="include",
    main=(*_APPLICATION, "boards/stdio.c", "boards/qemu.c"),
    main_folder=".",
    with_qemu=True,
)

_ZEPHYR = Package(
    name="zephyr",
    headers="include",
    main=(*_APPLICATION, "boards/zephyr.c"),
    main_folder="src",
)

_PLATFORMIO = Package(
    name="platformio",
    headers="include",
    main=(*_APPLICATION, "boards/stdio.c"),
    main_folder="src",
)

_ARDUINO = Package(
    name="arduino",
    headers="src",
    main=("learner.c", "learner.h", "sensor.c", "sensor.h", "boards/learn.ino"),
    main_folder=".",
    flags_in_source=True,
)

PACKAGES = {package.name: package for package in (_CMAKE, _ZEPHYR, _PLATFORMIO, _ARDUINO)}


def find_package(name: str, target: Target) -> Package:
    """Raises UsageError `unknown-package`, which lists the names; `package-target` for a target of several cores."""
    if name not in PACKAGES:
        raise UsageError("unknown-package", name, "there is no such package", f"one of: {', '.join(PACKAGES)}")
    if target.cores > 1:
        why = f"a {name} package is for one core, and this is a team that needs a port of its own"
        raise UsageError("package-target", target.name, why, "choose another target, or leave out --package")
    return PACKAGES[name]


def write_package(
    folder: Path, package: Package, program: Program, training: Training, title: str, target: Target
) -> None:
    """Write `package` of `program` for `target` into an empty folder; the same input gives the same bytes."""
    write_sources(folder, program, training, title)
    for name in _TRACE:
        (folder / name).unlink()
    firmware = share("firmware")
    for path in sorted((firmware / "checkpoint").iterdir()):
        _copy(path, folder / ("include" if path.suffix == ".h" else "src/checkpoint"))
    for name in ("self_test.c", "self_test.h"):
        _copy(firmware / "runner" / name, folder / "src/checks")
    _write_example(folder / EXAMPLE, package)
    _write_manifests(folder, package, _variables(folder, package, program, target))
    if package.headers != "include":
        for path in sorted((folder / "include").iterdir()):
            path.rename(folder / package.headers / path.name)
        (folder / "include").rmdir()


def _copy(path: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, folder / path.name)


def _write_example(folder: Path, package: Package) -> None:
    for name in package.main:
        boards = "boards" if package.with_qemu and name.startswith("boards/") else ""
        _copy(share("firmware") / "example" / name, folder / package.main_folder / boards)
    for name in ("link.ld", "machine.h", "mem.c", "start.S") if package.with_qemu else ():
        _copy(share("firmware") / "port/qemu" / name, folder / "qemu")


def _write_manifests(folder: Path, package: Package, variables: Mapping[str, Any]) -> None:
    """All of the package's templates, each at its place; and the header that speaks for all of include/."""
    jinja = environment()
    root = f"packages/{package.name}/"
    with template_errors():
        texts = {name: jinja.get_template(name).render(variables) for name in jinja.list_templates() if root in name}
        common = jinja.get_template("packages/odl.h.j2").render(variables)
    flags = texts.pop(f"{root}flags.h.j2", "")
    for name, text in texts.items():
        path = folder / name.removeprefix(root).removesuffix(".j2")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "include/odl.h").write_text(common)
    if flags:
        config = folder / "include/odl_config.h"
        config.write_text(config.read_text() + flags)


def _variables(folder: Path, package: Package, program: Program, target: Target) -> dict[str, Any]:
    """What the templates ask for. For a plan of the host, which any core takes, odl's default is the RISC-V."""
    machine = target if target.is_riscv else DEFAULT
    everywhere = contract_flags(HOST)
    example = folder / EXAMPLE
    return {
        "version": VERSION,
        "sources": sorted(path.relative_to(folder).as_posix() for path in folder.glob("src/**/*.c")),
        "example": sorted(path.relative_to(example).as_posix() for path in example.rglob("*") if path.is_file()),
        "arena_bytes": program.spaces[ARENA],
        "headers": package.headers,
        "flags_in_source": package.flags_in_source,
        "flags": " ".join(everywhere),
        "numerics": " ".join(flag for flag in everywhere if flag.startswith("-f")),
        "freestanding": " ".join(flag for flag in contract_flags(machine) if flag not in everywhere),
        "arch": " ".join(arch_flags(machine, "clang")),
        "zig_arch": " ".join(arch_flags(machine, "zig")),
        "clangs": list(range(_NEWEST_CLANG, OLDEST["clang"][0] - 1, -1)),
        "qemu_cpu": cpu(machine, (8, 2)),
    }
