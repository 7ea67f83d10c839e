"""A network that knows six digits learns four more on a simulated microcontroller, one after the other.

    python -m examples.new_digits.learn [--target NAME] [-o FOLDER]

It does so twice: by `recipe.toml`, which keeps a memory of what the network made of old samples and trains on it again
(latent replay), and by the same recipe without that memory. After each digit it is asked about all that it has seen.
Every loss and weight, and all of the memory, must have the bits that NumPy computes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import odl
from odl.graph import Role

from .data import NEW, write

HERE = Path(__file__).parent
SESSIONS = {"known": "0 to 5 again", "digit6": "then 6", "digit7": "then 7", "digit8": "then 8", "digit9": "then 9"}

Weights = Mapping[str, np.ndarray[Any, np.dtype[Any]]]


@dataclass(frozen=True)
class Learned:
    """A session: how it ran, and the share of right answers about the digits seen so far at its end."""

    run: odl.Run
    accuracy: float


def networks(target: str) -> tuple[odl.Compiled, odl.Compiled]:
    """With replay, and without: the same layers trained by the same recipe on new samples alone."""
    recipe, model = odl.read_recipe(HERE / "recipe.toml"), HERE / "model.onnx"
    replayed = odl.compile_model(model, recipe, target)
    plain = replace(recipe, replay_layer="", replay_slots=0, trainable=replayed.training.trainable)
    return replayed, odl.compile_model(model, plain, target)


def learn(network: odl.Compiled, data: Path, on: str = "") -> Iterator[Learned]:
    """Session by session; each goes on with what the one before left in the arena."""
    weights: Weights | None = None
    for number, name in enumerate(SESSIONS):
        path = data / f"{name}.npz"
        with np.load(path) as arrays:
            n_samples = len(arrays["y"])
        run = odl.train(network, path, n_samples, on, weights=weights)
        weights = run.weights
        yield Learned(run, accuracy(network, data / "eval.npz", weights, NEW[0] + number))


def accuracy(network: odl.Compiled, data: Path, weights: Weights, n_seen: int) -> float:
    """Of the digits below `n_seen`, each of which may be taken for any of the ten."""
    confusion = np.array(odl.evaluate(network, data, weights)["confusion"])[:n_seen]
    return float(confusion.diagonal().sum() / confusion.sum())


def checked(network: odl.Compiled, data: Path) -> Iterator[Learned]:
    """`learn` on the target, beside NumPy; ends the program where one bit differs."""
    for name, found, wanted in zip(SESSIONS, learn(network, data), learn(network, data, odl.api.NUMPY), strict=True):
        kept = {each: value.tobytes() for each, value in wanted.run.weights.items()}
        differing = [each for each, value in found.run.weights.items() if kept[each] != value.tobytes()]
        if differing or found.run.loss != wanted.run.loss:
            say("BITS DIFFER", f"{name}: {', '.join(differing) or 'losses'}")
            raise SystemExit(odl.ExitCode.BITS_DIFFER)
        yield found


def say(word: str, text: str) -> None:
    print(f"  {word:<16}{text}", flush=True)


def tell(target: str, output: Path) -> None:
    """The whole story, on stdout."""
    list(write(output))
    replayed, plain = networks(target)
    recipe = replayed.recipe
    kept = sum(each.tensor.type.n_bytes for each in replayed.program.residents if each.tensor.role is Role.REPLAY)
    say("target", f"{target}: {replayed.target.summary}")
    say("memory", f"{recipe.replay_slots} outputs of {recipe.replay_layer} in {recipe.replay_type}, {kept:,} bytes")
    say("RAM", f"{replayed.program.spaces['arena']:,} bytes, without replay {plain.program.spaces['arena']:,}")
    print("\n  right, of all digits seen so far\n", flush=True)
    say("", f"{'with replay':>16}{'without':>16}")
    for title, *both in zip(SESSIONS.values(), checked(replayed, output), checked(plain, output), strict=True):
        say(title, "".join(f"{learned.accuracy:>16.1%}" for learned in both))
    print(flush=True)
    if len(both[0].run.counts):
        counter, counts = both[0].run.counter, [each.run.counts.sum() / len(each.run.loss) for each in both]
        say("a new sample", f"{counts[0]:,.0f} {counter}, without replay {counts[1]:,.0f}")
    say("checked", "losses, weights and memory of every session: the same bits as in NumPy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="qemu-zhinx", help="as of odl build  [qemu-zhinx]")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/new_digits"), help="[build/new_digits]")
    arguments = parser.parse_args()
    started = time.monotonic()
    print("Six digits are known (UCI, nine writers); four more come one after the other. Four other writers judge.\n")
    try:
        tell(arguments.target, arguments.output)
    except odl.OdlError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    print(f"\nDone in {time.monotonic() - started:.0f} seconds.")


if __name__ == "__main__":
    main()
