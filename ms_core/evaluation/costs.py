"""What training takes: floating-point operations and bytes, counted, from which notebook 3 works out GPU hours.

The count is of torch's own counter over one step of this package's training, so it needs no GPU and no quiet machine.
What the authors' own training cost is unknown.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

from ms_core.codec.mini import MiniCodec
from ms_core.config import CodecConfig, ConfigError, Preset
from ms_core.data.shards import INFO, synthetic_cuts, write_shards
from ms_core.evaluation.bench import PHONES_PER_SECOND, counting_flops
from ms_core.evaluation.records import Provenance, Record
from ms_core.model import MobileSpeechModel
from ms_core.smd import draw_masks
from ms_core.text import BOUNDARY, phone_ids
from ms_core.tokens import Batch

WEIGHED = 200  # synthetic utterances whose shards are weighed


def training_flops(preset: Preset, seconds: float = 10.0) -> dict[str, float]:
    """Operations of one training step for a second of speech: `forward`, `backward`, and the model's `params`.

    One utterance of `seconds` with a prompt as long as the preset's, not padded; attention makes long ones dearer.
    Optimiser, averaging, norms and activations are not in it. Raises ValueError for a length that is not positive.
    """
    if seconds <= 0:
        raise ValueError(f"seconds {seconds}: give a positive length")
    config, prior = preset.train_model, preset.model.codebook_prior
    if prior and preset.codec.kind != "mini":
        raise ConfigError("operations of model.codebook_prior are counted for the mini codec alone")
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        books = torch.randn_like(MiniCodec(preset.codec).codebooks()) if prior else None
        model = MobileSpeechModel(preset.model, preset.codec, books)
        batch = Batch(*_shaped(preset.codec, seconds), *_shaped(preset.codec, config.prompt_seconds))
        real = torch.ones(1, batch.codes.shape[-1], dtype=torch.bool)
        layer, masked = draw_masks(real, preset.codec.n_q, preset.mask, torch.Generator().manual_seed(0))
        with counting_flops() as counter:
            out = model(batch, layer, masked, config.latent_weight)
            loss = out["ce"] + config.duration_weight * out["duration"] + config.latent_weight * out["latent"]
            forward = counter.get_total_flops()
            loss.backward()
            backward = counter.get_total_flops() - forward
    params = sum(parameter.numel() for parameter in model.parameters())
    return {"forward": forward / seconds, "backward": backward / seconds, "params": params}


def _shaped(codec: CodecConfig, seconds: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Phones (1, p), durations (1, p) and codes (1, n, t) of a length; what they say does not matter."""
    frames, phones = max(2, round(codec.frame_rate * seconds)), max(2, round(PHONES_PER_SECOND * seconds))
    edge, other = phone_ids([BOUNDARY, "AA1"])
    ids = torch.tensor([[edge, *[other] * (phones - 2), edge]])
    durations = torch.from_numpy(np.diff(np.linspace(0, frames, phones + 1).astype(int)))[None]
    return ids, durations, torch.zeros(1, codec.n_q, frames, dtype=torch.long)


def shard_bytes(preset: Preset, utterances: int = WEIGHED) -> float:
    """Bytes that a second of synthetic speech takes in shards, with phones, durations and archive headers."""

    class Grid:
        config, token_digest = preset.codec, "synthetic"

    with tempfile.TemporaryDirectory() as folder:
        shards = write_shards(synthetic_cuts(preset, utterances), Path(folder, "train"), Grid())
        size = sum(path.stat().st_size for path in Path(folder, "train").iterdir() if path.name != INFO)
    return size / (3600 * shards.hours)


def cost_records(preset: Preset, seconds: float = 10.0) -> list[Record]:
    """Records of `training_flops` and `shard_bytes`."""
    flops = training_flops(preset, seconds)
    step = f"counted, not timed: one training step on {seconds:g} s of speech and a prompt of "
    step += f"{preset.train_model.prompt_seconds:g} s; products, convolutions and attention"
    weighed = "shards of synthetic utterances, with phones, durations and headers"
    rows = [(f"train_gflop_{k}", flops[k] / 1e9, "GFLOP a second of speech", 1, step) for k in ("forward", "backward")]
    rows.append(("params", flops["params"], "count", 1, "trained parameters"))
    rows.append(("shard_bytes", shard_bytes(preset), "bytes a second of speech", WEIGHED, weighed))
    provenance = Provenance.of(preset.name, seed=0)
    about = {"study": "cost", "system": f"mobilespeech-{preset.name}", "seconds": seconds}
    return [provenance.record(x, **about, metric=m, unit=unit, n=n, protocol=how) for m, x, unit, n, how in rows]
