"""Adapts two trained networks on a simulated microcontroller: to another hand, and to another voice.

    python examples/demo.py [--target NAME] [--steps N] [-o FOLDER]

`make demo` runs it. Each network is first checked in bits against NumPy, then trained on the target, one sample a step
and each sample once. What it leaves behind lies in FOLDER: data, C project, and the tuned ONNX model.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import odl

HERE = Path(__file__).parent
CHECKED_STEPS = 3
LINES = 5  # of mean losses, while it trains


@dataclass(frozen=True)
class Example:
    """A folder beside this file with a model, a recipe and a `data.py`, and what a reader should know about it."""

    folder: str
    title: str
    story: str
    usual: str

    def files(self, output: Path) -> Path:
        """Writes adapt.npz, eval.npz and base.npz; returns their folder."""
        data = output / self.folder / "data"
        script = HERE / self.folder / "data.py"
        subprocess.run([sys.executable, script, data], check=True, stdout=subprocess.DEVNULL)
        return data


EXAMPLES = (
    Example(
        "digits_resnet8", "Another hand: ResNet8 reads digits",
        "Trained on digits by nine people (UCI). Now four others write, and their images are slanted here\n"
        "by a fixed distortion: a consistent shift, but a made one.",
        "right, upright",
    ),
    Example(
        "words_dscnn", "Another voice: DS-CNN hears words",
        "Trained on twelve words in 24 voices of a speech synthesizer (eSpeak NG). Now one whispers: every\n"
        "recording is synthetic, in training and here.",
        "right, other voices",
    ),
)  # fmt: skip


def say(word: str, text: str) -> None:
    print(f"  {word:<20}{text}", flush=True)


class Losses:
    """Prints the mean loss of every fifth part of a run, as it comes."""

    def __init__(self, n_steps: int) -> None:
        self.borders = [n_steps * (part + 1) // LINES for part in range(LINES)]
        self.first = 0
        self.seen: list[float] = []

    def __call__(self, step: int, loss: float) -> None:
        self.seen.append(loss)
        if step + 1 in self.borders:
            say(f"steps {self.first + 1} to {step + 1}", f"mean loss {np.mean(self.seen):.3f}")
            self.first, self.seen = step + 1, []


def checked(example: Example, target: str, data: Path) -> odl.Compiled:
    """The compiled example, once its first steps have the same bits on the target as in NumPy."""
    recipe = odl.read_recipe(HERE / example.folder / "recipe.toml")
    compiled = odl.compile_model(HERE / example.folder / "model.onnx", recipe, target)
    say("target", f"{target}: {compiled.target.summary}")
    say("RAM", f"{compiled.program.spaces['arena']:,} bytes for weights, activations and gradients")
    try:
        verdict = odl.verify(compiled, data, CHECKED_STEPS)
    except odl.OdlError as error:
        if error.exit_code is not odl.ExitCode.TOOL_MISSING or target == "host":
            raise
        print(f"\n{error}\nGoing on without it: the same C, compiled for this machine.\n", flush=True)
        return checked(example, "host", data)
    found = verdict.first_difference
    if found:
        say("BITS DIFFER", f"step {found.step}, layer {found.layer}, tensor {found.tensor}{list(found.index)}")
        raise SystemExit(odl.ExitCode.BITS_DIFFER)
    say("checked", f"{verdict.values:,} values of {verdict.steps} steps: each the same bits as in NumPy")
    return compiled


def adapt(example: Example, target: str, n_steps: int, output: Path) -> str:
    """The whole story of one example, on stdout; returns the target that it ran on."""
    print(f"\n{example.title}\n\n{example.story}\n", flush=True)
    data = example.files(output)
    compiled = checked(example, target, data / "adapt.npz")
    with np.load(data / "adapt.npz") as adaptation:
        n_steps = n_steps or len(adaptation["y"])
    run = odl.train(compiled, data / "adapt.npz", n_steps, progress=Losses(n_steps))
    if len(run.counts):
        say("a step", f"{run.counts.sum() / n_steps:,.0f} {run.counter} for {compiled.training.step.macs():,} MACs")
    for what, file in (("right, held out", "eval"), (example.usual, "base")):
        before, after = (odl.evaluate(compiled, data / f"{file}.npz", weights) for weights in (None, run.weights))
        say(what, f"{before['accuracy']:.1%} before, {after['accuracy']:.1%} after, of {before['samples']} samples")
    keep = output / example.folder
    odl.build(compiled, keep / "c")
    odl.export(compiled, run.weights, keep / "tuned.onnx")
    say("kept", f"{keep}: C project c/, tuned.onnx")
    return compiled.target.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="qemu-zhinx", help="as of odl build  [qemu-zhinx]")
    parser.add_argument("--steps", type=int, default=0, help="training steps  [all samples once]")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/demo"), help="[build/demo]")
    arguments = parser.parse_args()
    started = time.monotonic()
    print(f"odl {odl.__version__} trains on a simulated microcontroller, after a check of every bit against NumPy.")
    try:
        target = arguments.target
        for example in EXAMPLES:
            target = adapt(example, target, arguments.steps, arguments.output)
    except odl.OdlError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    print(f"\nDone in {time.monotonic() - started:.0f} seconds. README.md tells how to train a model of your own.")


if __name__ == "__main__":
    main()
