"""The fitting of the detector, and the random chains of degradations that its clips go through."""

import numpy as np
import pytest

from ms_core.detect import network
from ms_core.training.detector import feature_rows, fit, received, save, transmitted

RATE = 16_000


def test_the_fit_is_a_logistic_regression_and_what_is_written_is_read(tmp_path):
    rng = np.random.default_rng(0)
    recordings, synthetic = rng.standard_normal((600, 8)), rng.standard_normal((300, 8))
    synthetic[:, 2] += 3
    weights, bias = fit(recordings, synthetic)
    assert abs(weights).argmax() == 2 and weights[2] > 5 * np.delete(abs(weights), 2).max()
    low, high = recordings @ weights + bias, synthetic @ weights + bias
    assert np.mean(low > 0) == pytest.approx(np.mean(high < 0), abs=0.04)  # both classes weigh the same
    save(tmp_path / "detector.json", weights, bias, recordings, {"speech": "made up"}, 0.05)
    known = network.load(tmp_path / "detector.json")
    assert np.mean(low > known["threshold"]) == pytest.approx(0.05, abs=0.005)
    wav = rng.standard_normal(RATE).astype(np.float32)
    assert network.score(wav, known) == pytest.approx(feature_rows([wav])[0] @ weights + bias)


def test_random_chains_give_speech_of_other_levels():
    wav = (0.1 * np.sin(np.arange(2 * RATE) / 9)).astype(np.float32)
    levels = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        out = received(transmitted(wav, rng), rng)
        assert out.dtype == np.float32 and np.isfinite(out).all() and len(out) == pytest.approx(len(wav), rel=0.06)
        levels.append(np.sqrt(np.mean(out**2)))
    assert min(levels) > 1e-3 and max(levels) > 3 * min(levels)
