"""How it is computed: a flat list of kernel calls with byte offsets into named memories, nothing left to decide.

The NumPy executor runs a Program and is the definition of what the C must do; the code generator prints it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from odl.graph import Kernel, Operator, Persistent, Phase
from odl.memory import ARENA, FLASH
from odl.types import TensorType

__all__ = ["ARENA", "FLASH", "Buffer", "Call", "Program", "Resident"]


@dataclass(frozen=True)
class Buffer:
    """A tensor in a memory: `offset` and size in bytes. Spaces other than the arena are read-only.

    `held` is the persistent tensor that the buffer is a state of, if it is one.
    """

    value: str
    type: TensorType
    space: str
    offset: int
    held: str = ""

    @property
    def end(self) -> int:
        return self.offset + self.type.n_bytes

    def __str__(self) -> str:
        return f"{self.value}@{self.space}+{self.offset:#x}"


@dataclass(frozen=True)
class Call:
    """One kernel call. `kernel` is None for a view, which moves no bytes and exists for the executor's bookkeeping.

    `inputs` and `outputs` are the operator's operands in its own order; `layer` and `phase` are for reports.
    """

    op: Operator
    kernel: Kernel | None
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    name: str
    layer: str
    phase: Phase
    macs: int


@dataclass(frozen=True)
class Resident:
    """A persistent tensor with its place: weights and optimizer state in the arena, constants in flash."""

    tensor: Persistent
    buffer: Buffer


@dataclass(frozen=True)
class Program:
    """Entries (named lists of calls) over shared memories.

    `spaces` maps each memory to its size in bytes: the arena, flash, and one space a graph input, which belongs to the
    caller. `results` are the buffers that an entry's caller reads when it has run. `lower_bound` is the largest sum of
    live tensors over the order: what no placement can go below.
    """

    entries: Mapping[str, tuple[Call, ...]]
    residents: tuple[Resident, ...]
    inputs: Mapping[str, TensorType]
    results: Mapping[str, tuple[Buffer, ...]]
    spaces: Mapping[str, int]
    lower_bound: int
    persistent_bytes: int

    def calls(self) -> Iterator[tuple[int, str, Call]]:
        """(number, entry, call) of every call that has a kernel; the numbers are those of the C hook."""
        number = 0
        for entry, calls in self.entries.items():
            for call in calls:
                if call.kernel is not None:
                    yield number, entry, call
                    number += 1

    def resident(self, name: str) -> Resident:
        return next(resident for resident in self.residents if resident.tensor.name == name)

    def __str__(self) -> str:
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        for space, n_bytes in self.spaces.items():
            yield f"space {space}: {n_bytes} bytes"
        for resident in self.residents:
            tensor = resident.tensor
            yield f"{tensor.role.value} {resident.buffer}: {tensor.type}"
        for entry, calls in self.entries.items():
            yield f"entry {entry}"
            for call in calls:
                kernel = call.kernel.name if call.kernel else "view"
                operands = ", ".join(map(str, (*call.outputs, *call.inputs)))
                scalars = ", ".join(f"{k}={v}" for k, v in call.kernel.scalars.items()) if call.kernel else ""
                yield f"  {kernel}({operands}; {scalars})  # {call.layer}, {call.phase.value}"
            yield f"  return {', '.join(map(str, self.results[entry]))}"
