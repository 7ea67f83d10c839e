"""The digits of `examples/digits_resnet8` as a device meets them that knows six: those six again, then one new one
after the other.

    python -m examples.new_digits.data OUT_DIR

writes `known.npz`, sixteen each of 0 to 5 by the nine writers of the base model, `digit6.npz` to `digit9.npz`, each
64 by the same nine, and `eval.npz`, all digits by four others. Each holds `x` (N, 1, 8, 8) float16 in 0..1 and `y`
(N,).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..digits_resnet8.data import Samples, base_test, base_train

CLASSES = 10
NEW = (6, 7, 8, 9)
N_KNOWN, N_NEW = 16, 64


def sessions() -> dict[str, Samples]:
    """What is learned, in this order, by name: x (N, 1, 8, 8) float32, y (N,) int64."""
    x, y = base_train()
    rng = np.random.default_rng(0)
    rows = [rng.permutation(np.flatnonzero(y == label)) for label in range(CLASSES)]
    found = {"known": np.concatenate([rows[label][:N_KNOWN] for label in range(NEW[0])])}
    found |= {f"digit{label}": rows[label][:N_NEW] for label in NEW}
    return {name: (x[chosen], y[chosen]) for name, chosen in found.items()}


def write(folder: Path) -> Iterator[str]:
    """Writes the files, and says of each what is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (x, y) in {**sessions(), "eval": base_test()}.items():
        path = folder / f"{name}.npz"
        np.savez_compressed(path, x=x.astype(np.float16), y=y)
        yield f"{path}: {len(y)} samples {x.shape[1:]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out_dir", type=Path)
    for line in write(parser.parse_args().out_dir):
        print(line)


if __name__ == "__main__":
    main()
