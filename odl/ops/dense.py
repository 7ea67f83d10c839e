"""Dense layers (ONNX Gemm): products of row matrices, and their gradients.

Three products, closed under differentiation, each with its own reduction axis. A tensor (..., K) is a matrix of
M = prod(...) rows of K elements. Accumulators are the recipe's (`fp16.sum_of_products`), rounded once at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from odl import fp16
from odl.errors import ModelError
from odl.fp16 import Accumulate
from odl.graph import Builder, Kernel, Node, Operator, Phase, Slice, Tile
from odl.ops._importer import Importer, OnnxNode, Sample, imports
from odl.ops.row_sum import WeightRowSum
from odl.ops.transpose import permuted
from odl.types import Array, DType, TensorType


def rows(type_: TensorType) -> int:
    """M of the row matrix that a tensor (..., K) is."""
    return type_.n_elems // type_.shape[-1]


def matrix(x: Array) -> Array:
    """The row matrix (M, K) of a tensor (..., K)."""
    return x.reshape(-1, x.shape[-1])


def product(rows: Array, cols: Array, first: Array | None, accumulate: Accumulate) -> Array:
    """acc[m, n] = first[n] + sum over k of rows[k, m] * cols[k, n], unrounded, in the accumulator's order over k.

    The longer of the two axes goes innermost, where NumPy is fast; the bits do not depend on it.
    """
    if rows.shape[1] <= cols.shape[1]:
        return fp16.sum_of_products(rows[:, :, None], cols[:, None, :], first, accumulate)
    start = None if first is None else first[:, None]
    return fp16.sum_of_products(cols[:, :, None], rows[:, None, :], start, accumulate).T


def outer(rows: Array, cols: Array, accumulate: Accumulate) -> Array:
    """acc[s, m, n] = sum over k of rows[k, s, m] * cols[k, s, n], unrounded: `product` for each sample s."""
    if rows.shape[2] <= cols.shape[2]:
        return fp16.sum_of_products(rows[..., None], cols[:, :, None], None, accumulate)
    return np.swapaxes(fp16.sum_of_products(cols[..., None], rows[:, :, None], None, accumulate), 1, 2)


@dataclass(frozen=True)
class Dense(Operator):
    """y[m, n] = round16(b[n] + sum over k of x[m, k] * w[n, k]).

    x (..., K), w (N, K), b (N): binary16; y (..., N). The sum runs over k in pairs (0, 1), (2, 3), ...; an odd K gets
    a zero behind its last element; b is the first value of the accumulator, +0 where there is none.
    """

    name: ClassVar[str] = "dense"
    arity: ClassVar[int] = 3
    stacked: ClassVar[tuple[tuple[int, ...], ...]] = ((0,),)
    accumulate: Accumulate = Accumulate.FP32

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        x, w, *b = inputs
        if x.shape[-1] != w.shape[1] or any(bias.shape != w.shape[:1] for bias in b):
            raise ModelError("shape-mismatch", self.name, f"{x} times {w}")
        return (TensorType((*x.shape[:-1], w.shape[0])),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        x, w, *b = inputs
        first = b[0] if b else None
        acc = product(matrix(x).T, w.T, first, self.accumulate)
        return (fp16.half(acc).reshape(*x.shape[:-1], w.shape[0]),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        return Kernel("dense_odd" if inputs[0].shape[-1] % 2 else "dense", sizes(inputs[0], outputs[0]))

    def macs(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return outputs[0].n_elems * inputs[0].shape[-1]

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Rows of x and y, or outputs: rows of w and elements of b."""
        if cut is None or cut.axis < len(outputs[0].shape) - 1:
            return Tile(self, (cut, *(None for _ in inputs[1:])), (cut,))
        neurons = Slice(0, cut.first, cut.last)
        return Tile(self, (None, *(neurons for _ in inputs[1:])), (cut,))

    def gradient(self, build: Builder, node: Node, grad: str, wanted: Sequence[bool]) -> Sequence[str | None]:
        x, w, *b = node.inputs
        dx = build.add(DenseInputGradient(), (grad, w), f"{x}.grad") if wanted[0] else None
        dw = build.add(DenseWeightGradient(), (grad, x), f"{w}.grad") if wanted[1] else None
        db = build.add(WeightRowSum(build.types[b[0]].shape), (grad,), f"{b[0]}.grad") if b and wanted[2] else None
        return (dx, dw, db)[: len(node.inputs)]


@dataclass(frozen=True)
class DenseInputGradient(Operator):
    """dx[m, k] = round16(sum over n of dy[m, n] * w[n, k]), n in pairs, an odd N gets a zero.

    dy (..., N), w (N, K) -> dx (..., K). It is the plain matrix product, and so the kernel of MatMul too.
    """

    name: ClassVar[str] = "dense_input_gradient"
    stacked: ClassVar[tuple[tuple[int, ...], ...]] = ((0,),)
    accumulate: Accumulate = Accumulate.FP32

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        dy, w = inputs
        if dy.shape[-1] != w.shape[0]:
            raise ModelError("shape-mismatch", self.name, f"{dy} times {w}")
        return (TensorType((*dy.shape[:-1], w.shape[1])),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        dy, w = inputs
        acc = product(matrix(dy).T, w, None, self.accumulate)
        return (fp16.half(acc).reshape(*dy.shape[:-1], w.shape[1]),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        return Kernel("dense_input_gradient", sizes(outputs[0], inputs[0]))

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Rows of dy and dx, or columns of w and dx."""
        if cut is None or cut.axis < len(outputs[0].shape) - 1:
            return Tile(self, (cut, None), (cut,))
        return Tile(self, (None, Slice(1, cut.first, cut.last)), (cut,))

    def macs(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return outputs[0].n_elems * inputs[0].shape[-1]


@dataclass(frozen=True)
class DenseWeightGradient(Operator):
    """dw[n, k] = sum over m of dy[m, n] * x[m, k], neighbouring rows m in pairs, an odd M gets a zero row.

    dy (..., N), x (..., K) -> dw (count, K) of rows `first` .. `first + count - 1` (all where count is 0), binary32
    as it leaves the accumulator, or rounded to binary16 by `dtype`.
    """

    name: ClassVar[str] = "dense_weight_gradient"
    phase: ClassVar[Phase] = Phase.WEIGHT_GRADIENT
    accumulate: Accumulate = Accumulate.FP32
    dtype: DType = DType.F32
    first: int = 0
    count: int = 0

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        dy, x = inputs
        if dy.shape[:-1] != x.shape[:-1]:
            raise ModelError("shape-mismatch", self.name, f"{dy} and {x}")
        return (TensorType((self.count or dy.shape[-1], x.shape[-1]), self.dtype),)

    def evaluate(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        return (self.evaluate_many([array[None] for array in inputs], (True, True), 1)[0][0],)

    def evaluate_many(self, inputs: Sequence[Array], many: Sequence[bool], n_samples: int) -> tuple[Array, ...]:
        if not all(many):
            return super().evaluate_many(inputs, many, n_samples)
        dy, x = (np.swapaxes(array.reshape(len(array), -1, array.shape[-1]), 0, 1) for array in inputs)
        acc = outer(dy[..., self.first :][..., : self.count or None], x, self.accumulate)
        return (acc if self.dtype is DType.F32 else fp16.half(acc),)

    def kernel(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Kernel:
        block = {"first": self.first, "count": outputs[0].shape[0]}
        name = "dense_weight_gradient" if self.dtype is DType.F32 else "dense_weight_gradient_half"
        return Kernel(name, {**sizes(inputs[1], inputs[0]), **block})

    def macs(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return outputs[0].n_elems * rows(inputs[0])

    def split(self, first: int, count: int) -> Operator:
        return replace(self, first=self.first + first, count=count)

    def tile(self, cut: Slice | None, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Tile | None:
        """Output channels, by runs of rows of dw."""
        if cut is None:
            return Tile(self, (None, None), (None,))
        part = self.split(cut.first, len(cut))
        return None if cut.axis else Tile(part, (None, None), (cut,))


def sizes(x: TensorType, y: TensorType) -> dict[str, int | float]:
    """Kernel arguments of a product that maps rows like x to rows like y."""
    return {"n_rows": rows(x), "n_inputs": x.shape[-1], "n_outputs": y.shape[-1]}


def _samples() -> Iterable[Sample]:
    rng = np.random.default_rng(7)
    weights = (1,)
    for m, k, n in ((1, 8, 4), (1, 7, 5), (3, 5, 1), (4, 1, 9), (5, 64, 10)):
        yield Sample("Gemm", ((m, k), (n, k), (n,)), {"transB": 1}, constants=(1, 2))
        yield Sample("Gemm", ((m, k), (k, n)), {}, constants=weights)
    yield Sample("Gemm", ((1, 6), (6, 4), (1, 4)), {"alpha": 0.5, "beta": 2.0}, constants=(1, 2))
    yield Sample("Gemm", ((5, 1), (3, 5)), {"transA": 1, "transB": 1}, constants=weights)
    yield Sample("Gemm", ((5, 3), (5, 4)), {"transA": 1}, constants=weights)
    overflow = rng.choice([60000.0, -60000.0, 1e-7], (4, 6)).astype(np.float32)
    yield Sample("Gemm", ((1, 6), (4, 6)), {"transB": 1}, constants=weights, values={1: overflow})


@imports("Gemm", samples=_samples, limits="constant second factor and bias")
def _import_gemm(imp: Importer, node: OnnxNode) -> None:
    x, w, b = node.input(0), node.input(1), node.input(2)
    shape = imp.shape(x)
    imp.require(len(shape) == 2, f"the first factor has rank {len(shape)}, not 2")
    imp.require(imp.is_constant(w), f"the second factor '{w}' must be constant", "use MatMul for two activations")
    transposed = bool(node.attributes.get("transB", 0))
    weight = imp.weight(w, (0, 1) if transposed else (1, 0), scale=node.attributes.get("alpha", 1.0))
    n_outputs, n_inputs = imp.build.types[weight].shape
    rows = imp.value(x)
    if node.attributes.get("transA", 0):
        shape, rows = (shape[1], shape[0]), permuted(imp.build, rows, (1, 0))
    imp.require(shape[1] == n_inputs, f"{shape} does not multiply a weight of {n_inputs} inputs")
    bias = (_bias(imp, b, n_outputs, node.attributes.get("beta", 1.0)),) if b else ()
    y = imp.add(Dense(), (rows, weight, *bias))
    imp.bind(node.outputs[0], y, (shape[0], n_outputs))


def _bias(imp: Importer, name: str, n_outputs: int, beta: float) -> str:
    array = imp.constant(name, "the bias")
    imp.require(array.size == n_outputs, f"a bias of shape {array.shape} for {n_outputs} outputs is not supported")
    return imp.weight(name, tuple(range(array.ndim)), (n_outputs,), scale=beta)
