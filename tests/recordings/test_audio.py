"""Reading, checks and writing of speech."""

import resource
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ms_core.files import write_wav
from ms_core.recordings import audio
from ms_core.recordings.audio import AudioError, load_speech, normalise, read_audio

RATE = 16_000


def tone(seconds: float = 2.0, rate: int = RATE, hz: float = 440.0, level: float = 0.3) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize(
    ("suffix", "options", "snr_db"),
    [("wav", {"subtype": "FLOAT"}, 100), ("flac", {}, 60), ("opus", {"format": "OGG", "subtype": "OPUS"}, 10)],
)
def test_formats_read_back(tmp_path: Path, suffix: str, options: dict, snr_db: float) -> None:
    path, wav = tmp_path / f"a.{suffix}", tone()
    soundfile.write(path, wav, RATE, **options)
    got, rate = read_audio(path)
    assert (rate, got.dtype, got.shape) == (RATE, np.float32, wav.shape)
    error = np.sum((got - wav) ** 2)
    assert 10 * np.log10(np.sum(wav**2) / max(error, 1e-20)) > snr_db


def test_stereo_is_mixed_down_with_a_warning(tmp_path: Path) -> None:
    left, right = tone(hz=300), tone(hz=500)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), RATE, subtype="FLOAT")
    with pytest.warns(UserWarning, match="2 channels"):
        got = load_speech(tmp_path / "a.wav", RATE)
    np.testing.assert_allclose(got, (left + right) / 2, atol=1e-6)
    with pytest.warns(UserWarning, match="2 channels"):
        np.testing.assert_allclose(load_speech(np.stack([left, right]), RATE), got, atol=1e-6)


def test_resampling_keeps_the_tone() -> None:
    got = load_speech(tone(rate=44_100), RATE, source_rate=44_100)
    assert got.dtype == np.float32
    assert len(got) == 2 * RATE
    np.testing.assert_allclose(got[800:-800], tone()[800:-800], atol=2e-3)


def test_low_sample_rates(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="above 4000 Hz is missing"):
        assert len(load_speech(tone(rate=8000), RATE, source_rate=8000)) == 2 * RATE
    with pytest.raises(AudioError, match="7999 Hz, at least 8000"):
        load_speech(tone(), RATE, source_rate=7999)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_speech(tone(), RATE)


def test_integers_are_scaled() -> None:
    pcm = np.round(tone() * 32768).astype(np.int16)
    np.testing.assert_allclose(load_speech(pcm, RATE), tone(), atol=2e-5)


@pytest.mark.parametrize(
    ("wav", "message"),
    [
        (np.zeros(2 * RATE, np.float32), "silent: its level .* nothing at all"),
        (tone(level=1e-4), "silent: its level .* -83 dB"),
        (np.clip(tone(level=3.0), -1, 1), r"clipped: 7\d\.\d% .* allowed are 1%"),
        (tone(0.5), "0.50 s, allowed are 1 to 30 s: give a longer"),
        (tone(31), "31.00 s, allowed are 1 to 30 s: give a shorter"),
        (np.where(np.arange(2 * RATE) == 7, np.nan, tone()), "1 samples that are NaN"),
        (tone() * 32768, "floats must lie in"),
        (np.zeros(0, np.float32), "no samples"),
        (np.zeros((2, 3, 4), np.float32), r"shape \(2, 3, 4\)"),
        (np.zeros((RATE, 9), np.float32), "9 channels"),
        (np.zeros(RATE, bool), "got bool"),
    ],
)
def test_unusable_speech_is_refused(wav: np.ndarray, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        load_speech(wav, RATE)


def test_a_few_clipped_samples_are_allowed() -> None:
    wav = tone()
    wav[:: RATE // 100] = 1.0  # 0.6 %
    assert load_speech(wav, RATE).max() == 1.0


def test_files_that_are_no_audio(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not audio at all")
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), RATE)
    for name, message in [
        ("missing.wav", "no such audio file"),
        (".", "is a folder"),
        ("text.wav", "cannot be read as audio"),
        ("empty.wav", "cannot be read as audio"),
        ("none.wav", "has no samples"),
    ]:
        with pytest.raises(AudioError, match=message):
            load_speech(tmp_path / name, RATE)


@pytest.mark.parametrize(("suffix", "codec"), [("m4a", "aac"), ("webm", "libopus"), ("mov", "alac")])
def test_what_ffmpeg_reads_is_read(tmp_path: Path, suffix: str, codec: str) -> None:
    av = pytest.importorskip("av")
    path, wav = tmp_path / f"a.{suffix}", tone()
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=RATE if codec != "libopus" else 48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(wav[None], format="flt", layout="mono")
        frame.sample_rate = RATE
        packets = av.AudioResampler(stream.codec_context.format, "mono", stream.rate).resample(frame)
        for part in [*packets, None]:
            file.mux(stream.encode(part))
    got = load_speech(path, RATE)
    assert len(got) == pytest.approx(len(wav), abs=0.15 * RATE)  # AAC pads
    spectrum = np.abs(np.fft.rfft(got[RATE // 2 : RATE]))
    own = np.abs(np.fft.rfft(wav[RATE // 2 : RATE]))
    assert spectrum.argmax() == own.argmax() and spectrum.max() == pytest.approx(own.max(), rel=0.1)


def test_ffmpeg_is_asked_where_pyav_is_missing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "a.m4a").write_bytes(b"x" * 100)
    with pytest.raises(AudioError, match="install PyAV .* or ffmpeg"):
        read_audio(tmp_path / "a.m4a")
    asked = []

    def run(words, capture_output):
        asked.append(words)
        return subprocess.CompletedProcess(words, 0, tone(rate=48_000).astype("<f4").tobytes(), b"")

    monkeypatch.setattr(audio.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(audio.subprocess, "run", run)
    got, rate = read_audio(tmp_path / "a.m4a")
    np.testing.assert_array_equal(got, tone(rate=48_000))
    assert rate == 48_000 and f"file:{(tmp_path / 'a.m4a').resolve()}" in asked[0]


def test_a_file_of_more_than_an_hour_is_not_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.flac", np.zeros(3601 * 1000, np.int16), 1000)
    with pytest.raises(AudioError, match="3601 s, allowed are 3600 s"):
        read_audio(tmp_path / "long.flac")


def test_write_reads_back_and_clips(tmp_path: Path) -> None:
    wav = tone(level=1.2)
    path = write_wav(tmp_path / "a.wav", wav, 24_000)
    got, rate = read_audio(path)
    assert rate == 24_000
    np.testing.assert_allclose(got, np.clip(wav, -1, 1), atol=1e-4)
    assert np.array_equal(read_audio(write_wav(path, got, 24_000))[0], got)  # 16 bits stay as they are
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", tone(0.1), RATE)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # stands for a full disk
    try:
        with pytest.raises(AudioError, match="cannot write .*a.wav: File too large"):
            write_wav(path, tone(2.0), RATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize(
    ("name", "wav", "message"),
    [
        ("a.mp3", tone(), "only WAV"),
        ("a.wav", np.full(10, np.nan), "not finite"),
        ("a.wav", np.zeros((1, 10)), r"shape \(1, 10\)"),
        ("a.wav", np.zeros(0), "shape"),
        ("missing/a.wav", tone(), "No such file or directory"),
    ],
)
def test_unwritable(tmp_path: Path, name: str, wav: np.ndarray, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        write_wav(tmp_path / name, wav, RATE)
    assert not list(tmp_path.iterdir())


def test_a_prompt_is_brought_to_a_usual_level_without_its_offset() -> None:
    usual = tone(level=0.1)
    assert normalise(usual) is usual
    for wav in (0.005 * usual, 8 * usual, usual + np.float32(0.1)):
        levelled = normalise(wav)
        assert abs(levelled.mean()) < 1e-3 and np.abs(levelled).max() <= 1
        assert -30 < 10 * np.log10(np.mean(levelled**2)) < -14
    assert np.corrcoef(normalise(0.005 * usual), usual)[0, 1] > 0.9999


def test_floats_above_full_scale_are_scaled_and_antiphase_is_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "loud.wav", 5 * tone(), RATE, subtype="FLOAT")
    assert 0.98 < np.abs(load_speech(tmp_path / "loud.wav", RATE)).max() < 1
    with pytest.warns(UserWarning), pytest.raises(AudioError, match="2 channels cancel out, as in antiphase"):
        load_speech(np.stack([tone(), -tone()], 1), RATE)
