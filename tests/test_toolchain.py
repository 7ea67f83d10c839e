"""Compilers found, refused and used; the generated Makefile makes the same program."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_project as tiny
from host_c import compilers
from tiny_project import MODEL_ID, TinyModel

from odl import toolchain
from odl.elf import read_elf
from odl.errors import FitError, OdlError, ToolError
from odl.targets import TARGETS, Target, simulator_for
from odl.targets.pulp import find_gvsoc
from odl.toolchain import Toolchain, compile_project, find_toolchain
from odl.wire import Job

HOST = TARGETS["host"]
ZHINX = TARGETS["qemu-zhinx"]
RISCV = [
    pytest.param(target, marks=getattr(pytest.mark, target.simulator), id=target.name)
    for target in TARGETS.values()
    if target.is_riscv
]
EVERY = [pytest.param(HOST, id="host"), *RISCV]

TOOLS = {
    "clang 19": ("clang", "Debian clang version 19.1.7\n  riscv32     - 32-bit RISC-V"),
    "clang 16": ("clang", "Ubuntu clang version 16.0.6\n  riscv32     - 32-bit RISC-V"),
    "clang of another core": ("clang", "Apple clang version 17.0.0\n  aarch64     - ARM64"),
    "gcc 13": ("gcc", "gcc (Ubuntu 13.2.0-23ubuntu4) 13.2.0\nCopyright (C) 2023 Free Software Foundation, Inc."),
    "gcc 11": ("gcc", "gcc (Ubuntu 11.4.0-1ubuntu1) 11.4.0\nCopyright (C) 2021 Free Software Foundation, Inc."),
    "a mute compiler": ("clang", ""),
    "lld": ("ld.lld", "Debian LLD 19.1.7"),
}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A PATH that holds nothing but stand-ins for the given tools."""

    def bench(*names: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name in names:
            program, says = TOOLS[name]
            (folder / program).write_text(f"#!/bin/sh\necho '{says}'\n")
            (folder / program).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        monkeypatch.delenv("ODL_CC", raising=False)
        monkeypatch.setattr(toolchain, "find_spec", lambda _: None)
        return folder

    return bench


def refusal(call: Callable[[], object]) -> OdlError:
    with pytest.raises(OdlError) as caught:
        call()
    return caught.value


def trains(target: Target, elf: Path) -> bool:
    """Whether a tracing runner gives NumPy's bits. What is left of a test is skipped where its simulator is not."""
    if target.simulator == "gvsoc" and not find_gvsoc():
        pytest.skip("GVSoC is not here: set ODL_GVSOC")
    wanted = Job(MODEL_ID, *tiny.samples(9), hashes=True)
    log = simulator_for(target).run(elf, wanted, timeout_s=20)
    return log.hashes.tolist() == [[tiny.crc(data) for data in traced] for _, traced in TinyModel().run(wanted)]


# --- finding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tools", "target", "found"),
    [
        (["clang 19", "lld"], ZHINX, "clang"),
        (["gcc 13", "clang 19", "lld"], ZHINX, "clang"),
        (["gcc 13", "clang 19"], HOST, "clang"),
        (["gcc 13", "clang 16"], HOST, "gcc"),
        (["gcc 13"], HOST, "gcc"),
        ([], ZHINX, "compiler-missing"),
        ([], HOST, "compiler-missing"),
        (["a mute compiler"], ZHINX, "compiler-missing"),
        (["clang 16", "lld"], ZHINX, "compiler-too-old"),
        (["gcc 11"], HOST, "compiler-too-old"),
        (["gcc 13"], ZHINX, "compiler-missing"),
        (["clang of another core", "lld"], ZHINX, "compiler-unsupported"),
        (["clang 19"], ZHINX, "linker-missing"),
    ],
)
def test_the_right_compiler_is_found_or_the_reason_named(
    tools: list[str], target: Target, found: str, bench: Callable[..., Path]
) -> None:
    bench(*tools)
    if "-" not in found:
        assert find_toolchain(target).kind == found
        return
    error = refusal(lambda: find_toolchain(target))
    assert (type(error), error.code) == (ToolError, found)
    assert "install" in str(error)


def test_gcc_is_refused_for_riscv_even_when_asked_for(
    bench: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bench("gcc 13", "clang 19", "lld")
    monkeypatch.setenv("ODL_CC", str(folder / "gcc"))
    assert refusal(lambda: find_toolchain(ZHINX)).code == "compiler-unsupported"
    assert find_toolchain(HOST).kind == "gcc"


def test_odl_cc_may_hold_arguments(bench: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bench("clang 19", "lld")
    monkeypatch.setenv("ODL_CC", f"'{folder}/clang' -v")
    assert find_toolchain(ZHINX) == Toolchain("clang", (f"{folder}/clang", "-v"), (f"{folder}/ld.lld",), (19, 1, 7))


@pytest.mark.parametrize("cc", ["/nowhere/clang", "true"])
def test_an_odl_cc_that_is_no_compiler_is_refused(cc: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODL_CC", cc)
    assert refusal(lambda: find_toolchain(ZHINX)).code == "compiler-missing"


def test_doctor_says_what_is_there_and_what_is_not(bench: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ODL_QEMU", "ODL_GVSOC"):
        monkeypatch.delenv(name, raising=False)
    bench("gcc 13")
    lines = {line.name: line for line in toolchain.doctor(TARGETS)}
    assert lines["compiler for host"].found
    assert lines["compiler for host"].version == "gcc 13.2.0"
    assert not lines["compiler for host"].hint
    for name in ("compiler for qemu-zhinx", "compiler for qemu-zfh", "QEMU", "GVSoC"):
        assert not lines[name].found
        assert lines[name].hint
    assert lines["GVSoC"].hint.startswith("GVSoC is neither in ODL_GVSOC nor on PATH; optional, ")
    assert "--on qemu" in lines["GVSoC"].hint


# --- compiling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", EVERY)
def test_make_makes_the_same_program(target: Target, tmp_path: Path) -> None:
    project = tiny.write_project(tmp_path / "a project", target)
    tools = find_toolchain(target)
    built = compile_project(project, target, tools, trace=True, out=tmp_path / "out").elf
    make = ["make", "-s", f"CC={shlex.join(tools.cc)}", f"LD={shlex.join(tools.ld)}"]
    if tools.kind == "zig":
        make += [f"CFLAGS={shlex.join(toolchain._ZIG_FLAGS)}", f"AR={shlex.join((*tools.cc[:-1], 'ar'))}"]
        make += [f"ARCH={shlex.join(toolchain.arch_flags(target, 'zig'))}"]
    elif not target.is_riscv:
        make += [f"CFLAGS={shlex.join(toolchain._speed_flags())}"]
    subprocess.run([*make, "TRACE=1"], cwd=project, check=True, timeout=60)
    made = project / "build" / "trace" / built.name
    # Two runs of zig need not give the same bytes, so its program is judged by what it does.
    assert trains(target, made) if tools.kind == "zig" else made.read_bytes() == built.read_bytes()
    subprocess.run([*make, "lib"], cwd=project, check=True, timeout=60)
    members = subprocess.run(
        ["ar", "t", "build/libodl_model.a"], cwd=project, check=True, timeout=60, capture_output=True, text=True
    ).stdout.split()
    assert members == ["odl_checkpoint.c.o", "odl_crc32.c.o", "fault.c.o", "tiny.c.o", "odl_model.c.o"]


def test_make_sees_changed_flags(tmp_path: Path) -> None:
    project = tiny.write_project(tmp_path / "project", HOST)
    tools = find_toolchain(HOST)

    def make(*arguments: str) -> str:
        command = ["make", f"CC={shlex.join(tools.cc)}", *arguments]
        return subprocess.run(command, cwd=project, check=True, timeout=60, capture_output=True, text=True).stdout

    assert "runner.c" in make()
    assert "runner.c" not in make()
    assert "runner.c" in make("CFLAGS=-g")


def cmake(project: Path, target: Target, *options: str) -> Path:
    """The runner, built by CMake; a skip where that cannot be."""
    tools = find_toolchain(target)
    if not shutil.which("cmake"):
        pytest.skip("CMake is not installed")
    if tools.kind == "zig":
        pytest.skip("CMake wants a compiler that is one word, zig's is two")
    options = (*options, f"-DCMAKE_C_COMPILER={tools.cc[0]}")
    if target.is_riscv:
        options += ("-DCMAKE_SYSTEM_NAME=Generic", "-DCMAKE_TRY_COMPILE_TARGET_TYPE=STATIC_LIBRARY")
        options += (f"-DCMAKE_ASM_COMPILER={tools.cc[0]}", f"-DODL_LINKER={tools.ld[0]}")
    for command in (["cmake", "-B", "build-cmake", *options], ["cmake", "--build", "build-cmake"]):
        subprocess.run(command, cwd=project, check=True, timeout=60, capture_output=True)
    return project / "build-cmake" / ("runner.elf" if target.is_riscv else "runner")


@pytest.mark.parametrize("target", EVERY)
def test_cmake_makes_a_program_that_trains(target: Target, tmp_path: Path) -> None:
    project = tiny.write_project(tmp_path / "a project", target)
    assert trains(target, cmake(project, target, "-DODL_TRACE=ON"))


def test_the_stack_is_as_large_as_make_and_cmake_are_told(tmp_path: Path) -> None:
    project, tools = tiny.write_project(tmp_path / "project", ZHINX), find_toolchain(ZHINX)
    before = compile_project(project, ZHINX, tools, out=tmp_path / "out").bss_bytes
    assert "ODL_STACK_BYTES=4096" in (project / "Makefile").read_text()
    make = ["make", "-s", f"CC={shlex.join(tools.cc)}", f"LD={shlex.join(tools.ld)}", "ODL_STACK_BYTES=4096"]
    if tools.kind == "zig":
        make += [f"CFLAGS={shlex.join(toolchain._ZIG_FLAGS)}", f"ARCH={shlex.join(toolchain.arch_flags(ZHINX, 'zig'))}"]
    subprocess.run(make, cwd=project, check=True, timeout=60)
    assert before - read_elf(project / "build/runner.elf").bss_bytes == ZHINX.stack_bytes - 4096
    elf = cmake(project, ZHINX, "-DODL_STACK_BYTES=4096")
    assert before - read_elf(elf).bss_bytes == ZHINX.stack_bytes - 4096


@pytest.mark.parametrize("target", EVERY)
def test_zig_makes_a_program_that_trains(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ziglang")
    project = tiny.write_project(tmp_path / "project", target)
    with monkeypatch.context() as bare:  # for compilers only: GVSoC wants the user's own Python
        bare.setenv("PATH", os.defpath)
        bare.setenv("ODL_CC", f"{sys.executable} -m ziglang cc")
        tools = find_toolchain(target)
        assert tools.kind == "zig"
        elf = compile_project(project, target, tools, trace=True).elf
    assert trains(target, elf)
    if target.is_riscv:
        elf.unlink()
        path = {**os.environ, "PATH": os.defpath}
        subprocess.run(zig_make(project), cwd=project, check=True, timeout=60, env=path)
        assert trains(target, elf)
    assert not list(project.glob("**/*zig-cache"))


def zig_make(project: Path) -> list[str]:
    """The command that the Makefile gives for zig, with zig as a Python package."""
    comment = (project / "Makefile").read_text().split("# With zig:")[1].split("\n\n")[0].replace("\\\n#", "")
    return [*shlex.split(comment.replace('"zig ', f'"{sys.executable} -m ziglang ')), "-s", "TRACE=1"]


def test_zig_is_found_when_nothing_else_is(bench: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ziglang")
    found = toolchain.find_spec("ziglang")
    bench()
    monkeypatch.setattr(toolchain, "find_spec", lambda _: found)
    for target in TARGETS.values():
        assert find_toolchain(target).kind == "zig"


@pytest.mark.parametrize("cc", ["gcc", "clang", "clang-19"])
def test_every_host_compiler_makes_a_program_that_trains(
    cc: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if [cc] not in compilers():
        pytest.skip(f"{cc} is not installed, or too old")
    monkeypatch.setenv("ODL_CC", cc)
    project = tiny.write_project(tmp_path / "project", HOST)
    assert trains(HOST, compile_project(project, HOST, find_toolchain(HOST), trace=True).elf)


def test_conversion_instructions_change_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "_speed_flags", lambda: ())
    project = tiny.write_project(tmp_path / "project", HOST)
    assert trains(HOST, compile_project(project, HOST, find_toolchain(HOST), trace=True).elf)


def test_a_sanitized_program_trains_and_its_reports_are_crashes(tmp_path: Path) -> None:
    project = tiny.write_project(tmp_path / "project", HOST)
    tools = find_toolchain(HOST, sanitize=True)
    assert trains(HOST, compile_project(project, HOST, tools, trace=True, sanitize=True).elf)

    kernel = project / "src" / "kernels" / "tiny.c"
    kernel.write_text(kernel.read_text().replace("y[i] = x[i] * w[i];", "y[i + 1000 * n] = x[i] * w[i];"))
    elf = compile_project(project, HOST, tools, trace=True, sanitize=True).elf
    error = refusal(lambda: simulator_for(HOST).run(elf, Job(MODEL_ID, *tiny.samples(9))))
    assert error.code == "target-crashed"
    assert "AddressSanitizer" in str(error)


@pytest.mark.qemu
def test_sizes_follow_the_program(tmp_path: Path) -> None:
    project = tiny.write_project(tmp_path / "project", ZHINX)
    tools = find_toolchain(ZHINX)
    small = compile_project(project, ZHINX, tools)
    large = compile_project(project, ZHINX, tools, defines={"ODL_ARENA_BYTES": "(64u + 4096u)"})
    traced = compile_project(project, ZHINX, tools, trace=True)
    assert large.bss_bytes - small.bss_bytes == 4096
    assert small.bss_bytes > 64 + ZHINX.stack_bytes
    assert traced.text_bytes > small.text_bytes > 1000
    assert small.data_bytes < 64


@pytest.mark.parametrize("target", RISCV)
@pytest.mark.parametrize(
    "defines", [{"ODL_RAM_BYTES": 9000}, {"ODL_ARENA_BYTES": "(200u << 20)"}, {"ODL_STACK_BYTES": 1 << 28}]
)
def test_what_does_not_fit_is_refused_when_linking(target: Target, defines: dict[str, object], tmp_path: Path) -> None:
    project = tiny.write_project(tmp_path / "project", target)
    if target.l1_bytes and "ODL_RAM_BYTES" in defines:
        defines = {"ODL_RAM_BYTES": 4096}  # without the stacks, which lie in L1
    error = refusal(lambda: compile_project(project, target, find_toolchain(target), defines=defines))
    assert (type(error), error.code) == (FitError, "does-not-fit")


@pytest.mark.parametrize("target", RISCV)
def test_code_that_does_not_fit_is_refused_when_linking(target: Target, tmp_path: Path) -> None:
    project = tiny.write_project(tmp_path / "project", target)
    script = project / "port/link.ld"
    memories = re.sub(r"(FLASH|L2)( \([rwx]+\) : .*LENGTH = )\w+", r"\g<1>\g<2>5K", script.read_text())
    assert memories != script.read_text()
    script.write_text(memories)
    error = refusal(lambda: compile_project(project, target, find_toolchain(target)))
    assert (type(error), error.code) == (FitError, "does-not-fit")
    assert re.search("FLASH|L2", str(error))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("y[i] = (odl_half)((double)x[i] * 0.1);", "__muldf3"),
        ("n = (uint32_t)(((uint64_t)n << 32) / (i + 3u));", "__udivdi3"),
        ("y[i] = (odl_half)__builtin_sinf((float)x[i]);", "sinf"),
        ("i = x[i];", "-Wfloat-conversion"),
        ("y[i] = ;", "expected expression"),
    ],
)
def test_code_that_has_no_place_here_does_not_build(line: str, words: str, tmp_path: Path) -> None:
    """Nothing is linked but the project: a helper of the compiler's library is an error that can be seen."""
    project = tiny.write_project(tmp_path / "project", ZHINX)
    kernel = project / "src" / "kernels" / "tiny.c"
    kernel.write_text(kernel.read_text().replace("y[i] = x[i] * w[i];", f"y[i] = x[i] * w[i]; {line}"))
    error = refusal(lambda: compile_project(project, ZHINX, find_toolchain(ZHINX)))
    assert (type(error), error.code) == (ToolError, "compile-failed")
    assert words in str(error)


# --- reading ELF ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", EVERY)
def test_an_address_is_found_in_its_function(target: Target, tmp_path: Path) -> None:
    project = tiny.write_project(tmp_path / "project", target)
    elf = read_elf(compile_project(project, target, find_toolchain(target)).elf)
    (function,) = (function for function in elf.functions if function.name == "tiny_update")
    assert elf.locate(function.address) == "tiny_update+0x0"
    assert elf.locate(function.address + function.n_bytes - 1) == f"tiny_update+0x{function.n_bytes - 1:x}"
    assert elf.locate(3) == "0x00000003"


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"MZ" + bytes(100), b"\x7fELF\1\1" + b"\xff" * 60])
def test_what_is_no_elf_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    assert refusal(lambda: read_elf(tmp_path / "file")).code == "not-an-elf"
