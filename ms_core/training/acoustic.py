"""What is trained when MobileSpeech itself is: its loss, dev values and export; and the speech of a pack for it."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ms_core.checkpoint import CheckpointError, total_training_hours
from ms_core.codec import Codec
from ms_core.config import ConfigError, Preset
from ms_core.files import sha256
from ms_core.layers import lengths_to_mask
from ms_core.model import MobileSpeechModel
from ms_core.smd import draw_masks
from ms_core.tokens import Batch
from ms_core.training.loop import step_seed, train
from ms_core.training.pack import Pack, Utterances, split_file
from ms_core.training.resident import TokenBatches, dev_batches

DEV_EXAMPLES = 128  # of a pack's dev speech, at most
EXPORT_MINUTES = 2.0  # between exports of a training from packs, which may run on a machine that is soon gone


class AcousticTask:
    """MobileSpeech's training, wherever its batches come from; see `train.Task`.

    start: a checkpoint of the same sizes to begin from. A subclass sets `hours` (of recorded speech), and gives
    `batches` and `dev_batches`.
    """

    hours: float
    network: type[MobileSpeechModel] = MobileSpeechModel

    def __init__(self, preset: Preset, codec: Codec, start: Path | None = None):
        self.preset, self.config, self.codec, self.start = preset, preset.train_model, codec, start
        torch.manual_seed(self.config.seed)  # initial weights
        model = self.network(preset.model, codec.config, codec.codebooks())
        if model.speaker is not None and start is None:
            model.speaker.initialise(codec)
        if start is not None:
            earlier = MobileSpeechModel.load(start, codec)
            sizes = {"dropout": preset.model.dropout}  # may differ
            if earlier.config.model_copy(update=sizes) != preset.model:
                raise CheckpointError(f"{start}: its sizes differ from those of preset {preset.name}: train anew")
            model.load_state_dict(earlier.state_dict())
        self.networks = {"model": model}
        self._dev: list[Batch] | None = None

    def describe(self) -> dict[str, Any]:
        preset = self.preset.model_dump(mode="json", include={"name", "data", "codec", "model", "mask", "train_model"})
        values = {**preset, "token_digest": self.codec.token_digest, "speech_hours": round(self.hours, 3)}
        if self.start is not None:
            values["started_from"] = sha256(self.start / "weights.safetensors")
            earlier_provenance = json.loads((self.start / "config.json").read_text()).get("provenance", {})
            values["hours_before"] = total_training_hours(earlier_provenance)
        return values

    def dev_batches(self) -> list[Batch]:
        raise NotImplementedError

    def phases(self, step: int) -> list[str]:
        return ["model"]

    def inputs(self, batch: Batch, step: int, rank: int) -> tuple[Tensor, ...]:
        """The batch and its masks on the model's device."""
        device = next(self.networks["model"].parameters()).device
        batch = batch.to(device)
        # on a GPU the masks are drawn there, so that nothing waits; on a CPU as ever
        generator = torch.Generator(device).manual_seed(step_seed(self.config.seed, step, rank))
        real = lengths_to_mask(batch.durations.sum(1), batch.codes.shape[-1])
        return (*vars(batch).values(), *draw_masks(real, self.codec.config.n_q, self.preset.mask, generator))

    def loss(self, networks: dict[str, nn.Module], name: str, inputs: tuple[Tensor, ...], step: int, rank: int):
        """See `train.Task`; no step differs from another."""
        *tokens, layer, masked = inputs
        above = self.preset.mask.loss == "all"
        out = networks[name](Batch(*tokens), layer, masked, self.config.latent_weight, above)
        loss = out["ce"] + self.config.duration_weight * out["duration"] + self.config.latent_weight * out["latent"]
        logs = {k: out[k].detach() for k in ("ce", "duration", "latent")}
        return loss, {"loss": loss.detach(), **logs, **self.by_layer(out)}

    def by_layer(self, out: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """(sums (n,), frames (n,)) of cross-entropy and correct tokens for each layer."""
        zeros = torch.zeros(self.codec.config.n_q, device=out["masked"].device)
        frames, ce, correct = (
            zeros.index_add(0, out["layer"], out[k].float()) for k in ("masked", "ce_sum", "correct")
        )
        return {"ce_": (ce, frames), "acc_": (correct, frames)}

    @torch.inference_mode()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Loss and accuracy of every layer under the training masks, on fixed prompts, windows and masks."""
        if self._dev is None:
            self._dev = self.dev_batches()
        n_q = self.codec.config.n_q
        device = next(network.parameters()).device
        sums = torch.zeros(3, n_q)
        duration, count = 0.0, 0
        for index, batch in enumerate(self._dev):
            batch = batch.to(device)
            real = lengths_to_mask(batch.durations.sum(1), batch.codes.shape[-1])
            for layer in range(n_q):
                generator = torch.Generator().manual_seed(index)
                drawn, masked = draw_masks(real, n_q, self.preset.mask, generator)
                with torch.autocast(device.type, torch.bfloat16, enabled=self.config.bf16):
                    out = network(batch, torch.full_like(drawn, layer), masked)
                sums[:, layer] += torch.stack([out[k].sum().float() for k in ("masked", "ce_sum", "correct")]).cpu()
                duration, count = duration + out["duration"].item(), count + 1
        means = {f"ce_{j + 1}": (sums[1, j] / sums[0, j]).item() for j in range(n_q)}
        means |= {f"acc_{j + 1}": (sums[2, j] / sums[0, j]).item() for j in range(n_q)}
        law = self.preset.mask.rank_probabilities(n_q)
        ce = sum(p * means[f"ce_{j}"] for j, p in enumerate(law, 1))
        means["duration"] = duration / count
        return {"loss": ce + self.config.duration_weight * means["duration"], "ce": ce, **means}

    def export(self, network: nn.Module, folder: Path, provenance: dict[str, Any]) -> None:
        network.decoding = self.preset.decoding
        network.save(folder, self.codec, provenance)


def training_device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class PackTask(AcousticTask):
    """MobileSpeech on the speech of a pack, which lies whole on the training device; shapes of batches recur.

    part_bytes: beside each export lie its weights in parts of so many bytes, see `pack.split_file`.
    Raises ConfigError for a preset of another token grid.
    """

    fixed_shapes = True

    def __init__(
        self,
        preset: Preset,
        pack: Pack,
        device: torch.device | str,
        start: Path | None = None,
        part_bytes: int | None = None,
    ):
        for key in ("n_q", "bins", "sample_rate", "hop"):
            packed, expected = getattr(pack.codec.config, key), getattr(preset.codec, key)
            if packed != expected:
                raise ConfigError(f"the pack's codec has {key} {packed}, preset {preset.name} wants {expected}")
        super().__init__(preset, pack.codec, start)
        self.pack, self.device, self.part_bytes = pack, torch.device(device), part_bytes
        self.hours = float(pack.about["speech_hours"])

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "pack": self.pack.about}

    def batches(self, first: int, rank: int, world_size: int) -> Iterator[tuple[int, Batch]]:
        if isinstance(self.pack.train, Utterances):
            return TokenBatches(self.pack.train, self.codec, self.config, self.device, rank).batches(first)
        return self.pack.train.batches(self.codec, self.config, self.device, rank, world_size, first)

    def dev_batches(self) -> list[Batch]:
        return list(dev_batches(self.pack.dev, self.codec, self.config, self.device, DEV_EXAMPLES))

    def export(self, network: nn.Module, folder: Path, provenance: dict[str, Any]) -> None:
        super().export(network, folder, provenance)
        if self.part_bytes is not None:
            split_file(folder / "weights.safetensors", self.part_bytes)


def train_from_packs(
    preset: Preset,
    packs: Sequence[Path],
    folder: Path,
    minutes: float | None = None,
    resume: bool = False,
    start: Path | None = None,
    part_bytes: int | None = None,
) -> Path:
    """Train on the speech of packs, on a GPU where there is one; returns the folder of the export.

    minutes: stop after so many, by which the learning rate has fallen; meanwhile an
    export is written every two, its weights also in parts of `part_bytes` where given.
    Raises PackError for a pack that cannot be used, CheckpointError as `train.train` does.
    """
    task = PackTask(preset, Pack.read_all(packs), training_device(), start, part_bytes)
    return train(task, folder, minutes, resume, EXPORT_MINUTES, by_clock=minutes is not None)
