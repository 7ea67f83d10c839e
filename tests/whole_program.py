"""Every kernel in one program: all samples of all operators, forward and backward, what training and passes add."""

from __future__ import annotations

from functools import cache

import numpy as np
from pass_operators import append_all
from samples import cases, together

from odl.data import Data
from odl.fp16 import Accumulate
from odl.graph import Builder, Graph, Persistent, Role
from odl.lower import lower
from odl.memory import plan
from odl.ops.accumulate import AccumulateGradient, ClearGradient
from odl.ops.count import Count
from odl.ops.cross_entropy import SoftmaxCrossEntropy
from odl.ops.mean_squared_error import MeanSquaredError, MeanSquaredErrorGradient
from odl.ops.relu import Relu
from odl.ops.sgd import SgdUpdate
from odl.program import Program
from odl.recipe import Recipe
from odl.schedule import schedule
from odl.training import APPLY, COUNTER, INFER, STEP, Training
from odl.types import DType, TensorType


@cache
def whole_program(accumulate: Accumulate) -> tuple[Program, Training, Data]:
    """The program, how it trains, and the two samples of a batch."""
    build = together(list(cases()), accumulate)
    append_all(build, accumulate)
    logits, label = build.input("sample", TensorType((1, 2))), build.input("label", TensorType((1,), DType.I32))
    loss, _ = build.add_many(SoftmaxCrossEntropy(), (logits, label))
    graphs = {STEP: build.graph(STEP, (loss,), _summed(build, accumulate)), APPLY: _applied(), INFER: _inferred()}
    training = Training(Recipe(accumulate=accumulate.value, batch=2), graphs, "sample", "label", loss, ())
    ordered = [schedule(graph) for graph in graphs.values()]
    data = Data(np.ones((2, 1, 2), np.float16), np.array([[0], [1]], np.int32))
    return lower(ordered, plan(ordered)), training, data


def _held(build: Builder, name: str, *values: float) -> str:
    return build.hold(Persistent(name, TensorType((len(values),)), np.array(values, np.float16)))


def _summed(build: Builder, accumulate: Accumulate) -> dict[str, str]:
    """The squared error of a weight, its gradient added up, and the count of samples."""
    counter = build.hold(Persistent(COUNTER, TensorType((1,), DType.I32), np.zeros(1, np.int32), Role.COUNTER))
    weight, target, total = _held(build, "w", 1, 2, 3), _held(build, "target", 0.5, -1, 4), _held(build, "sum", 0, 0, 0)
    _, difference = build.add_many(MeanSquaredError(accumulate), (weight, target))
    gradient = build.add(MeanSquaredErrorGradient(), (difference,))
    return {total: build.add(AccumulateGradient(), (total, gradient)), counter: build.add(Count(2), (counter,))}


def _applied() -> Graph:
    """The end of a batch."""
    build = Builder()
    held = _held(build, "w", 1, 2, 3), _held(build, "sum", 0, 0, 0), _held(build, "velocity", 0, 1, -1)
    weight, velocity = build.add_many(SgdUpdate(lr=0.5, momentum=0.9), held)
    return build.graph(APPLY, (), {"w": weight, "velocity": velocity, "sum": build.add(ClearGradient(), (held[1],))})


def _inferred() -> Graph:
    build = Builder()
    return build.graph(INFER, (build.add(Relu(), (build.input("sample", TensorType((1, 2))),)),))
