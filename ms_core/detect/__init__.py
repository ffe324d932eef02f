"""Is it synthetic? A detector of this package's own speech, and a watermark in it.

The paper: "it is possible to build a detection model to discriminate whether an audio clip was synthesized by
MobileSpeech." Neither is a proof: `results/mini/detection.json` says what each withstands.
"""

from dataclasses import dataclass

import numpy as np
import soxr

from ms_core.detect import noise
from ms_core.detect.noise import RATE, WINDOW, DetectorError

__all__ = ["Detection", "DetectorError", "detect"]

SHORTEST = 0.5  # s
QUIETEST = 1e-4  # RMS, -80 dB of full scale
MISSED, SPREAD = 0.05, 200.0  # of synthetic speech: the share that scores as recordings do; others score up to this


@dataclass(frozen=True)
class Detection:
    """What the detector says of a recording.

    Attributes:
        probability: that this package spoke it or a part of it, where that and a recording were as likely before.
        synthetic: the verdict: fewer than a share `false_alarms` of recordings score as high.
        seconds: of sound that was looked at.
    """

    probability: float
    synthetic: bool
    false_alarms: float
    seconds: float


def score(wav: np.ndarray, rate: int) -> float:
    """-log of the share of recordings (l,) of this length that look as synthetic as this one by their likest window.

    Raises DetectorError for what cannot be looked at.
    """
    wav = np.asarray(wav, dtype=np.float32)
    if wav.ndim != 1 or len(wav) < SHORTEST * rate or not np.isfinite(wav).all():
        raise DetectorError(f"samples of shape {wav.shape} at {rate} Hz: give (l,), all finite, {SHORTEST:g} s or more")
    if np.sqrt(np.mean(np.square(wav, dtype=np.float64))) < QUIETEST:
        raise DetectorError(f"silence: the level is below {20 * np.log10(QUIETEST):.0f} dB of full scale")
    wav, size = soxr.resample(wav, rate, RATE), WINDOW * RATE
    starts = np.linspace(0, max(0, len(wav) - size), -(-len(wav) // size)).astype(int)
    return noise.score(np.array([noise.peaks(wav[start : start + size]) for start in starts]), noise.load())


def detect(wav: np.ndarray, rate: int) -> Detection:
    """Whether samples (l,) in [-1, 1] at `rate` Hz are speech of this package's models.

    Raises DetectorError for less than `SHORTEST`, silence and what is not finite.
    """
    false_alarms, value = noise.load()["false_alarms"], score(wav, rate)
    odds = MISSED + (1 - MISSED) / SPREAD * np.exp(np.clip(value, -50, 50))
    return Detection(float(odds / (1 + odds)), value > -np.log(false_alarms), false_alarms, len(wav) / rate)
