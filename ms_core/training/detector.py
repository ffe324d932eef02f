"""Fitting of the detector: how high recordings peak by chance (`detect.noise`), whatever happened to them."""

from collections import Counter
from pathlib import Path

import numpy as np

from ms_core.config import Preset
from ms_core.data.corpora import read_cuts
from ms_core.detect import degrade
from ms_core.detect.noise import RATE, WINDOW, peaks
from ms_core.files import write_json
from ms_core.recordings.audio import load_speech

EACH = 2  # recordings of a speaker
TAIL = 0.1  # the share of recordings, those with the highest peaks, to which the tail is fitted
FALSE_ALARMS = 0.001


def degraded(wav: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As `degrade.MEASURED`, at random strength: a speed, a coder or narrow band, a room, noise, an equaliser."""
    if rng.random() < 0.3:
        wav = degrade.speed(wav, rng.uniform(0.95, 1.05))
    kind = rng.choice([*degrade.CODERS, "telephone", "rate", "none"], p=[0.2, 0.2, 0.2, 0.1, 0.1, 0.2])
    if kind in degrade.CODERS:
        wav = degrade.coded(wav, kind, int(rng.integers(16, 65)))
    elif kind == "rate":
        wav = degrade.at_rate(wav, int(rng.integers(8_000, 15_000)))
    wav = degrade.telephone(wav) if kind == "telephone" else wav
    if rng.random() < 0.25:
        wav = degrade.room(wav, rng.uniform(0.15, 0.8), rng)
    if rng.random() < 0.4:
        wav = degrade.noisy(wav, rng.uniform(5, 35), rng, rng.uniform(0, 1.5))
    if rng.random() < 0.4:
        spectrum = np.fft.rfft(wav)
        curve = np.interp(np.linspace(0, 1, len(spectrum)), np.linspace(0, 1, 6), rng.uniform(-8, 8, 6))
        wav = np.fft.irfft(spectrum * 10 ** (curve / 20), len(wav)).astype(np.float32)
    return wav


def fit(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Location and scale (2,) of the tails of peaks (n, 2) of recordings: above a height z lies a share
    exp((location - z) / scale). By the mean excess over the height that a share `TAIL` passes.
    """
    height = np.quantile(found, 1 - TAIL, axis=0)
    scale = np.array([np.mean(column[column > h] - h) for column, h in zip(found.T, height, strict=True)])
    return height + scale * np.log(TAIL), scale


def train_detector(config: Preset, file: Path, seed: int = 0) -> int:
    """Write what `detect.noise.load` reads; returns of how many recordings: `EACH` of every training speaker, a window
    of each, degraded. Raises DataError where there are none.
    """
    rng, found, heard = np.random.default_rng(seed), [], Counter()
    for cut in read_cuts(config.data, config.data.train):
        speaker = cut.supervisions[0].speaker
        heard[speaker] += 1
        if heard[speaker] <= EACH:
            wav = load_speech(cut.recording.sources[0].source, RATE)
            size = int(rng.uniform(1, WINDOW) * RATE)
            start = int(rng.integers(max(1, len(wav) - size)))
            found.append(peaks(degraded(wav[start : start + size], rng)[: WINDOW * RATE]))
    location, scale = fit(np.array(found))
    known = {"location": location.tolist(), "scale": scale.tolist(), "false_alarms": FALSE_ALARMS}
    what = f"{len(found)} recordings of {len(heard)} speakers of {config.data.train}, each cut and degraded"
    write_json(file, {**known, "provenance": {"recordings": what, "highest": np.max(found, 0).tolist()}})
    return len(found)
