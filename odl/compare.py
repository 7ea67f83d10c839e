"""The proof: every tensor of every step on a target against the NumPy executor, in bits.

The device sends one CRC-32 a tensor; only where one differs is the run repeated up to there and the tensor fetched.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from odl import fp16
from odl.codegen import model_id, traced_buffers
from odl.data import Data
from odl.errors import TargetError
from odl.executor import Executor, Observer
from odl.log import Log
from odl.ops.replay import FILLED
from odl.program import Call, Program
from odl.replay import ENCODE, RECALL, REMEMBER
from odl.shown import Shown
from odl.targets import Simulator
from odl.targets.base import ignore
from odl.training import APPLY, INFER, STEP, Training
from odl.types import Array, DType
from odl.wire import Hashes, Job, Loss, Record


@dataclass(frozen=True)
class Pattern:
    """An element: its `bits`, hexadecimal and of its type's width, and the `value` that they mean."""

    bits: str
    value: float

    @classmethod
    def of(cls, bits: int, dtype: DType) -> Pattern:
        word = bits & (1 << 8 * dtype.n_bytes) - 1
        value = np.array(word, f"u{dtype.n_bytes}").view(dtype.numpy).item()
        return cls(f"0x{word:0{2 * dtype.n_bytes}x}", value)


@dataclass(frozen=True)
class Difference:
    """Where the target first computes other bits: patterns are of one element of a `dtype`, `index` in the tensor as
    stored."""

    step: int
    layer: str
    kernel: str
    tensor: str
    index: tuple[int, ...]
    expected_bits: int
    actual_bits: int
    dtype: DType = DType.F16

    @property
    def expected(self) -> Pattern:
        """What NumPy computes."""
        return Pattern.of(self.expected_bits, self.dtype)

    @property
    def actual(self) -> Pattern:
        """What the target computed."""
        return Pattern.of(self.actual_bits, self.dtype)


@dataclass(frozen=True)
class Verdict(Shown):
    """What a verification found. `tensors` and `values` count what was compared over all `steps`; `loss` (steps,) is
    NumPy's."""

    equal: bool
    steps: int
    tensors: int
    values: int
    loss: tuple[float, ...]
    first_difference: Difference | None

    def __repr__(self) -> str:
        found = self.first_difference
        if found is None:
            return f"<odl.Verdict equal: {self.values:,} values of {self.tensors:,} tensors over {self.steps:,} steps>"
        return (
            f"<odl.Verdict different: step {found.step}, layer {found.layer!r}, tensor {found.tensor!r}"
            f"{list(found.index)}: {found.actual.bits}, not {found.expected.bits}>"
        )


F32 = np.float32
Progress = Callable[[int, float], None]


MOST_LANES = 32  # of ResNet8 and DS-CNN: more gain nothing, and take more memory
_LANES_BYTES = 1 << 28


class Reference:
    """The executor stepping through the data as the device does: train, and at a batch's end apply.

    `lanes`: for how many samples at once there is room; it stays within 256 MiB.
    """

    def __init__(self, program: Program, training: Training, lanes: int = 1) -> None:
        room = max(1, _LANES_BYTES // max(1, sum(program.spaces.values())))
        self.executor = Executor(program, min(lanes, room))
        self.training = training
        self.seen = 0

    def load(self, tensors: Mapping[str, Array]) -> None:
        """Go on from the persistent tensors that a run left behind, by name."""
        for name, value in tensors.items():
            self.executor.load(name, value)
        if self.training.counter:
            self.seen = int(self.executor.persistent(self.training.counter)[0])

    def step(self, sample: Array, target: Array, observe: Observer | None) -> np.float32:
        """One training step; returns the loss. With latent replay, the steps on old latents before it belong to it."""
        training, run = self.training, self.executor.run
        if not training.replay:
            return self._learn({training.sample: sample, training.target: target}, observe)
        for _ in range(training.recipe.replay_ratio):
            if self.executor.persistent(training.replay.count)[FILLED]:
                run(RECALL, {}, observe)
                self._learn({training.target: self.executor.persistent(training.replay.label)}, observe)
        run(ENCODE, {training.sample: sample}, observe)
        loss = self._learn({training.target: target}, observe)
        run(REMEMBER, {training.target: target}, observe)
        return loss

    def _learn(self, feeds: Mapping[str, Array], observe: Observer | None) -> np.float32:
        (loss,) = self.executor.run(STEP, feeds, observe)
        self.seen += 1
        self._end_batch(observe)
        return np.float32(loss[0])

    def steps(self, data: Data) -> Array:
        """A training step for each of `data`, with the bits of `step`, all of a mini-batch at once; the losses (N,)."""
        training = self.training
        if not training.replay:
            return self._learn_many({training.sample: data.samples, training.target: data.targets})
        latents, labels, is_new = self._mixed(data)
        return self._learn_many({training.replay.latent: latents, training.target: labels})[is_new]

    def _learn_many(self, feeds: Mapping[str, Array]) -> Array:
        """The losses (N,)."""
        n, batch, start, losses = len(feeds[self.training.target]), self.training.recipe.batch, 0, [np.zeros(0, F32)]
        while start < n:
            end = min(n, start + batch - self.seen % batch)
            (found,) = self.executor.run_many(STEP, {name: array[start:end] for name, array in feeds.items()})
            losses.append(found[:, 0])
            self.seen += end - start
            self._end_batch(None)
            start = end
        return np.concatenate(losses)

    def _mixed(self, data: Data) -> tuple[Array, Array, Array]:
        """What latent replay trains on for `data`, in order: latents, their labels, and which of them are new. That
        does not wait for the training: no weight below the layer changes, so no latent does."""
        training, run, replay = self.training, self.executor.run, self.training.replay
        assert replay
        keep, found = self.executor.persistent, list[tuple[Array, Array, bool]]()
        before = np.repeat(keep(replay.latent)[None], len(data), axis=0)
        (latents,) = self.executor.run_many(ENCODE, {training.sample: data.samples, replay.latent: before})
        for latent, target in zip(latents, data.targets, strict=True):
            for _ in range(training.recipe.replay_ratio):
                if keep(replay.count)[FILLED]:
                    run(RECALL, {})
                    found.append((keep(replay.latent), keep(replay.label), False))
            self.executor.load(replay.latent, latent)
            found.append((latent, target, True))
            run(REMEMBER, {training.target: target})
        stacked, labels, is_new = zip(*found, strict=True)
        return np.stack(stacked), np.stack(labels), np.array(is_new)

    def infer(self, samples: Array) -> Array:
        """The outputs (N, ...) of samples (N, ...)."""
        return self.executor.run_many(INFER, {self.training.sample: samples})[0]

    def _end_batch(self, observe: Observer | None) -> None:
        if APPLY in self.training.graphs and self.seen % self.training.recipe.batch == 0:
            self.executor.run(APPLY, {}, observe)


class _Stop(Exception):  # noqa: N818  not an error: it ends a run that has shown what it had to
    pass


class _Lockstep:
    """Steps the reference with every HASHES record and remembers the first traced tensor that differs."""

    def __init__(self, program: Program, training: Training, data: Data, progress: Progress) -> None:
        self.reference = Reference(program, training)
        self.data = data
        self.progress = progress
        self.losses: list[float] = []
        self.device_losses: list[np.float32] = []
        self.tensors = self.values = 0
        self.found: tuple[int, int] | None = None
        self._places = _places(program)

    def __call__(self, record: Record) -> None:
        if isinstance(record, Loss):
            self.device_losses.append(record.value)
        if not isinstance(record, Hashes):
            return
        expected = np.zeros(len(record.values), np.uint32)

        def observe(number: int, _call: Call, arrays: tuple[Array, ...]) -> None:
            for at, array in enumerate(arrays):
                traced = self._places[number] + at  # of a call that runs again, the hash goes on
                expected[traced] = zlib.crc32(_bytes(array), int(expected[traced]))
                self.tensors += 1
                self.values += array.size

        loss = self.reference.step(self.data.samples[record.step], self.data.targets[record.step], observe)
        self.losses.append(float(loss))
        differing = np.flatnonzero(expected != record.values)
        if len(differing):
            self.found = record.step, int(differing[0])
            raise _Stop
        if fp16.bits(loss) != fp16.bits(self.device_losses[-1]):
            raise TargetError("loss-differs", f"step {record.step}", "the API's loss is not the program's")
        self.progress(record.step, float(loss))


@dataclass(frozen=True)
class Device:
    """A program that is ready to run: its ELF file, what executes it, the longest silence that is not a fault. With its
    `program`, a fault tells the layer."""

    simulator: Simulator
    elf: Path
    timeout_s: float = 60.0
    program: Program | None = None

    def run(self, job: Job, on_record: Callable[[Record], None] = ignore, workdir: Path | None = None) -> Log:
        try:
            return self.simulator.run(self.elf, job, workdir=workdir, timeout_s=self.timeout_s, on_record=on_record)
        except TargetError as error:
            raise _located(error, self.program) from error


def _located(error: TargetError, program: Program | None) -> TargetError:
    """The error with the layer of the kernel call that was under way, where that is known."""
    calls = {number: call for number, _, call in program.calls()} if program else {}
    if error.call not in calls:
        return error
    call, problem = calls[error.call], error.problems[0]
    where = f"step {error.step}, layer {call.layer}, {call.phase.value.replace('_', ' ')} (call {error.call})"
    found = TargetError(problem.code, where, problem.why, problem.hint)
    found.step, found.call = error.step, error.call
    return found


def verify(program: Program, training: Training, data: Data, device: Device, progress: Progress) -> Verdict:
    """Train on all of `data`, one step a sample, on the device and in NumPy; compare every tensor of every step.

    `device` must be built with tracing. `progress` is told (step, loss) of each step that agreed.
    """
    lockstep = _Lockstep(program, training, data, progress)
    with contextlib.suppress(_Stop):
        device.run(Job(model_id(program), data.samples, data.targets, hashes=True), lockstep)
    difference = _fetch(program, training, data, device, lockstep.found) if lockstep.found else None
    losses = tuple(lockstep.losses)
    return Verdict(difference is None, len(losses), lockstep.tensors, lockstep.values, losses, difference)


def _fetch(program: Program, training: Training, data: Data, device: Device, found: tuple[int, int]) -> Difference:
    """Repeat both runs up to the step of `found` (step, traced tensor) and find the first element that differs."""
    step, traced = found
    number, buffer = list(traced_buffers(program))[traced]
    head = Data(data.samples[: step + 1], data.targets[: step + 1])
    log = device.run(Job(model_id(program), head.samples, head.targets, dump=found))
    call, arrays = _expected(program, training, head, number, traced)
    expected = np.concatenate([fp16.bits(array).ravel() for array in arrays])
    actual = np.frombuffer(log.tensor or b"", expected.dtype)
    differing = np.flatnonzero(expected != actual)
    if not len(differing):
        raise TargetError("not-repeatable", buffer.value, f"step {step} differed once, and not when repeated")
    at = int(differing[0])
    kernel = call.kernel.name if call.kernel else ""
    index = buffer.index(at % arrays[0].size)
    return Difference(
        step, call.layer, kernel, buffer.value, index, int(expected[at]), int(actual[at]), buffer.type.dtype
    )


def _expected(program: Program, training: Training, head: Data, number: int, traced: int) -> tuple[Call, list[Array]]:
    """The call `number` and what traced tensor it left in the last step of `head`, each time that it ran there."""
    output = traced - _places(program)[number]
    last: list[tuple[Call, Array]] = []

    def observe(seen: int, call: Call, arrays: tuple[Array, ...]) -> None:
        if seen == number:
            last.append((call, arrays[output]))

    reference = Reference(program, training)
    for sample, target in head:
        last.clear()
        reference.step(sample, target, observe)
    return last[0][0], [array for _, array in last]


def _places(program: Program) -> dict[int, int]:
    """Call number -> the index of its first output among the traced tensors."""
    places: dict[int, int] = {}
    for index, (number, _) in enumerate(traced_buffers(program)):
        places.setdefault(number, index)
    return places


def _bytes(array: Array) -> bytes:
    return np.ascontiguousarray(fp16.bits(array)).tobytes()
