"""Training of the detector, in torch: `detect.network` gets its weights, with the norms folded in."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ms_core.checkpoint import save_checkpoint
from ms_core.detect.degrade import received
from ms_core.detect.network import LAYERS, RATE, features, score

SECONDS = (1.0, 4.0)  # of a batch's clips


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


def train(
    recordings: Sequence[np.ndarray],
    synthetic: Sequence[np.ndarray],
    minutes: float,
    seed: int = 0,
    batch: int = 32,
    rate: float = 2e-3,
    report: Callable[[int, float, Network], object] = lambda step, loss, network: None,
) -> Network:
    """A network that tells `synthetic` from `recordings`, clips (l,) of at least 1 s at 16 kHz, by the clock.

    Clips of both come with equal histories (codec, level, length), or these are what it learns; room, noise, level and
    equaliser are drawn here (`degrade.received`).
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
        clips = [(recordings, synthetic)[t][rng.integers(len((recordings, synthetic)[t]))] for t in targets]
        waves = np.stack([received(_cut(clip, size, rng), rng) for clip in clips])
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


def _cut(clip: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A part of a clip, float32 (size,); a short clip is repeated."""
    clip = np.resize(clip, max(size, len(clip)))
    start = rng.integers(len(clip) - size + 1)
    return (clip[start : start + size] / np.float32(32768)).astype(np.float32)


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
