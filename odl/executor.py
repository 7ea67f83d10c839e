"""Runs a Program in NumPy on byte arenas: the living definition of what the C must do.

Every byte of a memory remembers which buffer last wrote it. A read must find all its bytes written by the value that it
names, so a plan that lets one tensor run over another cannot go unnoticed; memory starts as poison (0xA5), and every
access is checked against the memory's bounds. Transfers between memories happen as late as they may.

Many samples can run at once where they cannot tell: NumPy is slow at starting and fast at going on. Each has memories
of its own then, a lane; values that all of them share, weights first, lie in lane 0 alone. What an entry adds to a
shared tensor, such as the sums of a mini-batch, is added sample by sample, in their order (`Operator.evaluate_many`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import numpy.typing as npt

from odl import fp16
from odl.program import ARENA, FLASH, LOCAL, Barrier, Buffer, Call, Move, Program, Statement
from odl.tiling import Region
from odl.types import Array

POISON = 0xA5
_NOBODY, _ALIGN = -1, 64

Observer = Callable[[int, Call, tuple[Array, ...]], None]


class Memory:
    """One space: bytes (lanes, n), and for each of n the number of the value that it belongs to (-1: nobody's)."""

    def __init__(self, n_bytes: int, lanes: int) -> None:
        self.bytes = np.full((lanes, -(-n_bytes // _ALIGN) * _ALIGN), POISON, np.uint8)[:, :n_bytes]
        self.owner = np.full(n_bytes, _NOBODY, np.int32)

    def poison(self, start: int) -> None:
        """Forget everything from byte `start` on."""
        self.bytes[:, start:] = POISON
        self.owner[start:] = _NOBODY

    def write(self, buffer: Buffer, array: Array, owner: int) -> None:
        """Lane i gets array[i]."""
        self._check(buffer)
        assert array.shape[1:] == buffer.type.shape, f"{buffer}: {array.shape} is not {buffer.type}"
        assert array.dtype == buffer.type.dtype.numpy, f"{buffer}: {array.dtype} is not {buffer.type}"
        flat = np.ascontiguousarray(array).reshape(len(array), -1)
        self.bytes[: len(array), buffer.offset : buffer.end] = flat.view(np.uint8)
        self.owner[buffer.offset : buffer.end] = owner

    def read(self, buffer: Buffer, owner: int, lanes: int) -> Array:
        """What the first so many lanes hold, (lanes, ...)."""
        self._check(buffer)
        owners = self.owner[buffer.offset : buffer.end]
        assert (owners == owner).all(), f"{buffer}: some of its bytes belong to another value"
        raw: npt.NDArray[np.uint8] = self.bytes[:lanes, buffer.offset : buffer.end]
        return raw.view(buffer.type.dtype.numpy).reshape(lanes, *buffer.type.shape)

    def region(self, buffer: Buffer, region: Region) -> npt.NDArray[np.int64]:
        """The addresses of a region of a tensor."""
        self._check(buffer)
        assert buffer.offset + region.end <= buffer.end, f"{region} is not all inside {buffer}"
        return buffer.offset + region.places()

    def _check(self, buffer: Buffer) -> None:
        if buffer.part:
            assert buffer.offset + buffer.part.n_bytes <= len(self.owner), f"{buffer} lies outside of {buffer.space}"
            return
        assert 0 <= buffer.offset <= buffer.end <= len(self.owner), f"{buffer} lies outside of {buffer.space}"
        assert buffer.offset % buffer.type.dtype.n_bytes == 0, f"{buffer} is not aligned"


class Executor:
    """A device: its memories, ready to run the entries of one Program, for up to `lanes` samples at once.

    `run(entry, feeds, observe)` binds the caller's tensors, runs the calls in order, and returns the entry's results.
    `observe` is told (number, call, output arrays) after each call that has a kernel.
    """

    def __init__(self, program: Program, lanes: int = 1) -> None:
        self.program = program
        self.lanes = lanes
        self.memories = {
            space: Memory(n_bytes, 1 if space == FLASH else lanes) for space, n_bytes in program.spaces.items()
        }
        self._n_samples = 1
        self._many: set[str] = set()  # values of which every sample has its own
        self._owners: dict[str, int] = {}
        self._numbers = {id(call): number for number, _, call in program.calls()}
        self._transfers = _Transfers(self)
        for resident in program.residents:
            self._write(resident.buffer, resident.tensor.initial)

    def run(self, entry: str, feeds: Mapping[str, Array], observe: Observer | None = None) -> tuple[Array, ...]:
        self._n_samples, self._many = 1, set()
        return self._run(entry, feeds, observe)

    def run_many(self, entry: str, feeds: Mapping[str, Array]) -> tuple[Array, ...]:
        """Run an entry for samples (N, ...), with the results (N, ...) and the bits of one `run` after the other.

        They run at once, as many as there are lanes, unless the entry reads what it changes (`order_matters`). Feeds
        may name persistent tensors too: before a sample runs such a tensor gets its value, as by `load`, and it ends
        with what the last sample left there.
        """
        lanes = 1 if order_matters(self.program, entry) else self.lanes
        found: list[tuple[Array, ...]] = []
        for start in range(0, len(next(iter(feeds.values()))), lanes):
            part = {name: array[start : start + lanes] for name, array in feeds.items()}
            if lanes == 1:
                single = self.run(entry, {name: array[0] for name, array in part.items()})
                found.append(tuple(array[None] for array in single))
                continue
            self._n_samples, self._many = len(next(iter(part.values()))), set(feeds)
            found.append(self._run(entry, part, None))
            self._keep_last(name for name in feeds if name not in self.program.inputs)
        return tuple(np.concatenate(each) for each in zip(*found, strict=True))

    def _run(self, entry: str, feeds: Mapping[str, Array], observe: Observer | None) -> tuple[Array, ...]:
        self.memories[ARENA].poison(self.program.persistent_bytes)
        if self.program.has_team:
            self.memories[LOCAL].poison(0)
        for name, array in feeds.items():
            type_ = self.program.inputs.get(name)
            self._write(Buffer(name, type_, name, 0) if type_ else self.program.resident(name).buffer, array)
        for statement in self.program.entries[entry]:
            if isinstance(statement, Call):
                self._call(statement, observe)
            else:
                self._transfers.do(statement)
        self._transfers.require_all_done()
        return tuple(self._read(buffer).copy() for buffer in self.program.results[entry])

    def _keep_last(self, names: Iterable[str]) -> None:
        """Of persistent tensors that each sample had for itself the last one's."""
        last = {name: self._read(self.program.resident(name).buffer)[-1].copy() for name in names}
        self._many = set()
        for name, array in last.items():
            self.load(name, array)

    def _call(self, call: Call, observe: Observer | None) -> None:
        if call.kernel is None:
            self._rename(call)
            return
        if self.program.has_team:
            self._transfers.begin_call()
        inputs = [self._read(buffer) for buffer in call.inputs]
        many = tuple(buffer.value in self._many for buffer in call.inputs)
        if any(many) or (self._many and any(buffer.held for buffer in call.outputs)):
            outputs = call.op.evaluate_many(inputs, many, self._n_samples)
            self._many |= {b.value for at, b in enumerate(call.outputs) if not call.op.folds(at, many)}
        else:
            outputs = self.evaluate(call, inputs)
        # Copies: an operator may return a view of its operand, and its output may lie on top of it.
        canonical = tuple(map(_canonical, outputs))
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

    def lanes_of(self, buffer: Buffer) -> int:
        """In how many lanes a buffer's value lies."""
        return self._n_samples if buffer.value in self._many else 1

    def _write(self, buffer: Buffer, array: Array) -> None:
        lanes = array if buffer.value in self._many else array[None]
        self.memories[buffer.space].write(buffer, lanes, self.owner(buffer))

    def _read(self, buffer: Buffer) -> Array:
        lanes = self.memories[buffer.space].read(buffer, self.owner(buffer), self.lanes_of(buffer))
        return lanes if buffer.value in self._many else lanes[0]

    def _rename(self, call: Call) -> None:
        """A view: the same bytes, from now on under the output's name too."""
        source, target = call.inputs[0], call.outputs[0]
        assert (source.space, source.offset) == (target.space, target.offset), f"{target} is no view of {source}"
        self._owners[target.value] = self.owner(source)
        if source.value in self._many:
            self._many.add(target.value)
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
        memory.bytes[: len(data), target] = data
        memory.owner[target] = self._executor.owner(move.local if move.inward else move.remote)

    def _read(self, move: Move) -> npt.NDArray[np.uint8]:
        memory, source = self._end(move, not move.inward)
        owner = self._executor.owner(move.remote if move.inward else move.local)
        assert (memory.owner[source] == owner).all(), f"{move}: some bytes belong to another value"
        data: npt.NDArray[np.uint8] = memory.bytes[: self._executor.lanes_of(move.local), source]
        return data

    def _end(self, move: Move, local: bool) -> tuple[Memory, npt.NDArray[np.int64]]:
        """One end of a transfer: its memory, and the addresses there."""
        memory = self._executor.memories[LOCAL if local else move.remote.space]
        if not local:
            return memory, memory.region(move.remote, move.region)
        first = move.local.offset
        assert first + move.region.n_bytes <= len(memory.owner), f"{move} lies outside of {LOCAL}"
        return memory, np.arange(first, first + move.region.n_bytes)


def order_matters(program: Program, entry: str) -> bool:
    """Whether a sample of `entry` can see what those before it did: a call reads a persistent tensor that the entry
    changes, and does more than to change it further. Pieces of one tensor are taken to change different rows of it."""
    calls = [statement for statement in program.entries[entry] if isinstance(statement, Call)]
    changed = {buffer.held for call in calls if call.kernel for buffer in call.outputs if buffer.held}
    return any(
        buffer.held in changed and at not in {into for _, into in call.op.overwrites}
        for call in calls for at, buffer in enumerate(call.inputs)
    )  # fmt: skip


def _canonical(array: Array) -> Array:
    return fp16.canonical(array) if array.dtype.kind == "f" else array
