"""Commands of the command line in this process, and a tiny model and data for them (fixtures `model` and `data`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from click.testing import CliRunner, Result
from models import draw, node
from models import model as small_model

from odl.cli import COMMANDS, cli
from odl.errors import ExitCode

VERBS = {name: command for name in COMMANDS if (command := cli.get_command(click.Context(cli), name))}


def save_model(path: Path, *, relu: str = "Relu", name: str = "relu", smallest: float = 0.0) -> Path:
    """1x2x6x6 -> Conv 3x3 to 4 channels, ReLU, mean, Gemm to 3 classes, Softmax; odd things on request.

    A field out of its order makes the file differ, byte for byte, from any copy that ONNX writes.
    """
    weights = {"conv.w": draw(4, 2, 3, 3), "conv.b": draw(4), "fc.w": draw(3, 4), "fc.b": draw(3)}
    for weight in weights.values() if smallest else ():
        weight.flat[0] = smallest
    proto = small_model(
        node("Conv", "x conv.w conv.b", "c", "conv", pads=[1, 1, 1, 1]),
        node(relu, "c", "r", name),
        node("GlobalAveragePool", "r", "p", "pool"),
        node("Flatten", "p", "f", "flat"),
        node("Gemm", "f fc.w fc.b", "g", "fc", transB=1),
        node("Softmax", "g", "y", "softmax"),
        x=(1, 2, 6, 6),
        **weights,
    )
    path.write_bytes(onnx.ModelProto(producer_name="tests").SerializeToString() + proto.SerializeToString())
    return path


def save_data(path: Path) -> Path:
    """Twelve samples for that model, four of each class."""
    np.savez(path, x=np.random.default_rng(1).normal(size=(12, 2, 6, 6)), y=np.arange(12) % 3)
    return path


def odl(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="odl")


def answer(*arguments: object, exit_code: int = ExitCode.OK) -> Any:
    """The JSON of a command, the whole of its stdout."""
    result = odl(*arguments, "--json")
    assert result.exit_code == exit_code, result.output
    return json.loads(result.stdout)
