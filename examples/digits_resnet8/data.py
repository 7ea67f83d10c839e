"""Handwritten digits by writer, and the same digits in another hand.

The images are scikit-learn's `load_digits`: 1,797 digits, 8x8, sixteen grey levels; they are loaded, never
shipped. The set carries no writer ids, but every writer filled in the same form, so its labels repeat one
sequence of 130 digits (a few missing) fourteen times. `FORMS` holds the borders found that way.

`python data.py OUT_DIR` writes `adapt.npz` and `eval.npz`, each with `x` (N, 1, 8, 8) float16 and `y` (N,).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

FORMS = (0, 130, 256, 386, 516, 646, 776, 906, 1029, 1157, 1287, 1415, 1545, 1667, 1797)
BASE_TRAIN = (0, 1, 2, 4, 5, 6, 7, 8, 9)
ADAPT = (10, 11)
EVAL = (12, 13)
REAL_WRITER = 3
SIDE = 8
FINE = 4

Samples = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Hand:
    """A consistent way of writing, applied to other people's digits.

    `slant` is the shift to the right, in image heights, of the top against the bottom; `turn` is clockwise
    rotation in degrees; `width` and `height` scale the digit; `stroke` below 1 thins the line.
    """

    slant: float = 0.7
    turn: float = 10.0
    width: float = 0.9
    height: float = 0.9
    stroke: float = 1.0


def forms(numbers: tuple[int, ...]) -> Samples:
    """The digits on some forms: x (N, 1, 8, 8) float32 in 0..1, y (N,) int64."""
    digits = load_digits()
    rows = np.concatenate([np.arange(FORMS[n], FORMS[n + 1]) for n in numbers])
    x = digits.images[rows, np.newaxis] / np.float32(16)
    return x.astype(np.float32), digits.target[rows].astype(np.int64)


def _bilinear(images: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Samples (N, H, W) at fractional places (h, w), with zero outside: (N, h, w)."""
    padded = np.pad(images, ((0, 0), (1, 2), (1, 2)))
    row = np.clip(row, -1, images.shape[1]) + 1
    column = np.clip(column, -1, images.shape[2]) + 1
    top, left = np.floor(row).astype(int), np.floor(column).astype(int)
    down, right = row - top, column - left
    upper = padded[:, top, left] * (1 - right) + padded[:, top, left + 1] * right
    lower = padded[:, top + 1, left] * (1 - right) + padded[:, top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


def rewrite(x: np.ndarray, hand: Hand) -> np.ndarray:
    """The digits (N, 1, 8, 8) in another hand.

    Each output pixel is the mean of 4x4 points, as the set itself was made from 32x32 bitmaps; a point is
    looked up in the original through the inverse of scale, then slant, then turn.
    """
    angle = np.deg2rad(hand.turn)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    slant = np.array([[1.0, 0.0], [-hand.slant, 1.0]])
    scale = np.diag([hand.height, hand.width])
    inverse = np.linalg.inv(turn @ slant @ scale)
    centre = (SIDE - 1) / 2
    fine = (np.arange(SIDE * FINE) + 0.5) / FINE - 0.5 - centre
    points = np.stack(np.meshgrid(fine, fine, indexing="ij"))
    row, column = np.tensordot(inverse, points, axes=1) + centre
    out = _bilinear(x[:, 0], row, column)
    out = out.reshape(-1, SIDE, FINE, SIDE, FINE).mean(axis=(2, 4))
    out = np.clip(out, 0, 1) ** (1 / hand.stroke)
    return out[:, np.newaxis].astype(np.float16).astype(np.float32)


def base_train() -> Samples:
    return forms(BASE_TRAIN)


def base_test() -> Samples:
    """Writers of whom the base model saw nothing, as they wrote."""
    return forms(ADAPT + EVAL)


def shifted(hand: Hand = Hand()) -> tuple[Samples, Samples]:  # noqa: B008 - frozen
    """Adaptation and evaluation samples in another hand; no writer is in both, none in `base_train`."""
    (x_adapt, y_adapt), (x_eval, y_eval) = forms(ADAPT), forms(EVAL)
    return (rewrite(x_adapt, hand), y_adapt), (rewrite(x_eval, hand), y_eval)


def real_writer() -> tuple[Samples, Samples]:
    """The form the others resemble least, left out of `base_train`: even rows to adapt, odd rows to evaluate."""
    x, y = forms((REAL_WRITER,))
    return (x[::2], y[::2]), (x[1::2], y[1::2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--shift", choices=("hand", "writer"), default="hand")
    arguments = parser.parse_args()
    sets = shifted() if arguments.shift == "hand" else real_writer()
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    for name, (x, y) in zip(("adapt", "eval"), sets, strict=True):
        path = arguments.out_dir / f"{name}.npz"
        np.savez_compressed(path, x=x.astype(np.float16), y=y)
        print(f"{path}: {len(y)} samples of {x.shape[1:]}")


if __name__ == "__main__":
    main()
