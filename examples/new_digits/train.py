"""Trains a narrow ResNet8 on six of the ten digits and writes `model.onnx`.

    python -m examples.new_digits.train

The network is that of `examples/digits_resnet8` with half of its channels. It has ten outputs from the start; four of
them were never the answer.
"""

from __future__ import annotations

from pathlib import Path

from ..digits_resnet8.data import Samples, base_test, base_train
from ..digits_resnet8.train import resnet8, vary
from ..fit import finish, fit
from .data import NEW

CHANNELS = (8, 16, 32)


def known(samples: Samples) -> Samples:
    x, y = samples
    return x[y < NEW[0]], y[y < NEW[0]]


def main() -> None:
    network = fit(resnet8(CHANNELS), known(base_train()), epochs=60, augment=vary)
    finish(
        network,
        known(base_test()),
        Path(__file__).with_name("model.onnx"),
        doc="ResNet8 for 8x8 grey images of the digits 0 to 5, with outputs for ten; BatchNormalization is folded.",
        data="nine of the forms in the UCI optical digits test set (E. Alpaydin and C. Kaynak, 1998)",
        folded=True,
    )


if __name__ == "__main__":
    main()
