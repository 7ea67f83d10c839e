"""How a model is trained: the recipe, its file and its checks."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from odl.errors import UsageError
from odl.fp16 import Accumulate

LOSSES = ("cross_entropy", "mse")
OPTIMIZERS = ("sgd",)

_LARGEST = 3.4028234663852886e38  # of binary32


@dataclass(frozen=True)
class Recipe:
    """What `recipe.toml` and the command line say. Words follow ONNX Runtime training where it had one.

    `trainable` holds shell patterns over ONNX initializer and node names. `gradients` is the type in which weight
    gradients leave their accumulator; `loss_scale` multiplies the loss's gradient and is divided out in the update.
    """

    loss: str = "cross_entropy"
    optimizer: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch: int = 1
    trainable: tuple[str, ...] = ("*",)
    accumulate: str = "fp32"
    gradients: str = "fp32"
    loss_scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, _typed(getattr(self, f.name), type(f.default), f.name))
        choices = {
            "loss": LOSSES, "optimizer": OPTIMIZERS, "gradients": ("fp32", "fp16"),
            "accumulate": tuple(mode.value for mode in Accumulate),
        }  # fmt: skip
        for name, allowed in choices.items():
            _require(getattr(self, name) in allowed, name, f"must be one of {', '.join(allowed)}", getattr(self, name))
        _require(0 < self.lr <= _LARGEST, "lr", "must be positive and finite in binary32", self.lr)
        _require(0 <= self.momentum < 1, "momentum", "must lie in [0, 1)", self.momentum)
        _require(0 <= self.weight_decay < 1, "weight_decay", "must lie in [0, 1)", self.weight_decay)
        _require(1 <= self.batch <= 65536, "batch", "must lie in 1 .. 65536", self.batch)
        _require(2.0**-40 <= self.loss_scale <= 2.0**16, "loss_scale", "must lie in 2^-40 .. 2^16", self.loss_scale)
        _require(self.seed >= 0, "seed", "must be at least 0", self.seed)
        _require(len(self.trainable) > 0, "trainable", "must hold at least one pattern", self.trainable)

    def with_changes(self, changes: Mapping[str, Any]) -> Recipe:
        """The recipe with the given fields replaced; None means: leave it."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


def read_recipe(path: Path) -> Recipe:
    """A recipe from a TOML file; unknown words and wrong types are refused."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError("recipe-unreadable", str(path), error.strerror or str(error)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError("recipe-syntax", str(path), str(error)) from error
    kinds = {f.name: type(f.default) for f in fields(Recipe)}
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in kinds:
            raise UsageError("recipe-word", str(path), f"'{name}' is unknown", f"known: {', '.join(sorted(kinds))}")
        values[name] = _typed(value, kinds[name], f"{path}: {name}")
    return Recipe(**values)


def _typed(value: object, kind: type, where: str) -> object:
    if kind is tuple and isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kind) and not isinstance(value, bool):
        return value
    word = {tuple: "a list of strings", float: "a number", int: "a whole number", str: "a string"}[kind]
    raise UsageError("recipe-type", where, f"must be {word}, not {value!r}")


def _require(holds: bool, name: str, rule: str, value: object) -> None:
    if not holds:
        raise UsageError("recipe-value", name, f"{rule}, not {value!r}")
