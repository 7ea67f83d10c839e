"""odl: an ONNX model goes in, a C project that trains it on a RISC-V microcontroller comes out, bit for bit checked."""

from odl.api import (
    Compiled,
    Run,
    build,
    compile_model,
    evaluate,
    export,
    infer,
    open_folder,
    train,
    verify,
)
from odl.errors import ExitCode, OdlError
from odl.recipe import Recipe, read_recipe
from odl.saved import load_checkpoint, load_weights, save_run
from odl.version import VERSION

__version__ = VERSION

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
    "read_recipe",
    "save_run",
    "train",
    "verify",
]
