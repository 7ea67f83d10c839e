"""Twelve spoken words by voice, as 49 x 10 mel-frequency cepstral coefficients.

`words.npz` beside this file was spoken by eSpeak NG; `make_words.py` tells how.

    python examples/words_dscnn/data.py OUT_DIR

writes `adapt.npz`, `eval.npz` and, to see what adaptation costs, `base.npz` without a shift. Each holds `x`
(N, 1, 49, 10) float16 of unit variance, in steps of 1/32 and within -4..4, and `y` (N,) in 0..11.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 32
SHIFTS = ("whisper", "accent", "dev")

Array = np.ndarray[Any, np.dtype[Any]]
Samples = tuple[Array, Array]


def spoken(role: str) -> Samples:
    """What the voices of a role said: x (N, 1, 49, 10) float32, y (N,) int64."""
    with np.load(Path(__file__).with_name("words.npz")) as words:
        rows = (words["roles"] == role)[words["voice"]]
        x = words["x"][rows, np.newaxis] / np.float32(STEPS)
        return x, words["y"][rows].astype(np.int64)


def base_train() -> Samples:
    return spoken("train")


def base_test() -> Samples:
    """Voices the base model never heard, with accents and timbres like those it heard."""
    return spoken("test")


def by_voice(shift: str = "whisper") -> tuple[Samples, Samples]:
    """One voice unlike those of `base_train`: the first half to adapt, the second to evaluate.

    Both halves hold every word equally often.
    """
    x, y = spoken(shift)
    half = len(y) // 2
    return (x[:half], y[:half]), (x[half:], y[half:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--shift", choices=SHIFTS, default="whisper")
    arguments = parser.parse_args()
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    sets = (*by_voice(arguments.shift), base_test())
    for name, (x, y) in zip(("adapt", "eval", "base"), sets, strict=True):
        path = arguments.out_dir / f"{name}.npz"
        np.savez_compressed(path, x=x.astype(np.float16), y=y)
        print(f"{path}: {len(y)} samples {x.shape[1:]}")


if __name__ == "__main__":
    main()
