"""odl: an ONNX model goes in, a C project that trains it on a RISC-V microcontroller comes out, bit for bit checked.

What stands in HOMES is imported from there when it is first asked for, so that a command pays for what it uses alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from odl.version import VERSION

if TYPE_CHECKING:
    from odl.api import (
        Compiled,
        Run,
        build,
        compile_model,
        evaluate,
        export,
        infer,
        open_folder,
        package,
        train,
        verify,
    )
    from odl.errors import ExitCode, OdlError
    from odl.recipe import Recipe, read_recipe
    from odl.saved import load_checkpoint, load_weights, save_run

__version__ = VERSION

HOMES = {
    "odl.api": (
        "Compiled", "Run", "build", "compile_model", "evaluate", "export", "infer", "open_folder", "package", "train",
        "verify",
    ),
    "odl.errors": ("ExitCode", "OdlError"),
    "odl.recipe": ("Recipe", "read_recipe"),
    "odl.saved": ("load_checkpoint", "load_weights", "save_run"),
}  # fmt: skip
_HOME_OF = {name: home for home, names in HOMES.items() for name in names}

__all__ = [
    "Compiled",
    "ExitCode",
    "OdlError",
    "Recipe",
    "Run",
    "__version__",
    "build",
    "compile_model",
    "evaluate",
    "export",
    "infer",
    "load_checkpoint",
    "load_weights",
    "open_folder",
    "package",
    "read_recipe",
    "save_run",
    "train",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'odl' has no attribute '{name}'")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
