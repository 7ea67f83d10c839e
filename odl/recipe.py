"""How a model is trained: the recipe, its file and its checks."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from odl.errors import UsageError
from odl.fp16 import Accumulate

LOSSES = ("cross_entropy", "mse")
OPTIMIZERS = ("sgd",)
PARAMETERS = ("all", "biases", "norms")

_LARGEST = 3.4028234663852886e38  # of binary32
_CHANNELS = re.compile(r"(.+)=(?:([0-9]+):([0-9]+)|([0-9]*\.[0-9]+))")


@dataclass(frozen=True)
class ChannelRun:
    """A word of `channels`: of the layers that match `pattern`, output channels `first` .. `last` - 1, or the first
    `share` of them."""

    pattern: str
    first: int = 0
    last: int = 0
    share: Fraction = Fraction(0)

    def of(self, n_channels: int) -> tuple[int, int]:
        """(first, last) in a layer of `n_channels`; a share is whole channels, at least one."""
        return (0, max(1, int(self.share * n_channels))) if self.share else (self.first, self.last)


def channel_run(word: str) -> ChannelRun | None:
    """`PATTERN=8:24` or `PATTERN=0.25`; None where it is neither, or names no channel."""
    found = _CHANNELS.fullmatch(word)
    if not found:
        return None
    pattern, first, last, share = found.groups()
    if share:
        return ChannelRun(pattern, share=Fraction(share)) if 0 < Fraction(share) <= 1 else None
    return ChannelRun(pattern, int(first), int(last)) if int(first) < int(last) else None


@dataclass(frozen=True)
class Recipe:
    """What `recipe.toml` and the command line say. Words follow ONNX Runtime training where it had one.

    `trainable` holds shell patterns over ONNX initializer and node names; of what they match, `last`, `parameters`,
    `channels` and `lora_rank` choose what is trained (`odl.trainable`). `gradients` is the type in which weight
    gradients leave their accumulator; `loss_scale` multiplies the loss's gradient and is divided out in the update.
    """

    loss: str = "cross_entropy"
    optimizer: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch: int = 1
    trainable: tuple[str, ...] = ("*",)
    last: int = 0
    parameters: str = "all"
    channels: tuple[str, ...] = ()
    lora_rank: int = 0
    accumulate: str = "fp32"
    gradients: str = "fp32"
    loss_scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, _typed(getattr(self, f.name), type(f.default), f.name))
        choices = {
            "loss": LOSSES, "optimizer": OPTIMIZERS, "gradients": ("fp32", "fp16"), "parameters": PARAMETERS,
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
        self._check_selection()

    def _check_selection(self) -> None:
        """The words that say what is trained, one by one and together."""
        _require(self.last >= 0, "last", "must be at least 0", self.last)
        _require(self.lora_rank >= 0, "lora_rank", "must be at least 0", self.lora_rank)
        for word in self.channels:
            rule = "must be PATTERN=FIRST:LAST with FIRST < LAST, or PATTERN=SHARE with 0 < SHARE <= 1.0"
            _require(channel_run(word) is not None, "channels", rule, word)
        if self.parameters != "all":
            _require(not self.channels, "channels", "must be empty unless parameters = all", self.channels)
            _require(not self.lora_rank, "lora_rank", "must be 0 unless parameters = all", self.lora_rank)
        if self.lora_rank:
            _require(not self.channels, "channels", "must be empty where lora_rank is not 0", self.channels)

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
