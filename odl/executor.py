"""Runs a Program in NumPy on byte arenas: the living definition of what the C must do.

Every byte of a memory remembers which buffer last wrote it. A read must find all its bytes written by the value that it
names, so a plan that lets one tensor run over another cannot go unnoticed; memory starts as poison (0xA5), and every
access is checked against the memory's bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from odl import fp16
from odl.program import ARENA, Buffer, Call, Program
from odl.types import Array

POISON = 0xA5

Observer = Callable[[int, Call, tuple[Array, ...]], None]


class Memory:
    """One space: bytes, and for each byte the number of the value that it belongs to (-1: nobody's)."""

    def __init__(self, n_bytes: int) -> None:
        self.bytes = np.full(n_bytes, POISON, np.uint8)
        self.owner = np.full(n_bytes, -1, np.int32)

    def poison(self, start: int) -> None:
        """Forget everything from byte `start` on."""
        self.bytes[start:] = POISON
        self.owner[start:] = -1

    def write(self, buffer: Buffer, array: Array, owner: int) -> None:
        self._check(buffer)
        assert array.shape == buffer.type.shape, f"{buffer}: {array.shape} is not {buffer.type}"
        assert array.dtype == buffer.type.dtype.numpy, f"{buffer}: {array.dtype} is not {buffer.type}"
        self.bytes[buffer.offset : buffer.end] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self.owner[buffer.offset : buffer.end] = owner

    def read(self, buffer: Buffer, owner: int) -> Array:
        self._check(buffer)
        owners = self.owner[buffer.offset : buffer.end]
        assert (owners == owner).all(), f"{buffer}: some of its bytes belong to another value"
        raw: npt.NDArray[np.uint8] = self.bytes[buffer.offset : buffer.end]
        return raw.view(buffer.type.dtype.numpy).reshape(buffer.type.shape)

    def _check(self, buffer: Buffer) -> None:
        assert 0 <= buffer.offset <= buffer.end <= len(self.bytes), f"{buffer} lies outside of {buffer.space}"
        assert buffer.offset % buffer.type.dtype.n_bytes == 0, f"{buffer} is not aligned"


class Executor:
    """A device: its memories, ready to run the entries of one Program.

    `run(entry, feeds, observe)` binds the caller's tensors, runs the calls in order, and returns the entry's results.
    `observe` is told (number, call, output arrays) after each call that has a kernel.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.memories = {space: Memory(n_bytes) for space, n_bytes in program.spaces.items()}
        self._owners: dict[str, int] = {}
        self._numbers = {id(call): number for number, _, call in program.calls()}
        for resident in program.residents:
            self._write(resident.buffer, resident.tensor.initial)

    def run(self, entry: str, feeds: Mapping[str, Array], observe: Observer | None = None) -> tuple[Array, ...]:
        self.memories[ARENA].poison(self.program.persistent_bytes)
        for name, array in feeds.items():
            self._write(Buffer(name, self.program.inputs[name], name, 0), array)
        for call in self.program.entries[entry]:
            if call.kernel is None:
                self._rename(call)
                continue
            # Copies: an operator may return a view of its operand, and its output may lie on top of it.
            outputs = call.op.evaluate([self._read(buffer) for buffer in call.inputs])
            canonical = tuple(_canonical(array) for array in outputs)
            for buffer, array in zip(call.outputs, canonical, strict=True):
                self._write(buffer, array)
            if observe:
                observe(self._numbers[id(call)], call, canonical)
        return tuple(self._read(buffer).copy() for buffer in self.program.results[entry])

    def persistent(self, name: str) -> Array:
        """The present value of a persistent tensor."""
        return self._read(self.program.resident(name).buffer).copy()

    def load(self, name: str, array: Array) -> None:
        """Give a persistent tensor a value, as a checkpoint or a caller's weights would."""
        self._write(self.program.resident(name).buffer, array)

    def _owner(self, buffer: Buffer) -> int:
        return self._owners.setdefault(buffer.held or buffer.value, len(self._owners))

    def _write(self, buffer: Buffer, array: Array) -> None:
        self.memories[buffer.space].write(buffer, array, self._owner(buffer))

    def _read(self, buffer: Buffer) -> Array:
        return self.memories[buffer.space].read(buffer, self._owner(buffer))

    def _rename(self, call: Call) -> None:
        """A view: the same bytes, from now on under the output's name too."""
        source, target = call.inputs[0], call.outputs[0]
        assert (source.space, source.offset) == (target.space, target.offset), f"{target} is no view of {source}"
        self._owners[target.value] = self._owner(source)
        self._read(target)


def _canonical(array: Array) -> Array:
    return array if array.dtype == np.int32 else fp16.canonical(array)
