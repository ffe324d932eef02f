"""What a corpus would cost to train on: floating-point operations counted, GPU hours and storage worked out from them.

The count is of torch's own counter over one step of this package's training, so it needs no GPU and no quiet machine.
GPU hours = hours of speech heard x operations a second of speech / (peak of the GPU x utilisation). What the authors'
own training cost is unknown.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ms_core.codec.mini import MiniCodec
from ms_core.config import CodecConfig, ConfigError, Preset, load_preset
from ms_core.data.shards import INFO, synthetic_cuts, write_shards
from ms_core.evaluation.bench import PHONES_PER_SECOND, counting_flops
from ms_core.evaluation.records import Provenance, Record, RecordError
from ms_core.model import MobileSpeechModel
from ms_core.smd import draw_masks
from ms_core.text import BOUNDARY, phone_ids
from ms_core.tokens import Batch

A100_PEAK = 312e12  # operations a second in bf16, dense: NVIDIA's data sheet
UTILISATION = (0.4, 0.3)  # of that peak: an assumption, usual for Transformers of this size; we have not measured it
PROCESSES = 8  # GPUs of the run that the table assumes
CORPORA = (580, 40_000)  # hours: the paper's English and Chinese training sets
FLAC = 3.05e12 / (51_934 * 3600)  # bytes a second at 16 kHz: LibriLight's large.tar, as its page gives size and hours
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
    provenance = Provenance.of(preset.name, seed=0)
    common = {**provenance.model_dump(), "study": "cost", "system": f"mobilespeech-{preset.name}", "seconds": seconds}
    rows = [(f"train_gflop_{k}", flops[k] / 1e9, "GFLOP a second of speech", 1, step) for k in ("forward", "backward")]
    rows.append(("params", flops["params"], "count", 1, "trained parameters"))
    weighed = "shards of synthetic utterances, with phones, durations and headers"
    rows.append(("shard_bytes", shard_bytes(preset), "bytes a second of speech", WEIGHED, weighed))
    return [
        Record(**common, metric=metric, value=value, unit=unit, n=n, protocol=protocol)
        for metric, value, unit, n, protocol in rows
    ]


def gpu_hours(hours: float, flops: float, utilisation: float, peak: float = A100_PEAK) -> float:
    """Hours of one GPU for hours of speech heard, at operations a second of speech."""
    return hours * flops / (peak * utilisation)


def cost_table(records: Sequence[Record], name: str = "paper", small: str = "mini") -> str:
    """The arithmetic for `CORPORA` in Markdown, from the records of two presets. Raises RecordError without them."""
    counted = {(record.preset, record.metric): record.value for record in records if record.study == "cost"}
    try:
        flops = {
            key: 1e9 * sum(counted[key, f"train_gflop_{part}"] for part in ("forward", "backward"))
            for key in (name, small)
        }
        shard = counted[name, "shard_bytes"]
    except KeyError as error:
        raise RecordError(f"no record of {' '.join(error.args[0])}: count it with `ms-core cost`") from None
    preset = load_preset(name)
    train, codec = preset.train_model, preset.codec
    total = train.steps * train.batch_seconds * PROCESSES / 3600
    ideal = codec.n_q * np.log2(codec.bins) * codec.frame_rate / 8  # bytes a second
    stored = codec.n_q * 2 * codec.frame_rate

    def number(value: float) -> str:
        return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"

    def hours(key: str, speech: float) -> str:
        return " to ".join(number(gpu_hours(speech, flops[key], share)) for share in UTILISATION)

    def size(rate: float, speech: float) -> str:
        gigabytes = rate * speech * 3600 / 1e9
        return f"{gigabytes / 1e3:.2f} TB" if gigabytes >= 1e3 else f"{gigabytes:.1f} GB"

    rows = [
        ("operations of one pass, 10¹⁸", *(number(flops[name] * speech * 3600 / 1e18) for speech in CORPORA)),
        ("one pass, A100 hours", *(hours(name, speech) for speech in CORPORA)),
        (f"the same with `{small}`'s model", *(hours(small, speech) for speech in CORPORA)),
        (f"`{name}` as it stands: {total:,.0f} h heard, passes", *(number(total / speech) for speech in CORPORA)),
        ("the same, A100 hours", *[hours(name, total)] * len(CORPORA)),
        (f"codes, {8 * ideal / 1e3:g} kb/s", *(size(ideal, speech) for speech in CORPORA)),
        (f"codes as int16, {8 * stored / 1e3:g} kb/s", *(size(stored, speech) for speech in CORPORA)),
        (f"shards as written, {8 * shard / 1e3:.1f} kb/s", *(size(shard, speech) for speech in CORPORA)),
        (f"16 kHz FLAC, {8 * FLAC / 1e3:.0f} kb/s", *(size(FLAC, speech) for speech in CORPORA)),
    ]
    lines = [("", *(f"{speech:,} h" for speech in CORPORA)), ("---",) * (1 + len(CORPORA)), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
