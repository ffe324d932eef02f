"""Training of the mini codec's decoder: losses, discriminators, crops of speech."""

import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from lhotse import CutSet
from torch import Tensor, nn

from ms_core.codec.mini import MiniCodec
from ms_core.codec.source_filter import F0_CEILING, F0_FLOOR, SourceFilterDecoder
from ms_core.config import Preset
from ms_core.data.augment import world

LOG_FLOOR = 1e-3  # added to a linear magnitude before the logarithm in the decoder's losses. Our choice
RESOLUTIONS = ((128, 32), (256, 64), (512, 128), (1024, 256), (2048, 512))  # (window, hop) in samples, of these losses
CACHED_UTTERANCES = 6000  # kept in memory while the decoder is trained; 0.4 MB each


def log_spectra(wav: Float[Tensor, "b l"]) -> list[Float[Tensor, "b f k"]]:
    """Log magnitudes at each of `RESOLUTIONS`, scaled so that noise of one level looks alike in all of them."""
    spectra = []
    for n_fft, hop in RESOLUTIONS:
        window = torch.hann_window(n_fft, device=wav.device)
        power = torch.stft(wav, n_fft, hop, window=window, return_complex=True, pad_mode="constant").abs()
        spectra.append(torch.log(power / math.sqrt(n_fft / 640) + LOG_FLOOR))
    return spectra


class SpectrogramDiscriminator(nn.Module):
    """Tells real from decoded log-magnitude spectrograms, patch by patch. Our choice."""

    def __init__(self, channels: int = 16):
        super().__init__()
        widths = [1, channels, 2 * channels, 4 * channels, 4 * channels]
        strides = [(2, 2), (2, 2), (2, 2), (2, 1)]
        self.layers = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(nn.Conv2d(a, b, (5, 3), stride, (2, 1)))
            for a, b, stride in zip(widths, widths[1:], strides, strict=False)
        )
        self.out = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, x: Float[Tensor, "b f k"]) -> tuple[Tensor, list[Tensor]]:
        """Scores of the patches and the features of each layer."""
        x = (x[:, None] + 3) / 2.5  # near zero mean and unit variance
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            features.append(x)
        return self.out(x), features


class Discriminators(nn.Module):
    """One `SpectrogramDiscriminator` for each of the judged `RESOLUTIONS`."""

    JUDGED = (1, 2, 3)  # 16, 32 and 64 ms

    def __init__(self):
        super().__init__()
        self.each = nn.ModuleList(SpectrogramDiscriminator() for _ in self.JUDGED)

    def forward(self, spectra: list[Float[Tensor, "b f k"]]) -> tuple[list[Tensor], list[Tensor]]:
        """Scores by resolution, and the features of all layers of all of them."""
        scores, features = [], []
        for index, discriminator in zip(self.JUDGED, self.each, strict=True):
            score, inner = discriminator(spectra[index])
            scores.append(score)
            features += inner
        return scores, features


class DecoderTask:
    """The codec's decoder on frozen tokens: regression first, then against discriminators as well.

    Losses: mean absolute error of log magnitudes at several resolutions, of log F0 where speech is voiced (against
    WORLD's Dio and StoneMask), least-squares adversarial loss and feature matching. Half of the examples are rendered
    with the true F0, and a quarter from the lowest layers alone. All are our choice.
    """

    PITCH, ADVERSARIAL, MATCHING = 1.0, 0.1, 2.0  # weights
    TRUE_F0, FEWER_LAYERS = 0.5, 0.25  # shares of the examples

    def __init__(self, preset: Preset, codec: MiniCodec, train: CutSet, dev: CutSet):
        self.preset, self.config, self.codec = preset, preset.train_codec, codec
        torch.manual_seed(self.config.seed)
        self.networks = {"decoder": codec.decoder, "discriminator": Discriminators()}
        crop = self.config.crop_seconds
        self.train_cuts = [c for c in train if c.duration >= crop]
        self.dev = [c for c in dev if c.duration >= crop][:40]
        if not self.train_cuts or not self.dev:
            raise ValueError(f"no utterance of train or dev is as long as codec crops of {crop} s")
        self.hours = sum(c.duration for c in self.train_cuts) / 3600
        self.join = round(self.config.adversarial_from * self.config.steps)
        self.step = codec.config.hop // codec.config.substeps
        self._cuts = {cut.id: cut for cut in [*self.train_cuts, *self.dev]}
        self._speech = lru_cache(maxsize=CACHED_UTTERANCES)(self._read)

    def inputs(self, batch, step: int, rank: int):
        return batch

    def describe(self) -> dict[str, Any]:
        preset = self.preset.model_dump(mode="json", include={"name", "data", "codec", "train_codec"})
        return {**preset, "token_digest": self.codec.token_digest, "speech_hours": round(self.hours, 3)}

    def _read(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(samples as int16, F0 in Hz of each filter frame's middle, 0 where unvoiced)."""
        pyworld = world()
        rate = self.codec.config.sample_rate
        wave = self._cuts[name].resample(rate).load_audio()[0].astype(np.float64)
        half = 500 * self.step / rate  # ms; frames at odd multiples of it are the middles
        f0, times = pyworld.dio(wave, rate, f0_floor=F0_FLOOR, f0_ceil=F0_CEILING, frame_period=half)
        f0 = pyworld.stonemask(wave, f0, times, rate)[1::2]
        return (wave * 32767).clip(-32768, 32767).astype(np.int16), f0.astype(np.float32)

    def _crop(self, cut, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """A random part: (waveform (l,), F0 (k,))."""
        wave, f0 = self._speech(cut.id)
        frames = round(self.config.crop_seconds * self.codec.config.sample_rate / self.codec.config.hop)
        frames *= self.codec.config.substeps
        first = int(rng.integers(max(1, len(wave) // self.step - frames + 1)))
        wave = wave[first * self.step : (first + frames) * self.step]
        f0 = f0[first : first + frames]
        wave = np.pad(wave, (0, frames * self.step - len(wave))).astype(np.float32) / 32767
        return torch.from_numpy(wave), torch.from_numpy(np.pad(f0, (0, frames - len(f0))))

    def batches(self, first: int, rank: int, world_size: int) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
        count = max(1, round(self.config.batch_seconds / self.config.crop_seconds))
        index = first
        while True:
            rng = np.random.default_rng((self.config.seed, rank, index))
            chosen = rng.integers(len(self.train_cuts), size=count)
            waves, f0 = zip(*(self._crop(self.train_cuts[i], rng) for i in chosen), strict=True)
            yield int(index * count * world_size / len(self.train_cuts)), (torch.stack(waves), torch.stack(f0))
            index += 1

    def phases(self, step: int) -> list[str]:
        return ["decoder"] if step < self.join else ["discriminator", "decoder"]

    @torch.no_grad()
    def _latent(self, wave: Float[Tensor, "b l"], layers: Int[Tensor, " b"] | None = None) -> Float[Tensor, "b c t"]:
        """Quantised latents, of all layers or of the lowest few of each example."""
        with torch.autocast(wave.device.type, enabled=False):
            codes = self.codec.quantise(self.codec.latents(wave[:, None]))  # (b, n, t)
            if layers is None:
                return self.codec.dequantise(codes)
            kept = torch.arange(codes.shape[1], device=wave.device) < layers[:, None]  # (b, n)
            vectors = torch.stack([book[c] for book, c in zip(self.codec.books, codes.unbind(1), strict=True)], 1)
            return (vectors * kept[:, :, None, None]).sum(1).transpose(1, 2)

    def loss(self, networks: dict[str, nn.Module], name: str, batch: tuple[Tensor, Tensor], step: int, rank: int):
        decoder, discriminator = networks["decoder"], networks["discriminator"]
        device = next(decoder.parameters()).device
        wave, f0 = (x.to(device) for x in batch)
        n_q = self.codec.config.n_q
        draw = torch.rand(3, len(wave), device=device)
        layers = torch.where(draw[0] < self.FEWER_LAYERS, 1 + (draw[1] * n_q).long().clamp_max(n_q - 1), n_q)
        known_f0 = f0 * (draw[2] < self.TRUE_F0)[:, None]
        latent = self._latent(wave, layers)
        if name == "discriminator":
            with torch.no_grad():
                decoded = decoder(latent, known_f0, None)[0]
            real, fake = discriminator(_spectra(wave))[0], discriminator(_spectra(decoded))[0]
            loss = sum((r - 1).square().mean() + f.square().mean() for r, f in zip(real, fake, strict=True)).float()
            return loss, {"discriminator": loss.item() / len(real)}
        decoded, log_f0 = decoder(latent, known_f0, None)
        fake_spectra, true = _spectra(decoded), _spectra(wave)
        error = sum((a - b).abs().mean() for a, b in zip(fake_spectra, true, strict=True)) / len(true)
        pitch = pitch_error(log_f0, f0)
        loss = error + self.PITCH * pitch
        logs = {"log_magnitude": error.item(), "pitch": pitch.item()}
        if step >= self.join:
            scores, fake = discriminator(fake_spectra)
            with torch.no_grad():
                real = discriminator(true)[1]
            adversarial = sum((s - 1).square().mean() for s in scores)
            matching = sum((a - b).abs().mean() / b.abs().mean() for a, b in zip(fake, real, strict=True)) / len(real)
            loss = loss + self.ADVERSARIAL * adversarial + self.MATCHING * matching
            logs |= {"adversarial": adversarial.item() / len(scores), "matching": matching.item()}
        return loss, {"loss": loss.item(), **logs}

    @torch.inference_mode()
    def evaluate(self, network: SourceFilterDecoder) -> dict[str, float]:
        device = next(network.parameters()).device
        parts = (self._crop(cut, np.random.default_rng(0)) for cut in self.dev)
        wave, f0 = (torch.stack(x).to(device) for x in zip(*parts, strict=True))
        decoded, log_f0 = network(self._latent(wave))
        pairs = zip(_spectra(decoded), _spectra(wave), strict=True)
        error = sum((a - b).abs().mean().item() for a, b in pairs) / len(RESOLUTIONS)
        pitch = pitch_error(log_f0, f0).item()
        return {"loss": error + self.PITCH * pitch, "log_magnitude": error, "pitch": pitch}

    def export(self, network: SourceFilterDecoder, folder: Path, provenance: dict[str, Any]) -> None:
        codec = MiniCodec(self.codec.config)
        decoder = {f"decoder.{k}": v for k, v in network.state_dict().items()}
        codec.load_state_dict({**self.codec.state_dict(), **decoder})
        codec.save(folder, provenance)


def _spectra(wav: Float[Tensor, "b l"]) -> list[Tensor]:
    """`log_spectra` in full precision, whatever the autocast."""
    with torch.autocast(wav.device.type, enabled=False):
        return log_spectra(wav.float())


def pitch_error(log_f0: Float[Tensor, "b k"], f0: Float[Tensor, "b k"]) -> Tensor:
    """Mean absolute error of log F0 over voiced frames, 0 without any."""
    voiced = f0 > 0
    return ((log_f0.float() - f0.clamp_min(1.0).log()).abs() * voiced).sum() / voiced.sum().clamp_min(1)
