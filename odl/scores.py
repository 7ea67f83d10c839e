"""How well outputs meet their targets: a confusion matrix and what follows from it, or the mean squared error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from odl.shown import Shown
from odl.types import Array

NO_CLASS = -1


class Scores(dict[str, Any], Shown):
    """What an evaluation found, in JSON's words: those of `classified`, or those of `approximated`."""

    def __repr__(self) -> str:
        if "accuracy" in self:
            return f"<odl.Scores accuracy {self['accuracy']:.4f}: {self['correct']:,} of {self['samples']:,} samples>"
        error = self["mean_squared_error"]
        return f"<odl.Scores mean squared error {error:.6g} of {self['samples']:,} samples>"


def predictions(outputs: Array) -> Array:
    """The class that each of outputs (N, K) binary16 says: (N,) of the largest element, the first of equals.

    Where an element is NaN there is no largest: NO_CLASS.
    """
    return np.where(np.isnan(outputs).any(axis=1), NO_CLASS, outputs.argmax(axis=1))


def classified(outputs: Array, labels: Array) -> Scores:
    """Scores of outputs (N, ...) of K elements each against labels (N,) in 0 .. K - 1.

    `confusion` (K, K): how many samples of class [row] were taken for class [column]. `undecided`: samples that were
    taken for none, because an output is NaN; they stand in no column, and are wrong. `class_accuracy`: the share of
    each class that is right, None for a class without samples.
    """
    predicted = predictions(outputs.reshape(len(outputs), -1))
    n_classes, decided = outputs[0].size, predicted != NO_CLASS
    confusion = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(confusion, (labels[decided], predicted[decided]), 1)
    right, of_class = confusion.diagonal().tolist(), np.bincount(labels, minlength=n_classes).tolist()
    return Scores(
        samples=len(labels),
        correct=sum(right),
        accuracy=sum(right) / len(labels),
        undecided=int((~decided).sum()),
        class_accuracy=[n_right / n if n else None for n_right, n in zip(right, of_class, strict=True)],
        confusion=confusion.tolist(),
    )


def most_confused(confusion: Sequence[Sequence[int]], most: int) -> list[tuple[int, int, int]]:
    """The `most` pairs that are confused most often: a class, the other that it was taken for, and how often."""
    pairs = [(label, taken, n) for label, row in enumerate(confusion) for taken, n in enumerate(row) if n]
    return sorted((pair for pair in pairs if pair[0] != pair[1]), key=lambda pair: -pair[2])[:most]


def approximated(outputs: Array, targets: Array) -> Scores:
    """The mean over all elements of outputs and targets (N, ...) of their squared difference, in binary64."""
    wide = outputs.astype(np.float64).reshape(len(outputs), -1) - targets.reshape(len(targets), -1)
    return Scores(samples=len(targets), mean_squared_error=float((wide * wide).mean()))
