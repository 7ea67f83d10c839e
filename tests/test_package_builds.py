"""Packages build as their manifests say, and the application in them learns with the bits of NumPy.

CMake builds are those of CMake itself. Of the others the manifest is followed with a host's compiler, and stand-ins for
what their frameworks bring (tests/fixtures/ecosystems).
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from host_c import compilers
from models import compiled, mlp
from shop import NUMERICS, Shop, each_package, expected, run, sensed, told

from odl import api, toolchain
from odl.compare import Reference
from odl.packages import PACKAGES
from odl.targets import TARGETS
from odl.targets.qemu import Qemu

STAND_INS = Path(__file__).with_name("fixtures") / "ecosystems"
WARNINGS = ["-Wall", "-Wextra", "-Werror"]

# A core that fuses a product with a sum, and a compiler that would like to: where the flags are missing, bits differ.
CPU = Path("/proc/cpuinfo")
FUSING = ["-O2", "-mfma"] if CPU.exists() and re.search(r"^flags\s*:.*\bfma\b", CPU.read_text(), re.M) else ["-O2"]

each_compiler = pytest.mark.parametrize("cc", compilers(), ids=lambda cc: Path(cc[0]).name)


# --- they build, and the application learns ---------------------------------------------------------------------------


def need(program: str) -> str:
    """On PATH, or beside this Python, where pip puts it; skips where it is in neither place."""
    found = shutil.which(program) or shutil.which(program, path=Path(sys.executable).parent)
    if not found:
        pytest.skip(f"{program} is not on PATH")
    return found


def configure(source: Path, build: Path, *options: str) -> Path:
    cmake = need("cmake")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    run(cmake, *generator, "-S", source, "-B", build, *options)
    run(cmake, "--build", build)
    return build


def for_riscv(folder: Path, kind: str) -> list[str]:
    """What makes the toolchain file of a CMake package take one kind of compiler."""
    options = [f"-DCMAKE_TOOLCHAIN_FILE={folder / 'cmake/riscv32-clang.cmake'}"]
    if kind == "zig":
        return [*options, f"-DODL_ZIG={toolchain._zig()[0][0]}"]
    if not toolchain._versioned("clang") or not toolchain._versioned("ld.lld"):
        pytest.skip("no clang with its linker is on PATH")
    return options


def test_cmake_builds_it_for_the_host(shop: Shop, tmp_path: Path) -> None:
    build = configure(shop.package("cmake"), tmp_path / "build", f"-DCMAKE_C_FLAGS={' '.join(FUSING)}")
    assert told(run(build / "examples/learn/odl_example")) == expected(shop.compiled)


@pytest.mark.qemu
@pytest.mark.parametrize("target", ["qemu-zhinx", "qemu-zfh"])
@pytest.mark.parametrize("kind", ["zig", "clang"])
def test_cmake_builds_it_with_its_toolchain_file(shop: Shop, kind: str, target: str, tmp_path: Path) -> None:
    """For RISC-V, and in QEMU the application learns with the bits of NumPy."""
    model = api.compile_model(shop.compiled.model.path, shop.compiled.recipe, target)
    api.package(model, tmp_path / "package", "cmake")
    build = configure(tmp_path / "package", tmp_path / "build", *for_riscv(tmp_path / "package", kind))
    qemu = Qemu(TARGETS[target]).command(build / "examples/learn/odl_example.elf")
    assert told(run(*qemu)) == expected(model)


CONSUMER = """
cmake_minimum_required(VERSION 3.20)
project(firmware CXX)
set(CMAKE_CXX_STANDARD 17)
find_package(odl REQUIRED)
add_library(firmware STATIC firmware.cpp)
target_compile_options(firmware PRIVATE -Wall -Wextra -Werror)
target_link_libraries(firmware PUBLIC odl::model)
if(NOT CMAKE_SYSTEM_NAME STREQUAL "Generic")
    add_executable(program main.cpp)
    target_link_libraries(program PRIVATE firmware)
endif()
"""

FIRMWARE = """
#include <odl.h>

float learn(const odl_half *sample, int32_t label);

alignas(ODL_ARENA_ALIGN) static uint8_t arena[ODL_ARENA_BYTES];

float learn(const odl_half *sample, int32_t label)
{
    float loss = 0.0f;
    odl_init(arena);
    return odl_self_test() == 0 && odl_train_step(arena, sample, label, &loss) == ODL_OK ? loss : -1.0f;
}
"""

MAIN = """
#include <cstdio>
#include <odl.h>

float learn(const odl_half *sample, int32_t label);

int main()
{
    static const odl_half sample[ODL_SAMPLE_ELEMS] = {};
    std::printf("%.9g\\n", static_cast<double>(learn(sample, 1)));
}
"""


@pytest.mark.parametrize("kind", ["host", "zig"])
def test_an_installed_package_is_found_by_a_project_in_cxx(shop: Shop, kind: str, tmp_path: Path) -> None:
    folder = shop.package("cmake")
    options = for_riscv(folder, kind) if kind != "host" else []
    build = configure(folder, tmp_path / "build", *options)
    run(need("cmake"), "--install", build, "--prefix", tmp_path / "place")
    consumer = tmp_path / "consumer"
    consumer.mkdir()
    for name, text in (("CMakeLists.txt", CONSUMER), ("firmware.cpp", FIRMWARE), ("main.cpp", MAIN)):
        (consumer / name).write_text(text)
    made = configure(consumer, tmp_path / "made", *options, f"-Dodl_DIR={tmp_path / 'place/lib/cmake/odl'}")
    if kind == "host":
        model = shop.compiled
        zeros = sensed(model, 1)
        loss = Reference(model.program, model.training).step(
            np.zeros_like(zeros.samples[0]), np.ones_like(zeros.targets[0]), None
        )
        assert np.float32(run(made / "program")) == loss


@pytest.mark.parametrize("checkpoint", [False, True])
def test_zephyrs_cmake_builds_it(shop: Shop, checkpoint: bool, tmp_path: Path) -> None:
    """With stand-ins for Zephyr's functions, for the host; with checkpoints a flash is missed, as it must be."""
    machine = f"-DMACHINE_FLAGS={';'.join(FUSING)}"
    options = [f"-DMODULE={shop.package('zephyr')}", "-DCONFIG_ODL_MODEL=ON", machine]
    if checkpoint:
        with pytest.raises(AssertionError, match=r"undefined (reference|symbol).*odl_flash_"):
            configure(STAND_INS / "zephyr", tmp_path / "build", *options, "-DCONFIG_ODL_MODEL_CHECKPOINT=ON")
    else:
        build = configure(STAND_INS / "zephyr", tmp_path / "build", *options)
        assert told(run(build / "app")) == expected(shop.compiled)


def archive(cc: list[str], flags: list[str], sources: list[Path], place: Path) -> Path:
    """A library of C files."""
    objects = []
    for at, source in enumerate(sources):
        objects.append(place / f"{at}.o")
        run(*cc, *flags, "-c", source, "-o", objects[-1])
    run(need("ar"), "rcs", place / "library.a", *objects)
    return place / "library.a"


@each_compiler
def test_what_library_json_says_builds_it(shop: Shop, cc: list[str], tmp_path: Path) -> None:
    folder = shop.package("platformio")
    build = json.loads((folder / "library.json").read_text())["build"]
    include = f"-I{folder / build['includeDir']}"
    patterns = [word.removeprefix("+<").removesuffix(">") for word in build["srcFilter"]]
    sources = [path for pattern in patterns for path in sorted((folder / build["srcDir"]).glob(pattern))]
    made = archive(cc, [*FUSING, *build["flags"], include], sources, tmp_path)
    application = sorted((folder / "examples/learn/src").glob("*.c"))
    run(*cc, "-std=c11", "-O2", *toolchain._WARNINGS, include, *application, made, "-o", tmp_path / "program")
    assert told(run(tmp_path / "program")) == expected(shop.compiled)


@each_compiler
def test_arduino_needs_no_flags(shop: Shop, cc: list[str], tmp_path: Path) -> None:
    """All of src/ with src/ alone on the path, the sketch and the C files beside it; and no flag of the contract."""
    folder = shop.package("arduino")
    flags = [*FUSING, f"-I{folder / 'src'}", *WARNINGS]
    sketch = folder / "examples/learn"
    made = archive(cc, flags, sorted((folder / "src").rglob("*.c")), tmp_path)
    parts = []
    for source in sorted(sketch.glob("*.c")):
        parts.append(tmp_path / f"{source.stem}.o")
        run(*cc, *flags, "-c", source, "-o", parts[-1])
    as_sketch = [f'-DSKETCH="{sketch / "learn.ino"}"', f"-I{STAND_INS / 'arduino'}"]
    run(
        *cxx_of(cc), "-std=c++17", *flags, *as_sketch, STAND_INS / "arduino/main.cpp", *parts, made,
        "-o", tmp_path / "program",
    )  # fmt: skip
    assert told(run(tmp_path / "program")) == expected(shop.compiled)


def test_it_learns_a_tensor_as_well(tmp_path: Path) -> None:
    """A target that is no label: an autoencoder, and a model whose output is of another shape than its input."""
    for classes in (4, 3):
        model = compiled(tmp_path, mlp(classes), loss="mse", lr=0.05)
        folder = tmp_path / str(classes)
        api.package(model, folder, "platformio")
        sources = [*(folder / "src").rglob("*.c"), *(folder / "examples").rglob("*.c")]
        wanted = [source for source in sources if source.parent.name != "checkpoint"]
        run(*compilers()[0], *NUMERICS, f"-I{folder / 'include'}", *wanted, "-o", folder / "program")
        assert told(run(folder / "program")) == expected(model)
        losses = [float(np.uint32(int(line[-8:], 16)).view(np.float32)) for line in expected(model)]
        assert sum(losses[-8:]) < 0.7 * sum(losses[:8])


# --- C++ --------------------------------------------------------------------------------------------------------------


def cxx_of(cc: list[str]) -> list[str]:
    """The C++ compiler of a C compiler; skips where there is none."""
    if cc[-1] == "cc" and len(cc) > 1:
        return [*cc[:-1], "c++"]
    return [need(cc[0].replace("gcc", "g++").replace("clang", "clang++"))]


PUBLIC = ["odl.h", "odl_model.h", "odl_half.h", "odl_checkpoint.h", "odl_flash.h", "odl_crc32.h"]


@pytest.mark.parametrize("header", PUBLIC)
@each_package
def test_headers_are_cxx(shop: Shop, name: str, header: str, tmp_path: Path) -> None:
    folder = shop.package(name)
    source = tmp_path / "firmware.cpp"
    source.write_text(f"#include <{header}>\n")
    include = f"-I{folder / PACKAGES[name].headers}"
    tried = [cxx_of(cc) for cc in compilers()] + [[*zig, "c++"] for *zig, _ in toolchain._zig()[:1]]
    for cxx in tried:
        run(*cxx, "-std=c++17", *WARNINGS, include, "-c", source, "-o", tmp_path / "firmware.o")


def test_headers_are_cxx_on_riscv(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "firmware.cpp").write_text(FIRMWARE)
    *zig, _ = toolchain._zig()[0]
    arch = toolchain.arch_flags(TARGETS["qemu-zhinx"], "zig")
    include = f"-I{shop.package('cmake') / 'include'}"
    flags = ["-std=c++17", *WARNINGS, *NUMERICS, "-ffreestanding", include]
    run(*zig, "c++", *arch, *flags, "-c", tmp_path / "firmware.cpp", "-o", tmp_path / "firmware.o")
