"""What updates of weights have in common: the guard, the run of rows, the master, and the count of lost updates.

An update reads a gradient and changes, in place, a weight, the optimizer's state and what lies beside the weight
(`odl.masters`). Nothing is touched where the guard forbids it: it holds the sums of squares of what the gradient was
made of (`square_sums`), so one number that is not finite keeps all of it as it was. An element whose new weight, state
or memory would not be finite stays as it was on its own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.graph import Kernel, Operator, Phase, Slice, Tile
from odl.masters import Master, chances, random_bits
from odl.ops.square_sums import is_finite
from odl.types import Array, DType, Shape, TensorType

# What `rates` holds (odl/ops/rates.py).
UNSCALE, LR, STEP_SIZE, CORRECTION, N_RATES = range(5)


@dataclass(frozen=True)
class Update(Operator):
    """w, states, [memory], lost, g, rates, guard, [progress] -> w', states', [memory'], lost', all changed in place.

    w (N, ...) binary16; of its rows, those from `row` on are trained. The states, like the trained rows, are binary16
    or binary32; memory, for masters that have one, likewise. g (count, ...), binary32 or binary16, is of the trained
    rows `first` .. `first + count - 1` (all where count is 0). rates (4) and guard (8): binary32; progress (4) int32,
    for stochastic rounding, whose draws also depend on `salt` and on an element's number: the first trained row is the
    row `index` of the whole weight, whose elements are counted from 0.

    g' = rn32(g * unscale), then, with `clip` > 0, between -clip and clip. The rule of the subclass makes of it the new
    states, a step, and the way that the weight goes, all in binary32, one operation at a time; states are rounded to
    their types, and the master takes the way. `lost` (1) int32 grows by the number of elements whose step is not zero
    and of which weight and memory have stayed what they were.
    """

    phase: ClassVar[Phase] = Phase.UPDATE
    overwrites: ClassVar[tuple[tuple[int, int], ...]] = ((0, 0), (1, 1), (2, 2), (3, 3), (4, 4))
    rule: ClassVar[str]
    master: Master = Master.NONE
    decay: float = 0.0
    clip: float = 0.0
    row: int = 0
    first: int = 0
    count: int = 0
    index: int = 0
    salt: int = 0

    @property
    @abstractmethod
    def n_states(self) -> int:
        """How many tensors of the optimizer's own lie beside the weight."""

    @abstractmethod
    def move(
        self, w: Array, states: Sequence[Array], g: Array, rates: Array, types: Sequence[DType]
    ) -> tuple[Array, Array, tuple[Array, ...]]:
        """(step, way, states') of binary32 weights, states and gradients; states' as they are stored."""

    @property
    def n_held(self) -> int:
        """How many tensors are changed besides the weight and the count."""
        return self.n_states + (self.master.memory is not None)

    @property
    def gradient_at(self) -> int:
        """Which input is the gradient."""
        return self.n_held + 2

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        w, held, g = inputs[0], inputs[1 : 1 + self.n_held], inputs[self.gradient_at]
        rows = (self.count or g.shape[0], *w.shape[1:])
        assert g.shape == rows, (w, g)
        assert all(each.shape[1:] == w.shape[1:] for each in held), inputs
        assert self.row + self.first + rows[0] <= w.shape[0], (self, w)
        return tuple(inputs[: self.gradient_at])

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        w, *held, lost = (array.copy() for array in inputs[: self.gradient_at])
        g, rates, guard, *progress = inputs[self.gradient_at :]
        if is_finite(guard):
            at = self.row + self.first
            parts = [w[at : at + len(g)], *(each[self.first : self.first + len(g)] for each in held)]
            lost += np.int32(self._change(parts, g, rates, progress[0] if progress else None))
        return (w, *held, lost)

    def _change(self, parts: Sequence[Array], g: Array, rates: Array, progress: Array | None) -> int:
        """Change weights and what is held beside them, in place; returns how many updates were lost."""
        w, *held = parts
        states, memory = held[: self.n_states], (held[self.n_states] if self.master.memory else None)
        with np.errstate(all="ignore"):
            unscaled = self._clipped(fp16.mul32(g, rates[UNSCALE]))
            wide = [state.astype(np.float32) for state in states]
            types = [DType.F32 if state.dtype == np.float32 else DType.F16 for state in states]
            step, way, new_states = self.move(self._value(w, memory), wide, unscaled, rates, types)
            new, kept = self.master.step(w, memory, way, self._chances(w, progress))
        remembered = [] if memory is None else [kept]
        sound = np.isfinite(new)
        for each in (*new_states, *remembered):
            sound = sound & np.isfinite(each)
        same = fp16.bits(new) == fp16.bits(w)
        for each, old in zip(remembered, held[self.n_states :], strict=True):
            same = same & (fp16.bits(each) == fp16.bits(old))
        for each, old in zip((new, *new_states, *remembered), parts, strict=True):
            old[...] = np.where(sound, each, old)
        return int(np.count_nonzero(sound & same & (step != 0)))

    def _value(self, w: Array, memory: Array | None) -> Array:
        """The binary32 weight that decay pulls at: the copy, where there is one."""
        copied = memory is not None and self.master is Master.FP32
        return np.asarray(memory if copied else w, np.float32)

    def _clipped(self, g: Array) -> Array:
        """NaN stays."""
        bound = np.float32(self.clip)
        return np.where(g > bound, bound, np.where(g < -bound, -bound, g)) if self.clip else g

    def _chances(self, w: Array, progress: Array | None) -> Array:
        row = w.size // len(w)
        key = random_bits(progress[0], self.salt) if progress is not None else np.uint32(0)
        return chances((self.index + self.first) * row, w.size, key).reshape(w.shape)

    def cut_shape(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Shape:
        """The gradient: of a weight that is trained in part, it has fewer rows."""
        return inputs[self.gradient_at].shape

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Cuts along axis 0 of the gradient; weights and what is held are needed no further than that."""
        w, g = inputs[0], inputs[self.gradient_at]
        cut = cut or Slice(0, 0, g.shape[0])
        if cut.axis:
            return None
        at = self.first + cut.first
        weight = _all_or(Slice(0, self.row + at, self.row + at + len(cut)), w)
        held = [_all_or(Slice(0, at, at + len(cut)), type_) for type_ in inputs[1 : 1 + self.n_held]]
        changed = (weight, *held, None)
        others = (None,) * (len(inputs) - self.gradient_at - 1)
        op = replace(self, row=0, first=0, count=0, index=self.index + at)
        return Tile(op, (*changed, _all_or(cut, g), *others), changed)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        w, g = inputs[0], inputs[self.gradient_at]
        row = w.n_elems // w.shape[0]
        sizes: dict[str, int | float] = {"row": self.row * row, "first": self.first * row, "n_elems": g.n_elems}
        if self.master is Master.STOCHASTIC:
            sizes |= {"index": self.index * row, "salt": self.salt}
        states = f"_{inputs[1].dtype.value}" if self.n_states else ""
        name = f"{self.rule}_{self.master.value}{states}_{g.dtype.value}"
        return Kernel(name, {**sizes, **self.constants(), "decay": self.decay, "clip": self.clip})

    @abstractmethod
    def constants(self) -> dict[str, int | float]:
        """The rule's own arguments of the kernel."""

    def split(self, first: int, count: int) -> Operator:
        return replace(self, first=first, count=count)


def _all_or(cut: Slice, type_: TensorType) -> Slice | None:
    return None if len(cut) == type_.shape[0] else cut
