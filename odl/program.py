"""How it is computed: a flat list of kernel calls with byte offsets into named memories, nothing left to decide.

The NumPy executor runs a Program and is the definition of what the C must do; the code generator prints it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from odl.errors import TargetError
from odl.graph import Kernel, Operator, Persistent, Phase, Role, Slice
from odl.memory import ARENA, FLASH
from odl.tiling import Region
from odl.types import Array, TensorType

__all__ = ["ARENA", "FLASH", "LOCAL", "Barrier", "Buffer", "Call", "Move", "Program", "Resident", "Statement", "Wait"]

LOCAL = "l1"  # the memory next to the cores, where a target has one


@dataclass(frozen=True)
class Buffer:
    """A tensor in a memory: `offset` and size in bytes. Spaces other than the arena and the local one are read-only.

    `held` is the persistent tensor that the buffer is a state of, if it is one. `part`: which part of the value, whose
    type is `whole`, lies here, dense; None for all of it.
    """

    value: str
    type: TensorType
    space: str
    offset: int
    held: str = ""
    part: Region | None = None
    whole: TensorType | None = None

    @property
    def end(self) -> int:
        return self.offset + self.type.n_bytes

    def index(self, at: int) -> tuple[int, ...]:
        """Where element `at` of what lies here stands in the whole value."""
        part, size = self.part, self.type.dtype.n_bytes
        if part and self.whole:
            row, byte = divmod(at * size, part.row_bytes)
            at = (part.offset + row * part.stride_bytes + byte) // size
        shape = self.whole.shape if self.whole else self.type.shape
        return tuple(int(i) for i in np.unravel_index(at, shape))

    def __str__(self) -> str:
        part = f"[{self.part}]" if self.part else ""
        return f"{self.value}{part}@{self.space}+{self.offset:#x}"


@dataclass(frozen=True)
class Call:
    """One kernel call. `kernel` is None for a view, which moves no bytes and exists for the executor's bookkeeping.

    `inputs` and `outputs` are the operator's operands in its own order; `layer` and `phase` are for reports. `name` is
    the node's, followed by `cut` where the call makes only that slice of its output.
    """

    op: Operator
    kernel: Kernel | None
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    name: str
    layer: str
    phase: Phase
    macs: int
    cut: Slice | None = None

    def __str__(self) -> str:
        kernel = self.kernel.name if self.kernel else "view"
        operands = ", ".join(map(str, (*self.outputs, *self.inputs)))
        scalars = ", ".join(f"{k}={v}" for k, v in self.kernel.scalars.items()) if self.kernel else ""
        return f"{kernel}({operands}; {scalars})  # {self.layer}, {self.phase.value}"


@dataclass(frozen=True)
class Move:
    """Start of a transfer between `local` and a region of `remote`, a whole tensor; `number` is what to wait for.

    Until then the bytes it reads must stay, and nobody may look at those it writes.
    """

    number: int
    local: Buffer
    remote: Buffer
    region: Region
    inward: bool

    def __str__(self) -> str:
        ends = (self.local, f"{self.remote}[{self.region}]")
        target, source = ends if self.inward else reversed(ends)
        return f"move {self.number}: {target} <- {source}"


@dataclass(frozen=True)
class Wait:
    """The core that started transfer `number` waits for its end; the others know it after the next barrier."""

    number: int

    def __str__(self) -> str:
        return f"wait {self.number}"


@dataclass(frozen=True)
class Barrier:
    """Every core waits for all others. Between two calls of a team there is at least one."""

    def __str__(self) -> str:
        return "barrier"


Statement = Call | Move | Wait | Barrier


@dataclass(frozen=True)
class Resident:
    """A persistent tensor with its place: weights and optimizer state in the arena, constants in flash."""

    tensor: Persistent
    buffer: Buffer


@dataclass(frozen=True)
class Program:
    """Entries (named lists of statements) over shared memories.

    A flat memory is the case with one space and no moves: then every statement is a call.

    `spaces` maps each memory to its size in bytes: the arena, flash, and one space a graph input, which belongs to the
    caller. `results` are the buffers that an entry's caller reads when it has run. `lower_bound` is the largest sum of
    live tensors over the order: what no placement can go below.
    """

    entries: Mapping[str, tuple[Statement, ...]]
    residents: tuple[Resident, ...]
    inputs: Mapping[str, TensorType]
    results: Mapping[str, tuple[Buffer, ...]]
    spaces: Mapping[str, int]
    lower_bound: int
    persistent_bytes: int

    @property
    def held(self) -> tuple[Resident, ...]:
        """What outlives a step, in the order of the C's odl_state."""
        return tuple(resident for resident in self.residents if resident.buffer.space == ARENA)

    def held_arrays(self, contents: Sequence[bytes]) -> dict[str, Array]:
        """The tensors of `held` by name, of what a device says they are. Raises TargetError `log-incomplete` where it
        tells of others."""
        types = {resident.tensor.name: resident.buffer.type for resident in self.held}
        if [len(content) for content in contents] != [type_.n_bytes for type_ in types.values()]:
            why = f"it tells of {len(contents)} tensors and this program keeps {len(types)}, or of other sizes"
            raise TargetError("log-incomplete", "weights", why)
        return {
            name: np.frombuffer(content, type_.dtype.numpy).reshape(type_.shape)
            for (name, type_), content in zip(types.items(), contents, strict=True)
        }

    @property
    def held_bytes(self) -> dict[Role, int]:
        """The bytes of the arena that outlive a step, by what they are for."""
        found: dict[Role, int] = {}
        for resident in self.held:
            role = resident.tensor.role
            found[role] = found.get(role, 0) + resident.buffer.type.n_bytes
        return found

    def calls(self) -> Iterator[tuple[int, str, Call]]:
        """(number, entry, call) of every call that has a kernel; the numbers are those of the C hook."""
        number = 0
        for entry, statements in self.entries.items():
            for call in statements:
                if isinstance(call, Call) and call.kernel is not None:
                    yield number, entry, call
                    number += 1

    @property
    def has_team(self) -> bool:
        """Whether several cores share the calls, which then work in the local memory."""
        return LOCAL in self.spaces

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
        for entry, statements in self.entries.items():
            yield f"entry {entry}"
            yield from (f"  {statement}" for statement in statements)
            yield f"  return {', '.join(map(str, self.results[entry]))}"
