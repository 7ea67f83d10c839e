"""Every operator, from the registry's samples: shapes, values, gradients against ONNX; bits against every target."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from samples import Case, cases, onnx_array, stored_array
from whole_program import whole_program

from odl import fp16
from odl.api import silent
from odl.compare import Device, verify
from odl.fp16 import Accumulate
from odl.interpreter import interpret
from odl.ops._broadcast import Binary
from odl.ops._elementwise import Unary
from odl.project import write_project
from odl.targets import find_target, simulator_for
from odl.toolchain import compile_project, find_toolchain
from odl.types import Array

ALL = list(cases())
each_case = pytest.mark.parametrize("case", ALL, ids=[case.label for case in ALL])


def ulp16(values: Array) -> Array:
    """The distance between neighbouring binary16 numbers at each value's magnitude."""
    exponent = np.floor(np.log2(np.maximum(np.abs(values), 2.0**-14)))
    return 2.0 ** (np.minimum(exponent, 15) - 10)


@each_case
def test_shape_is_what_onnx_infers(case: Case) -> None:
    assert case.imported()[2] == case.onnx_shape()


@each_case
def test_value_is_near_onnx_reference(case: Case) -> None:
    """One operator rounds once; a composition of n may be off by n - 1 roundings at the scale of its largest value.

    A sum's binary32 accumulator adds 2^-20 of that scale; an elementwise operator has none of that.
    """
    build, output, _ = case.imported()
    actual = onnx_array(interpret(build.graph("case", (output,)), case.feeds())[output]).astype(np.float64)
    expected = case.reference()
    finite = np.isfinite(expected)
    for value in case.values.values():
        if value.shape == expected.shape:
            finite &= np.isfinite(value)
    overflow = finite & (np.abs(expected) >= 65520)
    assert np.array_equal(actual[overflow], np.copysign(np.inf, expected[overflow]))
    finite &= ~overflow
    scale = np.abs(expected[finite]).max(initial=0.0)
    extra = max(0, len(build.nodes) - 1)
    elementwise = all(isinstance(node.op, Unary | Binary) for node in build.nodes) and extra == 0
    bound = (
        case.sample.ulps * ulp16(expected[finite])
        + 2 * extra * ulp16(np.array(scale))
        + (0 if elementwise else 2.0**-20 * scale)
    )
    error = np.abs(actual[finite] - expected[finite])
    assert (error <= bound).all(), f"off by up to {(error / ulp16(expected[finite])).max():.3g} ulp"


@each_case
def test_gradient_is_near_central_differences(case: Case) -> None:
    rng = np.random.default_rng(3)
    clean = Case(case.label, case.sample, case.seed)
    for name, value in clean.values.items():
        if value.dtype.kind == "f" and (not np.isfinite(value).all() or np.abs(value).max() > 100):
            clean.values[name] = fp16.half(rng.uniform(-6, 6, value.shape)).astype(np.float32)
    seed = fp16.half(rng.uniform(-1, 1, clean.reference().shape))
    graph, _, gradients = clean.differentiated(stored_array(seed))
    assert gradients, "nothing is differentiable"
    values = interpret(graph, clean.feeds())
    for name, gradient in gradients.items():
        computed = values[gradient].astype(np.float64)
        origin = graph.persistent[name].origin if name in graph.persistent else None
        if origin is None:
            ours = onnx_array(computed)
        else:  # the gradient of an initializer: back through the affine map by the chain rule
            back = computed.reshape(tuple(origin.shape[a] for a in origin.perm)).transpose(np.argsort(origin.perm))
            ours = back * origin.scale
        _check_differences(clean, name, ours.reshape(clean.values[name].shape), seed.astype(np.float64), rng)


def _check_differences(case: Case, name: str, ours: Array, seed: Array, rng: np.random.Generator) -> None:
    width = 1e-5
    chosen = rng.permutation(ours.size)[:24]
    differences = []
    for at in chosen:
        moved = []
        for sign in (1, -1):
            values = {n: v.astype(np.float64) if v.dtype.kind == "f" else v for n, v in case.values.items()}
            values[name].ravel()[at] += sign * width
            moved.append((case.reference(values) * seed).sum())
        differences.append((moved[0] - moved[1]) / (2 * width))
    expected = np.array(differences)
    # Where terms cancel, as in softmax, the error is that of the terms, which are of the seed's size.
    scale = max(np.abs(expected).max(), np.abs(ours).max(), 0.1 * np.abs(seed).max())
    error = np.abs(ours.ravel()[chosen] - expected)
    assert (error <= 6 * 2.0**-11 * scale + 1e-6).all(), f"{name}: off by {error.max():g} of {scale:g}"


def _targets() -> list[object]:
    return ["host", *(pytest.param(name, marks=pytest.mark.qemu) for name in ("qemu-zhinx", "qemu-zfh"))]


@pytest.mark.parametrize("accumulate", list(Accumulate), ids=lambda mode: mode.value)
@pytest.mark.parametrize("name", _targets())
def test_bits_are_equal_on_target(name: str, accumulate: Accumulate, tmp_path: Path) -> None:
    """All samples, forward and backward, in one program: what NumPy computes is what the target computes."""
    target, folder = find_target(name), tmp_path / "project"
    program, training, data = whole_program(accumulate)
    folder.mkdir()
    write_project(folder, "samples", program, training, target)
    result = compile_project(folder, target, find_toolchain(target), trace=True)
    verdict = verify(program, training, data, Device(simulator_for(target), result.elf), silent)
    assert verdict.equal, verdict.first_difference
    assert verdict.tensors > len(ALL)
