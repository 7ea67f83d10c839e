"""What odl makes of the cases of ONNX's backend tests: each passes within its bound, or is refused with a code.

A case is compiled as a user would compile it (`campaigns.onnx_models`, `campaigns.onnx_training`). What NumPy's
executor computes is compared with ONNX's numbers, element by element, within what binary16 may make of them
(`campaigns.near`), and what the generated C computes with what NumPy does, in bits. All of it is run by
`campaigns.conformance_report`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from campaigns import near
from campaigns.onnx_cases import LOSSES, UPDATES, OnnxCase
from campaigns.onnx_models import Part, parts, with_weight
from campaigns.onnx_training import HOST, Compared, gradient_case, loss_case, update_case
from odl.api import NUMPY, compile_model, infer
from odl.data import load_data
from odl.errors import OdlError
from odl.fp16 import half
from odl.ops._importer import CHANNELS_FIRST, onnx_shape
from odl.recipe import Recipe
from odl.training import INFER


@dataclass(frozen=True)
class Result:
    """What became of a case: `code` and `why` of a refusal, or else `worst`, the largest error as a share of its bound,
    and `width`, the largest bound as a share of the largest number that ONNX has."""

    name: str
    kind: str
    operator: str
    verdict: str
    code: str = ""
    why: str = ""
    worst: float = 0.0
    width: float = 0.0


def result(case: OnnxCase) -> Result:
    """The verdict is "passed", "refused" or "failed"."""
    told = case.name, case.kind, case.operator
    try:
        compared = ask(case)
    except OdlError as error:
        return Result(*told, "refused", error.code, error.problems[0].why)
    worst = max(map(share_of_bound, compared))
    width = max(float(each.bound.max() / (abs(each.expected).max() or 1.0)) for each in compared)
    return Result(*told, "passed" if worst <= 1 else "failed", worst=round(worst, 3), width=float(f"{width:.3g}"))


def same_bits_in_c(case: OnnxCase) -> bool:
    """Whether the generated C, on the host, computes the bits of NumPy's executor."""
    pairs = zip(ask(case), ask(case, HOST), strict=True)
    return all(ours.computed.tobytes() == c.computed.tobytes() for ours, c in pairs)


def share_of_bound(compared: Compared) -> float:
    """The largest error by its bound. A number that is ONNX's, rounded to binary16, is right, an infinite one too."""
    computed, expected = (np.asarray(each, np.float64) for each in (compared.computed, compared.expected))
    assert computed.shape == expected.shape == compared.bound.shape, (computed.shape, expected.shape)
    with np.errstate(all="ignore"):
        share = np.where(computed == half(expected), 0.0, abs(computed - expected) / compared.bound)
    return float(np.where(np.isnan(share), np.inf, share).max(initial=0.0))


def ask(case: OnnxCase, on: str = NUMPY) -> list[Compared]:
    """What odl computes for a case, on NumPy or on a simulator. Raises OdlError where it is refused."""
    for operators, way in _WAYS:
        if any(node.op_type in operators for node in case.model.graph.node):
            return way(case, on)
    return [_inferred(part, on) for part in parts(case)]


Way = Callable[[OnnxCase, str], list[Compared]]
_WAYS: Sequence[tuple[Sequence[str], Way]] = (
    (LOSSES, loss_case), (UPDATES, update_case), (("Gradient",), gradient_case),
)  # fmt: skip


def _inferred(part: Part, on: str) -> Compared:
    with tempfile.TemporaryDirectory(prefix="odl-") as scratch:
        path, data = Path(scratch, "model.onnx"), Path(scratch, "data.npz")
        path.write_bytes(with_weight(part.model).SerializeToString())
        compiled = compile_model(path, Recipe(loss="mse"), HOST)
        np.savez(data, x=part.samples, y=part.expected)
        outputs = infer(compiled, load_data(data, compiled.training), on=on)
    graph = compiled.training.graphs[INFER]
    stored = graph.types[graph.outputs[0]].shape
    computed = outputs.reshape(len(outputs), *stored)
    if len(stored) == 4:
        computed = computed.transpose(0, *(1 + axis for axis in CHANNELS_FIRST))
    assert computed.shape[1:] == onnx_shape(stored)
    name = part.model.graph.input[0].name
    bounds = [near.through(part.model, {name: sample})[0].error for sample in part.samples]
    return Compared(computed, part.expected, np.stack(bounds))
