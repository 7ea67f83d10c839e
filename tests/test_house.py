"""The house itself: who imports whom, how long things are, and what may not be used where bits count."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import odl

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "odl"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Imports go to the same floor or down. A new module gets a line here.
FLOORS = (
    ("errors", "fp16", "masters", "types", "share", "version", "json_text", "subprocesses", "elf", "cnames", "staging",
     "objects", "npz", "sizes", "shown", "signals", "stages"),
    ("graph",),
    ("ops",),
    ("model_file", "rewrites", "folding", "frontend", "exporting", "interpreter"),
    ("recipe", "recipe_toml", "autodiff", "trainable", "updates", "replay", "training", "passes", "data"),
    ("contribution", "options"),
    ("memory", "schedule", "memory_check", "tuning", "tiling", "residency", "lighten", "budget"),
    ("program", "lower", "lower_tiles", "micro_assembly", "microkernels", "microkernels_depthwise"),
    ("executor", "rehearsal", "codegen"),
    ("wire", "log", "checkpoint", "targets", "toolchain", "compare", "project", "packages"),
    ("profile", "savings", "scores", "tile_report", "render", "status", "console", "outcomes",
     "remedies"),
    ("api", "saved", "autotune", "step_time", "selection", "results", "report", "sweep", "commands", "cli",
     "__init__", "__main__"),
)  # fmt: skip
FLOOR_OF = {name: number for number, names in enumerate(FLOORS) for name in names}


def room(module: str) -> str:
    """`odl.ops.relu` -> `ops`; the package itself is `__init__`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = (PACKAGE.parent / node.module.replace(".", "/")).is_dir()
            yield from (f"{node.module}.{a.name}" if submodules else node.module for a in node.names)


def own_imports(path: Path) -> set[str]:
    return {name for name in imported(path) if name.split(".")[0] == "odl"}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_go_down(path: Path) -> None:
    here = room(module_name(path))
    assert here in FLOOR_OF, f"give {here} a floor"
    upward = [name for name in own_imports(path) if FLOOR_OF.get(room(name), 99) > FLOOR_OF[here]]
    assert not upward, f"{module_name(path)} imports upward: {upward}"


def test_no_import_cycle() -> None:
    names = {module_name(path) for path in SOURCES}
    edges = {module_name(p): {n for n in own_imports(p) if n in names and n != "odl"} for p in SOURCES}
    while True:
        leaves = {name for name, targets in edges.items() if not targets}
        if not leaves:
            break
        edges = {name: targets - leaves for name, targets in edges.items() if name not in leaves}
    assert not edges, f"modules import each other: {sorted(edges)}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") < 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is too long"


# Reductions and transcendental functions of NumPy change their bits with the processor, and maximum/minimum choose
# between zeros of either sign as they please (docs/NUMERICS.md).
# fmt: off
BANNED = frozenset({
    "sum", "mean", "dot", "matmul", "einsum", "tensordot", "inner", "vdot", "convolve", "correlate", "prod", "cumsum",
    "average", "std", "var", "trace", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "tanh", "sinh", "cosh",
    "sin", "cos", "tan", "power", "float_power", "maximum", "minimum", "fmax", "fmin", "clip", "max", "min", "amax",
    "amin",
})
# fmt: on
BIT_EXACT = [
    PACKAGE / "fp16.py",
    PACKAGE / "masters.py",
    *sorted((PACKAGE / "ops").glob("*.py")),
    PACKAGE / "executor.py",
]


@pytest.mark.parametrize("path", BIT_EXACT, ids=module_name)
def test_bit_exact_code_uses_only_exact_numpy(path: Path) -> None:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.MatMult):
            found.append(f"line {node.lineno}: @")
        if not isinstance(node, ast.Attribute) or node.attr not in BANNED:
            continue
        owner = node.value
        if isinstance(owner, ast.Name) and owner.id == "np":
            found.append(f"line {node.lineno}: np.{node.attr}")
    assert not found, found


def test_every_operator_has_its_template() -> None:
    """A kernel lives in the template of the same name as the operator's file, unless another file's kernel serves."""
    templates = {path.name.removesuffix(".c.j2") for path in (ROOT / "templates/kernels").glob("*.c.j2")}
    operators = {path.stem for path in (PACKAGE / "ops").glob("[a-z]*.py")}
    assert templates <= operators


def test_only_code_generation_and_reports_use_jinja() -> None:
    users = [module_name(path) for path in SOURCES if "jinja2" in set(imported(path))]
    assert users == ["odl.codegen", "odl.report.page"]


def test_only_the_frontend_and_export_use_onnx() -> None:
    users = {room(module_name(path)) for path in SOURCES if any(n.split(".")[0] == "onnx" for n in imported(path))}
    assert users <= {"model_file", "rewrites", "frontend", "exporting", "folding"}


def test_no_module_stands_in_for_what_the_library_exports() -> None:
    """An imported submodule is an attribute of the package, and `__getattr__` is not asked for that name any more."""
    modules = {path.stem for path in PACKAGE.iterdir()}
    assert set(odl.__all__) & modules == set()
    for name in odl.__all__:
        getattr(odl, name)
    assert callable(odl.export)
