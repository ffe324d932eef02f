"""The detector: how well the codec's own tables explain a sound. All numpy.

Speech out of our codec was made from sums of code vectors, one for every 20 ms. Coded again, each codebook takes more
of it away than of a recording. The features are what each takes away, on the best of several grids of frames, and a
logistic regression weighs them. The paper promises a detector and says no more: all of this is our choice.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from safetensors import safe_open

from ms_core import paths
from ms_core.files import sha256

FOLDER = paths.ASSETS / "detector"
FILE = FOLDER / "config.json"
CODEC = paths.shipped("mini") / "codec" / "weights.safetensors"
RATE, HOP, SUBSTEPS, N_FFT, MEL_FLOOR = 16_000, 320, 2, 640, 5e-3  # the mini codec's
GRIDS = 8  # places of the frames' grid that are tried, evenly over a hop
LEVEL = 0.06  # RMS to which a sound is brought
TABLES = ("mel_basis", "mean", "components", "books")


class DetectorError(ValueError):
    """A recording that cannot be looked at, or a detector that is damaged; the message says which and why."""


@cache
def tables() -> dict[str, np.ndarray]:
    """The tables of the mini codec that decide its tokens, float32."""
    with safe_open(CODEC, "np") as file:
        return {name: file.get_tensor(name).astype(np.float32) for name in TABLES}


def features(wav: np.ndarray) -> np.ndarray:
    """How many times less each codebook (n,) leaves over of the louder half of the frames than what came before, as the
    logarithm; on the grid where all of them leave least. Samples (l,) at `RATE`, half a second or more.
    """
    codec, step = tables(), HOP // GRIDS
    window = np.hanning(N_FFT + 1)[:-1].astype(np.float32)
    wav = np.asarray(wav, dtype=np.float32) * np.float32(LEVEL / np.sqrt(np.mean(np.square(wav)) + 1e-12))
    spectra = np.abs(np.fft.rfft(sliding_window_view(wav, N_FFT)[::step] * window)).astype(np.float32)
    mel = np.log(spectra @ codec["mel_basis"].T + np.float32(MEL_FLOOR))  # (k, m), every `step` samples
    apart = GRIDS // SUBSTEPS
    frames = np.concatenate([mel[s * apart : len(mel) - (SUBSTEPS - 1 - s) * apart] for s in range(SUBSTEPS)], axis=1)
    energies = np.stack([left_over(frames[grid::GRIDS], codec) for grid in range(GRIDS)])  # (grids, n + 1)
    return -np.diff(energies[(energies[:, -1] - energies[:, 1]).argmin()])


def left_over(frames: np.ndarray, codec: dict[str, np.ndarray]) -> np.ndarray:
    """Log mean energies (n + 1,) of the louder half of log-mel frames (t, m): before and after each codebook."""
    loudness = frames.mean(1)
    rest = (frames[loudness >= np.median(loudness)] - codec["mean"]) @ codec["components"].T
    energies = [np.square(rest).sum(1).mean()]
    for book in codec["books"]:
        rest = rest - book[(rest @ book.T - np.square(book).sum(1) / 2).argmax(1)]
        energies.append(np.square(rest).sum(1).mean())
    return np.log(np.array(energies) + 1e-6)


def score(wav: np.ndarray, known: dict) -> float:
    """Log odds that samples (l,) at `RATE` are synthetic, where that and a recording are as likely before."""
    return float(np.dot(known["weights"], features(wav)) + known["bias"])


@cache
def load(file: Path = FILE) -> dict:
    """`weights`, `bias`, `threshold`, `false_alarms` and `provenance`. Raises DetectorError for what is no detector, or
    one that was fitted to other tables than the shipped codec's.
    """
    try:
        known = json.loads(file.read_text())
        fitted, there = known["codec_sha256"], sha256(CODEC)
        if not len(known["weights"]) == len(tables()["books"]) or known["threshold"] is None or known["bias"] is None:
            raise DetectorError(f"{file}: not a detector of this version")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise error if isinstance(error, DetectorError) else DetectorError(f"{file}: no detector ({error})") from None
    if fitted != there:
        raise DetectorError(f"{file} was fitted to codec {fitted[:16]}, the package has {there[:16]}: fit it again")
    return known
