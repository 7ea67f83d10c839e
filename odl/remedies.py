"""What to do about a program that does not fit: the words of a recipe that make it smaller, and are not in it yet.

Each is tried: the recipe is differentiated with it, and its bytes are estimated as `odl.savings` counts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from odl.errors import OdlError
from odl.outcomes import Compiled
from odl.recipe import Recipe
from odl.savings import costs
from odl.schedule import floor, promptly
from odl.targets import HOST, TARGETS
from odl.training import INFER, Training, build_training

_SHARE = 20  # what saves less than this part of what is missing is not worth a word

# What to do, by what it says on a command line, and a recipe's words that tell whether it helps.
_WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "train less": {
        "--last N": {"last": 1},
        "--channels PATTERN=SHARE": {"channels": ("*=0.25",)},
        "--lora-rank N": {"lora_rank": 1},
        "--parameters biases": {"parameters": "biases"},
    },
    "keep fewer or smaller old samples": {
        "--replay-slots N": {"replay_slots": 1},
        "--replay-type int8": {"replay_type": "int8"},
    },
    "keep less beside the weights": {
        "--optimizer sgd": {"optimizer": "sgd"},
        "--momentum 0": {"momentum": 0.0},
        "--momentum 0 --no-nesterov": {"momentum": 0.0, "nesterov": False},
        "--state fp16": {"state": "fp16"},
        "--master stochastic": {"master": "stochastic"},
        "--batch 1": {"batch": 1},
        "--updates immediate": {"updates": "immediate"},
        "--gradients fp16": {"gradients": "fp16"},
    },
}
# In use where they are not the default, whatever their value.
_ONCE = ("last", "channels", "lora_rank", "parameters")


def remedies(compiled: Compiled) -> str:
    """A hint for a program that does not fit its target."""
    alone = floor(compiled.training.graphs[INFER]) + compiled.target.stack_bytes
    if alone > compiled.target.ram_bytes and not compiled.target.l1_bytes:  # in tiles, not all of a value need be there
        return f"inference alone takes {alone:,} bytes: choose a smaller model, or {_elsewhere(compiled)}"
    return ", or ".join((*_smaller(compiled), f"choose {_elsewhere(compiled)}"))


def _smaller(compiled: Compiled) -> Iterator[str]:
    """What can be done about the recipe."""
    whole = _bytes(compiled.training)
    for way, flags in _WAYS.items():
        found = [
            flag for flag, words in flags.items()
            if (whole - _bytes_with(compiled, words, whole)) * _SHARE >= max(compiled.missing_bytes, 1)
        ]  # fmt: skip
        if found:
            yield f"{way} ({', '.join(found)})"


def _bytes(training: Training) -> int:
    return costs(training, promptly).ram_bytes


def _bytes_with(compiled: Compiled, words: dict[str, Any], otherwise: int) -> int:
    """What the recipe takes with these words too, or `otherwise` where one of them is in it already, they contradict
    it, or the model has nothing of that kind."""
    recipe = compiled.recipe
    for word, value in words.items():
        if getattr(recipe, word) == value or (word in _ONCE and getattr(recipe, word) != getattr(Recipe(), word)):
            return otherwise
    if "gradients" in words and not recipe.keeps_gradients:
        return otherwise  # there is one at a time, which may have to be there as a whole then
    try:
        return _bytes(build_training(compiled.model.graph, replace(recipe, **words)))
    except OdlError:
        return otherwise


def _elsewhere(compiled: Compiled) -> str:
    needed, own = compiled.ram_bytes_needed, compiled.target
    if own.ram_bytes != TARGETS.get(own.name, own).ram_bytes:
        return "a chip with more memory"
    larger = [name for name, other in TARGETS.items() if other is not HOST and other.ram_bytes >= needed]
    return "a target with more memory" + (f" (-t {' or '.join(larger)})" if larger else "")
