"""Runs a Program without its arithmetic: all that the executor asserts, and that no memory falls behind.

No statement depends on a number, so what holds in a rehearsal holds in every run. The executor knows which value each
byte belongs to; of persistent tensors, which are updated in place, it does not know which state. Here each update
leaves a number of its own, and whoever reads a state, in whatever memory, has to find the last one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from odl.executor import Executor
from odl.program import Buffer, Call, Program
from odl.tiling import Region
from odl.types import Array

_NUMBERS = 2000  # that binary16 has


def rehearse(program: Program) -> None:
    """Run every entry once. Raises AssertionError where a plan, a transfer or a barrier is wrong, a planner's bug."""
    for entry in program.entries:
        _Rehearsal(program).entry(entry)


class _Rehearsal(Executor):
    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self._states = {each.tensor.name: _bytes(self.persistent(each.tensor.name)) for each in program.residents}
        self._n_updates = 0

    def entry(self, name: str) -> None:
        feeds = {value: np.zeros(type_.shape, type_.dtype.numpy) for value, type_ in self.program.inputs.items()}
        self.run(name, feeds)
        for held, state in self._states.items():
            assert (_bytes(self.persistent(held)) == state).all(), f"{name} leaves an old state of {held} behind"

    def evaluate(self, call: Call, inputs: list[Array]) -> tuple[Array, ...]:
        for buffer, array in zip(call.inputs, inputs, strict=True):
            if buffer.held:
                assert (_bytes(array) == self._states[buffer.held][_places(buffer)]).all(), f"{call} reads an old state"
        return tuple(map(self._made, call.outputs))

    def _made(self, buffer: Buffer) -> Array:
        if not buffer.held:
            return np.zeros(buffer.type.shape, buffer.type.dtype.numpy)
        self._n_updates += 1
        array = np.full(buffer.type.shape, self._n_updates % _NUMBERS, buffer.type.dtype.numpy)
        self._states[buffer.held][_places(buffer)] = _bytes(array)
        return array


def _bytes(array: Array) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).copy()


def _places(buffer: Buffer) -> npt.NDArray[np.int64]:
    """The bytes of a persistent tensor that a buffer holds."""
    n_bytes = buffer.type.n_bytes
    return (buffer.part or Region(0, 1, n_bytes, n_bytes)).places()
