"""The detector: our decoder's own noise, found again in a sound. All numpy, nothing is trained.

`codec.source_filter` makes the breath of every voice from noise of one fixed seed. So all that this package speaks, by
whatever checkpoint of the mini codec and in whatever runtime, holds one known signal, filtered and buried in speech. A
matched filter finds it: the cross-correlation of flattened spectra (GCC-PHAT, Knapp and Carter 1976) has a peak where a
recording has none. The whole band is compared at the speed at which it was spoken; the band below 250 Hz, where little
but this noise lies below a voice's pitch, at all of `SPEEDS`. The paper promises a detector and says no more: this is
our choice.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import soxr
from numpy.lib.stride_tricks import sliding_window_view

from ms_core import paths
from ms_core.decoding import Noise

FOLDER = paths.ASSETS / "detector"
FILE = FOLDER / "config.json"
RATE = 16_000  # Hz, of the mini codec
WINDOW, NOISE = 4, 16  # s: of sound that is compared at once, and of noise; parts that are spoken last 12 s at most
N_FFT, HOP, FLATNESS = 1280, 320, 0.8  # magnitudes to the power 1 - FLATNESS: chosen on dev-other
LOW_RATE = 500  # Hz
OVERSAMPLED = 16 * LOW_RATE  # Hz: at other speeds, the nearest of these samples stands for what lies between
SPEEDS = 1 + 8e-4 * np.arange(-65, 66)  # steps over which a window nearly stays in phase at `LOW_RATE` / 2


class DetectorError(ValueError):
    """A recording that cannot be looked at, or a detector that is damaged; the message says which and why."""


def flattened(wav: np.ndarray, flatness: float) -> np.ndarray:
    """Samples (l,) whose short-time spectra have their magnitudes to the power 1 - flatness, and their phases."""
    window = np.hanning(N_FFT + 1)[:-1].astype(np.float32)
    spectrum = np.fft.rfft(sliding_window_view(np.pad(wav, N_FFT), N_FFT)[::HOP] * window)
    frames = np.fft.irfft(spectrum / (np.abs(spectrum) ** np.float32(flatness) + np.float32(1e-9)), N_FFT) * window
    total = np.zeros((len(frames) + N_FFT // HOP - 1, HOP), dtype=np.float32)
    for part in range(N_FFT // HOP):
        total[part : part + len(frames)] += frames[:, part * HOP : (part + 1) * HOP]
    return total.reshape(-1)[N_FFT : N_FFT + len(wav)]


@cache
def templates() -> tuple[np.ndarray, np.ndarray]:
    """Conjugate spectra of the decoder's noise, complex64: of the whole band, and of what lies below `LOW_RATE` / 2."""
    noise = flattened(Noise(0).uniform((NOISE * RATE,)) - np.float32(0.5), 1.0)
    low = soxr.resample(noise, RATE, LOW_RATE)
    return tuple(np.fft.rfft(x, (NOISE + WINDOW) * r).conj() for x, r in ((noise, RATE), (low, LOW_RATE)))


def peaks(wav: np.ndarray) -> np.ndarray:
    """Largest correlation with the decoder's noise, as a multiple of the correlations' RMS: (2,), of the whole band and
    of the low one. Samples (l,) at `RATE`, `WINDOW` s at most.
    """
    whole, low = templates()
    wav = flattened(wav / np.float32(np.sqrt(np.mean(np.square(wav))) + 1e-9), FLATNESS)
    slow = soxr.resample(soxr.resample(wav, RATE, LOW_RATE), LOW_RATE, OVERSAMPLED)
    slow = np.pad(slow, (0, WINDOW * OVERSAMPLED + 1 - len(slow)))
    times = np.arange(WINDOW * LOW_RATE * SPEEDS[-1]) / SPEEDS[:, None] * (OVERSAMPLED / LOW_RATE)
    played = slow[np.minimum(times, len(slow) - 1).astype(np.int32)]  # (speeds, l), the sound at each of them
    found = []
    for rows, template in ((wav[None], whole), (played, low)):
        size = 2 * (template.size - 1)
        spectrum = np.fft.rfft(rows, size)
        spectrum *= template
        correlation = np.fft.irfft(spectrum, size)
        rms = np.sqrt(np.einsum("sl,sl->s", correlation, correlation) / size)
        found.append((np.maximum(correlation.max(1), -correlation.min(1)) / (rms + 1e-9)).max())
    return np.array(found)


def score(found: np.ndarray, known: dict) -> float:
    """-log of the probability that none of so many windows of recordings has peaks (windows, 2) as high as the highest;
    by the tail that was fitted to recordings: a peak above z has probability exp((location - z) / scale).
    """
    surprise = (np.asarray(found) - known["location"]) / known["scale"]
    return float(surprise.max() - np.log(surprise.size))


@cache
def load(file: Path = FILE) -> dict:
    """`location` and `scale` (2,) of the tails, `false_alarms`, `provenance`. Raises DetectorError for no detector."""
    try:
        known = json.loads(file.read_text())
        tails = np.array([known["location"], known["scale"]], dtype=float)
        if tails.shape != (2, 2) or not (tails > 0).all() or not 0 < known["false_alarms"] < 1:
            raise DetectorError(f"{file}: not a detector of this version")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise error if isinstance(error, DetectorError) else DetectorError(f"{file}: no detector ({error})") from None
    return known
