"""The two things that `train` trains: the codec's spectrum decoder, and MobileSpeech itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from lhotse import CutSet
from torch import Tensor, nn

from ms_core.codec import Codec, MiniCodec, SpectrumDecoder
from ms_core.config import Preset
from ms_core.data import Sampler, collate
from ms_core.model import Batch, MobileSpeechModel
from ms_core.train import step_seed

LOG_FLOOR = 1e-3  # added to a linear magnitude before the logarithm in the decoder's losses. Our choice
DEV_SECONDS = 240.0  # dev speech on which a training evaluates itself


class ModelTask:
    """MobileSpeech on prepared cuts."""

    def __init__(self, preset: Preset, codec: Codec, train: CutSet, dev: CutSet):
        self.preset, self.config, self.codec = preset, preset.train_model, codec
        torch.manual_seed(self.config.seed)  # initial weights
        self.networks = {"model": MobileSpeechModel(preset.model, codec.config, codec.codebooks())}
        self.train_cuts, self.dev = train, dev
        self.hours = sum(c.duration for c in train) / 3600
        self._dev_batches: list[Batch] | None = None

    def describe(self) -> dict[str, Any]:
        preset = self.preset.model_dump(mode="json", include={"name", "data", "codec", "model", "mask", "train_model"})
        return {**preset, "token_digest": self.codec.token_digest, "speech_hours": round(self.hours, 3)}

    def batches(self, first: int, rank: int, world_size: int) -> Iterator[tuple[int, Batch]]:
        return Sampler(self.train_cuts, self.config, self.codec.config.frame_rate, rank, world_size).batches(first)

    def phases(self, step: int) -> list[str]:
        return ["model"]

    def loss(self, networks: dict[str, nn.Module], name: str, batch: Batch, step: int, rank: int):
        model = networks[name]
        generator = torch.Generator().manual_seed(step_seed(self.config.seed, step, rank))
        device = next(model.parameters()).device
        out = model(batch.to(device), self.preset.mask, generator, self.config.latent_weight)
        loss = out["ce"] + self.config.duration_weight * out["duration"] + self.config.latent_weight * out["latent"]
        logs = {k: out[k].item() for k in ("ce", "duration", "latent")}
        return loss, {"loss": loss.item(), **logs, **by_layer(out)}

    @torch.inference_mode()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Loss and accuracy of every layer under the training masks, on fixed prompts, windows and masks."""
        if self._dev_batches is None:
            sampler = Sampler(self.dev, self.config, self.codec.config.frame_rate)
            rng, seconds, examples = np.random.default_rng(0), 0.0, []
            for cut in sampler.cuts:
                examples.append(sampler.example(cut, rng))
                seconds += cut.duration
                if seconds > DEV_SECONDS:
                    break
            self._dev_batches = [collate(examples[i : i + 8]) for i in range(0, len(examples), 8)]
        sums: dict[str, tuple[float, float]] = {}
        device = next(network.parameters()).device
        for layer in range(self.codec.config.n_q):
            for index, batch in enumerate(self._dev_batches):
                generator = torch.Generator().manual_seed(index)
                with torch.autocast(device.type, torch.bfloat16, enabled=self.config.bf16):
                    out = network(batch.to(device), self.preset.mask, generator, layer=layer)
                values = {**by_layer(out), "duration": (out["duration"].item(), 1.0)}
                for key, (total, weight) in values.items():
                    old = sums.get(key, (0.0, 0.0))
                    sums[key] = (old[0] + total, old[1] + weight)
        means = {k: total / weight for k, (total, weight) in sums.items()}
        law = self.preset.mask.rank_probabilities(self.codec.config.n_q)
        ce = sum(p * means[f"ce_{j}"] for j, p in enumerate(law, 1))
        return {"loss": ce + self.config.duration_weight * means["duration"], "ce": ce, **means}

    def export(self, network: nn.Module, folder: Path, provenance: dict[str, Any]) -> None:
        network.decoding = self.preset.decoding
        network.save(folder, self.codec, provenance)


def by_layer(out: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    """(sum, frames) of cross-entropy and correct tokens for each layer that a batch trained."""
    values = {}
    for layer in out["layer"].unique().tolist():
        chosen = out["layer"] == layer
        frames = out["masked"][chosen].sum().item()
        values[f"ce_{layer + 1}"] = (out["ce_sum"][chosen].sum().item(), frames)
        values[f"acc_{layer + 1}"] = (out["correct"][chosen].sum().item(), frames)
    return values


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


class DecoderTask:
    """The codec's spectrum decoder on frozen tokens: regression first, then against a discriminator as well.

    Losses: mean absolute error of log magnitudes, of log-mel magnitudes, least-squares adversarial loss and feature
    matching. All are our choice.
    """

    ADVERSARIAL, MATCHING = 0.1, 2.0  # weights

    def __init__(self, preset: Preset, codec: MiniCodec, train: CutSet, dev: CutSet):
        self.preset, self.config, self.codec = preset, preset.train_codec, codec
        torch.manual_seed(self.config.seed)
        self.networks = {"decoder": codec.decoder, "discriminator": SpectrogramDiscriminator()}
        crop = self.config.crop_seconds
        self.train_cuts = [c for c in train if c.duration >= crop]
        self.dev = [c for c in dev if c.duration >= crop][:40]
        if not self.train_cuts or not self.dev:
            raise ValueError(f"no utterance of train or dev is as long as codec crops of {crop} s")
        self.hours = sum(c.duration for c in self.train_cuts) / 3600
        self.join = round(self.config.adversarial_from * self.config.steps)

    def describe(self) -> dict[str, Any]:
        preset = self.preset.model_dump(mode="json", include={"name", "data", "codec", "train_codec"})
        return {**preset, "token_digest": self.codec.token_digest, "speech_hours": round(self.hours, 3)}

    def _crop(self, cut, rng: np.random.Generator) -> Tensor:
        samples = round(self.config.crop_seconds * self.codec.config.sample_rate)
        offset = rng.random() * (cut.duration - self.config.crop_seconds)
        part = cut.resample(self.codec.config.sample_rate).truncate(offset=offset, duration=self.config.crop_seconds)
        wave = torch.from_numpy(part.load_audio())[:, :samples]
        return F.pad(wave, (0, samples - wave.shape[-1]))

    def batches(self, first: int, rank: int, world_size: int) -> Iterator[tuple[int, Tensor]]:
        count = max(1, round(self.config.batch_seconds / self.config.crop_seconds))
        index = first
        while True:
            rng = np.random.default_rng((self.config.seed, rank, index))
            chosen = rng.integers(len(self.train_cuts), size=count)
            wave = torch.stack([self._crop(self.train_cuts[i], rng) for i in chosen])  # (b, 1, l)
            yield int(index * count * world_size / len(self.train_cuts)), wave
            index += 1

    def phases(self, step: int) -> list[str]:
        return ["decoder"] if step < self.join else ["discriminator", "decoder"]

    def _pair(self, decoder: nn.Module, wave: Tensor) -> tuple[Tensor, Tensor]:
        """(decoded, true) log magnitudes."""
        with torch.no_grad(), torch.autocast(wave.device.type, enabled=False):
            magnitudes = self.codec.magnitudes(wave)
            latent = self.codec.components @ (self.codec.features(magnitudes) - self.codec.mean[:, None])
            latent = self.codec.dequantise(self.codec.quantise(latent))
        decoded = decoder(latent).float()
        return torch.log(decoded.clamp_max(6).exp() + LOG_FLOOR), torch.log(magnitudes + LOG_FLOOR)

    def _mel(self, log_magnitude: Tensor) -> Tensor:
        return torch.log(self.codec.mel_basis @ log_magnitude.exp() + LOG_FLOOR)

    def loss(self, networks: dict[str, nn.Module], name: str, batch: Tensor, step: int, rank: int):
        decoder, discriminator = networks["decoder"], networks["discriminator"]
        batch = batch.to(next(decoder.parameters()).device)
        if name == "discriminator":
            with torch.no_grad():
                decoded, true = self._pair(decoder, batch)
            real, fake = discriminator(true)[0], discriminator(decoded)[0]
            loss = ((real - 1).square().mean() + fake.square().mean()).float()
            return loss, {"discriminator": loss.item()}
        decoded, true = self._pair(decoder, batch)
        error, mel = (decoded - true).abs().mean(), (self._mel(decoded) - self._mel(true)).abs().mean()
        loss = error + mel
        logs = {"log_magnitude": error.item(), "log_mel": mel.item()}
        if step >= self.join:
            score, fake = discriminator(decoded)
            with torch.no_grad():
                real = discriminator(true)[1]
            adversarial = (score - 1).square().mean()
            matching = sum((a - b).abs().mean() / b.abs().mean() for a, b in zip(fake, real, strict=True)) / len(real)
            loss = loss + self.ADVERSARIAL * adversarial + self.MATCHING * matching
            logs |= {"adversarial": adversarial.item(), "matching": matching.item()}
        return loss, {"loss": loss.item(), **logs}

    @torch.inference_mode()
    def evaluate(self, network: SpectrumDecoder) -> dict[str, float]:
        wave = torch.stack([self._crop(cut, np.random.default_rng(0)) for cut in self.dev])
        decoded, true = self._pair(network, wave.to(next(network.parameters()).device))
        error, mel = (decoded - true).abs().mean().item(), (self._mel(decoded) - self._mel(true)).abs().mean().item()
        return {"loss": error + mel, "log_magnitude": error, "log_mel": mel}

    def export(self, network: SpectrumDecoder, folder: Path, provenance: dict[str, Any]) -> None:
        codec = MiniCodec(self.codec.config)
        decoder = {f"decoder.{k}": v for k, v in network.state_dict().items()}
        codec.load_state_dict({**self.codec.state_dict(), **decoder})
        codec.save(folder, provenance)
