"""MiniCodec's part outside its neural network, in numpy: tokens of a waveform, and a waveform of F0 and filters.

The counterpart of `codec.mini`, `codec.spectral` and the end of `codec.source_filter` for one signal, in float32.
Here time is the first axis: a frame is contiguous in memory, as the Fourier transform wants it.
"""

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ms_core.decoding import Noise
from ms_core.export.runtime.manifest import CodecConstants

F0_FLOOR, F0_CEILING, LOUDEST = 50.0, 600.0, 6.0  # as in ms_core.codec.source_filter, which needs torch


def hann(n_fft: int) -> np.ndarray:
    """The periodic Hann window (n_fft,), float32."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)


class Spectrum:
    """Short-time Fourier analysis and synthesis of signals of `frames` hops, with buffers for reuse."""

    def __init__(self, n_fft: int, hop: int, frames: int):
        self.n_fft, self.hop, self.frames = n_fft, hop, frames
        self.window = hann(n_fft)
        # numpy scales or works in double: its scaled rfft stays in float32, four times as fast; the window undoes 1 / n
        self._scaled_window = self.window * np.float32(n_fft)
        self.before = (n_fft - hop) // 2  # samples of padding in front
        self.overlap = -(-n_fft // hop)  # hops that a window covers
        self._padded = np.zeros((frames - 1) * hop + n_fft, dtype=np.float32)
        self._frames = np.empty((frames, n_fft), dtype=np.float32)
        self._weight = self._add(np.broadcast_to(self.window**2, (frames, n_fft))).clip(1e-8)

    def analyse(self, wav: np.ndarray) -> np.ndarray:
        """Spectrum (k, f) of samples (k * hop,)."""
        self._padded[self.before : self.before + len(wav)] = wav
        np.multiply(sliding_window_view(self._padded, self.n_fft)[:: self.hop], self._scaled_window, out=self._frames)
        return np.fft.rfft(self._frames, axis=1, norm="forward").astype(np.complex64, copy=False)

    def synthesise(self, spectrum: np.ndarray) -> np.ndarray:
        """Samples (k * hop,) of a spectrum (k, f), by least squares."""
        frames = np.fft.irfft(spectrum, n=self.n_fft, axis=1).astype(np.float32, copy=False)
        return self._add(np.multiply(frames, self.window, out=self._frames)) / self._weight

    def _add(self, frames: np.ndarray) -> np.ndarray:
        """Overlap-add of (k, n_fft), without the padding at both ends: (k * hop,)."""
        total = np.zeros((self.frames + self.overlap - 1, self.hop), dtype=np.float32)
        for i in range(self.overlap):
            part = frames[:, i * self.hop : (i + 1) * self.hop]
            total[i : i + self.frames, : part.shape[1]] += part
        return total.reshape(-1)[self.before : self.before + self.frames * self.hop]


def pulse_train(log_f0: np.ndarray, step: int, sample_rate: int) -> np.ndarray:
    """Samples (k * step,) of band-limited pulses; the same as `ms_core.codec.source_filter.pulse_train`."""
    log_f0 = np.clip(log_f0.astype(np.float64), math.log(F0_FLOOR), math.log(F0_CEILING))
    middles = (np.arange(len(log_f0) * step) + 0.5) / step - 0.5
    f0 = np.exp(np.interp(middles, np.arange(len(log_f0)), log_f0))
    turn = ((f0 / sample_rate).cumsum() % 1.0).astype(np.float32)
    count = (sample_rate / 2 / f0 - 1).astype(np.float32)
    harmonics = np.floor(count)
    half = np.sin(np.float32(math.pi) * turn)
    total = np.sin((2 * harmonics + 1) * np.float32(math.pi) * turn) / np.maximum(half, np.float32(1e-6))
    total = np.where(half > 1e-4, total, 2 * harmonics + 1)
    total = (total - 1) / 2 + (count - harmonics) * np.cos(np.float32(2 * math.pi) * (harmonics + 1) * turn)
    return total * np.sqrt(2 / count)


def render(
    log_f0: np.ndarray, pulse: np.ndarray, phase: np.ndarray, noise: np.ndarray, n_fft: int, step: int, rate: int
) -> np.ndarray:
    """Samples (k * step,) of F0 (k,) and filters (k, f); `SourceFilterDecoder.render` with seed 0."""
    spectrum = Spectrum(n_fft, step, len(log_f0))
    voiced = spectrum.analyse(pulse_train(log_f0, step, rate))  # (k, f)
    gain = np.exp(np.minimum(pulse, np.float32(LOUDEST)))
    turned = np.empty_like(voiced)
    turned.real, turned.imag = gain * np.cos(phase), gain * np.sin(phase)
    voiced *= turned
    hiss = (Noise(0).uniform((len(log_f0) * step,)) - np.float32(0.5)) * np.float32(math.sqrt(12))
    voiced += spectrum.analyse(hiss) * np.exp(np.minimum(noise, np.float32(LOUDEST)))
    return spectrum.synthesise(voiced)


class MobileCodec:
    """Tokens <-> latents and waveforms; the network between latents and filters is an ONNX graph.

    Args:
        tensors: `mel_basis` (m, f), `mean` (features,), `components` (c, features), `books` (n, bins, c).
    """

    def __init__(self, constants: CodecConstants, tensors: dict[str, np.ndarray]):
        self.constants = constants
        self.mel_basis, self.mean = tensors["mel_basis"], tensors["mean"]
        self.components, self.books = tensors["components"], tensors["books"]

    def dequantise(self, codes: np.ndarray) -> np.ndarray:
        """The sum (c, t) of the code vectors of codes (n, t)."""
        latent = self.books[0, codes[0]]
        for book, code in zip(self.books[1:], codes[1:], strict=False):
            latent = latent + book[code]
        return np.ascontiguousarray(latent.T)

    def waveform(self, log_f0: np.ndarray, pulse: np.ndarray, phase: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Samples in [-1, 1] of F0 (k,) and filters (k, f)."""
        c = self.constants
        return render(log_f0, pulse, phase, noise, c.n_fft, c.hop // c.substeps, c.sample_rate).clip(-1, 1)

    def encode(self, wav: np.ndarray) -> np.ndarray:
        """Codes (n, t) of samples (l,) at `sample_rate`, t = ceil(l / hop)."""
        c = self.constants
        wav = np.pad(np.asarray(wav, dtype=np.float32), (0, -len(wav) % c.hop))
        step = c.hop // c.substeps
        magnitude = np.abs(Spectrum(c.n_fft, step, len(wav) // step).analyse(wav))  # (k, f)
        mel = np.log(magnitude @ self.mel_basis.T + np.float32(c.mel_floor))  # (k, m)
        features = mel.reshape(-1, mel.shape[1] * c.substeps)  # (t, substeps * m)
        residual = (features - self.mean) @ self.components.T  # (t, c)
        codes = []
        for book in self.books:
            codes.append((residual @ book.T - (book**2).sum(1) / 2).argmax(1))
            residual = residual - book[codes[-1]]
        return np.stack(codes)
