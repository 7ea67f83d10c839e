"""Compilers: find one that knows binary16, give it the flags of the numerics contract, make an ELF file.

The flags here and in the generated Makefile come from the same functions, so a project built by hand is the same
program. For RISC-V only clang and zig (which is clang) will do: they know `_Float16` in integer registers, and the
linker is LLVM's. The host takes gcc as well.

Error codes: `compiler-missing`, `compiler-too-old`, `compiler-unsupported`, `linker-missing`, `sanitizer-missing`,
`compile-failed` (ToolError); `does-not-fit` (FitError) when the linker finds that memory is too small.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

from odl import subprocesses
from odl.elf import read_elf
from odl.errors import FitError, OdlError, Problem, ToolError
from odl.objects import Objects, cache_folder, fetch, keep
from odl.shown import Shown
from odl.stages import stage
from odl.staging import scratch
from odl.targets.base import Target
from odl.targets.pulp import HOW_TO_INSTALL as GVSOC_HINT
from odl.targets.pulp import WITHOUT as WITHOUT_GVSOC
from odl.targets.pulp import find_gvsoc, why_no_gvsoc
from odl.targets.qemu import HOW_TO_INSTALL as QEMU_HINT
from odl.targets.qemu import OLDEST as OLDEST_QEMU
from odl.targets.qemu import find_qemu, qemu_version

OLDEST = {"clang": (17,), "zig": (0, 13), "gcc": (12,)}

_COMPILER_HINT = "pip install 'odl[compiler]', or apt-get install clang-19 lld-19, or set ODL_CC"
_LINKER_HINT = "apt-get install lld-19 (of your clang's version), or pip install 'odl[compiler]'"

_TIMEOUT_S = 120.0
_PROBE_TIMEOUT_S = 30.0

# One rounding an operation: no contraction. The arena holds values of many types at the same bytes, one after
# another: no type-based alias analysis.
_FLAGS = ("-std=c11", "-O2", "-ffp-contract=off", "-fno-math-errno", "-fno-strict-aliasing")
_WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wshadow")
_FREESTANDING = ("-ffreestanding", "-ffunction-sections", "-fdata-sections")
_INCLUDED = ("include", "checkpoint", "runner", "port")
_LINK = ("--gc-sections", "-T", "port/link.ld")

# zig cc defaults to a debug build with traps for undefined behaviour; this makes it plain clang.
_ZIG_FLAGS = ("-fno-sanitize=undefined", "-fomit-frame-pointer", "-g0")

# Without optimisation nothing is folded away before a sanitizer sees it, and clang takes half the time (1.6 against 2.9
# processor seconds for the 30 files of a small network).
_SANITIZE = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")


@dataclass(frozen=True)
class Toolchain:
    """A compiler that will do: `kind` is clang, zig or gcc; `cc` and, for RISC-V, `ld` are the starts of commands."""

    kind: str
    cc: tuple[str, ...]
    ld: tuple[str, ...]
    version: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.kind} {'.'.join(map(str, self.version))} ({shlex.join(self.cc)})"


@dataclass(frozen=True)
class BuildResult(Shown):
    """A runner, and what its sections take (0 on the host): `text_bytes` in flash, `bss_bytes` (the arena and the
    stack with it) in RAM, `data_bytes` in both."""

    elf: Path
    text_bytes: int
    data_bytes: int
    bss_bytes: int


@dataclass(frozen=True)
class ToolStatus:
    """A line of `odl doctor`. `hint` says how to get what is missing or too old, and is empty where all is well."""

    name: str
    found: bool
    version: str
    path: str
    hint: str


# --- flags ------------------------------------------------------------------------------------------------------------


def arch_flags(target: Target, kind: str) -> tuple[str, ...]:
    """How compiler `kind` is told the target's instruction set and ABI. Empty for the host."""
    if not target.is_riscv:
        return ()
    if kind == "zig":
        base, *extensions = target.isa.removeprefix("rv32i").split("_")
        features = "".join(f"+{name}" for name in (*base, *extensions))
        return ("-target", "riscv32-freestanding-none", f"-mcpu=generic_rv32{features}", f"-mabi={target.abi}")
    return ("--target=riscv32-unknown-elf", f"-march={target.isa}", f"-mabi={target.abi}")


def contract_flags(target: Target) -> tuple[str, ...]:
    """The flags that every file of a project needs, whoever compiles it."""
    return _FLAGS + (_FREESTANDING if target.is_riscv else ())


def _as_flags(macros: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(f"-D{name}={value}" for name, value in macros.items())


def project_variables(target: Target) -> dict[str, object]:
    """What templates/project/Makefile.j2 and CMakeLists.txt.j2 ask for."""
    return {
        "target": target.name,
        "is_riscv": target.is_riscv,
        "has_l1": bool(target.l1_bytes),
        "arch": " ".join(arch_flags(target, "clang")),
        "zig_arch": " ".join(arch_flags(target, "zig")),
        "flags": " ".join(contract_flags(target) + _as_flags(dict(target.defines))),
        "warnings": " ".join(_WARNINGS),
        "ram_bytes": target.ram_bytes,
        "stack_bytes": target.stack_bytes,
        "has_team": target.cores > 1,
    }


@cache
def _speed_flags() -> tuple[str, ...]:
    """Conversion instructions that this machine has. They give the same bits as the library calls they replace."""
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not cpuinfo.exists():
        return ()
    return ("-mf16c",) if re.search(r"^flags\s*:.*\bf16c\b", cpuinfo.read_text(), re.M) else ()


def _compile_flags(target: Target, toolchain: Toolchain, sanitize: bool) -> tuple[str, ...]:
    flags = arch_flags(target, toolchain.kind) + contract_flags(target) + _WARNINGS
    if toolchain.kind == "zig":
        flags += _ZIG_FLAGS
    elif not target.is_riscv:
        flags += _speed_flags()
    return flags + (_SANITIZE if sanitize else ()) + tuple(f"-I{folder}" for folder in _INCLUDED)


# --- finding ----------------------------------------------------------------------------------------------------------


def _versioned(name: str) -> list[str]:
    """`name` and `name-N`, newest first, as far as they are on PATH."""
    found = (shutil.which(word) for word in (name, *(f"{name}-{n}" for n in range(40, 16, -1))))
    return [path for path in found if path]


def _zig() -> list[tuple[str, ...]]:
    spec = find_spec("ziglang")
    places = [Path(spec.origin).parent / "zig"] if spec and spec.origin else []
    on_path = shutil.which("zig")
    return [(str(place), "cc") for place in (*places, *([Path(on_path)] if on_path else [])) if place.exists()]


def _candidates(target: Target) -> Iterator[tuple[str, ...]]:
    """Compiler commands, best first; `$ODL_CC` alone if it is set."""
    chosen = os.environ.get("ODL_CC")
    if chosen:
        yield tuple(shlex.split(chosen))
        return
    yield from ((path,) for path in _versioned("clang"))
    if not target.is_riscv:
        yield from ((path,) for path in (shutil.which("gcc"), shutil.which("cc")) if path)
    yield from _zig()


def _numbers(text: str, pattern: str) -> tuple[int, ...]:
    match = re.search(pattern, text)
    return tuple(int(word) for word in match[1].split(".")) if match else ()


def _ask(*argv: str) -> str:
    """What a tool prints; empty if it does not run."""
    try:
        finished = subprocesses.run(argv, timeout_s=_PROBE_TIMEOUT_S, env=_environment())
    except (OSError, TimeoutError):
        return ""
    return finished.output if finished.status == 0 else ""


@cache
def _identify(cc: tuple[str, ...]) -> Toolchain | None:
    """Which compiler this is; None if it does not say."""
    if cc[-1] == "cc" and len(cc) > 1:
        version = _numbers(_ask(*cc[:-1], "version"), r"^(\d+(?:\.\d+)+)")
        return Toolchain("zig", cc, (*cc[:-1], "ld.lld"), version) if version else None
    text = _ask(*cc, "--version")
    kind = "clang" if "clang" in text else "gcc"
    version = _numbers(text, r"clang version (\d+(?:\.\d+)*)" if kind == "clang" else r"(\d+\.\d+\.\d+)")
    return Toolchain(kind, cc, (), version) if version else None


def _problem(target: Target, cc: tuple[str, ...], toolchain: Toolchain | None) -> Problem | None:
    """Why this compiler will not do."""
    where = shlex.join(cc)
    if toolchain is None:
        return Problem("compiler-missing", where, "it does not run or does not tell its version", _COMPILER_HINT)
    oldest = OLDEST[toolchain.kind]
    if toolchain.version < oldest:
        why = f"{toolchain.kind} {_dotted(toolchain.version)} is older than {_dotted(oldest)}"
        return Problem("compiler-too-old", where, why, _COMPILER_HINT)
    if not target.is_riscv:
        return None
    if toolchain.kind == "gcc":
        why = "gcc does not compile binary16 for this RISC-V target"
        return Problem("compiler-unsupported", where, why, _COMPILER_HINT)
    if toolchain.kind == "clang" and not _knows_riscv(cc):
        return Problem("compiler-unsupported", where, "this clang has no RISC-V back end", _COMPILER_HINT)
    if not toolchain.ld:
        return Problem("linker-missing", "ld.lld", "LLVM's linker is not on PATH", _LINKER_HINT)
    return None


@cache
def _knows_riscv(cc: tuple[str, ...]) -> bool:
    return "riscv32" in _ask(*cc, "--print-targets")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _with_linker(toolchain: Toolchain | None) -> Toolchain | None:
    """Adds the linker of a clang: the one beside it, of its version, or any."""
    if toolchain is None or toolchain.kind != "clang":
        return toolchain
    program = Path(shutil.which(toolchain.cc[0]) or toolchain.cc[0]).resolve()
    own = (program.with_name("ld.lld"), shutil.which(f"ld.lld-{toolchain.version[0]}"))
    found = [str(path) for path in (*own, *_versioned("ld.lld")) if path and Path(path).exists()]
    return replace(toolchain, ld=tuple(found[:1]))


def find_toolchain(target: Target, *, sanitize: bool = False) -> Toolchain:
    """The best compiler for `target`: `$ODL_CC`, else clang, gcc (host only), zig.

    `sanitize` asks for one that can link address and undefined-behaviour sanitizers. Raises ToolError as the module
    says, about the best of the compilers that will not do.
    """
    problems = []
    for cc in _candidates(target):
        toolchain = _with_linker(_identify(cc))
        problem = _problem(target, cc, toolchain)
        if not problem and toolchain and sanitize and not _can_sanitize(toolchain):
            problem = Problem("sanitizer-missing", shlex.join(cc), "it cannot link sanitizers", "apt-get install gcc")
        if problem:
            problems.append(problem)
        elif toolchain:
            return toolchain
    none = Problem("compiler-missing", "", "there is no compiler on PATH that knows binary16", _COMPILER_HINT)
    raise ToolError.of(problems[:1] or [none])


@cache
def _can_sanitize(toolchain: Toolchain) -> bool:
    with scratch() as folder:
        source = folder / "empty.c"
        source.write_text("int main(void) { return 0; }\n")
        program = folder / "empty"
        try:
            _tool(toolchain.cc, *_SANITIZE, str(source), "-o", str(program), cwd=folder, temporary=folder)
            return subprocesses.run([str(program)], timeout_s=_PROBE_TIMEOUT_S).status == 0
        except (ToolError, OSError, TimeoutError):
            return False


# --- compiling --------------------------------------------------------------------------------------------------------


def _environment(temporary: Path | None = None) -> dict[str, str]:
    """zig wants a cache for the C library that it builds once, and one for each program, which is temporary: left alone
    it makes that in the current folder."""
    zig = cache_folder() / "zig"
    return {"ZIG_GLOBAL_CACHE_DIR": str(zig), "ZIG_LOCAL_CACHE_DIR": str(temporary or zig), **os.environ}


def _tool(command: tuple[str, ...], *arguments: str, cwd: Path, temporary: Path) -> None:
    """Run a compiler or linker. One that is ended leaves what it has begun in `temporary`."""
    env = _environment(temporary) | {"TMPDIR": str(temporary)}
    try:
        finished = subprocesses.run([*command, *arguments], cwd=cwd, timeout_s=_TIMEOUT_S, env=env)
    except (OSError, TimeoutError) as error:
        raise ToolError("compile-failed", shlex.join(command), str(error)) from error
    if finished.status:
        raise _diagnose(command, finished.output)


def _diagnose(command: tuple[str, ...], output: str) -> OdlError:
    full = re.search(r"^.*(?:will not fit in region|odl: arena, stack and data do not fit).*$", output, re.M)
    if full:
        return FitError("does-not-fit", "link", full[0].strip(), "choose a smaller model or a target with more memory")
    lines = "".join(f"\n  | {line}" for line in output.splitlines()[:40])
    return ToolError(
        "compile-failed", shlex.join(command), f"it refused the project:{lines}", "report it, with all of this"
    )


def project_sources(project: Path, *, trace: bool) -> list[str]:
    """The runner's sources, relative to `project`, in the order in which make(1) sorts them."""
    patterns = ("src/*.c", "src/kernels/*.c", "checkpoint/*.c", "runner/*.c", "port/*.c", "port/*.S")
    found = {path.relative_to(project).as_posix() for pattern in patterns for path in project.glob(pattern)}
    return sorted(found if trace else found - {"src/odl_trace.c"})


def compile_project(
    project: Path,
    target: Target,
    toolchain: Toolchain,
    *,
    trace: bool = False,
    progress: bool = True,
    sanitize: bool = False,
    defines: Mapping[str, object] | None = None,
    out: Path | None = None,
    jobs: int = 0,
) -> BuildResult:
    """Builds the runner of a generated project, as its Makefile would.

    `trace` compiles the hook after every kernel call in, `progress` that the model notes which one is under way; a
    library does neither. `defines` are C macros, such as ODL_RAM_BYTES and
    ODL_STACK_BYTES; they come after the target's own and win. `out` receives the objects and the runner (default:
    build, build/trace in the project); `jobs` compilers run at once (0: one a core). Raises ToolError and FitError as
    the module says.
    """
    out = (out or project / ("build/trace" if trace else "build")).resolve()
    elf = out / ("runner.elf" if target.is_riscv else "runner")
    hooks = {name: 1 for name, wanted in (("ODL_PROGRESS", progress), ("ODL_TRACE", trace)) if wanted}
    macros = {**dict(target.defines), **hooks, **(defines or {})}
    flags = _compile_flags(target, toolchain, sanitize)
    made = Objects(project, str(toolchain), (*toolchain.cc, *flags), _INCLUDED, macros)
    # What sanitizers say of a place must not name the folder in which an object happened to be compiled.
    anywhere = (f"-fdebug-prefix-map={project.resolve()}=.",) if sanitize else ()

    with scratch() as temporary:
        run = partial(_tool, cwd=project, temporary=temporary)
        compiler = partial(run, toolchain.cc, *flags, *anywhere, *_as_flags(macros))
        objects = _compile(compiler, made, project_sources(project, trace=trace), out, jobs)
        stage("linking")
        if not target.is_riscv:
            # The run-time libraries of sanitizers are large, and LLVM's linker takes half the time of GNU's for them.
            faster = tuple(f"--ld-path={path}" for path in toolchain.ld if toolchain.kind == "clang")
            run(toolchain.cc, *((*_SANITIZE, *faster) if sanitize else ()), *objects, "-o", str(elf))
            return BuildResult(elf, 0, 0, 0)
        run(toolchain.ld, *_LINK, *objects, "-o", str(elf))
    sizes = read_elf(elf)
    return BuildResult(elf, sizes.text_bytes, sizes.data_bytes, sizes.bss_bytes)


def _compile(compiler: Callable[..., None], made: Objects, sources: Sequence[str], out: Path, jobs: int) -> list[str]:
    """The objects of `sources`, in `out`: those that were made before, and what `compiler` makes of the others."""

    def compile_one(source: str) -> str:
        output = out / "objects" / f"{source}.o"
        output.parent.mkdir(parents=True, exist_ok=True)
        kept = made.kept(source)
        if not fetch(kept, output):
            compiler("-c", source, "-o", str(output))
            keep(output, kept)
        return str(output)

    stop, objects = threading.Event(), list[str]()
    with ThreadPoolExecutor(jobs or os.cpu_count(), initializer=subprocesses.heed, initargs=(stop,)) as pool:
        try:
            for made_of in pool.map(compile_one, sources):
                stage(f"compiling C: {len(objects)} of {len(sources)} files")
                objects.append(made_of)
        finally:
            stop.set()  # after a signal or a refusal other compilers are under way
    return objects


# --- doctor -----------------------------------------------------------------------------------------------------------


def doctor(targets: Mapping[str, Target]) -> list[ToolStatus]:
    """What this machine has to compile for `targets` and to run them."""
    stage("asking compilers and simulators")
    compilers = [_compiler_status(target) for target in targets.values()]
    return [*compilers, _qemu_status(), _gvsoc_status()]


def _compiler_status(target: Target) -> ToolStatus:
    name = f"compiler for {target.name}"
    try:
        toolchain = find_toolchain(target)
    except ToolError as error:
        problem = error.problems[0]
        return ToolStatus(name, False, "", problem.where, f"{problem.why}: {problem.hint}")
    return ToolStatus(name, True, f"{toolchain.kind} {_dotted(toolchain.version)}", shlex.join(toolchain.cc), "")


def _qemu_status() -> ToolStatus:
    program = find_qemu()
    version = qemu_version(program) if program else ()
    sound = version >= OLDEST_QEMU
    return ToolStatus("QEMU", sound, _dotted(version), str(program or ""), "" if sound else QEMU_HINT)


def _gvsoc_status() -> ToolStatus:
    path = find_gvsoc()
    hint = "" if path else f"{why_no_gvsoc()}; optional, for target pulp-open: {GVSOC_HINT}; {WITHOUT_GVSOC}"
    return ToolStatus("GVSoC", bool(path), "", str(path or ""), hint)
