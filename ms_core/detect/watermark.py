"""A watermark in the sound: Perth (Resemble AI, MIT), whose trained network the package resemble-perth carries.

Perth adds what is masked by the speech to its magnitudes below 2 kHz, and reads it back as one number: marked or not.
Here its network runs in numpy, which needs neither torchaudio nor librosa, and marks on a phone as well. Weights whose
sha256 is not the one below are refused, so that no stand-in can leave speech unmarked unnoticed.
"""

import importlib.metadata
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import soxr
from numpy.lib.stride_tricks import sliding_window_view
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ms_core.files import sha256

PERTH = "perth_net/pretrained/implicit/perth_net_250000.pth.tar"  # in the package, 1.0.0 and 1.0.1
PERTH_SHA256 = "a15bce457ebc53ce5e6c9c3f11df78cf7ee2bf9cdab0a798902135b4c4027670"
FILE = "watermark.safetensors"  # in an exported folder: the encoder alone, in fp16
RATE, N_FFT, HOP, BANDS = 32_000, 2048, 320, 128  # Perth's own
QUIETEST, DECIBELS = 1e-9, 195.0  # magnitude 1e-9 is 0, and 15 dB is 1
POLICIES = ("auto", "require", "off")
PRESENT = 0.5  # of `read`, from which on speech counts as marked

Weights = dict[str, np.ndarray]


class WatermarkError(ValueError):
    """Speech that cannot be marked, or a watermark that is not installed; the message says why."""


@cache
def perth() -> Weights:
    """Perth's encoder and decoder out of the installed package; needs torch to read them, and never unpickles objects.

    Raises WatermarkError where the package is absent or carries other weights.
    """
    spec = importlib.util.find_spec("perth")
    path = Path(spec.submodule_search_locations[0], PERTH) if spec else None
    if path is None or not path.is_file():
        raise WatermarkError("no watermark is installed: run `pip install 'ms-core[watermark]'`")
    if sha256(path) != PERTH_SHA256:
        raise WatermarkError(f"{path} is not the network of resemble-perth 1.0: install that version")
    import torch

    tensors = torch.load(path, map_location="cpu", weights_only=True)["model"]
    return {k: v.numpy() for k, v in tensors.items() if k.startswith(("encoder.", "decoder."))}


def ready(encoder: Path | None = None) -> Weights:
    """What marks: of `save_encoder`'s file, or of the installed package. Raises WatermarkError."""
    return load_encoder(encoder) if encoder else perth()


def save_encoder(path: Path) -> None:
    """Write what marks, for a runtime without torch (4.8 MB). Raises WatermarkError as `perth`."""
    save_file({k: v.astype(np.float16) for k, v in perth().items() if k.startswith("encoder.")}, path)


def load_encoder(path: Path) -> Weights:
    """What `save_encoder` wrote. Raises WatermarkError for another file."""
    try:
        return {name: value.astype(np.float32) for name, value in load_file(path).items()}
    except (OSError, SafetensorError):
        raise WatermarkError(f"{path} holds no watermark: export with --watermark") from None


def mark(wav: np.ndarray, rate: int, weights: Weights | None = None) -> np.ndarray:
    """Samples (l,) with the mark in them, float32 (l,). weights: of `load_encoder`; None takes `perth`.

    Raises WatermarkError where the mark cannot be read back at once: speech of less than half a second, or silence.
    """
    checked, weights = weights is None, weights or perth()
    spectrum = _analyse(wav, rate)
    levels = _levels(spectrum)
    added = _layers(levels[:BANDS], weights, "encoder.layers") * _active(levels)
    change = np.zeros_like(spectrum)
    change[:BANDS] = spectrum[:BANDS] * (10 ** (np.maximum(added, -levels[:BANDS]) * DECIBELS / 20) - 1)
    size = min(len(wav), len(low := soxr.resample(_synthesise(change), RATE, rate)))
    marked = np.array(wav, dtype=np.float32)  # above 2 kHz it stays as it is
    marked[:size] += low[:size]
    marked = marked.clip(-1, 1)
    if checked and (found := read(marked, rate)) < PRESENT:
        raise WatermarkError(f"{len(wav) / rate:.2f} s of speech: too short or too quiet for the mark ({found:.2f})")
    return marked


def read(wav: np.ndarray, rate: int) -> float:
    """How sure Perth is that samples (l,) are marked, 0 to 1. Raises WatermarkError as `perth`."""
    levels, weights = _levels(_analyse(wav, rate)), perth()
    frames, marks, attention = np.arange(levels.shape[1]), [], []
    for speed, name in ((1.25, "slow"), (1.0, "normal"), (0.75, "fast")):
        there = np.linspace(0, len(frames) - 1, max(1, int(len(frames) * speed)))
        low, part = there.astype(int), (there % 1).astype(np.float32)
        band = levels[:BANDS, low] * (1 - part) + levels[:BANDS, np.minimum(low + 1, frames[-1])] * part
        nearest = (np.arange(len(there)) * len(frames) / len(there)).astype(int)
        active = _active(levels)[nearest]
        means = (_layers(band, weights, f"decoder.{name}_layers") * active).sum(1) / max(active.sum(), 1)
        attention.append(means[0])
        marks.append(means[1])
    share = np.exp(np.array(attention) - max(attention))
    return float(np.clip(share @ marks / share.sum(), 0, 1))


def sign(
    wav: np.ndarray, rate: int, checkpoint: str, policy: str = "auto", encoder: Path | None = None
) -> tuple[np.ndarray, str, str]:
    """Speech as it is given away: samples (l,), the comment of its WAV file (INFO, ICMT), and what to tell the user.

    checkpoint: sha256 of the model's weights. policy: "auto" marks where that can be done, "require" raises
    WatermarkError where it cannot, "off" does not try. encoder: the file of `save_encoder`; None takes `perth`.
    """
    told = "no watermark, as asked"
    if policy != "off":
        try:
            wav, told = mark(wav, rate, encoder and ready(encoder)), "watermark Perth"
        except WatermarkError as error:
            if policy == "require":
                raise
            told = f"no watermark ({error})"
    return wav, comment(checkpoint, told.partition(" (")[0]), told


def comment(checkpoint: str, mark: str) -> str:
    """What a WAV file's comment (INFO, ICMT) says of speech."""
    return f"synthetic, ms-core {importlib.metadata.version('ms-core')}, checkpoint {checkpoint or 'unknown'}, {mark}"


def _layers(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    """Perth's stack of seven convolutions over time (c, k), each padded by half a kernel."""
    for number in range(7):
        weight, bias = (weights[f"{name}.{number}.conv.{part}"] for part in ("weight", "bias"))
        width = weight.shape[2]
        patches = sliding_window_view(np.pad(x, ((0, 0), (width // 2, width // 2))), width, axis=1)  # (c, k, w)
        x = weight.reshape(len(weight), -1) @ patches.transpose(0, 2, 1).reshape(-1, x.shape[1]) + bias[:, None]
        x = np.maximum(x, 0.01 * x) if number < 6 else x
    return x


def _levels(spectrum: np.ndarray) -> np.ndarray:
    return ((20 * np.log10(np.abs(spectrum).clip(QUIETEST)) + 180) / DECIBELS).astype(np.float32)


def _active(levels: np.ndarray) -> np.ndarray:
    """1 for frames (k,) that are not silent."""
    sums = levels.sum(0)
    return (sums > 0.05 * sums.max()).astype(np.float32)


def _window() -> np.ndarray:
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)).astype(np.float32)


def _analyse(wav: np.ndarray, rate: int) -> np.ndarray:
    """Spectrum (f, k) at `RATE`."""
    wav = np.asarray(wav, dtype=np.float32)
    if wav.ndim != 1 or len(wav) < rate // 10 or not np.isfinite(wav).all():
        raise WatermarkError(f"samples of shape {wav.shape} at {rate} Hz: give at least 0.1 s, (l,), all finite")
    wav = np.pad(soxr.resample(wav, rate, RATE), N_FFT // 2, mode="reflect")
    return np.fft.rfft(sliding_window_view(wav, N_FFT)[::HOP] * _window()).astype(np.complex64).T


def _synthesise(spectrum: np.ndarray) -> np.ndarray:
    """Samples (l,) at `RATE` of a spectrum (f, k), by least squares."""
    frames, window = np.fft.irfft(spectrum.T, N_FFT).astype(np.float32) * _window(), _window() ** 2
    total, weight = np.zeros((2, (len(frames) - 1) * HOP + N_FFT), dtype=np.float32)
    for number, frame in enumerate(frames):
        here = slice(number * HOP, number * HOP + N_FFT)
        total[here] += frame
        weight[here] += window
    return (total / weight.clip(1e-8))[N_FFT // 2 : -(N_FFT // 2)]
