"""Reading, checking, resampling and writing of speech.

Any file that soundfile reads is taken (WAV, FLAC, Ogg Opus, MP3 ...), and what PyAV or ffmpeg reads where one of them
is there (M4A, WebM, the sound of a video); resampling is soxr's. The checks of `load_speech` are our choice: they catch
the prompts from which no voice can be taken before a model makes noise of them.
"""

import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import soundfile
import soxr
from jaxtyping import Float, Num

from ms_core.files import AudioError

MAX_FILE_SECONDS = 3600  # the longest file that is read into memory
MIN_SAMPLE_RATE = 8_000  # telephone speech; below it, consonants cannot be told apart
MIN_RMS = 1e-3  # -60 dB of full scale; speech in a recording lies near -25 dB
FULL_SCALE = 0.999
MAX_CLIPPED = 0.01  # the allowed share of samples at or above `FULL_SCALE`
MAX_CHANNELS = 8
OFFSET = 2e-3  # a constant part of a prompt below this is left in
USUAL_DB, NORMAL_DB = (-36.0, -14.0), -25.0
"""Levels (RMS, dB of full scale) of prompts that are taken as they are, and the level to which others are brought."""
CANCELLED = 0.05  # a mixed-down level below this share of the channels' own: they are in antiphase
FFMPEG_RATE = 48_000  # Hz, at which what soundfile cannot read is decoded


def read_audio(path: str | Path) -> tuple[Float[np.ndarray, "L"], int]:
    """Samples float32 (L,), nominally in [-1, 1], and sample rate of an audio file.

    Several channels are mixed down, with a warning.

    Raises AudioError for a file that is missing, no audio, empty, damaged or longer than `MAX_FILE_SECONDS`.
    """
    path = Path(path)
    if not path.is_file():
        raise AudioError(f"{path} is a folder, not an audio file" if path.is_dir() else f"no such audio file: {path}")
    try:
        with soundfile.SoundFile(path) as file:
            rate, seconds = file.samplerate, file.frames / file.samplerate
            if seconds > MAX_FILE_SECONDS:
                raise AudioError(f"{path} has {seconds:.0f} s, allowed are {MAX_FILE_SECONDS} s at most: cut it first")
            wav = file.read(frames=MAX_FILE_SECONDS * rate, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        wav, rate = _read_by_ffmpeg(path, error), FFMPEG_RATE
    return _mono(wav, str(path), axis=1), rate


def _read_by_ffmpeg(path: Path, error: Exception) -> Float[np.ndarray, "L 1"]:
    """Samples at `FFMPEG_RATE` of what ffmpeg's libraries read, mixed down; AudioError where they are not there.

    No other file or address is opened, whatever a playlist in the file says.
    """
    unreadable = f"{path} cannot be read as audio ({error})"
    limit = MAX_FILE_SECONDS * FFMPEG_RATE
    try:
        import av
    except ImportError:
        if (program := shutil.which("ffmpeg")) is None:
            raise AudioError(
                f"{unreadable}; give a WAV, FLAC, Ogg or MP3 file, or install PyAV (`pip install av`) or ffmpeg"
            ) from error
        words = ["-v", "error", "-nostdin", "-protocol_whitelist", "file", "-i", f"file:{path.resolve()}", "-vn"]
        words += ["-t", str(MAX_FILE_SECONDS), "-ac", "1", "-ar", str(FFMPEG_RATE), "-f", "f32le", "pipe:1"]
        done = subprocess.run([program, *words], capture_output=True)
        if done.returncode:
            raise AudioError(f"{unreadable}, nor by ffmpeg ({done.stderr.decode(errors='replace').strip()})") from error
        return np.frombuffer(done.stdout, dtype="<f4")[:, None]
    pieces, length = [np.zeros(0, dtype=np.float32)], 0
    try:
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            resampler = av.AudioResampler(format="flt", layout="mono", rate=FFMPEG_RATE)
            for frame in container.decode(audio=0):
                pieces += [part.to_ndarray()[0] for part in resampler.resample(frame)]
                length += len(pieces[-1])
                if length > limit:
                    raise AudioError(f"{path} has more than the {MAX_FILE_SECONDS} s that are allowed: cut it first")
            pieces += [part.to_ndarray()[0] for part in resampler.resample(None)]
    except (av.FFmpegError, IndexError, ValueError) as unable:
        if isinstance(unable, AudioError):
            raise
        raise AudioError(f"{unreadable}, nor by PyAV ({unable}); give a WAV, FLAC, Ogg or MP3 file") from error
    return np.concatenate(pieces)[:, None]


def load_speech(
    source: str | Path | Num[np.ndarray, "..."],
    sample_rate: int,
    min_seconds: float = 1.0,
    max_seconds: float = 30.0,
    source_rate: int | None = None,
) -> Float[np.ndarray, "L"]:
    """A recording to take a voice from, as float32 (L,) at `sample_rate`.

    source: a file, or samples (L,), (L, channels) or (channels, L), floats in [-1, 1] or integers of full scale, at
    `source_rate`, which is `sample_rate` where not given. Several channels are mixed down, with a warning.

    Raises AudioError as `read_audio` does, and for a recording that is silent, clipped, shorter than `min_seconds`,
    longer than `max_seconds`, not finite or below `MIN_SAMPLE_RATE`. Warns of a sample rate below the one wanted.
    """
    if isinstance(source, str | Path):
        name, (wav, rate) = str(source), read_audio(source)
    else:
        name, rate = "the recording", source_rate or sample_rate
        wav = _mono(_floats(np.asarray(source)), name, axis=None)
    if rate < MIN_SAMPLE_RATE:
        raise AudioError(f"{name} is at {rate} Hz, at least {MIN_SAMPLE_RATE} Hz is needed: record anew")
    if not np.isfinite(wav).all():
        raise AudioError(f"{name} has {np.count_nonzero(~np.isfinite(wav))} samples that are NaN or infinite")
    seconds = len(wav) / rate
    if not min_seconds <= seconds <= max_seconds:
        what = "longer" if seconds < min_seconds else "shorter"
        raise AudioError(
            f"{name} has {seconds:.2f} s, allowed are {min_seconds:g} to {max_seconds:g} s: give a {what} one"
        )
    rms = float(np.sqrt(np.mean(np.square(wav, dtype=np.float64))))
    if rms < MIN_RMS:
        level = f"{20 * np.log10(rms):.0f} dB" if rms else "nothing at all"
        raise AudioError(
            f"{name} is silent: its level (RMS) is {level}, at least {20 * np.log10(MIN_RMS):.0f} dB of full scale is "
            "needed; record it louder"
        )
    if np.abs(wav).max() > 2 and not isinstance(source, str | Path):
        raise AudioError(f"{name} has samples up to {np.abs(wav).max():g}; floats must lie in [-1, 1]: scale them")
    if (peak := float(np.abs(wav).max())) > 1:  # a file of floats, which may hold more than full scale
        wav = wav * np.float32(0.99 / peak)
    clipped = float(np.mean(np.abs(wav) >= FULL_SCALE))
    if clipped > MAX_CLIPPED:
        raise AudioError(
            f"{name} is clipped: {clipped:.1%} of its samples are at full scale, allowed are {MAX_CLIPPED:.0%}; "
            "record it with less gain"
        )
    if rate < sample_rate:
        warnings.warn(
            f"{name} is at {rate} Hz: the band above {rate // 2} Hz is missing and the voice will lack it",
            stacklevel=2,
        )
    return resample(wav, rate, sample_rate)


def normalise(wav: Float[np.ndarray, "L"]) -> Float[np.ndarray, "L"]:
    """A prompt without its constant part, at a usual level: the model was trained on speech as LibriSpeech has it.

    What lies within `USUAL_DB` stays as loud as it is, since level is part of a recording.
    """
    mean = float(np.mean(wav, dtype=np.float64))
    wav = wav - np.float32(mean) if abs(mean) > OFFSET else wav
    decibels = 10 * np.log10(max(float(np.mean(np.square(wav, dtype=np.float64))), 1e-20))
    if USUAL_DB[0] <= decibels <= USUAL_DB[1]:
        return wav
    gain = min(10 ** ((NORMAL_DB - decibels) / 20), FULL_SCALE / max(float(np.abs(wav).max()), 1e-10))
    return wav * np.float32(gain)


def resample(wav: Float[np.ndarray, "L"], source_rate: int, sample_rate: int) -> Float[np.ndarray, "L2"]:
    """float32 (L,) at `source_rate` as float32 at `sample_rate`, by soxr at its high quality."""
    if source_rate == sample_rate:
        return wav.astype(np.float32, copy=False)
    return soxr.resample(wav.astype(np.float32, copy=False), source_rate, sample_rate)


def _floats(wav: np.ndarray) -> np.ndarray:
    if np.issubdtype(wav.dtype, np.floating):
        return wav.astype(np.float32, copy=False)
    if np.issubdtype(wav.dtype, np.signedinteger):
        return (wav / -float(np.iinfo(wav.dtype).min)).astype(np.float32)
    raise AudioError(f"samples must be floats in [-1, 1] or signed integers, got {wav.dtype}")


def _mono(wav: np.ndarray, name: str, axis: int | None) -> np.ndarray:
    """Samples (L,) of (L,) or of two dimensions, of which `axis` (where None, the shorter one) is the channels'."""
    if not wav.size:
        raise AudioError(f"{name} has no samples")
    if wav.ndim == 1:
        return wav
    if wav.ndim != 2:
        raise AudioError(f"{name} has the shape {wav.shape}, allowed are (L,), (L, channels) and (channels, L)")
    axis = int(np.argmin(wav.shape)) if axis is None else axis
    channels = wav.shape[axis]
    if channels > MAX_CHANNELS:
        raise AudioError(f"{name} has {channels} channels, allowed are {MAX_CHANNELS} at most")
    if channels > 1:
        warnings.warn(f"{name} has {channels} channels: mixed down to one", stacklevel=3)
    mixed = wav.mean(axis=axis, dtype=np.float32)
    if np.abs(mixed).max() < CANCELLED * np.abs(wav).max():
        raise AudioError(f"{name}: its {channels} channels cancel out, as in antiphase: give one of them alone")
    return mixed
