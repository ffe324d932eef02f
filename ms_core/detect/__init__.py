"""Is it synthetic? A detector of this package's own speech, and a watermark in it.

The paper: "it is possible to build a detection model to discriminate whether an audio clip was synthesized by
MobileSpeech." Neither is a proof: `results/mini/detection.json` says what each withstands.
"""

from dataclasses import dataclass

import numpy as np
import soxr

from ms_core.detect.network import RATE, DetectorError, load, score

__all__ = ["Detection", "DetectorError", "detect"]

WINDOW = 4.0  # s; a longer recording is looked at in windows, whose scores are averaged
SHORTEST = 0.5  # s
QUIETEST = 1e-4  # RMS, -80 dB of full scale


@dataclass(frozen=True)
class Detection:
    """What the detector says of a recording.

    Attributes:
        probability: that one of this package's models spoke it, where that and a recording were as likely before.
        synthetic: the verdict: the score is above a threshold that a share `false_alarms` of recordings pass.
        seconds: of sound that was looked at.
    """

    probability: float
    synthetic: bool
    false_alarms: float
    seconds: float


def scores(wav: np.ndarray, rate: int) -> list[float]:
    """The log odds of each window of samples (l,); raises DetectorError for what cannot be looked at."""
    wav = np.asarray(wav, dtype=np.float32)
    if wav.ndim != 1 or len(wav) < SHORTEST * rate or not np.isfinite(wav).all():
        raise DetectorError(f"samples of shape {wav.shape} at {rate} Hz: give (l,), all finite, {SHORTEST:g} s or more")
    if np.sqrt(np.mean(np.square(wav, dtype=np.float64))) < QUIETEST:
        raise DetectorError(f"silence: the level is below {20 * np.log10(QUIETEST):.0f} dB of full scale")
    wav, size = soxr.resample(wav, rate, RATE), int(WINDOW * RATE)
    starts = np.linspace(0, max(0, len(wav) - size), -(-len(wav) // size)).astype(int)
    return [score(wav[start : start + size], load()) for start in starts]


def detect(wav: np.ndarray, rate: int) -> Detection:
    """Whether samples (l,) in [-1, 1] at `rate` Hz are speech of this package's models.

    Raises DetectorError for less than `SHORTEST`, silence and what is not finite.
    """
    known, value = load(), float(np.mean(scores(wav, rate)))
    probability = 1 / (1 + np.exp(-np.clip(value, -50, 50)))
    return Detection(float(probability), value > known["threshold"], known["false_alarms"], len(wav) / rate)
