"""The detector finds our decoder's noise after a cut, a coder or another speed, and none of it in recordings."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from ms_core import paths
from ms_core.codec import load_codec
from ms_core.detect import DetectorError, degrade, detect, noise, score

RATE = 16_000
RECORDINGS = sorted((noise.FOLDER / "recordings").glob("*.opus"))
OURS = sorted((paths.ASSETS / "smoke" / "audio" / "test").glob("*.opus"))


def hiss(seconds: float, level: float = 0.1) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(int(seconds * RATE)) * level).astype(np.float32)


def read(file) -> np.ndarray:
    return soundfile.read(file, dtype="float32")[0]


def test_flattening_keeps_the_phases_and_evens_the_magnitudes():
    wav = read(RECORDINGS[0])[: 2 * RATE]
    assert np.allclose(noise.flattened(wav, 0.0), 1.5 * wav, atol=1e-3)  # the squared window sums to 1.5
    power = np.abs(np.fft.rfft(noise.flattened(wav, 1.0)).reshape(-1)[1:16_001].reshape(16, 1000)) ** 2
    assert power.mean(1).max() < 3 * power.mean(1).min()


def test_the_noise_is_the_decoders():
    """What the decoder makes of random latents is found, too, unless its noise has another seed."""
    decoder = load_codec(paths.shipped("mini") / "codec").decoder
    generator = torch.Generator().manual_seed(0)
    latent = 0.5 * torch.randn(1, decoder.config.latent_dim, 150, generator=generator)
    with torch.inference_mode():
        same, other = (decoder(latent, seed=seed)[0][0].numpy() for seed in (0, 1))
    assert noise.peaks(same)[0] > 8 > 7 > noise.peaks(other)[0]


def test_a_peak_stands_where_the_noise_does():
    """Of noise alone, cut out of the middle and turned over: at every speed that is tried, and not beyond."""
    wav = noise.Noise(0).uniform((6 * RATE,)) - np.float32(0.5)
    whole, low = noise.peaks(-wav[2 * RATE : 5 * RATE])
    assert whole > 150 and low > 20
    for factor, least, most in ((0.95, 20, 99), (1.05, 20, 99), (1.1, 0, 8)):
        whole, low = noise.peaks(degrade.speed(wav, factor)[RATE : 4 * RATE])
        assert least < low < most and whole < 8


def test_the_level_does_not_matter():
    wav = read(OURS[0])
    assert score(wav, RATE) == pytest.approx(score(0.05 * wav, RATE), rel=0.01)


def test_speech_of_an_unseen_checkpoint_is_told_from_recordings():
    ours, recordings = ([detect(read(f), RATE) for f in files] for files in (OURS, RECORDINGS))
    assert all(one.synthetic and one.probability > 0.99 for one in ours)
    assert not any(one.synthetic or one.probability > 0.5 for one in recordings)


@pytest.mark.parametrize("name", ["opus-24", "mp3-64+noise-20db", "slower-5", "faster-5"])
def test_damage_is_withstood(name):
    rng = np.random.default_rng(0)
    ours, recordings = (
        [score(degrade.MEASURED[name](read(f), rng), RATE) for f in x] for x in (OURS[:3], RECORDINGS[:3])
    )
    assert min(ours) > 12 > 7 > max(recordings)


def test_a_score_is_the_rarity_among_recordings_of_this_length():
    known = {"location": [5.0, 5.5], "scale": [0.2, 0.25]}
    height = np.array([[5.0 + 0.2 * 9, 5.0]])
    assert noise.score(height, known) == pytest.approx(9 - np.log(2))
    assert noise.score(np.vstack([height, [[4.0, 4.0]] * 9]), known) == pytest.approx(9 - np.log(20))


def test_a_long_recording_is_looked_at_in_windows_and_another_rate_is_resampled():
    part, other = read(OURS[0])[: 4 * RATE], np.concatenate([read(f) for f in RECORDINGS[:3]])
    assert score(np.concatenate([other, part]), RATE) == pytest.approx(score(part, RATE), rel=0.3)  # one part suffices
    slow = np.repeat(part, 2)
    assert detect(slow, 2 * RATE).seconds == pytest.approx(4) and detect(slow, 2 * RATE).synthetic


@pytest.mark.parametrize(
    ("wav", "cause"),
    [
        (hiss(0.3), "0.5 s or more"),
        (hiss(1)[None], "give \\(l,\\)"),
        (np.full(RATE, np.nan, dtype=np.float32), "finite"),
        (np.zeros(RATE, dtype=np.float32), "silence"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(wav, cause):
    with pytest.raises(DetectorError, match=cause):
        detect(wav, RATE)


def test_what_is_no_detector_is_refused(tmp_path):
    known = json.loads(noise.FILE.read_text())
    for name, change in (("short", {"scale": [1.0]}), ("none", {"location": None}), ("alarms", {"false_alarms": 0})):
        (tmp_path / name).write_text(json.dumps({**known, **change}))
        with pytest.raises(DetectorError, match="detector"):
            noise.load(tmp_path / name)
    with pytest.raises(DetectorError, match="no detector"):
        noise.load(tmp_path / "nowhere")


def test_the_command_says_what_it_found_without_torch():
    code = (
        "import sys; from ms_core.cli import app\n"
        f"try: app(['detect', {str(OURS[0])!r}, {str(RECORDINGS[0])!r}])\n"
        "except SystemExit as done: print(done.code, 'torch' in sys.modules)"
    )
    # Perth's weights are a torch file: without its package, nothing here loads torch
    code = (
        "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, *a: None if n == 'perth' else f(n, *a)\n"
        + code
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert ", synthetic (threshold at 0.1% false alarms), " in lines[0] and "s looked at" in lines[0]
    assert "watermark not looked for" in lines[0] and len(lines) == 3 and lines[2] == "0 False"
