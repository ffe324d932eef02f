"""Fitting of the detector: a logistic regression on `detect.network.features`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ms_core.detect import degrade
from ms_core.detect.network import CODEC, features
from ms_core.files import sha256, write_json

RIDGE = 300.0  # penalty on the weights of standardised features: chosen on dev-other


def transmitted(wav: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As `MEASURED`, at random strength, what is slow: a coder, the telephone, a lower rate, another speed."""
    if rng.random() < 0.3:
        wav = degrade.speed(wav, rng.uniform(0.95, 1.05))
    kind = rng.choice([*degrade.CODERS, "telephone", "rate", "none"], p=[0.22, 0.22, 0.22, 0.12, 0.12, 0.1])
    if kind in degrade.CODERS:
        return degrade.coded(wav, kind, int(rng.integers(16, 65)))
    if kind == "rate":
        return degrade.at_rate(wav, int(rng.integers(8_000, 15_000)))
    return degrade.telephone(wav) if kind == "telephone" else wav


def received(wav: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As `MEASURED`, at random strength, what is quick: room, noise, level and an equaliser."""
    if rng.random() < 0.25:
        wav = degrade.room(wav, rng.uniform(0.15, 0.8), rng)
    if rng.random() < 0.4:
        wav = degrade.noisy(wav, rng.uniform(5, 35), rng, rng.uniform(0, 1.5))
    if rng.random() < 0.5:
        spectrum = np.fft.rfft(wav)
        curve = np.interp(np.linspace(0, 1, len(spectrum)), np.linspace(0, 1, 6), rng.uniform(-8, 8, 6))
        wav = np.fft.irfft(spectrum * 10 ** (curve / 20), len(wav)).astype(np.float32)
    return wav * np.float32(10 ** rng.uniform(-1, 0))


def feature_rows(clips: Sequence[np.ndarray], seed: int | None = None) -> np.ndarray:
    """Features (n, f) of clips (l,), float32 at 16 kHz; with a seed, of what is `received` of them."""
    rng = np.random.default_rng(seed)
    return np.stack([features(clip if seed is None else received(clip, rng)) for clip in clips])


def fit(recordings: np.ndarray, synthetic: np.ndarray, iterations: int = 30) -> tuple[np.ndarray, float]:
    """Weights (f,) and bias that tell features (m, f) of synthetic speech from those of recordings (n, f).

    Clips of both come with equal histories (codec, level, length), or these are what is learnt. Both classes weigh the
    same. Newton's method.
    """
    rows = np.concatenate([recordings, synthetic])
    mean, scale = rows.mean(0), rows.std(0) + 1e-6
    x = np.column_stack([(rows - mean) / scale, np.ones(len(rows))])
    labels = np.repeat([0.0, 1.0], [len(recordings), len(synthetic)])
    balance = np.repeat(
        [len(rows) / 2 / len(recordings), len(rows) / 2 / len(synthetic)], [len(recordings), len(synthetic)]
    )
    penalty, line = np.diag([RIDGE] * rows.shape[1] + [1e-6]), np.zeros(x.shape[1])
    for _ in range(iterations):
        said = 1 / (1 + np.exp(-np.clip(x @ line, -50, 50)))
        slope = x.T @ (balance * (said - labels)) + penalty @ line
        line = line - np.linalg.solve((x.T * (balance * said * (1 - said))) @ x + penalty, slope)
    weights = line[:-1] / scale
    return weights, float(line[-1] - weights @ mean)


def save(
    file: Path,
    weights: np.ndarray,
    bias: float,
    recordings: np.ndarray,
    provenance: dict[str, object],
    false_alarms: float = 0.01,
) -> None:
    """Write what `detect.network.load` reads; the threshold is what a share `false_alarms` of held-back recordings,
    features (n, f), passes.
    """
    threshold = float(np.quantile(recordings @ weights + bias, 1 - false_alarms))
    known = {"weights": weights.tolist(), "bias": bias, "threshold": threshold, "false_alarms": false_alarms}
    write_json(file, {**known, "codec_sha256": sha256(CODEC), "provenance": provenance})
