"""Objects are found again by all that decides them, and by nothing else."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_project as tiny

from odl import objects, toolchain
from odl.objects import Objects, cache_folder, prune
from odl.targets import TARGETS
from odl.toolchain import _INCLUDED, compile_project, find_toolchain

HOST, ZHINX = TARGETS["host"], TARGETS["qemu-zhinx"]
DAY_S = 24 * 3600

Compiled = Callable[[], list[str]]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder() / "objects"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Compiled:
    """Which sources were given to a compiler since it was asked last."""
    seen: list[str] = []
    do = toolchain._tool

    def tool(command: tuple[str, ...], *arguments: str, **places: Path) -> None:
        if "-c" in arguments:
            seen.append(arguments[arguments.index("-c") + 1])
        do(command, *arguments, **places)

    def told() -> list[str]:
        found = sorted(seen)
        seen.clear()
        return found

    monkeypatch.setattr(toolchain, "_tool", tool)
    return told


def test_another_project_of_the_same_sources_is_linked_alone(tmp_path: Path, compiled: Compiled) -> None:
    tools = find_toolchain(ZHINX)
    projects = [tiny.write_project(tmp_path / name, ZHINX) for name in ("one", "two")]
    first = compile_project(projects[0], ZHINX, tools)
    assert compiled() == toolchain.project_sources(projects[0], trace=False)
    second = compile_project(projects[1], ZHINX, tools)
    assert compiled() == []
    assert second.elf.read_bytes() == first.elf.read_bytes()


def test_only_what_a_change_can_reach_is_compiled_again(tmp_path: Path, compiled: Compiled) -> None:
    tools, project = find_toolchain(HOST), tiny.write_project(tmp_path / "project", HOST)
    compile_project(project, HOST, tools, trace=True)
    everything = compiled()
    for path in ("src/odl_model.c", "include/odl_half.h", "include/odl_model.h"):
        with (project / path).open("a") as file:
            file.write("\n/* another */\n")
        compile_project(project, HOST, tools, trace=True)
        reached = [source for source in everything if path in (source, *included(project, source))]
        assert compiled() == reached
        assert 0 < len(reached) < len(everything)


def included(project: Path, source: str) -> list[str]:
    """What a source includes of the project, as the compiler tells it."""
    command = [*find_toolchain(HOST).cc, *map("-I{}".format, _INCLUDED), "-DODL_TRACE=1", "-MM", source]
    listed = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True, timeout=60).stdout
    return [str(Path(word)) for word in listed.split()]


def key(project: Path, compiler: str = "clang 19", flags: tuple[str, ...] = ("-O2",), **macros: object) -> Path:
    return Objects(project, compiler, ("cc", *flags), ("include",), macros).kept("a.c")


def test_what_decides_an_object(tmp_path: Path) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / "a.c").write_text('#include "a.h"\n#include "missing.h"\n#include <stdio.h>\nint a = ASKED;\n')
    (tmp_path / "include/a.h").write_text('#include "b.h"\n')
    (tmp_path / "include/b.h").write_text('#include "a.h"\nint b = ASKED_BELOW;\n')
    usual = key(tmp_path)
    assert key(tmp_path) == usual == key(tmp_path, UNASKED=1)
    others = [key(tmp_path, "clang 20"), key(tmp_path, flags=("-O3",)), key(tmp_path, ASKED=1), key(tmp_path, ASKED=2),
              key(tmp_path, ASKED_BELOW=1)]  # fmt: skip
    for name in ("include/b.h", "missing.h", "a.h"):  # the last is found first, beside the source
        with (tmp_path / name).open("a") as file:
            file.write("int c;\n")
        others.append(key(tmp_path))
    assert len({usual, *others}) == 1 + len(others)


def test_a_declaration_counts_for_those_that_name_it(tmp_path: Path) -> None:
    """However many others stand around it."""
    header = tmp_path / "all.h"
    one, two = ("/* Of %s * %s. */\nvoid odl_%s(int n,\n    int m);\n" % (3 * (name,)) for name in ("one", "two"))

    def found(*declarations: str, source: str = "void odl_one(int n, int m) {}") -> Path:
        header.write_text("\n".join(("#define N 1", *declarations, "#define M 1\n")))
        (tmp_path / "a.c").write_text(f'#include "all.h"\n{source}\n')
        return key(tmp_path)

    assert found(one) == found(one, two) == found(two, one)
    assert found(one) != found() != found(one.replace("int m", "long m"))
    assert found(two, source="odl_two(1, N);") != found(source="odl_two(1, N);")
    assert found(one, source="ODL(one) odl_##x") != found(source="ODL(one) odl_##x")
    inline = "void odl_two(int n) { (void)n; }\n"
    assert found(one, inline) != found(one)


def test_another_compiler_under_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.c").write_text("")
    found = []
    for version in ("one", "two!"):
        program = tmp_path / version / "cc"
        program.parent.mkdir()
        program.write_text(version)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent))
        objects._stamp.cache_clear()
        found.append(key(tmp_path))
    objects._stamp.cache_clear()
    assert found[0] != found[1]


def test_where_nothing_can_be_kept_it_is_compiled(tmp_path: Path, store: Path, compiled: Compiled) -> None:
    store.parent.mkdir(parents=True)
    store.write_text("a file where a folder is wanted")
    project = tiny.write_project(tmp_path / "project", HOST)
    for _ in range(2):
        assert compile_project(project, HOST, find_toolchain(HOST)).elf.exists()
        assert compiled() == toolchain.project_sources(project, trace=False)


def test_old_objects_go_and_the_longest_unused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1e9
    ages = {"ab/new.o": 0, "ab/used.o": 1, "cd/unused.o": 2, "cd/old.o": 31}
    for name, days in ages.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (now - days * DAY_S, now - days * DAY_S))
    prune(tmp_path, now)
    assert {path.name for path in tmp_path.glob("*/*")} == {"new.o", "used.o", "unused.o"}
    monkeypatch.setattr(objects, "LIMIT_BYTES", 250)
    prune(tmp_path, now)
    assert {path.name for path in tmp_path.glob("*/*")} == {"new.o", "used.o"}


def test_being_asked_for_makes_an_object_young(tmp_path: Path) -> None:
    kept, output = tmp_path / "kept.o", tmp_path / "output.o"
    assert not objects.fetch(kept, output)
    kept.write_bytes(b"object")
    os.utime(kept, (0, 0))
    assert objects.fetch(kept, output)
    assert output.read_bytes() == b"object"
    assert kept.stat().st_mtime > 0
