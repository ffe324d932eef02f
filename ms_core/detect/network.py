"""The detector's network in numpy, for a server and a phone alike: log spectrum -> convolutions -> one score.

The paper promises a detector and says no more; features and network are our choice. Nothing here needs torch.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.numpy import load_file

from ms_core import paths
from ms_core.files import sha256

FOLDER = paths.ASSETS / "detector"
RATE = 16_000  # Hz
N_FFT, HOP = 512, 160  # samples: 32 ms, 10 ms
FLOOR = 0.01  # added to magnitudes of speech of RMS 1 before the logarithm: about 60 dB below speech
LAYERS = ((12, 5, 2, 2), (24, 3, 2, 2), (48, 3, 2, 1), (64, 3, 2, 1), (64, 3, 2, 1))
"""Channels, kernel, stride over frequency, stride over time of each convolution."""


class DetectorError(ValueError):
    """A recording that cannot be looked at, or a detector that is damaged; the message says which and why."""


def features(wav: np.ndarray) -> np.ndarray:
    """Log magnitudes (256, k) of samples (..., l), from `HOP` to `HOP`, their level taken out."""
    window = np.hanning(N_FFT + 1)[:-1].astype(np.float32)
    wav = wav / np.sqrt(np.mean(np.square(wav), axis=-1, keepdims=True) + 1e-10)
    frames = sliding_window_view(wav, N_FFT, axis=-1)[..., ::HOP, :]
    magnitudes = np.abs(np.fft.rfft(frames * window)).astype(np.float32)[..., 1:]
    return np.log(magnitudes + np.float32(FLOOR)).swapaxes(-1, -2)


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: tuple[int, int]) -> np.ndarray:
    """As `torch.nn.functional.conv2d` of one example (c, f, k), padded by half a kernel."""
    out, _, height, width = weight.shape
    x = np.pad(x, ((0, 0), (height // 2, height // 2), (width // 2, width // 2)))
    patches = sliding_window_view(x, (height, width), axis=(1, 2))[:, :: stride[0], :: stride[1]]  # (c, f, k, h, w)
    shape = patches.shape[1:3]
    columns = patches.transpose(0, 3, 4, 1, 2).reshape(weight[0].size, -1)
    return (weight.reshape(out, -1) @ columns + bias[:, None]).reshape(out, *shape)


def score(wav: np.ndarray, weights: dict[str, np.ndarray]) -> float:
    """The network's output for samples (l,), at least `N_FFT` of them; above 0 rather synthetic."""
    x = features(wav)[None] / 3
    for number, (_, _, down, along) in enumerate(LAYERS):
        x = np.maximum(convolve(x, weights[f"{number}.weight"], weights[f"{number}.bias"], (down, along)), 0)
    x = np.maximum(weights["join.weight"] @ x.reshape(-1, x.shape[-1]) + weights["join.bias"][:, None], 0)  # (c, k)
    pooled = np.concatenate([x.mean(1), np.sqrt(x.var(1) + 1e-5)])
    return float(weights["out.weight"] @ pooled + weights["out.bias"][0])


@cache
def load(folder: Path = FOLDER) -> tuple[dict[str, np.ndarray], dict]:
    """Weights and what is known of them. Raises DetectorError for files that are missing or do not belong together."""
    try:
        known = json.loads((folder / "config.json").read_text())
        if sha256(folder / "weights.safetensors") != known["weights_sha256"]:
            raise DetectorError(
                f"{folder}: the weights are not those that config.json names: install the package again"
            )
        weights = {name: value.astype(np.float32) for name, value in load_file(folder / "weights.safetensors").items()}
    except (OSError, ValueError, KeyError) as error:
        raise error if isinstance(error, DetectorError) else DetectorError(f"{folder}: no detector ({error})") from None
    return weights, known
