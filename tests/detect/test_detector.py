"""The detector: numpy says what torch says, our speech and recordings are told apart, and nothing needs torch."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from ms_core import paths
from ms_core.detect import DetectorError, detect, network, scores
from ms_core.training.detector import Network

RATE = 16_000
RECORDINGS = sorted((network.FOLDER / "recordings").glob("*.opus"))
OURS = sorted((paths.ASSETS / "smoke" / "audio" / "test").glob("*.opus"))


def noise(seconds: float, level: float = 0.1) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(int(seconds * RATE)) * level).astype(np.float32)


def test_numpy_says_what_torch_says():
    torch.manual_seed(0)
    trained = Network()
    for norm in trained.norms:  # statistics that folding has to respect
        norm.running_mean.uniform_(-0.3, 0.3)
        norm.running_var.uniform_(0.5, 2)
    weights = {name: tensor.float().numpy() for name, tensor in trained.eval().folded().items()}
    for seconds in (0.5, 1.0, 2.3):
        wav = noise(seconds)
        with torch.inference_mode():
            expected = trained(torch.from_numpy(network.features(wav))[None]).item()
        assert network.score(wav, weights) == pytest.approx(expected, abs=2e-3)


def test_the_level_does_not_matter():
    wav, _ = soundfile.read(OURS[0], dtype="float32")
    assert scores(wav, RATE) == pytest.approx(scores(0.05 * wav, RATE), abs=0.02)


def test_speech_of_an_unseen_checkpoint_is_told_from_recordings():
    flagged = {}
    for name, files in (("ours", OURS), ("recordings", RECORDINGS)):
        found = [detect(*soundfile.read(file, dtype="float32")) for file in files]
        flagged[name] = [one.synthetic for one in found]
        assert all((one.probability > 0.5) == one.synthetic or one.probability > 0.05 for one in found)
    assert np.mean(flagged["ours"]) > 0.8 and np.mean(flagged["recordings"]) < 0.15


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


def test_damaged_weights_are_refused(tmp_path):
    for name in ("config.json", "weights.safetensors"):
        (tmp_path / name).write_bytes((network.FOLDER / name).read_bytes())
    with open(tmp_path / "weights.safetensors", "r+b") as file:
        file.seek(-2, 2)
        file.write(b"!!")
    with pytest.raises(DetectorError, match="not those that config.json names"):
        network.load(tmp_path)
    with pytest.raises(DetectorError, match="no detector"):
        network.load(tmp_path / "nowhere")


def test_it_is_small():
    weights, _ = network.load()
    assert sum(value.size for value in weights.values()) < 1_000_000
    assert sum(path.stat().st_size for path in network.FOLDER.glob("*.*")) < 2_000_000


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
