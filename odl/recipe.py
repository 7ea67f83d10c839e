"""How a model is trained: the recipe, its file and its checks."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from fractions import Fraction
from math import frexp, inf
from pathlib import Path
from reprlib import Repr
from typing import Any

from odl.errors import Problem, UsageError
from odl.fp16 import Accumulate
from odl.masters import Master

_CHANNELS = re.compile(r"(.+)=(?:([0-9]{1,10}):([0-9]{1,10})|([0-9]{0,10}\.[0-9]{1,40}))")
_LARGEST = 3.4028234663852886e38  # of binary32
_COUNTS = 2**31 - 1
_SEEDS = 2**32 - 1  # salts take 32 bits of a seed: those of a larger one would be another's again

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
RANGES: Mapping[str, tuple[float, float, bool]] = {
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
    "last": (0, _COUNTS, True),
    "lora_rank": (0, _COUNTS, True),
    "replay_slots": (0, _COUNTS, True),
    "replay_ratio": (1, 1024, True),
    "loss_scale": (2.0**-40, 2.0**16, True),
    "scale_growth": (2, 2.0**16, True),
    "scale_backoff": (2.0**-16, 0.5, True),
    "scale_interval": (1, _COUNTS, True),
    "scale_floor": (2.0**-40, 2.0**16, True),
    "clip_value": (0, _LARGEST, True),
    "clip_norm": (0, _LARGEST, True),
    "seed": (0, _SEEDS, True),
}
_BELOW_ONE = ("momentum", "weight_decay", "beta1", "beta2")
_POWERS_OF_TWO = ("loss_scale", "scale_growth", "scale_backoff", "scale_floor")  # so that products are exact
_WRITTEN = {
    _LARGEST: "3.4e38", _COUNTS: "2^31 - 1", _SEEDS: "2^32 - 1", 2.0**-40: "2^-40", 2.0**-16: "2^-16",
}  # fmt: skip
_KINDS = {
    tuple: "a list of strings", float: "a number", int: "a whole number", str: "a string", bool: "true or false",
}  # fmt: skip


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
        """Raises UsageError with all that is wrong: with keys or, where each is sound, with what they say together."""
        problems: list[Problem] = []
        for f in fields(self):
            value, wrong = checked(f.name, getattr(self, f.name))
            problems += wrong
            if value is not None:
                object.__setattr__(self, f.name, value)
        together = (self._of_scaling, self._of_updates, self._of_replay, self._of_selection)
        problems = problems or [Problem("recipe-value", *found) for rule in together for found in rule()]
        if problems:
            raise UsageError.of(problems)

    def _of_scaling(self) -> Iterator[tuple[str, str]]:
        """(key, what is wrong) with the loss scale."""
        if self.loss_scaling == "none" and self.loss_scale != 1:
            yield "loss_scale", "must be 1 where loss_scaling is none"
        if self.loss_scaling == "dynamic":
            for name in _POWERS_OF_TWO:
                if frexp(value := getattr(self, name))[0] != 0.5:
                    yield name, f"{value} is no power of two, which a dynamic loss scale needs"
            if self.scale_floor > self.loss_scale:
                yield "scale_floor", f"must not be above loss_scale: {self.scale_floor} is above {self.loss_scale}"

    def _of_updates(self) -> Iterator[tuple[str, str]]:
        """(key, what is wrong) with optimizer and rates."""
        if self.nesterov and self.momentum == 0:
            yield "nesterov", "needs a momentum above 0"
        if self.optimizer != "sgd" and self.momentum != 0:
            yield "momentum", f"belongs to sgd alone: {self.optimizer} has beta1"
        if self.clip_norm and not self.keeps_gradients:
            yield "clip_norm", 'needs all gradients at once: updates = "kept", or a batch above 1'
        if self.lr_schedule == "cosine" and self.lr_least > self.lr:
            yield "lr_least", f"must not be above lr: {self.lr_least} is above {self.lr}"

    def _of_replay(self) -> Iterator[tuple[str, str]]:
        """(key, what is wrong) with the replay memory."""
        if self.replay_layer and not self.replay_slots:
            yield "replay_slots", "must be at least 1 where a replay_layer is given"
        if self.replay_layer and self.loss != "cross_entropy":
            yield "replay_layer", f"needs labels, so the loss must be cross_entropy: {self.loss} has none"
        if self.replay_slots and not self.replay_layer:
            yield "replay_slots", "needs a replay_layer, whose outputs the slots keep"

    def _of_selection(self) -> Iterator[tuple[str, str]]:
        """(key, what is wrong) with the words that say what is trained."""
        for name in ("channels", "lora_rank"):
            if self.parameters != "all" and getattr(self, name):
                yield name, f"needs parameters = all: it cannot choose among {self.parameters} alone"
        if self.lora_rank and self.channels:
            yield "channels", "cannot be given where lora_rank is not 0: adapters have no channels"

    @property
    def keeps_gradients(self) -> bool:
        """Whether all gradients are there before the first update."""
        return self.batch > 1 or self.updates == "kept"

    def with_changes(self, changes: Mapping[str, Any]) -> Recipe:
        """The recipe with the given fields replaced; None means: leave it."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


def read_recipe(path: str | Path) -> Recipe:
    """A recipe from a TOML file. Raises UsageError `recipe-unreadable`, `recipe-syntax`, or with all that is wrong."""
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError("recipe-unreadable", str(path), error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:  # also for a number too long for Python, or brackets in brackets
        why = "it nests too deeply" if isinstance(error, RecursionError) else str(error)
        raise UsageError("recipe-syntax", str(path), why) from error
    return recipe_of(table, path)


def recipe_of(table: Mapping[str, Any], path: Path) -> Recipe:
    """A recipe from what the file at `path` says. Raises UsageError with all that is wrong, each with the path."""
    known = {f.name for f in fields(Recipe)}
    problems = [_stranger(name, value) for name, value in table.items() if name not in known or _is_table(value)]
    try:
        recipe = Recipe(**{name: value for name, value in table.items() if name in known and not _is_table(value)})
    except UsageError as error:
        problems += error.problems
    if problems:
        raise UsageError.of(replace(problem, where=f"{path}: {problem.where}") for problem in problems)
    return recipe


def checked(name: str, given: object) -> tuple[Any, list[Problem]]:
    """The value of a key of the type that it has in a recipe, None where it cannot be; and what is wrong with it
    whatever the other keys say: `recipe-type` or `recipe-value`."""
    kind = type(getattr(Recipe, name))
    value = _typed(given, kind)
    if value is None:
        return None, [Problem("recipe-type", name, f"must be {_KINDS[kind]}, not {shown(given)}")]
    return value, [Problem("recipe-value", name, why) for why in _faults(name, value)]


def range_text(name: str) -> str:
    """The range of a number, such as "at least 0 and below 1"."""
    least, most, closed = RANGES[name]
    low = f"{'at least' if closed else 'above'} {_number(least)}"
    return low if most == inf else f"{low} and {'below' if name in _BELOW_ONE else 'at most'} {_number(most)}"


def _number(value: float) -> str:
    return _WRITTEN.get(value, f"{value:g}")


def shown(value: object) -> str:
    """A value as a message has it: not longer than one can read, and a number of any size."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length():,} bits"
    try:
        return _REPR.repr(value)
    except ValueError:  # of a list that holds such a number
        return "this"


_REPR = Repr()
_REPR.maxstring = _REPR.maxother = 200
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = 10
_REPR.maxlong = 100


def _is_table(value: object) -> bool:
    """Also a list of tables, which is what TOML's double brackets make."""
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value))


def _stranger(name: str, value: object) -> Problem:
    """What a recipe does not have: a table, or a key of an unknown name."""
    if _is_table(value):
        return Problem("recipe-word", name, "a recipe has no tables: keys stand at the top", f"leave out [{name}]")
    known = sorted(f.name for f in fields(Recipe))
    near = get_close_matches(name.lower(), known)
    hint = f"did you mean {' or '.join(near)}? odl check --help tells all" if near else f"known: {', '.join(known)}"
    return Problem("recipe-word", name, "is no key of a recipe", hint)


def _typed(value: object, kind: type) -> object | None:
    """The value as a `kind`, or None where it is of another."""
    if kind is tuple and isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return inf if value > 0 else -inf
    return value if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)) else None


def _faults(name: str, value: Any) -> Iterator[str]:
    """What is wrong with the value of a key, whatever the others say."""
    if name in CHOICES and value not in CHOICES[name]:
        yield f"must be one of {', '.join(CHOICES[name])}, not {shown(value)}"
    if name in RANGES and not _in_range(name, value):
        yield f"must be {range_text(name)}, not {shown(value)}"
    if name == "trainable" and not value:
        yield "must hold at least one pattern"
    if name == "channels":
        for word in value:
            if channel_run(word) is None:
                yield (
                    f"{shown(word)} is neither PATTERN=FIRST:LAST with FIRST < LAST "
                    "nor PATTERN=SHARE with 0.0 < SHARE <= 1.0"
                )


def _in_range(name: str, value: float) -> bool:
    least, most, closed = RANGES[name]
    above = least <= value if closed else least < value
    return above and (value < most if name in _BELOW_ONE else value <= most)
