"""The training of the detector: it learns what differs and nothing of level, and writes what the detector reads."""

import numpy as np
import pytest
import torch

from ms_core.detect import network
from ms_core.training.detector import received, save, train, transmitted

RATE = 16_000


def test_it_learns_and_what_it_writes_is_read(tmp_path):
    rng = np.random.default_rng(0)
    time = np.arange(2 * RATE) / RATE
    hiss = [3000 * rng.standard_normal(2 * RATE) for _ in range(12)]
    buzz = [
        6000 * np.sign(np.sin(2 * np.pi * f * time)) + 300 * rng.standard_normal(2 * RATE) for f in range(90, 210, 10)
    ]
    recordings, synthetic = ([wav.astype(np.int16) for wav in side] for side in (hiss, buzz))
    losses = []
    trained = train(recordings[:8], synthetic[:8], 0.12, 0, 8, report=lambda step, loss, _: losses.append(loss))
    assert np.mean(losses[-3:]) < 0.7 * losses[0] and torch.isfinite(torch.tensor(losses)).all()
    held = [[wav / np.float32(32768) for wav in side[8:]] for side in (recordings, synthetic)]
    save(trained, tmp_path, *held, {"speech": "made up"})
    weights, known = network.load(tmp_path)
    low, high = ([network.score(wav, weights) for wav in side] for side in held)
    assert max(low) < min(high) and known["false_alarms"] == 0.01 and known["threshold"] <= max(low) + 1e-6
    slope, offset = known["calibration"]
    assert slope * max(low) + offset < 0 < slope * min(high) + offset


def test_random_chains_give_speech_of_other_levels():
    wav = (0.1 * np.sin(np.arange(2 * RATE) / 9)).astype(np.float32)
    levels = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        out = received(transmitted(wav, rng), rng)
        assert out.dtype == np.float32 and np.isfinite(out).all() and len(out) == pytest.approx(len(wav), rel=0.06)
        levels.append(np.sqrt(np.mean(out**2)))
    assert min(levels) > 1e-3 and max(levels) > 3 * min(levels)
