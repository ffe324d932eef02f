"""MiniCodec's decoder: latents to a waveform by a source and two filters. Our choice throughout.

The codec's tokens hold no phase, so a decoder has to make one up. A periodic source does that for voiced speech: a
pulse train at the fundamental frequency F0, which the decoder reads out of the latents; noise does it for the rest. A
ConvNeXt network (after Vocos, Siuzdak 2023) predicts a filter for each, in the short-time Fourier domain (after the
neural homomorphic vocoder, Liu et al. 2020): magnitude and phase for the pulses, magnitude for the noise. One inverse
transform makes the waveform. There is no iteration: this replaces Griffin-Lim, which took 32.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ms_core.codec.spectral import istft, stft
from ms_core.config import CodecConfig

F0_FLOOR, F0_CEILING = 50.0, 600.0  # Hz, of what the decoder may predict
F0_TYPICAL = 150.0  # Hz, where the prediction starts
LOUDEST = 6.0  # largest log magnitude of a filter: an untrained or misled network must not overflow


class ConvNeXtBlock(nn.Module):
    """A ConvNeXt block over time (Vocos, Siuzdak 2023): depthwise convolution, norm, two pointwise layers."""

    def __init__(self, dim: int, layers: int):
        super().__init__()
        self.depthwise = nn.Conv1d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, 3 * dim)
        self.contract = nn.Linear(3 * dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), 1 / layers))

    def forward(self, x: Float[Tensor, "b d t"]) -> Float[Tensor, "b d t"]:
        y = self.norm(self.depthwise(x).transpose(1, 2))  # (b, t, d)
        y = self.contract(F.gelu(self.expand(y), approximate="tanh"))
        return x + (self.scale * y).transpose(1, 2)


class SourceFilterDecoder(nn.Module):
    """Latents at codec rate to F0 and filters at `substeps` times that rate, and from these a waveform."""

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config = config
        self.step = config.hop // config.substeps  # samples between two frames of the filters
        dim, bins = config.decoder_dim, config.n_fft // 2 + 1
        self.enter = nn.Conv1d(config.latent_dim, dim, 7, padding=3)
        self.enter_norm = nn.LayerNorm(dim)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(dim, config.decoder_layers) for _ in range(config.decoder_layers)))
        self.leave_norm = nn.LayerNorm(dim)
        self.pulse = nn.Linear(dim, config.substeps * bins)
        self.phase = nn.Linear(dim, config.substeps * bins)
        self.noise = nn.Linear(dim, config.substeps * bins)
        self.pitch = nn.Linear(dim, config.substeps)
        for layer, bias in ((self.pulse, -4.0), (self.phase, 0.0), (self.noise, -5.0), (self.pitch, 0.0)):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.constant_(layer.bias, bias)  # magnitudes near the mean of speech at its usual level

    def controls(self, latent: Float[Tensor, "b c t"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log F0 (b, k), and the filters (b, f, k): log magnitude and phase for pulses, log magnitude for noise."""
        x = self.enter_norm(self.enter(latent).transpose(1, 2)).transpose(1, 2)
        x = self.leave_norm(self.blocks(x).transpose(1, 2))  # (b, t, d)
        pulse, phase, noise = (
            rearrange(layer(x), "b t (s f) -> b f (t s)", s=self.config.substeps)
            for layer in (self.pulse, self.phase, self.noise)
        )
        return math.log(F0_TYPICAL) + rearrange(self.pitch(x), "b t s -> b (t s)"), pulse, phase, noise

    def render(
        self,
        log_f0: Float[Tensor, "b k"],
        pulse: Float[Tensor, "b f k"],
        phase: Float[Tensor, "b f k"],
        noise: Float[Tensor, "b f k"],
        seed: int | None = 0,
    ) -> Float[Tensor, "b l"]:
        """The waveform, l = k * step samples. `seed` fixes the noise; None draws it from torch's global generator."""
        source = pulse_train(log_f0.detach(), self.step, self.config.sample_rate)
        if seed is None:
            hiss = torch.rand_like(source)
        else:
            generator = torch.Generator().manual_seed(seed)
            hiss = torch.rand(source.shape[1], generator=generator).to(source.device).expand_as(source)
        hiss = (hiss - 0.5) * math.sqrt(12)  # white, of unit power
        voiced = stft(source, self.config.n_fft, self.step) * torch.polar(
            pulse.float().clamp_max(LOUDEST).exp(), phase.float()
        )
        breath = stft(hiss, self.config.n_fft, self.step) * noise.float().clamp_max(LOUDEST).exp()
        return istft(voiced + breath, self.config.n_fft, self.step)

    def forward(
        self, latent: Float[Tensor, "b c t"], f0: Float[Tensor, "b k"] | None = None, seed: int | None = 0
    ) -> tuple[Float[Tensor, "b l"], Float[Tensor, "b k"]]:
        """The waveform and the predicted log F0. `f0` (Hz) stands in for the prediction wherever it is above 0."""
        log_f0, pulse, phase, noise = self.controls(latent)
        used = log_f0 if f0 is None else torch.where(f0 > 0, f0.clamp_min(1.0).log(), log_f0)
        return self.render(used, pulse, phase, noise, seed), log_f0


@torch.no_grad()
def pulse_train(log_f0: Float[Tensor, "b k"], step: int, sample_rate: int) -> Float[Tensor, "b l"]:
    """Band-limited pulses of unit power at F0: the sum of all harmonics below the Nyquist frequency, in closed form.

    The highest one fades in as F0 falls, so that the pulses follow F0 without a jump.
    """
    log_f0 = log_f0.double().clamp(math.log(F0_FLOOR), math.log(F0_CEILING))  # thousands of turns add up
    length = log_f0.shape[1] * step
    f0 = F.interpolate(log_f0[:, None], length, mode="linear", align_corners=False)[:, 0].exp()  # (b, l)
    turn = ((f0 / sample_rate).cumsum(1) % 1.0).float()  # position within a period, [0, 1)
    count = (sample_rate / 2 / f0 - 1).float()
    harmonics = count.floor()
    half = (math.pi * turn).sin()
    total = ((2 * harmonics + 1) * math.pi * turn).sin() / half.clamp_min(1e-6)  # Dirichlet's kernel
    total = torch.where(half > 1e-4, total, 2 * harmonics + 1)
    total = (total - 1) / 2 + (count - harmonics) * (2 * math.pi * (harmonics + 1) * turn).cos()
    return total * (2 / count).sqrt()
