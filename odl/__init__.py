"""odl: an ONNX model goes in, a C project that trains it on a RISC-V microcontroller comes out, bit for bit checked.

    compiled = odl.compile_model("model.onnx", odl.Recipe(lr=0.01), "qemu-zhinx")
    odl.verify(compiled, "data.npz", steps=2).equal      # every tensor of two steps, in bits
    run = odl.train(compiled, "data.npz", steps=100)
    odl.evaluate(compiled, "test.npz", run.weights)
    odl.export(compiled, run.weights, "tuned.onnx")

In a notebook each result shows itself: layers and memory, loss and costs, the verdict, what was taken for what.

What stands in HOMES is imported from there when it is first asked for, so that a command pays for what it uses alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from odl.shown import Shown
from odl.version import VERSION

if TYPE_CHECKING:
    from odl.api import (
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
    from odl.compare import Difference, Verdict
    from odl.errors import ExitCode, OdlError
    from odl.outcomes import Compiled, Run
    from odl.recipe import Recipe, read_recipe
    from odl.report.write import write_report
    from odl.saved import load_checkpoint, load_weights, save_run
    from odl.scores import Scores
    from odl.toolchain import BuildResult

__version__ = VERSION

HOMES = {
    "odl.api": ("build", "compile_model", "evaluate", "export", "infer", "open_folder", "package", "train", "verify"),
    "odl.compare": ("Difference", "Verdict"),
    "odl.errors": ("ExitCode", "OdlError"),
    "odl.outcomes": ("Compiled", "Run"),
    "odl.recipe": ("Recipe", "read_recipe"),
    "odl.report.write": ("write_report",),
    "odl.saved": ("load_checkpoint", "load_weights", "save_run"),
    "odl.scores": ("Scores",),
    "odl.toolchain": ("BuildResult",),
}
_HOME_OF = {name: home for home, names in HOMES.items() for name in names}

__all__ = [
    "BuildResult",
    "Compiled",
    "Difference",
    "ExitCode",
    "OdlError",
    "Recipe",
    "Run",
    "Scores",
    "Verdict",
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
    "write_report",
]


def _card(result: object) -> str:
    html: str = import_module("odl.report.cards").card(result)
    return html


Shown.drawn_by = _card


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'odl' has no attribute '{name}'")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
