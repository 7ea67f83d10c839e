"""Runs a Program in NumPy on byte arenas: the living definition of what the C must do.

Every byte of a memory remembers which buffer last wrote it. A read must find all its bytes written by the value that it
names, so a plan that lets one tensor run over another cannot go unnoticed; memory starts as poison (0xA5), and every
access is checked against the memory's bounds. Transfers between memories happen as late as they may.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from odl import fp16
from odl.program import ARENA, LOCAL, Barrier, Buffer, Call, Move, Program, Statement
from odl.tiling import Region
from odl.types import Array

POISON = 0xA5
_NOBODY = -1

Observer = Callable[[int, Call, tuple[Array, ...]], None]


class Memory:
    """One space: bytes, and for each byte the number of the value that it belongs to (-1: nobody's)."""

    def __init__(self, n_bytes: int) -> None:
        self.bytes = np.full(n_bytes, POISON, np.uint8)
        self.owner = np.full(n_bytes, _NOBODY, np.int32)

    def poison(self, start: int) -> None:
        """Forget everything from byte `start` on."""
        self.bytes[start:] = POISON
        self.owner[start:] = _NOBODY

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

    def region(self, buffer: Buffer, region: Region) -> npt.NDArray[np.int64]:
        """The addresses of a region of a tensor."""
        self._check(buffer)
        assert buffer.offset + region.end <= buffer.end, f"{region} is not all inside {buffer}"
        return buffer.offset + region.places()

    def _check(self, buffer: Buffer) -> None:
        if buffer.part:
            assert buffer.offset + buffer.part.n_bytes <= len(self.bytes), f"{buffer} lies outside of {buffer.space}"
            return
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
        self._transfers = _Transfers(self)
        for resident in program.residents:
            self._write(resident.buffer, resident.tensor.initial)

    def run(self, entry: str, feeds: Mapping[str, Array], observe: Observer | None = None) -> tuple[Array, ...]:
        self.memories[ARENA].poison(self.program.persistent_bytes)
        if self.program.has_team:
            self.memories[LOCAL].poison(0)
        for name, array in feeds.items():
            self._write(Buffer(name, self.program.inputs[name], name, 0), array)
        for statement in self.program.entries[entry]:
            if isinstance(statement, Call):
                self._call(statement, observe)
            else:
                self._transfers.do(statement)
        self._transfers.require_all_done()
        return tuple(self._read(buffer).copy() for buffer in self.program.results[entry])

    def _call(self, call: Call, observe: Observer | None) -> None:
        if call.kernel is None:
            self._rename(call)
            return
        if self.program.has_team:
            self._transfers.begin_call()
        # Copies: an operator may return a view of its operand, and its output may lie on top of it.
        canonical = tuple(map(_canonical, self.evaluate(call, [self._read(buffer) for buffer in call.inputs])))
        for buffer, array in zip(call.outputs, canonical, strict=True):
            self._write(buffer, array)
        if observe:
            observe(self._numbers[id(call)], call, canonical)

    def evaluate(self, call: Call, inputs: list[Array]) -> tuple[Array, ...]:
        """The outputs of a call, of operands that are what they should be."""
        return call.op.evaluate(inputs)

    def persistent(self, name: str) -> Array:
        """The present value of a persistent tensor."""
        return self._read(self.program.resident(name).buffer).copy()

    def load(self, name: str, array: Array) -> None:
        """Give a persistent tensor a value, as a checkpoint or a caller's weights would."""
        self._write(self.program.resident(name).buffer, array)

    def owner(self, buffer: Buffer) -> int:
        """A number for the value, or the part of a value, that a buffer holds."""
        part = f"[{buffer.part}]" if buffer.part else ""
        return self._owners.setdefault((buffer.held or buffer.value) + part, len(self._owners))

    def _write(self, buffer: Buffer, array: Array) -> None:
        self.memories[buffer.space].write(buffer, array, self.owner(buffer))

    def _read(self, buffer: Buffer) -> Array:
        return self.memories[buffer.space].read(buffer, self.owner(buffer))

    def _rename(self, call: Call) -> None:
        """A view: the same bytes, from now on under the output's name too."""
        source, target = call.inputs[0], call.outputs[0]
        assert (source.space, source.offset) == (target.space, target.offset), f"{target} is no view of {source}"
        self._owners[target.value] = self.owner(source)
        self._read(target)


class _Transfers:
    """Transfers under way, and whether the cores agree on what is there.

    Bytes arrive when they are waited for: then the source must still be what it was when the transfer started, and the
    target must be nobody else's. From the start until then nobody owns the target.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._under_way: dict[int, Move] = {}
        self._computing = False  # a call since the last barrier: some core may still be at it
        self._unheard = False  # a wait since the last barrier: only the core that waited knows

    def do(self, statement: Statement) -> None:
        if isinstance(statement, Barrier):
            self._computing = self._unheard = False
        elif isinstance(statement, Move):
            assert not self._computing, f"{statement} starts while a call may still run"
            assert statement.number not in self._under_way, f"{statement} is under way"
            self._read(statement)
            memory, target = self._end(statement, statement.inward)
            memory.owner[target] = _NOBODY
            self._under_way[statement.number] = statement
        elif not isinstance(statement, Call):
            self._finish(self._under_way.pop(statement.number))
            self._unheard = True

    def begin_call(self) -> None:
        assert not self._computing, "a call begins without a barrier behind the call before it"
        assert not self._unheard, "a call begins without a barrier behind a wait"
        self._computing = True

    def require_all_done(self) -> None:
        assert not self._under_way, f"nobody waits for {list(map(str, self._under_way.values()))}"
        assert not self._computing, "no barrier behind the last call"
        assert not self._unheard, "no barrier behind the last wait"

    def _finish(self, move: Move) -> None:
        data = self._read(move)
        memory, target = self._end(move, move.inward)
        assert (memory.owner[target] == _NOBODY).all(), f"{move}: something was written where it arrives"
        memory.bytes[target] = data
        memory.owner[target] = self._executor.owner(move.local if move.inward else move.remote)

    def _read(self, move: Move) -> npt.NDArray[np.uint8]:
        memory, source = self._end(move, not move.inward)
        owner = self._executor.owner(move.remote if move.inward else move.local)
        assert (memory.owner[source] == owner).all(), f"{move}: some bytes belong to another value"
        data: npt.NDArray[np.uint8] = memory.bytes[source]
        return data

    def _end(self, move: Move, local: bool) -> tuple[Memory, npt.NDArray[np.int64]]:
        """One end of a transfer: its memory, and the addresses there."""
        memory = self._executor.memories[LOCAL if local else move.remote.space]
        if not local:
            return memory, memory.region(move.remote, move.region)
        first = move.local.offset
        assert first + move.region.n_bytes <= len(memory.bytes), f"{move} lies outside of {LOCAL}"
        return memory, np.arange(first, first + move.region.n_bytes)


def _canonical(array: Array) -> Array:
    return fp16.canonical(array) if array.dtype.kind == "f" else array
