"""Short-time Fourier analysis and synthesis with exactly L / hop frames.

`same` padding: a window of n_fft samples is centred on each hop, so a signal of K hops has K frames and comes back with
K * hop samples. `torch.stft` with `center=True` gives K + 1 frames, which would not line up with codec frames.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor


def stft(wav: Float[Tensor, "b l"], n_fft: int, hop: int) -> Complex[Tensor, "b f k"]:
    """Hann-windowed spectrum of a signal, its length a multiple of `hop`: f = n_fft/2 + 1 bins, k = l/hop frames."""
    pad = (n_fft - hop) // 2
    frames = F.pad(wav, (pad, n_fft - hop - pad)).unfold(-1, n_fft, hop)  # (b, k, n_fft)
    return torch.fft.rfft(frames * torch.hann_window(n_fft, device=wav.device)).transpose(1, 2)


def istft(spectrum: Complex[Tensor, "b f k"], n_fft: int, hop: int) -> Float[Tensor, "b l"]:
    """Least-squares inverse of `stft`: l = k * hop samples."""
    window = torch.hann_window(n_fft, device=spectrum.device)
    frames = torch.fft.irfft(spectrum.transpose(1, 2), n=n_fft) * window  # (b, k, n_fft)
    k = frames.shape[1]
    length = (k - 1) * hop + n_fft
    total = F.fold(frames.transpose(1, 2), (1, length), (1, n_fft), stride=(1, hop))[:, 0, 0]
    weight = window.square()[None, :, None].expand(1, n_fft, k)
    envelope = F.fold(weight, (1, length), (1, n_fft), stride=(1, hop))[:, 0, 0]
    pad = (n_fft - hop) // 2
    return (total / envelope.clamp_min(1e-8))[:, pad : pad + k * hop]
