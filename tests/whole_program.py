"""Every kernel in one program: all samples of all operators, forward and backward, what training and passes add."""

from __future__ import annotations

from functools import cache

import numpy as np
import updates
from pass_operators import append_all
from samples import cases, together
from team import overwritten

from odl.data import Data
from odl.fp16 import Accumulate
from odl.graph import Builder, Graph, Role
from odl.lower import lower
from odl.memory import plan
from odl.ops._updates import Update
from odl.ops.accumulate import AccumulateGradient, ClearGradient
from odl.ops.count import Count
from odl.ops.cross_entropy import SoftmaxCrossEntropy
from odl.ops.mean_squared_error import MeanSquaredError, MeanSquaredErrorGradient
from odl.ops.relu import Relu
from odl.program import Program
from odl.recipe import Recipe
from odl.schedule import schedule
from odl.training import APPLY, COUNTER, INFER, STEP, Training
from odl.types import DType, TensorType
from odl.updates import Control, hold, hold_zeros


@cache
def whole_program(accumulate: Accumulate) -> tuple[Program, Training, Data]:
    """The program, how it trains, and the two samples of a batch."""
    build = together(list(cases()), accumulate)
    append_all(build, accumulate)
    logits, label = build.input("sample", TensorType((1, 2))), build.input("label", TensorType((1,), DType.I32))
    loss, _ = build.add_many(SoftmaxCrossEntropy(), (logits, label))
    applied, control = _applied()
    graphs = {STEP: build.graph(STEP, (loss,), _summed(build, accumulate)), APPLY: applied, INFER: _inferred()}
    recipe = Recipe(accumulate=accumulate.value, batch=2)
    training = Training(recipe, graphs, "sample", "label", loss, (), control, COUNTER)
    ordered = [schedule(graph) for graph in graphs.values()]
    data = Data(np.ones((2, 1, 2), np.float16), np.array([[0], [1]], np.int32))
    return lower(ordered, plan(ordered)), training, data


def _held(build: Builder, name: str, *values: float) -> str:
    return hold(build, name, np.array(values, np.float16), Role.WEIGHT)


def _summed(build: Builder, accumulate: Accumulate) -> dict[str, str]:
    """The squared error of a weight, its gradient added up, and the count of samples."""
    counter = hold_zeros(build, COUNTER, TensorType((1,), DType.I32), Role.COUNTER)
    weight, target, total = _held(build, "w", 1, 2, 3), _held(build, "target", 0.5, -1, 4), _held(build, "sum", 0, 0, 0)
    _, difference = build.add_many(MeanSquaredError(accumulate), (weight, target))
    gradient = build.add(MeanSquaredErrorGradient(), (difference,))
    return {total: build.add(AccumulateGradient(), (total, gradient)), counter: build.add(Count(2), (counter,))}


def _applied() -> tuple[Graph, Control]:
    """The end of a batch: every kernel of every optimizer, and those that steer them."""
    build = Builder()
    total = _held(build, "sum", 0, 0, 0)
    carries = {total: build.add(ClearGradient(), (total,))}
    lost = {}
    rng = np.random.default_rng(4)
    weights = np.array([1, 2, 3], np.float16)
    works = [
        *updates.works(weights, rng), *updates.steering(), *updates.replaying(rng),
        *(work for kind in (np.float16, np.float32) for work in updates.sums_of_squares(weights.astype(kind))),
    ]  # fmt: skip
    for number, work in enumerate(works):
        build.layer = f"update{number}"
        held = [hold(build, f"update{number}.{at}", array, Role.STATE) for at, array in enumerate(work.inputs)]
        new = build.add_many(work.op, held)
        carries |= {held[into]: new[output] for output, into in overwritten(work).items()}
        if isinstance(work.op, Update):
            lost[str(number)] = held[work.op.gradient_at - 1]
    progress = next(name for name, tensor in build.persistent.items() if tensor.type.dtype is DType.I32)
    return build.graph(APPLY, (), carries), Control(progress, "", lost)


def _inferred() -> Graph:
    build = Builder()
    return build.graph(INFER, (build.add(Relu(), (build.input("sample", TensorType((1, 2))),)),))
