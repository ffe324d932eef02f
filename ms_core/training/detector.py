"""Training of the detector, in torch: `detect.network` gets its weights, with the norms folded in."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ms_core.checkpoint import save_checkpoint
from ms_core.detect import degrade
from ms_core.detect.network import LAYERS, RATE, features, score

SECONDS = (1.0, 3.0)  # of a batch's clips


class Network(nn.Module):
    """Log spectra (b, 256, k) -> scores (b,), above 0 rather synthetic."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [1, *(channels for channels, *_ in LAYERS)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, kernel, strides, kernel // 2, bias=False)
            for before, (after, kernel, *strides) in zip(sizes, LAYERS, strict=False)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(size) for size in sizes[1:])
        self.join = nn.Linear(sizes[-1] * 256 // 2 ** len(LAYERS), 64)
        self.out = nn.Linear(128, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None] / 3
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = norm(convolution(x)).relu()
        x = self.join(x.flatten(1, 2).transpose(1, 2)).relu().float()  # (b, k, 64)
        pooled = torch.cat([x.mean(1), (x.var(1, correction=0) + 1e-5).sqrt()], dim=1)
        return self.out(nn.functional.dropout(pooled, 0.2, self.training))[:, 0]

    @torch.no_grad()
    def folded(self) -> dict[str, Tensor]:
        """The tensors of `network.score`, in fp16: each norm is part of the convolution before it."""
        tensors = {"join.weight": self.join.weight, "join.bias": self.join.bias}
        tensors |= {"out.weight": self.out.weight[0], "out.bias": self.out.bias}
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            tensors[f"{number}.weight"] = convolution.weight * scale[:, None, None, None]
            tensors[f"{number}.bias"] = norm.bias - norm.running_mean * scale
        return {name: tensor.half().contiguous() for name, tensor in tensors.items()}


def transmitted(wav: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As `MEASURED`, at random strength, what is slow: a coder, the telephone, a lower rate, another speed."""
    if rng.random() < 0.3:
        wav = degrade.speed(wav, rng.uniform(0.95, 1.05))
    kind = rng.choice([*degrade.CODERS, "telephone", "rate", "none"], p=[0.22, 0.22, 0.22, 0.12, 0.12, 0.1])
    if kind in degrade.CODERS:
        return degrade.coded(wav, kind, int(rng.integers(16, 65)))
    if kind == "rate":
        return degrade.at_rate(wav, int(rng.integers(8_000, 15_000)))
    return degrade.telephone(wav) if kind == "telephone" else wav


def received(wav: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As `MEASURED`, at random strength, what is quick: room, noise, level and an equaliser."""
    if rng.random() < 0.25:
        wav = degrade.room(wav, rng.uniform(0.15, 0.8), rng)
    if rng.random() < 0.4:
        wav = degrade.noisy(wav, rng.uniform(5, 35), rng, rng.uniform(0, 1.5))
    if rng.random() < 0.5:
        spectrum = np.fft.rfft(wav)
        curve = np.interp(np.linspace(0, 1, len(spectrum)), np.linspace(0, 1, 6), rng.uniform(-8, 8, 6))
        wav = np.fft.irfft(spectrum * 10 ** (curve / 20), len(wav)).astype(np.float32)
    return wav * np.float32(10 ** rng.uniform(-1, 0))


def train(
    recordings: Sequence[np.ndarray],
    synthetic: Sequence[np.ndarray],
    minutes: float,
    seed: int = 0,
    batch: int = 32,
    rate: float = 3e-3,
    report: Callable[[int, float, Network], object] = lambda step, loss, network: None,
) -> Network:
    """A network that tells `synthetic` from `recordings`, int16 clips (l,) at 16 kHz, by the clock.

    Clips of both come with equal histories (codec, level, length), or these are what it learns; room, noise, level and
    equaliser are drawn here (`received`), of ever more clips until half of the time is over.
    """
    torch.manual_seed(seed)
    rng, network, start, step = np.random.default_rng(seed), Network(), time.monotonic(), 0
    network = network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.01)
    targets = torch.arange(batch) % 2  # recording, synthetic, recording ...
    while (done := (time.monotonic() - start) / 60 / minutes) < 1:
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 50) * max(0.02, np.cos(np.pi / 2 * done) ** 2)
        size = int(rng.uniform(*SECONDS) * RATE)
        waves = [_part((recordings, synthetic)[target], size, rng) for target in targets]
        waves = np.stack([received(wav, rng) if rng.random() < 0.2 + 1.6 * done else wav for wav in waves])
        with torch.autocast("cpu", torch.bfloat16):
            scores = network(torch.from_numpy(features(waves)))
        loss = nn.functional.binary_cross_entropy_with_logits(scores.float(), targets * 0.98 + 0.01)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        step += 1
        report(step, loss.item(), network)
    return network.eval()


def _part(clips: Sequence[np.ndarray], size: int, rng: np.random.Generator) -> np.ndarray:
    """A part of a clip that is long enough, float32 (size,)."""
    while len(clip := clips[rng.integers(len(clips))]) < size:
        pass
    start = rng.integers(len(clip) - size + 1)
    return clip[start : start + size] / np.float32(32768)


def save(
    network: Network,
    folder: Path,
    recordings: Sequence[np.ndarray],
    synthetic: Sequence[np.ndarray],
    provenance: dict[str, object],
    false_alarms: float = 0.01,
) -> None:
    """Write what `detect.network.load` reads: weights, and what held-back clips (l,) say of their scores.

    The threshold is one that a share `false_alarms` of the recordings passes. The calibration is a logistic regression
    of both classes, equally weighted: probability = sigmoid(slope * score + offset).
    """
    weights = network.folded()
    arrays = {name: tensor.float().numpy() for name, tensor in weights.items()}
    found = [np.array([score(clip, arrays) for clip in side]) for side in (recordings, synthetic)]
    values = torch.from_numpy(np.concatenate(found)).float()
    labels = torch.cat([torch.full((len(side),), float(label)) for label, side in enumerate(found)])
    balance = torch.cat([torch.full((len(side),), 1 / len(side)) for side in found])
    line = torch.tensor([1.0, 0.0], requires_grad=True)
    optimiser = torch.optim.LBFGS([line], max_iter=100)

    def closure() -> Tensor:
        optimiser.zero_grad()
        logits = line[0] * values + line[1]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels, balance, reduction="sum")
        loss.backward()
        return loss

    optimiser.step(closure)
    known = {
        "calibration": line.tolist(),
        "threshold": float(np.quantile(found[0], 1 - false_alarms)),
        "false_alarms": false_alarms,
        "provenance": provenance,
    }
    save_checkpoint(folder, weights, {"format": "ms-detector-1", **known})
