"""A memory of latents: activations of old samples, kept on the device to be trained on again.

Sources: L. Pellegrini et al., Latent replay for real-time continual learning, IROS 2020; J. S. Vitter, Random sampling
with a reservoir, ACM Transactions on Mathematical Software 11 (1985), algorithm R; A. Chrysakis and M.-F. Moens, Online
continual learning from imbalanced data, ICML 2020, for reservoirs that are balanced by class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.graph import Kernel, Operator, Slice, Tile
from odl.masters import random_bits
from odl.types import Array, DType, TensorType

# What the memory's `count` holds: slots in use, samples offered, numbers drawn.
FILLED, SEEN, DRAWN, N_COUNTS = range(4)

F32 = np.float32
_LEVELS = F32(255)
_SHIFTER = F32(3 << 22)  # added to a small number it rounds it to an integer, in the low bits


def pack(x: Array) -> tuple[Array, Array]:
    """Binary16 numbers as bytes q and binary32 (low, step): q = round((x - low) / step), low the least of x and
    step = (largest - low) / 255, every operation rounded to binary32, the quotient to the nearest, even, integer; all
    0 where step is 0."""
    wide = x.astype(F32)
    ordered = np.sort(wide, axis=None)
    least, most = F32(ordered[0] + F32(0)), ordered[-1]  # of zeros of either sign, +0
    step = F32(F32(most - least) / _LEVELS)
    if step == 0:
        return np.zeros(x.shape, np.uint8), np.array([least, step], F32)
    levels = fp16.sub32(fp16.add32(fp16.div32(fp16.sub32(wide, least), step), _SHIFTER), _SHIFTER)
    return levels.astype(np.uint8), np.array([least, step], F32)


def unpack(q: Array, scale: Array) -> Array:
    """round16(rn32(low + rn32(q * step)))."""
    return fp16.half(fp16.add32(scale[0], fp16.mul32(q.astype(F32), scale[1])))


def draw(count: Array, below: int, salt: int) -> int:
    """The next number of 0 .. below - 1: 32 random bits modulo `below`, of which 0 stands for 2^32; counts the draw."""
    drawn = int(random_bits(count[DRAWN], salt)) % (below or 1 << 32)
    _increment(count, DRAWN)
    return drawn


def _increment(counts: Array, at: int) -> None:
    """Counters have 32 bits, and begin again."""
    counts.view(np.uint32)[at : at + 1] += np.uint32(1)


def _unsigned(number: np.int32) -> int:
    return int(number) & 0xFFFFFFFF


@dataclass(frozen=True)
class Keep(Operator):
    """latent, x -> latent': x, as it is, where it outlives the step. Both of one type, binary16."""

    name: ClassVar[str] = "keep"
    overwrites: ClassVar[tuple[tuple[int, int], ...]] = ((0, 0),)

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        latent, x = inputs
        assert latent == x, inputs
        return (latent,)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        return (inputs[1].copy(),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        return Kernel("keep", {"n_elems": inputs[0].n_elems})

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        return Tile(self, (cut, cut), (cut,))


@dataclass(frozen=True)
class Recall(Operator):
    """latent, label, count, memory, labels [, scales] -> latent', label', count': a slot in use, drawn at random.

    memory (slots, n) binary16, or bytes with scales (slots, 2) binary32; labels (slots) and label (1) int32; latent of
    n elements, binary16; count (3) int32. At least one slot must be in use; where count says more than there are, all.
    """

    name: ClassVar[str] = "recall"
    overwrites: ClassVar[tuple[tuple[int, int], ...]] = ((0, 0), (1, 1), (2, 2))
    salt: int = 0

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        latent, label, count, memory, labels, *scales = inputs
        assert memory.shape == (labels.shape[0], latent.n_elems), inputs
        assert bool(scales) == (memory.dtype is DType.U8), inputs
        return latent, label, count

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        latent, _, count, memory, labels, *scales = inputs
        count = count.copy()
        slot = draw(count, min(_unsigned(count[FILLED]), len(labels)), self.salt)
        kept = unpack(memory[slot], scales[0][slot]) if scales else memory[slot].copy()
        return kept.reshape(latent.shape), labels[slot : slot + 1].copy(), count

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        sizes: dict[str, int | float] = {"n_slots": inputs[4].n_elems, "n_elems": inputs[0].n_elems, "salt": self.salt}
        return Kernel(f"recall_{inputs[3].dtype.value}", sizes)


@dataclass(frozen=True)
class Remember(Operator):
    """memory, labels, count, [scales,] [seen,] latent, label -> memory', labels', count' [, scales'] [, seen'].

    Shapes as in Recall; seen (classes) int32 counts the samples of each class, for "balanced". A latent that is not
    finite is not offered. A memory with free slots takes the next one. "reservoir": of s samples offered so far, this
    one included, a draw below s that is a slot is where it goes, else it is dropped. "balanced": where the sample's
    class c has fewer slots than some other, a draw chooses one of those of the largest class (the first of equals), in
    their order; else, of the s samples of c offered so far and its k slots, a draw below s that is below k chooses one
    of them, else it is dropped.
    """

    name: ClassVar[str] = "remember"
    overwrites: ClassVar[tuple[tuple[int, int], ...]] = ((0, 0), (1, 1), (2, 2), (3, 3), (4, 4))
    balanced: bool = False
    salt: int = 0

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        memory, labels, *_ = inputs
        latent = inputs[-2]
        assert memory.shape == (labels.shape[0], latent.n_elems), inputs
        assert len(inputs) == 5 + (memory.dtype is DType.U8) + self.balanced, inputs
        return tuple(inputs[:-2])

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        memory, labels, count, *others = (array.copy() for array in inputs[:-2])
        latent, label = inputs[-2].ravel(), int(inputs[-1][0])
        seen = others[-1] if self.balanced else None
        if np.isfinite(latent).all():
            slot = self._slot(labels, count, seen, label)
            if slot >= 0:
                labels[slot] = label
                if memory.dtype == np.uint8:
                    memory[slot], others[0][slot] = pack(latent)
                else:
                    memory[slot] = latent
        return (memory, labels, count, *others)

    def _slot(self, labels: Array, count: Array, seen: Array | None, label: int) -> int:
        """Where the sample goes, -1 for nowhere; counts it."""
        _increment(count, SEEN)
        if seen is not None:
            _increment(seen, label)
        if _unsigned(count[FILLED]) < len(labels):
            _increment(count, FILLED)
            return int(count[FILLED]) - 1
        if seen is None:
            slot = draw(count, _unsigned(count[SEEN]), self.salt)
            return slot if slot < len(labels) else -1
        sizes = [int(np.count_nonzero(labels == each)) for each in range(len(seen))]
        largest = sizes.index(sorted(sizes)[-1])
        if sizes[label] < sizes[largest]:
            return self._nth(labels, largest, draw(count, sizes[largest], self.salt))
        at = draw(count, _unsigned(seen[label]), self.salt)
        return self._nth(labels, label, at) if at < sizes[label] else -1

    def _nth(self, labels: Array, label: int, n: int) -> int:
        return int(np.flatnonzero(labels == label)[n])

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        memory, labels = inputs[:2]
        sizes: dict[str, int | float] = {"n_slots": labels.n_elems, "n_elems": inputs[-2].n_elems}
        if self.balanced:
            sizes["n_classes"] = inputs[-3].n_elems
        policy = "_balanced" if self.balanced else ""
        return Kernel(f"remember{policy}_{memory.dtype.value}", {**sizes, "salt": self.salt})
