"""The watermark is read back and survives coding, what cannot mark is an error, and files say what they are."""

import types

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from ms_core import paths
from ms_core.cli import app
from ms_core.detect import degrade, watermark
from ms_core.detect.watermark import WatermarkError, mark, read, sign
from ms_core.files import write_wav

RATE = 16_000
WAV = soundfile.read(paths.ASSETS / "smoke" / "audio" / "test" / "445-01.opus", dtype="float32")[0][: 3 * RATE]
SAY = ["synth", "--text", "Hello there.", "--voice", "289"]


@pytest.fixture
def without_perth(monkeypatch):
    find = watermark.importlib.util.find_spec
    monkeypatch.setattr(watermark.importlib.util, "find_spec", lambda name: None if name == "perth" else find(name))
    watermark.perth.cache_clear()
    yield
    watermark.perth.cache_clear()


def test_speech_is_marked_and_the_mark_is_read():
    pytest.importorskip("perth", exc_type=ImportError)
    marked = mark(WAV, RATE)
    assert marked.dtype == np.float32 and marked.shape == WAV.shape and np.abs(marked).max() <= 1
    assert read(WAV, RATE) < 0.1 and read(marked, RATE) > 0.9
    assert read(degrade.coded(marked, "mp3", 64), RATE) > 0.5
    assert 10 * np.log10(np.sum(WAV**2) / np.sum((marked - WAV) ** 2)) > 10  # dB
    high = [np.abs(np.fft.rfft(w))[len(w) * 3000 // RATE :] for w in (WAV, marked)]
    assert np.abs(high[0] - high[1]).max() < 0.02 * high[0].max()  # above 2 kHz nothing changes


def test_a_runtime_without_torch_marks_alike(tmp_path):
    pytest.importorskip("perth", exc_type=ImportError)
    watermark.save_encoder(tmp_path / watermark.FILE)
    assert (tmp_path / watermark.FILE).stat().st_size < 5_000_000
    marked, comment, told = sign(WAV, RATE, "ab" * 32, "require", tmp_path / watermark.FILE)
    assert np.abs(marked - mark(WAV, RATE)).max() < 1e-3 and told == "watermark Perth" and told in comment


def test_without_the_package_nothing_passes_for_marked(without_perth, tmp_path):
    for call in (lambda: mark(WAV, RATE), lambda: read(WAV, RATE), lambda: sign(WAV, RATE, "", "require")):
        with pytest.raises(WatermarkError, match="ms-core\\[watermark\\]"):
            call()
    with pytest.raises(WatermarkError, match="--watermark"):
        sign(WAV, RATE, "", "require", tmp_path / watermark.FILE)
    same, comment, told = sign(WAV, RATE, "ab" * 32)
    assert same is WAV and told.startswith("no watermark (no watermark is installed") and "no watermark" in comment
    assert sign(WAV, RATE, "", "off")[2] == "no watermark, as asked"


def test_a_stand_in_is_refused(monkeypatch, tmp_path):
    file = tmp_path / watermark.PERTH
    file.parent.mkdir(parents=True)
    file.write_bytes(b"zeros")
    spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(watermark.importlib.util, "find_spec", lambda name: spec)
    watermark.perth.cache_clear()
    with pytest.raises(WatermarkError, match="is not the network"):
        mark(WAV, RATE)


def test_the_comment_stands_in_the_file_and_the_sound_is_as_without(tmp_path):
    for comment in ("synthetic, ms-core", "odd"):
        write_wav(tmp_path / "a.wav", WAV, RATE, comment)
        write_wav(tmp_path / "b.wav", WAV, RATE)
        with soundfile.SoundFile(tmp_path / "a.wav") as file:
            assert file.comment == comment
        assert np.array_equal(*(soundfile.read(tmp_path / name)[0] for name in ("a.wav", "b.wav")))
        assert (tmp_path / "a.wav").stat().st_size == 8 + int.from_bytes(
            (tmp_path / "a.wav").read_bytes()[4:8], "little"
        )


def test_synth_fails_closed_and_says_what_it_did(without_perth, tmp_path):
    out = tmp_path / "o.wav"
    refused = CliRunner().invoke(app, [*SAY, "--out", str(out), "--watermark", "require"])
    assert refused.exit_code == 2 and "ms-core[watermark]" in refused.stderr and not out.exists()
    spoken = CliRunner().invoke(app, [*SAY, "--out", str(out)])
    assert spoken.exit_code == 0 and "no watermark (no watermark is installed" in spoken.stderr
    with soundfile.SoundFile(out) as file:
        assert file.comment.startswith("synthetic, ms-core ") and file.comment.endswith(", no watermark")
