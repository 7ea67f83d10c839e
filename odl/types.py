"""Element types and tensor types: what a value is, before anyone asks where it lies."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


class DType(Enum):
    """An element type: the word in text dumps; NumPy's and C's names hang on it."""

    F16 = "f16"
    F32 = "f32"
    I32 = "i32"
    U8 = "u8"

    @classmethod
    def of(cls, array: Array) -> DType:
        """The type of an array's elements."""
        return next(each for each in cls if each.numpy == array.dtype)

    @property
    def n_bytes(self) -> int:
        return int(self.value[1:]) // 8

    @property
    def is_float(self) -> bool:
        return self.value.startswith("f")

    @property
    def numpy(self) -> np.dtype[np.generic]:
        return np.dtype({"f16": np.float16, "f32": np.float32, "i32": np.int32, "u8": np.uint8}[self.value])

    @property
    def c(self) -> str:
        return {"f16": "odl_half", "f32": "float", "i32": "int32_t", "u8": "uint8_t"}[self.value]


@dataclass(frozen=True)
class TensorType:
    """Static shape and element type. Images are stored channels last: (1, height, width, channels)."""

    shape: Shape
    dtype: DType = DType.F16

    @property
    def n_elems(self) -> int:
        return prod(self.shape)

    @property
    def n_bytes(self) -> int:
        return self.n_elems * self.dtype.n_bytes

    def __str__(self) -> str:
        return f"{self.dtype.value}[{'x'.join(map(str, self.shape))}]"
