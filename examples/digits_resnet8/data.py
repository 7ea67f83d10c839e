"""Handwritten digits by writer, and digits in another hand.

The images are scikit-learn's `load_digits`: 1,797 digits of 8x8 pixels in 17 levels of grey, loaded when they
are needed. The set names no writers, but all of them copied one form: its labels repeat one sequence of 130
digits, a few missing, fourteen times. `FORMS` holds the borders found that way; a form is one writer's.

    python examples/digits_resnet8/data.py OUT_DIR

writes `adapt.npz`, `eval.npz` and, to see what adaptation costs, `base.npz` without a shift. Each holds `x`
(N, 1, 8, 8) float16 in 0..1 and `y` (N,) in 0..9.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

FORMS = (0, 130, 256, 386, 516, 646, 776, 906, 1029, 1157, 1287, 1415, 1545, 1667, 1797)
BASE_FORMS = (0, 1, 2, 4, 5, 6, 7, 8, 9)
NEW_FORMS = (10, 11, 12, 13)
REAL_WRITER = 3
SIDE = 8
FINE = 4

Array = np.ndarray[Any, np.dtype[Any]]
Samples = tuple[Array, Array]


@dataclass(frozen=True)
class Hand:
    """A consistent way to write, laid over other people's digits.

    `slant` is how far, in image heights, the top of a digit leans to the right of its foot; `turn` is in degrees,
    clockwise; `width` and `height` scale the digit.
    """

    slant: float
    turn: float
    width: float
    height: float


NEW_HAND = Hand(slant=0.7, turn=10.0, width=0.9, height=0.9)
DEV_HAND = Hand(slant=-0.7, turn=0.0, width=0.9, height=0.9)


def digits(forms: tuple[int, ...]) -> Samples:
    """The digits on some forms: x (N, 1, 8, 8) float32 in 0..1, y (N,) int64."""
    bunch = load_digits()
    rows = np.concatenate([np.arange(FORMS[form], FORMS[form + 1]) for form in forms])
    x = bunch.images[rows, np.newaxis] / 16
    return x.astype(np.float32), bunch.target[rows].astype(np.int64)


def _bilinear(images: Array, row: Array, column: Array) -> Array:
    """Images (N, H, W) at fractional places (h, w), zero outside: (N, h, w)."""
    padded = np.pad(images, ((0, 0), (1, 2), (1, 2)))
    row = np.clip(row, -1, images.shape[1]) + 1
    column = np.clip(column, -1, images.shape[2]) + 1
    top, left = np.floor(row).astype(int), np.floor(column).astype(int)
    down, right = row - top, column - left
    upper = padded[:, top, left] * (1 - right) + padded[:, top, left + 1] * right
    lower = padded[:, top + 1, left] * (1 - right) + padded[:, top + 1, left + 1] * right
    out: Array = upper * (1 - down) + lower * down
    return out


def rewrite(x: Array, hand: Hand) -> Array:
    """The digits (N, 1, 8, 8) in another hand.

    A pixel is the mean over 4x4 points, as it was when the set was made from bitmaps of 32x32; each point is
    looked up in the original through the inverse of scale, then slant, then turn.
    """
    angle = np.deg2rad(hand.turn)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    slant = np.array([[1.0, 0.0], [-hand.slant, 1.0]])
    inverse = np.linalg.inv(turn @ slant @ np.diag([hand.height, hand.width]))
    centre = (SIDE - 1) / 2
    fine = (np.arange(SIDE * FINE) + 0.5) / FINE - 0.5 - centre
    row, column = np.tensordot(inverse, np.stack(np.meshgrid(fine, fine, indexing="ij")), axes=1) + centre
    out = _bilinear(x[:, 0], row, column).reshape(-1, 1, SIDE, FINE, SIDE, FINE).mean(axis=(3, 5))
    rounded: Array = out.astype(np.float16).astype(np.float32)
    return rounded


def halves(samples: Samples) -> tuple[Samples, Samples]:
    """Two halves, drawn at random but always the same."""
    x, y = samples
    rows = np.random.default_rng(0).permutation(len(y))
    first, second = rows[: len(y) // 2], rows[len(y) // 2 :]
    return (x[first], y[first]), (x[second], y[second])


def base_train() -> Samples:
    return digits(BASE_FORMS)


def base_test() -> Samples:
    """People of whom the base model saw nothing, as they wrote."""
    return digits(NEW_FORMS)


def in_hand(hand: Hand = NEW_HAND) -> tuple[Samples, Samples]:
    """The synthetic shift: the digits of `base_test` in another hand, half to adapt and half to evaluate."""
    x, y = base_test()
    return halves((rewrite(x, hand), y))


def by_writer() -> tuple[Samples, Samples]:
    """The real shift: the form the others resemble least, half to adapt and half to evaluate."""
    return halves(digits((REAL_WRITER,)))


SHIFTS: dict[str, Callable[[], tuple[Samples, Samples]]] = {
    "hand": in_hand,
    "writer": by_writer,
    "dev": lambda: in_hand(DEV_HAND),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--shift", choices=SHIFTS, default="hand")
    arguments = parser.parse_args()
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    sets = (*SHIFTS[arguments.shift](), base_test())
    for name, (x, y) in zip(("adapt", "eval", "base"), sets, strict=True):
        path = arguments.out_dir / f"{name}.npz"
        np.savez_compressed(path, x=x.astype(np.float16), y=y)
        print(f"{path}: {len(y)} samples {x.shape[1:]}")


if __name__ == "__main__":
    main()
