"""Speaks twelve words with eSpeak NG in many voices and writes their MFCCs to `words.npz`.

    python -m examples.words_dscnn.make_words

Needs the program `espeak-ng`. 1.51 made the shipped file; another version may speak a little differently.
"""

from __future__ import annotations

import argparse
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .mfcc import RATE, mfcc, resample

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "open", "close")
MARKS = (".", "!", "?")
STEP = 1 / 32

TRAIN_VOICES = (
    [f"en-us+{variant}" for variant in ("m1", "m3", "m5", "f1", "f3", "klatt")]
    + [f"en-gb+{variant}" for variant in ("m2", "m4", "m6", "f2", "f4")]
    + [f"en-gb-x-rp+{variant}" for variant in ("m1", "m7", "f2", "steph")]
    + [f"en-gb-x-gbclan+{variant}" for variant in ("m3", "f1", "edward")]
    + [f"en-gb-x-gbcwmd+{variant}" for variant in ("m5", "f3", "linda")]
    + [f"en-us-nyc+{variant}" for variant in ("m2", "f4", "michael")]
)
TEST_VOICES = ["en-us+m4", "en-gb+f1", "en-gb-x-rp+m6", "en-us+f2"]


@dataclass(frozen=True)
class Utterance:
    word: str
    mark: str
    voice: str
    pitch: int
    speed: int


def speak(utterance: Utterance) -> np.ndarray:
    """Sound at 16 kHz, without the silence around it, its peak at 1."""
    settings = ["-v", utterance.voice, "-p", str(utterance.pitch), "-s", str(utterance.speed)]
    command = ["espeak-ng", *settings, "--stdout", utterance.word + utterance.mark]
    wav = subprocess.run(command, check=True, capture_output=True, timeout=30).stdout
    rate = int.from_bytes(wav[24:28], "little")
    sound = resample(np.frombuffer(wav[44:], "<i2").astype(np.float64), rate)
    sound /= np.abs(sound).max()
    loud = np.flatnonzero(np.abs(sound) > 0.01)
    return sound[loud[0] : loud[-1] + 1]


def record(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One second (16000,) with the word somewhere in it, at some loudness, in some white noise."""
    sound = sound[:RATE]
    clip = np.zeros(RATE)
    start = rng.integers(0, RATE - len(sound) + 1)
    clip[start : start + len(sound)] = sound * rng.uniform(0.2, 0.8)
    return clip + rng.normal(0, 10 ** rng.uniform(-3.5, -2.0), RATE)


def make(voice: str, repeats: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`repeats` of every word at random pitch, speed and intonation: (N, 49, 10), (N,)."""
    x, y = [], []
    for _ in range(repeats):
        for label, word in enumerate(WORDS):
            mark = MARKS[rng.integers(len(MARKS))]
            said = Utterance(word, mark, voice, int(rng.integers(25, 76)), int(rng.integers(110, 211)))
            x.append(mfcc(record(speak(said), rng)))
            y.append(label)
    return np.stack(x), np.array(y)
