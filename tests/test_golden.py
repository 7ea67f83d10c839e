"""The text of every stage, and the C, of one small network: a change shows here, and is made on purpose.

    python -m pytest tests/test_golden.py --update-golden

The commit that updates them says why the text, or the bits, changed.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from models import cnn, compiled

from odl.api import Compiled
from odl.codegen import Printer
from odl.results import STAGES

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    folder = tmp_path_factory.mktemp("golden")
    return compiled(folder, cnn(), "qemu-zhinx", batch=2, momentum=0.9)


def check(name: str, text: str, request: pytest.FixtureRequest) -> None:
    path = GOLDEN / name
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), f"{name} changed; if that is meant: pytest tests/test_golden.py --update-golden"


@pytest.mark.parametrize("stage", STAGES)
def test_stage(stage: str, network: Compiled, request: pytest.FixtureRequest) -> None:
    check(f"{stage}.txt", STAGES[stage](network), request)


@pytest.mark.parametrize("name", ["include/odl_model.h", "include/odl_kernels.h", "src/odl_model.c"])
def test_generated_c(name: str, network: Compiled, request: pytest.FixtureRequest) -> None:
    files = Printer(network.program, network.training, network.title).files()
    check(Path(name).name, files[name], request)
