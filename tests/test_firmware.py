"""What compilers make of the C: the contract's instructions alone, no foreign code, no hidden state, little stack."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from machine_code import float_instructions, float_name, words
from models import cnn, compiled
from whole_program import whole_program

from benchmarks.measure import ZIG, compiler, compilers
from benchmarks.models import SUBJECTS
from odl import Recipe, build, compile_model, verify
from odl.api import silent
from odl.codegen import model_id
from odl.compare import Device, Reference
from odl.compare import verify as compare
from odl.data import Data, load_data
from odl.elf import read_elf
from odl.errors import FitError, ToolError
from odl.fp16 import Accumulate, bits
from odl.program import ARENA, Program
from odl.project import write_project
from odl.share import share
from odl.targets import Target, find_target, simulator_for
from odl.toolchain import BuildResult, Toolchain, compile_project, find_toolchain
from odl.training import Training
from odl.wire import Job

HOST, ZHINX, ZFH = (find_target(name) for name in ("host", "qemu-zhinx", "qemu-zfh"))
DIGITS = SUBJECTS["digits_resnet8"]

each_device = pytest.mark.parametrize("target", [ZHINX, ZFH], ids=lambda target: target.name)
each_accumulator = pytest.mark.parametrize("accumulate", list(Accumulate), ids=lambda mode: mode.value)
COMPILERS = {name.split()[0]: command for name, command in compilers().items()}
each_compiler = pytest.mark.parametrize("command", COMPILERS.values(), ids=COMPILERS)


@dataclass(frozen=True)
class Built:
    """The whole program: its project, and its runner without tracing."""

    program: Program
    training: Training
    data: Data
    project: Path
    result: BuildResult

    def objects(self) -> dict[str, Path]:
        """Object files by the name of their source."""
        folder = self.project / "build/objects"
        return {path.relative_to(folder).as_posix().removesuffix(".o"): path for path in folder.rglob("*.o")}


Builder = Callable[[Target, Accumulate, str], Built]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """Builds the whole program with the compiler of a command; each build is made once."""

    @cache
    def make(target: Target, accumulate: Accumulate, tools: Toolchain) -> Built:
        program, training, data = whole_program(accumulate)
        project = tmp_path_factory.mktemp("whole")
        write_project(project, "whole", program, training, target)
        return Built(program, training, data, project, compile_project(project, target, tools, progress=False))

    def built(target: Target, accumulate: Accumulate, command: str = "") -> Built:
        if command:
            pytest.importorskip("ziglang")
        with compiler(command or os.environ.get("ODL_CC", "")):
            return make(target, accumulate, find_toolchain(target))

    return built


# --- instructions -----------------------------------------------------------------------------------------------------

# The contract's operations, and comparisons, moves and conversions, which are exact or round once. Not here are fmin
# and fmax, whose zeros and NaNs are not those of a comparison, nor fsgnjn.h and fsgnjx.h (fneg.h, fabs.h): with
# Zhinx, QEMU 7.2 leaves the sign as it was.
_OF_BOTH = ("fadd", "fsub", "fmul", "fdiv", "fsqrt", "feq", "flt", "fle", "fclass", "fsgnj", "fmv.x")
CONTRACT = {f"{name}.{form}" for name in _OF_BOTH for form in "hs"} | {
    "fcvt.s.h", "fcvt.h.s", "fcvt.s.int", "fmv.h.x", "fmv.s.x", "fsgnjn.s", "fsgnjx.s",
}  # fmt: skip
MEMORY = {"flh", "flw", "fsh", "fsw"}
FUSED = {"fmadd.h"}
DOT_PRODUCTS = {"odl_acc_dot2", "odl_block_dot", "odl_micro"}  # odl_micro.h: its weak functions are in every user


@each_compiler
@each_device
@each_accumulator
def test_only_the_contracts_instructions(accumulate: Accumulate, target: Target, command: str, built: Builder) -> None:
    """None in binary64; fused ones in the self-test, which wants one, and in binary16 sums of products."""
    made = built(target, accumulate, command)
    found = {name: float_instructions(path) for name, path in made.objects().items()}
    allowed = CONTRACT if target is ZHINX else CONTRACT | MEMORY
    foreign = {name: extra for name, names in found.items() if (extra := names - allowed - FUSED)}
    assert not foreign
    fused = {name for name, names in found.items() if names & FUSED} - {"runner/self_test.c"}
    assert fused <= (sums(made.project) if accumulate is Accumulate.FP16 else set())
    assert ("src/kernels/conv2d.c" in fused) == (accumulate is Accumulate.FP16)
    assert float_instructions(made.result.elf) <= set().union(*found.values()), "the linker added some"


def test_no_kernel_is_left_out(built: Builder) -> None:
    """The program of these tests has a file for every template."""
    sources = {path.name for path in (built(ZHINX, Accumulate.FP32).project / "src/kernels").iterdir()}
    assert sources == {path.name.removesuffix(".j2") for path in (share("templates") / "kernels").iterdir()}


def sums(project: Path) -> set[str]:
    """The kernels that call the accumulator's dot product, or bring functions that do."""
    kernels = (path for path in (project / "src/kernels").iterdir())
    return {f"src/kernels/{path.name}" for path in kernels if DOT_PRODUCTS & words_of(path)}


def words_of(path: Path) -> set[str]:
    text = path.read_text()
    return set("".join(c if c.isalnum() or c == "_" else " " for c in text).split())


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("43f5c550", "fmadd.s"), ("4bf5c552", "fnmsub.d"), ("43f5c554", "fmadd.h"), ("53f5c502", "fadd.d"),
        ("53f5c504", "fadd.h"), ("5395b520", "fsgnjn.s"), ("53a5b524", "fsgnjx.h"), ("5385c52c", "fmin.h"),
        ("53850542", "fcvt.d.s"), ("53f51540", "fcvt.s.d"), ("539515c4", "fcvt.int.h"), ("539505e0", "fclass.s"),
        ("538505e4", "fmv.x.h"), ("0735c500", "fld"), ("2736a500", "fsd"), ("0825", "fld"), ("2aa4", "fsd"),
        ("0865", "flw"), ("07152500", "flh"), ("53f5055c", "fsqrt.h"), ("5385c5a0", "fle.s"), ("3385c500", ""),
        ("0100", ""),
    ],
)  # fmt: skip
def test_the_decoder_reads_what_an_assembler_wrote(code: str, name: str) -> None:
    assert [float_name(word) for word in words(bytes.fromhex(code))] == [name]


# --- foreign code and hidden state ------------------------------------------------------------------------------------


@each_compiler
@each_device
def test_nothing_foreign_is_linked(target: Target, command: str, built: Builder) -> None:
    """Every function of the program is written in the project: none comes from libm, libc or the compiler's library."""
    made = built(target, Accumulate.FP32, command)
    written = set().union(*(words_of(path) for path in made.project.rglob("*.[chS]")))
    linked = {symbol.name for symbol in read_elf(made.result.elf).symbols if symbol.is_function}
    assert "odl_train_step" in linked
    assert linked <= written


@each_compiler
@each_device
def test_the_model_asks_for_nothing_and_keeps_nothing(target: Target, command: str, built: Builder) -> None:
    """The library needs three functions of its surroundings, and no variable outside of the arena."""
    made = built(target, Accumulate.FP32, command)
    model = [read_elf(path) for name, path in made.objects().items() if name.startswith("src/")]
    symbols = [symbol for elf in model for symbol in elf.symbols if symbol.name]
    wanted = {symbol.name for symbol in symbols if not symbol.is_defined} - {s.name for s in symbols if s.is_defined}
    assert wanted <= {"memcpy", "memmove", "memset"}
    writable = 0x1 | 0x2  # SHF_WRITE, SHF_ALLOC
    variables = {s.name for elf in model for s in elf.sections if s.flags & writable == writable and s.n_bytes}
    assert not variables


TWO_ARENAS = r"""
#include <stdio.h>

#include "odl_model.h"

#define N_STEPS 6

static _Alignas(ODL_ARENA_ALIGN) unsigned char arenas[2][ODL_ARENA_BYTES];
static odl_half samples[N_STEPS][ODL_SAMPLE_ELEMS];

/* The second arena lags behind the first and sees the samples in their opposite order. */
static int step(int which, int n, int at)
{
    float loss;
    if (odl_train_step(arenas[which], samples[at], at % 3, &loss) != ODL_OK) {
        return 1;
    }
    return printf("%d %d %08x\n", which, n, (unsigned)odl_bits32(loss)) < 0;
}

int main(void)
{
    int failed = fread(samples, sizeof samples, 1, stdin) != 1;
    odl_init(arenas[0]);
    odl_init(arenas[1]);
    for (int n = 0; n < N_STEPS + 2; n++) {
        failed |= n < N_STEPS && step(0, n, n);
        failed |= n >= 2 && step(1, n - 2, N_STEPS - 1 - (n - 2));
    }
    return failed;
}
"""


def test_two_arenas_train_side_by_side(tmp_path: Path) -> None:
    """Each gives the losses of a run alone, by NumPy, with all that a recipe can keep between two steps."""
    model = compiled(tmp_path, cnn(), "host", batch=2, momentum=0.9, lr=0.05)
    project = tmp_path / "project"
    write_project(project, "two", model.program, model.training, HOST)
    for source in [path for part in ("checkpoint", "runner", "port") for path in project.glob(f"{part}/*.c")]:
        source.unlink()
    (project / "runner/two.c").write_text(TWO_ARENAS)
    program = compile_project(project, HOST, find_toolchain(HOST), progress=False).elf
    drawn = np.random.default_rng(7).standard_normal((6, *model.program.inputs[model.training.sample].shape[1:]))
    x = drawn.astype(np.float16)[:, None]
    printed = subprocess.run([program], input=x.tobytes(), stdout=subprocess.PIPE, check=True, timeout=20).stdout
    found = [line.split() for line in printed.decode().splitlines()]
    for which, order in (("0", range(6)), ("1", range(5, -1, -1))):
        alone = Reference(model.program, model.training)
        losses = [alone.step(x[at], np.array([at % 3], np.int32), lambda *_: None) for at in order]
        assert [line[2] for line in found if line[0] == which] == [f"{int(bits(loss)):08x}" for loss in losses]
        assert len(set(losses)) == len(losses)


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.qemu
@each_device
def test_the_stack_stays_small(target: Target, built: Builder) -> None:
    """All kernels, forward and backward, in the stack of the smallest chips."""
    made = built(target, Accumulate.FP32)
    job = Job(model_id(made.program), made.data.samples, made.data.targets)
    assert 0 < simulator_for(target).run(made.result.elf, job).stack_bytes <= 4096


@each_device
def test_ram_smaller_than_the_plan_is_refused_when_linking(target: Target, tmp_path: Path) -> None:
    """One byte short of arena, stack and variables does not link."""
    model = compiled(tmp_path, cnn(), target.name)
    project, tools = tmp_path / "project", find_toolchain(target)
    write_project(project, "tight", model.program, model.training, target)
    result = compile_project(project, target, tools)
    needed = result.bss_bytes + result.data_bytes
    assert needed > model.program.spaces[ARENA] + target.stack_bytes
    with pytest.raises(FitError) as caught:
        compile_project(project, target, tools, defines={"ODL_RAM_BYTES": needed - 1})
    assert caught.value.code == "does-not-fit"
    between_sections = 64
    assert compile_project(project, target, tools, defines={"ODL_RAM_BYTES": needed + between_sections}).elf.exists()


# --- sanitizers -------------------------------------------------------------------------------------------------------


def sanitized(project: Path, program: Program, training: Training) -> Device:
    try:
        tools = find_toolchain(HOST, sanitize=True)
    except ToolError as error:
        pytest.skip(str(error))
    project.mkdir()
    write_project(project, "sanitized", program, training, HOST)
    return Device(simulator_for(HOST), compile_project(project, HOST, tools, trace=True, sanitize=True).elf)


@each_accumulator
def test_every_kernel_is_clean_under_sanitizers(accumulate: Accumulate, tmp_path: Path) -> None:
    """No access outside of memory, no undefined behaviour; a report would be a crash."""
    program, training, data = whole_program(accumulate)
    verdict = compare(program, training, data, sanitized(tmp_path / "project", program, training), silent)
    assert verdict.equal, verdict.first_difference


def test_a_network_is_clean_under_sanitizers(tmp_path: Path) -> None:
    model = DIGITS.compile("host")
    data = load_data(DIGITS.write_data(model, tmp_path), model.training).steps(3, 0)
    device = sanitized(tmp_path / "project", model.program, model.training)
    verdict = compare(model.program, model.training, data, device, silent)
    assert verdict.equal, verdict.first_difference
    assert verdict.steps == 3


# --- without odl ------------------------------------------------------------------------------------------------------


def recipe_of(file: Path, tools: Toolchain) -> str:
    """The command that a build file's comment gives for a compiler."""
    lines = [line.removeprefix("#").strip() for line in file.read_text().splitlines() if line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    if file.name == "CMakeLists.txt":
        return " && ".join(line for line in text.splitlines() if line.startswith("cmake "))
    return text.split("With zig:")[1].splitlines()[0] if tools.kind == "zig" else "make"


def shell(folder: Path, tools: Toolchain) -> dict[str, str]:
    """A user's environment: a PATH on which the compiler has its plain name, and nothing of Python's."""
    programs, linker = folder / "bin", tools.ld[0] if tools.ld else ""
    programs.mkdir()
    named = {"zig": tools.cc[0]} if tools.kind == "zig" else {"clang": tools.cc[0], "cc": tools.cc[0], "ld.lld": linker}
    for name, program in named.items():
        if program:
            (programs / name).symlink_to(shutil.which(program) or program)
    return {"PATH": f"{programs}:{os.defpath}", "HOME": str(folder)}


@pytest.mark.parametrize("tool", ["Makefile", "CMakeLists.txt"])
@pytest.mark.parametrize("target", [HOST, pytest.param(ZHINX, marks=pytest.mark.qemu)], ids=lambda target: target.name)
def test_the_project_builds_without_odl(target: Target, tool: str, tmp_path: Path) -> None:
    """As its own comments say, with a compiler and a shell; the runner then trains as NumPy does."""
    tools = find_toolchain(target)
    if tool == "CMakeLists.txt" and (tools.kind == "zig" or not shutil.which("cmake", path=os.defpath)):
        pytest.skip("CMake is missing, or there is no compiler that is one command")
    model = compiled(tmp_path, cnn(), target.name)
    project = tmp_path / "project"
    build(model, project)
    shutil.rmtree(project / "build")
    command = recipe_of(project / tool, tools)
    subprocess.run(command, shell=True, cwd=project, env=shell(tmp_path, tools), check=True, timeout=120)
    (runner,) = (path for path in project.glob("build*/runner*") if path.is_file())
    x = np.random.default_rng(5).standard_normal((2, 1, 6, 6, 2)).astype(np.float16)
    labels = np.array([[0], [2]], np.int32)
    reference = Reference(model.program, model.training)
    losses = [reference.step(*item, lambda *_: None) for item in zip(x, labels, strict=True)]
    log = simulator_for(target).run(runner, Job(model_id(model.program), x, labels))
    np.testing.assert_array_equal(bits(log.losses), bits(np.array(losses)))


# --- zig --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["host", *(pytest.param(t.name, marks=pytest.mark.qemu) for t in (ZHINX, ZFH))])
def test_zig_trains_a_network_as_numpy_does(name: str, tmp_path: Path) -> None:
    """The compiler that pip installs, and the only one of a fresh machine."""
    pytest.importorskip("ziglang")
    model = compile_model(DIGITS.path, Recipe(lr=DIGITS.lr), name)
    data = DIGITS.write_data(model, tmp_path)
    with compiler(ZIG):
        assert find_toolchain(find_target(name)).kind == "zig"
        verdict = verify(model, data, 2)
    assert verdict.equal, verdict.first_difference
    assert verdict.steps == 2
