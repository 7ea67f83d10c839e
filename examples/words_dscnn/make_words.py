"""Speaks twelve words in many voices with eSpeak NG and writes their MFCCs to `words.npz`.

    python -m examples.words_dscnn.make_words

Needs the program `espeak-ng`; version 1.51 made the shipped file, another one may speak a little differently.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from .mfcc import RATE, mfcc, resample

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "open", "close")
MARKS = (".", "!", "?")

# An accent and a timbre. Roles: the base model is trained on `train` and tested on `test`; `accent` and `whisper`
# are voices to adapt to; `dev` is one more, on which the recipe was chosen.
VOICES = {
    "train": (
        *("en-us+m1", "en-us+m3", "en-us+m5", "en-us+f1", "en-us+f3", "en-us+klatt"),
        *("en-gb+m2", "en-gb+m4", "en-gb+m6", "en-gb+f2", "en-gb+f4"),
        *("en-gb-x-rp+m1", "en-gb-x-rp+m7", "en-gb-x-rp+f2", "en-gb-x-rp+steph"),
        *("en-gb-x-gbclan+m3", "en-gb-x-gbclan+f1", "en-gb-x-gbclan+edward"),
        *("en-gb-x-gbcwmd+m5", "en-gb-x-gbcwmd+f3", "en-gb-x-gbcwmd+linda"),
        *("en-us-nyc+m2", "en-us-nyc+f4", "en-us-nyc+michael"),
    ),
    "test": ("en-us+m4", "en-us+f2", "en-gb+f1", "en-gb-x-rp+m6"),
    "dev": ("en-us+iven3",),
    "accent": ("es+m3",),
    "whisper": ("en-gb-scotland+whisper",),
}
REPEATS = {"train": 6, "test": 6, "dev": 24, "accent": 40, "whisper": 40}

# The coefficients are kept as int8 in steps of 1/32 of a standard deviation, an exact binary16 number each.
STEPS = 32

Array = np.ndarray[Any, np.dtype[Any]]


def speak(text: str, voice: str, pitch: int, speed: int) -> Array:
    """Sound (T,) at 16 kHz, without the silence around it, its peak at 1."""
    command = ["espeak-ng", "-v", voice, "-p", str(pitch), "-s", str(speed), "--stdout", text]
    wav = subprocess.run(command, check=True, capture_output=True, timeout=30).stdout
    rate = int.from_bytes(wav[24:28], "little")
    sound = resample(np.frombuffer(wav[44:], "<i2").astype(np.float64), rate)
    sound /= np.abs(sound).max()
    loud = np.flatnonzero(np.abs(sound) > 0.01)
    return sound[loud[0] : loud[-1] + 1]


def record(sound: Array, rng: np.random.Generator) -> Array:
    """One second (16000,) with the word at a random place and loudness, in more or less white noise."""
    sound = sound[:RATE]
    clip = np.zeros(RATE)
    start = rng.integers(0, RATE - len(sound) + 1)
    clip[start : start + len(sound)] = sound * rng.uniform(0.2, 0.8)
    return clip + rng.normal(0, 10 ** rng.uniform(-3.5, -2.0), RATE)


def say_all(voice: str, repeats: int, seed: int) -> tuple[Array, Array]:
    """All words `repeats` times, each at its own pitch, speed and intonation: x (N, 49, 10), y (N,)."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(len(WORDS)), repeats)
    x = []
    for label in labels:
        text = WORDS[label] + MARKS[rng.integers(len(MARKS))]
        pitch, speed = int(rng.integers(25, 76)), int(rng.integers(110, 211))
        x.append(mfcc(record(speak(text, voice, pitch, speed), rng)))
    return np.stack(x), labels


def main() -> None:
    spoken: list[tuple[str, str, Array, Array]] = []
    for role, voices in VOICES.items():
        for voice in voices:
            x, y = say_all(voice, REPEATS[role], seed=len(spoken))
            spoken.append((role, voice, x, y))
            print(f"{role}: {voice}: {len(y)} samples", flush=True)
    train = np.concatenate([x for role, _, x, _ in spoken if role == "train"])
    mean, deviation = train.mean(axis=(0, 1)), train.std(axis=(0, 1))
    scaled = (np.concatenate([x for _, _, x, _ in spoken]) - mean) / deviation
    path = Path(__file__).with_name("words.npz")
    np.savez_compressed(
        path,
        x=np.clip(np.round(scaled * STEPS), -127, 127).astype(np.int8),
        y=np.concatenate([y for *_, y in spoken]).astype(np.int8),
        voice=np.repeat(np.arange(len(spoken)), [len(y) for *_, y in spoken]).astype(np.int8),
        voices=np.array([voice for _, voice, _, _ in spoken]),
        roles=np.array([role for role, *_ in spoken]),
        words=np.array(WORDS),
        mean=mean,
        deviation=deviation,
    )
    print(f"{path.name}: {len(scaled)} samples, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
