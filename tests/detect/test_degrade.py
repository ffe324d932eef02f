"""Degradations are what their names say."""

import numpy as np
import pytest
import soundfile

from ms_core import paths
from ms_core.detect import degrade
from ms_core.detect.degrade import MEASURED, RATE

WAV = soundfile.read(paths.ASSETS / "smoke" / "audio" / "test" / "445-01.opus", dtype="float32")[0][: 2 * RATE]


def power(wav: np.ndarray, low: float, high: float) -> float:
    """Of a band in Hz, as a share."""
    energy = np.abs(np.fft.rfft(wav)) ** 2
    hertz = np.linspace(0, RATE / 2, len(energy))
    return energy[(hertz >= low) & (hertz < high)].sum() / energy.sum()


@pytest.mark.parametrize("name", MEASURED)
def test_every_degradation_gives_speech_and_is_fixed_by_its_seed(name):
    one, two = (MEASURED[name](WAV, np.random.default_rng(3)) for _ in range(2))
    assert one.dtype == np.float32 and np.isfinite(one).all() and np.array_equal(one, two)
    assert len(one) == pytest.approx(len(WAV), rel=0.08)
    assert (name == "clean") == np.array_equal(one, WAV)


def test_strengths_are_as_named():
    rng = np.random.default_rng(0)
    for snr in (20, 5):
        noise = degrade.noisy(WAV, snr, rng) - WAV
        assert 10 * np.log10(np.mean(WAV**2) / np.mean(noise**2)) == pytest.approx(snr, abs=0.1)
    assert power(degrade.telephone(WAV), 3500, 8000) < 1e-3 < power(WAV, 3500, 8000)
    assert power(degrade.at_rate(WAV, 8000), 4200, 8000) < 1e-3
    assert len(degrade.speed(WAV, 1.05)) == pytest.approx(len(WAV) / 1.05, abs=2)
    wet = degrade.room(np.eye(1, RATE, dtype=np.float32)[0], 0.4, rng)
    tail = np.cumsum(wet[::-1] ** 2)[::-1]
    assert 10 * np.log10(tail[int(0.3 * RATE)] / tail[int(0.1 * RATE)]) == pytest.approx(-30, abs=3)  # 60 dB in 0.4 s


@pytest.mark.parametrize("coder", degrade.CODERS)
def test_fewer_bits_are_further_from_the_original(coder):
    def snr(kbps: int) -> float:
        out = degrade.coded(WAV, coder, kbps)
        assert len(out) == len(WAV)
        return 10 * np.log10(np.sum(WAV**2) / np.sum((out - WAV) ** 2))

    assert snr(64) > max(snr(16) + 1, 3)  # which also says that nothing is delayed
