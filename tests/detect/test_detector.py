"""The detector: its features are the codec's, our speech and recordings are told apart, and nothing needs torch."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from ms_core import paths
from ms_core.codec import load_codec
from ms_core.detect import DetectorError, detect, network, scores

RATE = 16_000
RECORDINGS = sorted((network.FOLDER / "recordings").glob("*.opus"))
OURS = sorted((paths.ASSETS / "smoke" / "audio" / "test").glob("*.opus"))


def noise(seconds: float, level: float = 0.1) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(int(seconds * RATE)) * level).astype(np.float32)


def test_features_are_what_the_codec_leaves_over():
    """On the codec's own grid, the energies after each codebook are those of its quantiser; no grid explains less."""
    codec = load_codec(paths.shipped("mini") / "codec")
    wav, _ = soundfile.read(OURS[0], dtype="float32")
    wav = wav[: 2 * RATE] * np.float32(network.LEVEL / np.sqrt(np.mean(wav[: 2 * RATE] ** 2)))
    mel = codec.features(codec.magnitudes(torch.from_numpy(wav)[None, None]))  # (1, m, t)
    latent = codec.project(mel)
    rest = (latent - codec.dequantise(codec.quantise(latent)))[0].square().sum(0).numpy()
    loudness = mel[0].mean(0).numpy()
    energies = network.left_over(mel[0].T.numpy(), network.tables())
    assert np.exp(energies[-1]) == pytest.approx(rest[loudness >= np.median(loudness)].mean(), rel=1e-3)
    assert network.features(wav)[1:].sum() >= energies[1] - energies[-1] - 0.1


def test_the_level_does_not_matter():
    wav, _ = soundfile.read(OURS[0], dtype="float32")
    assert scores(wav, RATE) == pytest.approx(scores(0.05 * wav, RATE), abs=0.02)


def test_speech_of_an_unseen_checkpoint_is_told_from_recordings():
    ours, recordings = ([detect(*soundfile.read(f, dtype="float32")) for f in files] for files in (OURS, RECORDINGS))
    pairs = [(one.probability, other.probability) for one in ours for other in recordings]
    assert np.mean([one > other for one, other in pairs]) > 0.85
    assert np.mean([one.synthetic for one in ours]) > 0.25 and np.mean([one.synthetic for one in recordings]) < 0.15


def test_a_long_recording_is_looked_at_in_windows_and_another_rate_is_resampled():
    wav, rate = soundfile.read(OURS[0], dtype="float32")
    assert len(scores(wav[: 4 * rate], rate)) == 1 and len(scores(np.tile(wav, 3), rate)) == 6
    slow = np.repeat(wav, 2)
    assert detect(slow, 2 * rate).seconds == pytest.approx(len(wav) / rate)


@pytest.mark.parametrize(
    ("wav", "cause"),
    [
        (noise(0.3), "0.5 s or more"),
        (noise(1)[None], "give \\(l,\\)"),
        (np.full(RATE, np.nan, dtype=np.float32), "finite"),
        (np.zeros(RATE, dtype=np.float32), "silence"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(wav, cause):
    with pytest.raises(DetectorError, match=cause):
        detect(wav, RATE)


def test_a_detector_of_another_codec_or_none_is_refused(tmp_path):
    known = json.loads(network.FILE.read_text())
    for name, change, cause in (
        ("codec", {"codec_sha256": "0" * 64}, "was fitted to codec 0000"),
        ("short", {"weights": [1.0]}, "not a detector of this version"),
        ("less", {"bias": None}, "not a detector of this version"),
    ):
        (tmp_path / name).write_text(json.dumps({**known, **change}))
        with pytest.raises(DetectorError, match=cause):
            network.load(tmp_path / name)
    with pytest.raises(DetectorError, match="no detector"):
        network.load(tmp_path / "nowhere")


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
    assert ", synthetic (threshold at 1% false alarms), " in lines[0] and "s looked at" in lines[0]
    assert "watermark not looked for" in lines[0] and len(lines) == 3 and lines[2] == "0 False"
