"""How a model is trained: the recipe, its file and its checks."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from math import frexp, inf
from pathlib import Path
from typing import Any

from odl.errors import UsageError
from odl.fp16 import Accumulate
from odl.masters import Master

_CHANNELS = re.compile(r"(.+)=(?:([0-9]+):([0-9]+)|([0-9]*\.[0-9]+))")
_LARGEST = 3.4028234663852886e38  # of binary32
_COUNTS = 2**31 - 1

# What a key may say, for those that are words.
CHOICES: Mapping[str, tuple[str, ...]] = {
    "loss": ("cross_entropy", "mse"),
    "optimizer": ("sgd", "adam", "adamw"),
    "state": ("fp16", "fp32"),
    "master": tuple(master.value for master in Master),
    "lr_schedule": ("constant", "step", "cosine"),
    "loss_scaling": ("none", "static", "dynamic"),
    "updates": ("immediate", "kept"),
    "replay_type": ("fp16", "int8"),
    "replay_policy": ("reservoir", "balanced"),
    "parameters": ("all", "biases", "norms"),
    "accumulate": tuple(mode.value for mode in Accumulate),
    "gradients": ("fp32", "fp16"),
}

# (least, most, whether the least itself is allowed) of numbers.
_RANGES: Mapping[str, tuple[float, float, bool]] = {
    "lr": (0, _LARGEST, False),
    "momentum": (0, 1, True),
    "beta1": (0, 1, True),
    "beta2": (0, 1, True),
    "epsilon": (0, 1, False),
    "weight_decay": (0, 1, True),
    "warmup": (0, _COUNTS, True),
    "lr_period": (1, _COUNTS, True),
    "lr_gamma": (0, 1, False),
    "lr_least": (0, _LARGEST, True),
    "batch": (1, 65536, True),
    "last": (0, inf, True),
    "lora_rank": (0, inf, True),
    "replay_slots": (0, _COUNTS, True),
    "replay_ratio": (0, 1024, True),
    "loss_scale": (2.0**-40, 2.0**16, True),
    "scale_growth": (2, 2.0**16, True),
    "scale_backoff": (2.0**-16, 0.5, True),
    "scale_interval": (1, _COUNTS, True),
    "scale_floor": (2.0**-40, 2.0**16, True),
    "clip_value": (0, _LARGEST, True),
    "clip_norm": (0, _LARGEST, True),
    "seed": (0, inf, True),
}
_BELOW_ONE = ("momentum", "weight_decay", "beta1", "beta2")
_POWERS_OF_TWO = ("loss_scale", "scale_growth", "scale_backoff", "scale_floor")  # so that products are exact


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
    """What `recipe.toml` and the command line say. Words follow ONNX Runtime training and PyTorch where they had one.

    `trainable` holds shell patterns over ONNX initializer and node names; of what they match, `last`, `parameters`,
    `channels` and `lora_rank` choose what is trained (`odl.trainable`). With a `replay_layer`, an ONNX node, only what
    is above it is, and of old samples its outputs are trained on again, `replay_ratio` of them before each new one;
    `replay_slots` are kept, as `replay_type`, and give way to new ones by `replay_policy` (`odl.replay`).

    `state` is the type of velocities and moments, `master` how a weight takes steps below its last place
    (`odl.masters.Master`). Learning rates: `warmup` and `lr_period` are counted in updates, see
    `odl.ops.rates.LearningRate`. `loss_scale` multiplies the loss's gradient and is divided out in the update; with
    `loss_scaling = "dynamic"` it is where the scale begins, and the other `scale_` keys say how it goes on
    (`odl.ops.finish_step`). `updates`: "immediate", each weight as soon as its gradient is known, or "kept", after all
    gradients are: they then take memory together, and one that is not finite skips the whole step instead of its own
    tensor. With a batch above 1, gradients are always kept. `clip_value` and `clip_norm` bound each gradient, and the
    norm of all of them, after the loss scale has been undone; 0 does not. `gradients` is the type in which weight
    gradients leave their accumulator.
    """

    loss: str = "cross_entropy"
    optimizer: str = "sgd"
    lr: float = 3e-4
    momentum: float = 0.0
    nesterov: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    state: str = "fp16"
    master: str = "stochastic"
    lr_schedule: str = "constant"
    warmup: int = 0
    lr_period: int = 1000
    lr_gamma: float = 0.1
    lr_least: float = 0.0
    batch: int = 1
    updates: str = "immediate"
    trainable: tuple[str, ...] = ("*",)
    last: int = 0
    parameters: str = "all"
    channels: tuple[str, ...] = ()
    lora_rank: int = 0
    replay_layer: str = ""
    replay_slots: int = 0
    replay_ratio: int = 1
    replay_type: str = "fp16"
    replay_policy: str = "reservoir"
    accumulate: str = "fp32"
    gradients: str = "fp32"
    loss_scaling: str = "static"
    loss_scale: float = 1.0
    scale_growth: float = 2.0
    scale_backoff: float = 0.5
    scale_interval: int = 200
    scale_floor: float = 2.0**-14
    clip_value: float = 0.0
    clip_norm: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, _typed(getattr(self, f.name), type(f.default), f.name))
        for name, allowed in CHOICES.items():
            _require(getattr(self, name) in allowed, name, f"must be one of {', '.join(allowed)}", getattr(self, name))
        for name, (least, most, closed) in _RANGES.items():
            _require_range(name, getattr(self, name), least, most, closed)
        _require(len(self.trainable) > 0, "trainable", "must hold at least one pattern", self.trainable)
        self._require_sense()
        self._check_selection()

    def _check_selection(self) -> None:
        """The words that say what is trained, one by one and together."""
        for word in self.channels:
            rule = "must be PATTERN=FIRST:LAST with FIRST < LAST, or PATTERN=SHARE with 0 < SHARE <= 1.0"
            _require(channel_run(word) is not None, "channels", rule, word)
        if self.parameters != "all":
            _require(not self.channels, "channels", "must be empty unless parameters = all", self.channels)
            _require(not self.lora_rank, "lora_rank", "must be 0 unless parameters = all", self.lora_rank)
        if self.lora_rank:
            _require(not self.channels, "channels", "must be empty where lora_rank is not 0", self.channels)

    def _require_sense(self) -> None:
        """Refuse keys that contradict each other."""
        if self.loss_scaling == "none":
            _require(self.loss_scale == 1, "loss_scale", "must be 1 where loss_scaling is none", self.loss_scale)
        if self.loss_scaling == "dynamic":
            for name in _POWERS_OF_TWO:
                value = getattr(self, name)
                _require(frexp(value)[0] == 0.5, name, "must be a power of two for dynamic loss scaling", value)
            _require(
                self.scale_floor <= self.loss_scale, "scale_floor", "must not be above loss_scale", self.scale_floor
            )
        if self.nesterov:
            _require(self.momentum > 0, "nesterov", "needs momentum above 0, which is", self.momentum)
        if self.optimizer != "sgd":
            _require(self.momentum == 0, "momentum", f"is sgd's; {self.optimizer} has beta1", self.momentum)
        if self.clip_norm:
            _require(self.keeps_gradients, "clip_norm", 'needs updates = "kept" or a batch above 1', self.clip_norm)
        if self.replay_layer:
            _require(self.replay_slots > 0, "replay_slots", "must be at least 1 where replay_layer is given", 0)
            _require(self.loss == "cross_entropy", "replay_layer", "needs labels, so not loss", self.loss)
        else:
            _require(not self.replay_slots, "replay_slots", "needs a replay_layer, and is", self.replay_slots)
        if self.lr_schedule == "cosine":
            _require(self.lr_least <= self.lr, "lr_least", "must not be above lr", self.lr_least)

    @property
    def keeps_gradients(self) -> bool:
        """Whether all gradients are there before the first update."""
        return self.batch > 1 or self.updates == "kept"

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
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    words = {
        tuple: "a list of strings",
        float: "a number",
        int: "a whole number",
        str: "a string",
        bool: "true or false",
    }
    raise UsageError("recipe-type", where, f"must be {words[kind]}, not {value!r}")


def _require_range(name: str, value: float, least: float, most: float, closed: bool) -> None:
    is_open = name in _BELOW_ONE
    holds = (least <= value if closed else least < value) and (value < most if is_open else value <= most)
    low, high = "[" if closed else "(", ")" if is_open else "]"
    _require(holds, name, f"must lie in {low}{least:g}, {most:g}{high}", value)


def _require(holds: bool, name: str, rule: str, value: object) -> None:
    if not holds:
        raise UsageError("recipe-value", name, f"{rule}, not {value!r}")
