"""Hostile files beside a model: recipes, data, weights, choices of `odl tune`, and the odl.json of a folder."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict, fields
from random import Random
from typing import Any

import numpy as np

from campaigns.mutations import FLOATS, NUMBERS, TEXTS, mangled
from odl.passes.for_cluster import DIRECT, REARRANGED
from odl.recipe import CHOICES, RANGES, Recipe
from odl.types import Array

# --- words and values -------------------------------------------------------------------------------------------------

_RECIPE_WORDS = tuple(each.name for each in fields(Recipe))
_LAYERS = ("*", "fc*", "relu", "fc1", "w1", "b2", "[", "[!", "fc[12]", "?" * 50, "*" * 60 + "x")
_CHANNELS = (
    "fc1=0:2",
    "fc1=1:3",
    "*=0.5",
    "w1=0.0001",
    "fc1=2:1",
    "=0:1",
    "fc1=0:" + "9" * 5000,
    "a=0." + "0" * 400 + "1",
)


def anything(chance: Random, depth: int = 0) -> Any:
    """What JSON can say."""
    what = chance.randrange(9 if depth < 4 else 6)
    if what == 0:
        return chance.choice((True, False, None))
    if what == 1:
        return chance.choice(NUMBERS)
    if what == 2:
        return chance.choice(FLOATS)
    if what in (3, 4):
        return chance.choice(TEXTS)[:2000]
    if what == 5:
        return chance.choice((10**400, -(10**400), 10**30, [], {}, ""))
    items = [anything(chance, depth + 1) for _ in range(chance.randrange(4))]
    return items if what < 8 else {chance.choice(TEXTS)[:50]: each for each in items}


def setting(chance: Random, name: str) -> Any:
    """What may stand behind a word of a recipe, or nearly."""
    if chance.random() < 0.04:
        return anything(chance)
    if name in CHOICES:
        return chance.choice((*CHOICES[name], *CHOICES[name], chance.choice(TEXTS)[:100]))
    if name == "trainable":
        return chance.sample(_LAYERS, chance.randrange(4))
    if name == "channels":
        return chance.sample(_CHANNELS, chance.randrange(3))
    if name == "replay_layer":
        return chance.choice(("relu", "fc1", "", chance.choice(TEXTS)[:100]))
    if name in RANGES:
        least, most, _ = RANGES[name]
        return chance.choice((least, most, 1, 2, 0.5, 0.9, 0.001, 3, 16, chance.choice(NUMBERS), chance.choice(FLOATS)))
    return chance.choice((True, False))


def toml(value: Any) -> str:
    """A value as TOML has it; what it has not becomes a text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return {"inf": "inf", "-inf": "-inf", "nan": "nan"}.get(repr(value), repr(value))
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(key)} = {toml(each)}' for key, each in value.items())}}}"
    return json.dumps(str(value))


_ODD_TOML = (
    "0x" + "f" * 5000, "9" * 5000, "1e999", "1979-05-27", "07:32:00", "[" * 5000, "{a=" * 2000, "[" * 5000 + "]" * 5000,
    "'''", '"\\u0000"', '"\\ud800"', "0o7", "0b1", "1_000", "+nan", "-0.0", "[[1], ['a']]", "''", "0x" + "f" * 400,
)  # fmt: skip


def recipe(chance: Random) -> bytes:
    """Words with values that they can have, nearly, or not at all; or bytes of such a file."""
    lines = []
    for name in chance.sample(_RECIPE_WORDS, chance.choice((1, 1, 2, 3, 4, 8))):
        word = chance.choice(
            (*[name] * 12, name.upper(), f"'{name}'", f"{name}.x", json.dumps(chance.choice(TEXTS)[:300]))
        )
        lines.append(f"{word} = {toml(setting(chance, name)) if chance.random() < 0.95 else chance.choice(_ODD_TOML)}")
    if chance.random() < 0.05:
        lines.insert(
            chance.randrange(len(lines) + 1), chance.choice(("[a]", "[[a]]", "[lr]", "[" * 3000, "a" * 10_000, "x = 1"))
        )
    if chance.random() < 0.01:
        lines = [".".join("a" * chance.choice((10, 3000))) + " = 1"]
    text = "\n".join(lines).encode()
    return mangled(chance, text) if chance.random() < 0.3 else text


# --- archives of arrays -----------------------------------------------------------------------------------------------


def header(text: str, version: tuple[int, int] = (1, 0)) -> bytes:
    """The head of an .npy file that says `text`."""
    size = 2 if version == (1, 0) else 4
    return b"\x93NUMPY" + bytes(version) + len(text.encode()).to_bytes(size, "little") + text.encode()


def npy(array: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


_DTYPES = ("<f4", "<f8", "<f2", ">f4", "<i4", "<i8", "|u1", "|b1", "<c8", "<U4", "|S3", "|O", "<M8[s]", "<f16", "|V8")
_SHAPES = (
    "(4, 4)", "(4,)", "()", "(0, 4)", "(0,)", "(-1, 4)", "(4, 1, 4)", "(1099511627776, 4)", "(1000000000000000000000,)",
    "(4, 4, 0, 99999999999)", "(True, 4)", "(4.0, 4)", "4", "None", "(" * 300, "(1," * 40 + ")" * 40, "('a',)",
    "(4611686018427387904, 4)", "(536870912, 4)",
)  # fmt: skip
_HEADERS = (
    "", "{", "{}", "[]", "0", "{'descr': '<f4'}", "__import__('os').system('true')", "{" * 200, "(" * 5000,
    "\n" * 70_000,
    "{'descr': [('a', '<f4', (1000000000,))], 'fortran_order': False, 'shape': (4, 4)}", "{'descr': '<f4', \0}",
    "{'descr': '<f4', 'fortran_order': 'no', 'shape': (4, 4)}",
    "{'descr': '<f4', 'fortran_order': True, 'shape': (4, 4)}",
)  # fmt: skip


def member(chance: Random, good: Array) -> bytes:
    """An .npy file: `good`, of another type or shape, with a head that lies, or damaged."""
    what = chance.randrange(8)
    if what < 2:
        return npy(good)
    if what == 2 and good.dtype.kind != "U":
        with np.errstate(all="ignore"):
            return npy(good.astype(chance.choice(("f8", "f2", ">f4", "i4", "u8", "b1", "c8", "U4", "S3", "O", "f2"))))
    if what == 3 and good.dtype.kind != "U":
        wide = good.astype(np.float64).reshape(-1)
        wide[: chance.randrange(4)] = chance.choice(FLOATS)
        return npy(wide.reshape(good.shape))
    if what == 4:
        shape = tuple(chance.choice((0, 1, 2, 3, 4, 5, 12)) for _ in range(chance.randrange(5)))
        return npy(np.ones(shape, chance.choice(("f4", "i8"))))
    if what == 5:
        text = f"{{'descr': '{chance.choice(_DTYPES)}', 'fortran_order': False, 'shape': {chance.choice(_SHAPES)}}}"
        return header(text, chance.choice(((1, 0), (2, 0), (3, 0)))) + good.tobytes()
    if what == 6:
        return (
            header(chance.choice(_HEADERS)[:60_000], chance.choice(((1, 0), (2, 0), (3, 0), (9, 9)))) + good.tobytes()
        )
    return mangled(chance, npy(good))


def archive(chance: Random, arrays: dict[str, Array], names: tuple[str, ...]) -> bytes:
    """A zip file of such members under these or other names; or damaged as a whole."""
    stream = io.BytesIO()
    kinds = (*[zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED] * 5, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    harmed = chance.sample(list(arrays), chance.choice((0, 1, 1, 2)))
    with zipfile.ZipFile(stream, "w", chance.choice(kinds)) as made:
        for name, good in arrays.items():
            content = member(chance, good) if name in harmed else npy(good)
            called = (
                f"{name}.npy"
                if chance.random() < 1 - 0.1 / len(arrays)
                else chance.choice((name, f"../{name}.npy", *names))
            )
            made.writestr(called, bomb(chance) if chance.random() < 0.05 / len(arrays) else content)
    found = stream.getvalue()
    return mangled(chance, found) if chance.random() < 0.4 else found


def bomb(chance: Random, n_bytes: int = 1 << 20) -> bytes:
    """Zeros that a zip file makes small, under a head that fits them or tells of many more."""
    rows = chance.choice((n_bytes // 16, n_bytes // 16, 2**40))
    return header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, 4)}}") + bytes(n_bytes)


_X = np.random.default_rng(3).normal(size=(4, 4)).astype(np.float32)
_Y = np.array([0, 1, 2, 0])
_NAMES = ("x.npy", "y.npy", "z.npy", "/x.npy", "x", "x.npy.npy", "n" * 300)


def data(chance: Random) -> bytes:
    """Samples of an mlp, as vectors with labels, or with targets."""
    y = _Y if chance.random() < 0.7 else _X[:, :3]
    if chance.random() < 0.2:
        y = np.array([chance.choice([n for n in NUMBERS if -(2**63) <= n < 2**63]) for _ in range(4)])
    return archive(chance, {"x": _X, "y": y}, _NAMES)


# --- JSON -------------------------------------------------------------------------------------------------------------


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(holder, key) of all that a JSON value holds."""
    found: list[tuple[Any, Any]] = []
    holders = [value]
    for holder in holders:
        for key in holder if isinstance(holder, dict) else range(len(holder)):
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                holders.append(holder[key])
    return found


_ODD_JSON = (
    "[" * 100_000,
    '{"a":' * 100_000,
    "1" * 5000,
    "1e999",
    "-Infinity",
    "NaN",
    '"\\ud800"',
    "\ufeff{}",
    "",
    "null",
    "3",
)


def harmed_json(chance: Random, note: Any, near: Callable[[Random, Any], Any]) -> bytes:
    """A note with some values that `near` makes of them, or anything else; with words more or less; or damaged."""
    made = json.loads(json.dumps(note))
    for _ in range(chance.choice((0, 0, 1, 1, 2, 3))):
        holder, key = chance.choice(_places(made) or [([None], 0)])
        what = chance.random()
        if what < 0.15 and isinstance(holder, dict):
            del holder[key]
        elif what < 0.25 and isinstance(holder, dict):
            holder[chance.choice(TEXTS)[:100]] = anything(chance)
        else:
            holder[key] = near(chance, key) if what < 0.85 else anything(chance)
    if chance.random() < 0.03:
        made = anything(chance)
    text = json.dumps(made)
    if chance.random() < 0.1:
        odd = chance.choice(_ODD_JSON)
        text = odd if chance.random() < 0.3 else text.replace("0", odd, 1)
    content = text.encode("utf-8", "surrogatepass")
    return mangled(chance, content) if chance.random() < 0.3 else content


def knob(chance: Random, key: Any) -> Any:
    """A value that a choice of `odl tune` can have, or nearly."""
    near = {
        "part": (0.1, 1.0, 0.5, 1, 0.0999), "axis": (-1, 0, 1, 2, 3, 4, 5), "pieces": (1, 2, 64, 65, 0),
        "kernel": ("", DIRECT, REARRANGED, "none"), "gap": (0, 1, 8, 1000, 1001), "schema_version": (1, 2, 3),
    }  # fmt: skip
    return chance.choice(near.get(str(key), ("host", "pulp-open", 0, 1)))


def tuning(chance: Random, measured_for: dict[str, str]) -> bytes:
    """The file that `odl tune` leaves beside a model."""
    layers = ("fc1/forward", "fc1/weight_gradient", "fc2/forward", "fc2/input_gradient", "relu/forward", "none/forward")
    choices = {
        layer: {name: knob(chance, name) for name in chance.sample(("part", "axis", "pieces", "kernel"), 2)}
        for layer in chance.sample(layers, 3)
    }  # fmt: skip
    note = {"schema_version": 2, "for": measured_for, "tuning": {"gap": 4, "choices": choices}, "measured": {}}
    return harmed_json(chance, note, knob)


def note(chance: Random) -> bytes:
    """The odl.json of a run."""
    told = {
        "schema_version": 1, "odl_version": "0", "model_sha256": "0" * 64, "target": "host", "recipe": asdict(Recipe()),
        "tuning": {"gap": 4, "choices": {"fc1/forward": {"part": 0.5}}}, "ram_bytes": 0, "loss": [0.5, 0.25],
        "data_sha256": "0" * 64, "walked": 2,
    }  # fmt: skip

    def near(chance: Random, key: Any) -> Any:
        if key in _RECIPE_WORDS:
            return setting(chance, str(key))
        if key == "target":
            return chance.choice(("host", "qemu-zhinx", "qemu-zfh", "pulp-open", "../host", "HOST"))
        return chance.choice(NUMBERS) if key in ("ram_bytes", "walked") else knob(chance, key)

    return harmed_json(chance, told, near)


def weights(chance: Random, held: dict[str, Array]) -> bytes:
    """The weights.npz of a run."""
    arrays: dict[str, Array] = {f"w{at}": array for at, array in enumerate(held.values())}
    at = chance.choice(list(arrays))
    if chance.random() < 0.5:
        pattern = np.frombuffer(chance.randbytes(arrays[at].nbytes), arrays[at].dtype).reshape(arrays[at].shape)
        arrays[at] = pattern if chance.random() < 0.5 else np.full_like(arrays[at], chance.choice((0, 1, 3, 200)))
    return archive(chance, {"names": np.array(list(held)), **arrays}, ("w0.npy", "w1.npy", "w99.npy", *_NAMES))
