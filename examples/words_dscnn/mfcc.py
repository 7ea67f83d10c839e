"""The front-end: one second of sound at 16 kHz to 49 x 10 mel-frequency cepstral coefficients, in NumPy.

Its parameters are those of the keyword-spotting benchmark of MLPerf Tiny: windows of 30 ms every 20 ms, 40 mel
bands from 20 to 4,000 Hz, the first ten coefficients.
"""

from __future__ import annotations

from typing import Any

import numpy as np

RATE = 16_000
WINDOW = 480
STRIDE = 320
FRAMES = 49
FFT = 512
BANDS = 40
BAND_EDGES_HZ = (20.0, 4_000.0)
COEFFICIENTS = 10
TAPS = 32

Array = np.ndarray[Any, np.dtype[Any]]


def resample(sound: Array, rate: int) -> Array:
    """Sound (T,) at `rate` to (T * 16000 // rate,) at 16 kHz: a sinc low-pass under a Hann window."""
    cutoff = min(1.0, RATE / rate)
    places = np.arange(len(sound) * RATE // rate) * (rate / RATE)
    first = np.floor(places).astype(int) - TAPS + 1
    taps = first[:, np.newaxis] + np.arange(2 * TAPS)
    distance = taps - places[:, np.newaxis]
    window = 0.5 + 0.5 * np.cos(np.pi * np.clip(distance / TAPS, -1, 1))
    padded = np.pad(sound, TAPS)
    out: Array = (padded[taps + TAPS] * cutoff * np.sinc(cutoff * distance) * window).sum(axis=1)
    return out


def _mel(hertz: Array) -> Array:
    return 1127.0 * np.log1p(hertz / 700.0)


def _mel_bands() -> Array:
    """Triangles over the FFT's bins, evenly spaced in mel: (257, 40)."""
    bins = _mel(np.arange(FFT // 2 + 1) * (RATE / FFT))[:, np.newaxis]
    first, last = _mel(np.array(BAND_EDGES_HZ))
    edges = np.linspace(first, last, BANDS + 2)
    low, peak, high = edges[:-2], edges[1:-1], edges[2:]
    bands: Array = np.clip(np.minimum((bins - low) / (peak - low), (high - bins) / (high - peak)), 0, None)
    return bands


def _cosines() -> Array:
    """The first rows of the orthonormal DCT-II: (40, 10)."""
    angles = np.pi / BANDS * (np.arange(BANDS) + 0.5)[:, np.newaxis] * np.arange(COEFFICIENTS)
    scale = np.where(np.arange(COEFFICIENTS) == 0, np.sqrt(1 / BANDS), np.sqrt(2 / BANDS))
    cosines: Array = np.cos(angles) * scale
    return cosines


MEL_BANDS = _mel_bands()
COSINES = _cosines()
HANN = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)


def mfcc(sound: Array) -> Array:
    """Sound (16000,) in -1..1 to coefficients (49, 10), not normalised."""
    starts = np.arange(FRAMES)[:, np.newaxis] * STRIDE
    frames = sound[starts + np.arange(WINDOW)] * HANN
    magnitude = np.abs(np.fft.rfft(frames, FFT))
    coefficients: Array = np.log(magnitude @ MEL_BANDS + 1e-6) @ COSINES
    return coefficients
