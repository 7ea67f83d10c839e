"""Arrays out of an .npz file that anyone may have written: numbers alone, and not more than the file accounts for.

A zip file can promise any size, and a few kilobytes of it unfold to gigabytes. So the head of an array is looked at
before its numbers are, and what unfolds to more than MOST_BYTES must at least be a hundredth as large in the file.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

MOST_BYTES = 1 << 26
_MOST_RATIO = 100
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # those of numpy.savez and numpy.savez_compressed

Array = npt.NDArray[Any]
Look = Callable[[str, tuple[int, ...], np.dtype[Any]], None]


class TooLargeError(ValueError):
    """An array, or what the file says of it, is larger than can be true."""


def ignore(_name: str, _shape: tuple[int, ...], _dtype: np.dtype[Any]) -> None:
    """The default look."""


def read_npz(path: Path, wanted: Iterable[str], look: Look = ignore) -> tuple[dict[str, Array], list[str]]:
    """Those of the `wanted` arrays that the file has, and the names of all that it has. `look` sees name, shape and
    type before the numbers are read, and may raise.

    Raises TooLargeError, and of a broken file nearly anything that zipfile, zlib and NumPy raise.
    """
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        found = {name: _array(archive, members[name], name, look) for name in wanted if name in members}
    return found, list(members)


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, look: Look) -> Array:
    if info.compress_type not in _METHODS:
        raise ValueError(f"'{name}' is compressed as numpy.savez does not")
    if info.file_size > max(MOST_BYTES, _MOST_RATIO * info.compress_size):
        raise TooLargeError(f"'{name}' unfolds to {info.file_size:,} bytes out of {info.compress_size:,}")
    with archive.open(info) as stream:
        shape, dtype = _head(stream)
    n_bytes = prod(shape) * dtype.itemsize
    if n_bytes > info.file_size:
        raise TooLargeError(f"'{name}' is to hold {n_bytes:,} bytes, and the file has {info.file_size:,} of it")
    look(name, shape, dtype)
    with archive.open(info) as stream:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def _head(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array of numbers."""
    version = np.lib.format.read_magic(stream)
    readers: dict[tuple[int, int], Callable[[IO[bytes]], Any]] = {
        (1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0,
    }  # fmt: skip
    shape, _, dtype = readers[version](stream)
    if dtype.hasobject or any(size < 0 for size in shape):
        raise ValueError(f"{dtype} of shape {shape} are no numbers")
    return shape, dtype
