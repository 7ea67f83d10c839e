"""Training data: an .npz file, or arrays like one's, become binary16 samples in storage order, and their targets."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from odl import fp16
from odl.errors import ModelError
from odl.model_file import is_model
from odl.npz import TooLargeError, read_npz
from odl.ops._importer import CHANNELS_LAST, onnx_shape
from odl.training import INFER, Training
from odl.types import Array, DType, Shape


@dataclass(frozen=True)
class Data:
    """`samples` (N, ...) binary16, images channels last; `targets` (N,) int32 labels or (N, ...) binary16."""

    samples: Array
    targets: Array

    def __len__(self) -> int:
        return len(self.samples)

    def steps(self, n_steps: int, seed: int, first: int = 0) -> Data:
        """`n_steps` samples of an endless walk through the data, each epoch in an order drawn from `seed`, behind the
        `first` ones."""
        order: list[int] = []
        generator, behind = np.random.default_rng(seed), first
        while len(order) < behind + n_steps:
            order += generator.permutation(len(self)).tolist()
            if len(order) <= behind:
                behind -= len(order)
                order.clear()
        chosen = np.array(order[behind : behind + n_steps], dtype=np.intp)
        return Data(self.samples[chosen], self.targets[chosen])

    def first(self, n: int) -> Data:
        """The first `n`."""
        return Data(self.samples[:n], self.targets[:n])

    def source(self, seed: int, first: int, start: Iterable[bytes]) -> int:
        """A number for the walk that `steps` describes, by a network that begins at `start`: CRC-32 of all of it."""
        crc = zlib.crc32(f"{seed} {first}".encode())
        for part in (self.samples.tobytes(), self.targets.tobytes(), *start):
            crc = zlib.crc32(part, crc)
        return crc

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        """(sample, target) pairs."""
        return zip(self.samples, self.targets, strict=True)


Source = str | Path | Mapping[str, Any]  # a file, or what it would hold: x and y, as arrays or nested lists


def load_data(source: Source, training: Training) -> Data:
    """Read `x` (N, ...), of the model's input shape in ONNX order and any real dtype, and `y`.

    Samples are rounded once to binary16. `y` holds (N,) integer labels for cross entropy, else (N, ...) of the output's
    shape; without `y`, mse trains towards the input itself. Raises ModelError naming the file (of arrays: "data") and
    the array: `data-` `unreadable`, `too-large`, `key`, `type`, `shape`, `count`, `not-finite`, `overflow` (in
    binary16) or `label-range`.
    """
    path = Path("data") if isinstance(source, Mapping) else Path(source)
    arrays, found = _given(source) if isinstance(source, Mapping) else _read(path)
    if "x" not in arrays:
        raise ModelError("data-key", str(path), f"has no array 'x', only {', '.join(found[:20]) or 'none'}", _SAVE)
    sample = training.graphs[INFER].inputs[training.sample]
    target = training.step.inputs[training.target]
    samples = _stored(arrays["x"], sample.shape, path, "x")
    if target.dtype is DType.I32:
        inference = training.graphs[INFER]
        classes = inference.types[inference.outputs[0]].shape[-1]
        targets = _labels(arrays.get("y"), classes, f"{path}: y")
    elif "y" in arrays:
        targets = _stored(arrays["y"], target.shape, path, "y")
    elif target.shape == sample.shape:
        targets = samples
    else:
        raise ModelError("data-key", str(path), "has no array 'y', and the output is not shaped like the input")
    if len(samples) != len(targets) or len(samples) == 0:
        raise ModelError("data-count", str(path), f"{len(samples)} samples and {len(targets)} targets")
    return Data(samples, targets)


_MODEL = "is an ONNX model, not an .npz file with x and y"
_MISPLACED = "an ONNX file goes where the command line says MODEL, data to --data: "
_SAVE = 'numpy.savez("data.npz", x=x, y=y) writes such a file'


def _given(arrays: Mapping[str, Any]) -> tuple[dict[str, Array], Sequence[str]]:
    """`x` and `y`, as far as they are there, and the names of all."""
    try:
        return {name: np.asarray(arrays[name]) for name in ("x", "y") if name in arrays}, [*map(str, arrays)]
    except ValueError as error:  # lists of several lengths
        raise ModelError("data-shape", "data", f"is no array: {error}") from error


def _read(path: Path) -> tuple[dict[str, Array], Sequence[str]]:
    """The same of a file."""
    if why := _no_archive(path):
        is_misplaced = path.suffix == ".onnx" or why == _MODEL
        raise ModelError("data-unreadable", str(path), why, f"{_MISPLACED}{_SAVE}" if is_misplaced else _SAVE)
    try:
        return read_npz(path, ("x", "y"))
    except TooLargeError as error:
        raise ModelError("data-too-large", str(path), str(error), _SAVE) from error
    except Exception as error:  # a broken file can raise nearly anything in zipfile, zlib and NumPy
        why = "is damaged, or its arrays hold Python objects instead of numbers"
        raise ModelError("data-unreadable", str(path), why, _SAVE) from error


def _no_archive(path: Path) -> str:
    """Why the file cannot be an .npz file, or nothing."""
    try:
        with path.open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                return "is a single array (.npy), not an .npz file with x and y"
    except FileNotFoundError:
        return "there is no such file"
    except OSError as error:
        return "this is a folder, not an .npz file" if path.is_dir() else f"cannot be read: {error.strerror}"
    if zipfile.is_zipfile(path):
        return ""
    return _MODEL if is_model(path) else "is no .npz file, or not a whole one"


def _stored(array: Array, shape: Shape, path: Path, name: str) -> Array:
    """(N, *ONNX shape without the batch) of a real dtype -> binary16 (N, 1, ...) in storage order."""
    where = f"{path}: {name}"
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise ModelError("data-type", where, f"{array.dtype} is not a real number type of up to 64 bits")
    wanted = onnx_shape(shape)
    if len(array.shape) == 0 or array.shape[1:] not in (wanted[1:], wanted):
        why = f"holds {array.shape}, the model wants (N, {', '.join(map(str, wanted[1:]))})"
        raise ModelError("data-shape", where, why, _shape_hint(array, wanted[1:], name))
    rounded: Array = fp16.half(array).reshape(len(array), *wanted)
    _check_finite(array, rounded, where)
    if len(shape) == 4:
        rounded = rounded.transpose(0, *(axis + 1 for axis in CHANNELS_LAST))
    assert rounded.shape[1:] == shape
    return np.ascontiguousarray(rounded)


def _shape_hint(array: Array, wanted: Shape, name: str) -> str:
    """How to make samples `wanted` of what looks like channels that come last, or like labels."""
    n = array.ndim
    if n > 2 and (array.shape[-1], *array.shape[1:-1]) == wanted:
        return f"channels come first: {name}.transpose{(0, n - 1, *range(1, n - 1))}"
    if name == "y" and n == 1 and array.dtype.kind in "iu":
        return "class labels are for --loss cross_entropy"
    return "the first axis counts samples, the others are in the order of the ONNX file"


def _check_finite(array: Array, rounded: Array, where: str) -> None:
    """Refuse samples that no step could learn from: a gradient that is not finite changes no weight."""
    lost = ~np.isfinite(rounded).all(axis=tuple(range(1, rounded.ndim)))
    if lost.any():
        at, count = int(lost.argmax()), int(lost.sum())
        if np.isfinite(array[at]).all():
            largest = np.abs(array[at].astype(np.float64)).max()
            why = f"sample {at} holds {largest:g}, beyond binary16's 65504 ({count} such samples)"
            raise ModelError("data-overflow", where, why, "scale the data, and the model with it")
        raise ModelError("data-not-finite", where, f"sample {at} holds NaN or infinity ({count} such samples)")


def _labels(array: Array | None, classes: int, where: str) -> Array:
    if array is None:
        raise ModelError("data-key", where, "cross entropy needs integer labels", "add an array y (N,), or use mse")
    if array.dtype.kind not in "iu" or array.ndim != 1:
        why = f"{array.dtype} of shape {array.shape} is not (N,) of integers"
        raise ModelError("data-type", where, why, _label_hint(array, classes))
    wrong = np.flatnonzero((array < 0) | (array >= classes))
    if len(wrong):
        at = int(wrong[0])
        hint = "subtract 1, if your labels begin with 1" if array.min() == 1 and array.max() == classes else ""
        raise ModelError("label-range", where, f"y[{at}] = {array[at]}, the model has classes 0 .. {classes - 1}", hint)
    return array.astype(np.int32).reshape(-1, 1)


def _label_hint(array: Array, classes: int) -> str:
    """How to make integers of one-hot rows, or of integers in other clothes."""
    if array.ndim == 2 and array.shape[1] == classes > 1:
        return "of one-hot rows: y.argmax(axis=1)"
    is_whole = array.dtype.kind in "biu" or (array.dtype.kind == "f" and bool((array == np.floor(array)).all()))
    if is_whole and array.ndim > 0 and array.size == len(array):
        return f"y{'.ravel()' if array.ndim > 1 else ''}.astype(int)"
    return "y holds the number of one class for each sample; for other targets use --loss mse"
