"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import save_data, save_model
from shop import Shop, make_shop

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-pins", action="store_true", help="rewrite tests/pins from what is measured now")
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden from what odl says now")


def real_folder() -> Path:
    """Real models and data that the project cannot ship: `$ODL_REAL`, else a folder `shared` beside the checkout."""
    return Path(os.environ.get("ODL_REAL", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder with `models/` and `data/` (MLPerf Tiny's models, CIFAR-10, Speech Commands), or a skip."""
    folder = real_folder()
    if not (folder / "models").is_dir():
        pytest.skip("real models are not here: set ODL_REAL to a folder with models/ and data/")
    return folder


@pytest.fixture(scope="session")
def examples() -> Path:
    return ROOT / "examples"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model for the command line."""
    return save_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its data."""
    return save_data(tmp_path_factory.mktemp("data") / "data.npz")


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A small network, and its packages for other builds."""
    return make_shop(tmp_path_factory.mktemp("packages"))
