"""The ablation study's trainings: every variant from its first step on the same pack, one after another.

All hear the same batches in the same order and take equally many steps, or on a GPU equally many minutes. A variant
that is finished is not trained again, one that was cut off goes on, so that the study can be spread over many sittings.
With each export lies `dev.json`, its cross-entropy on dev speech by utterance. All our choice.
"""

import gc
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ms_core.baselines import network_class
from ms_core.checkpoint import CheckpointError
from ms_core.config import MaskConfig, Preset, override
from ms_core.files import write_json
from ms_core.layers import lengths_to_mask
from ms_core.model import MobileSpeechModel, duration_loss
from ms_core.smd import draw_masks
from ms_core.tokens import Batch
from ms_core.training.acoustic import PackTask, training_device
from ms_core.training.loop import RUN, STATE, train
from ms_core.training.pack import Pack

SCORES = "dev.json"
UNLIMITED = 1_000_000  # steps of a training that ends by the clock


def train_variants(
    variants: Mapping[str, Preset],
    pack: Pack,
    folder: Path,
    minutes: float | None = None,
    networks: Mapping[str, str] | None = None,
    echo: Callable[[str], object] = print,
) -> dict[str, Path]:
    """Train what is missing of `variants` into `<folder>/<name>`; returns the exports of all.

    minutes: of each, instead of its preset's steps; such a variant, cut off, begins anew. networks: what a variant that
    is no MobileSpeech is (`baselines.NETWORKS`). Raises CheckpointError where
    a folder holds a variant of another configuration or of other speech.
    """
    exports = {}
    for name, preset in variants.items():
        home = folder / name
        exports[name] = home / "export"
        if minutes is not None:
            preset = override(preset, {"train_model.steps": UNLIMITED})
        kind, speech, device = (networks or {}).get(name, "masked"), pack.lowest(preset.codec.n_q), training_device()
        task = VariantTask(preset, speech, device) if kind == "masked" else BaselineTask(preset, speech, device, kind)
        if done := (exports[name] / SCORES).is_file():
            if json.loads((home / RUN).read_text()) != json.loads(json.dumps(task.describe())):
                raise CheckpointError(f"{home}: trained by another configuration or pack: choose another folder")
        else:
            if minutes is not None:
                (home / STATE).unlink(missing_ok=True)
            train(task, home, minutes, resume=(home / RUN).is_file(), by_clock=minutes is not None)
        (home / STATE).unlink(missing_ok=True)  # 16 bytes a parameter
        gc.collect()  # CUDA graphs, whose memory the next variant wants
        echo(f"{name}: {'at hand' if done else 'trained'}, {exports[name]}")
    return exports


class VariantTask(PackTask):
    """One variant. Its dev values are means of `dev_scores`, whose rows lie in its export as `SCORES`."""

    rows: list[dict[str, Any]] | None = None

    def evaluate(self, network: MobileSpeechModel) -> dict[str, float]:
        self.rows = dev_scores(network, self)
        frames, whole = (sum(row[key] for row in self.rows) for key in ("frames", "frames_whole"))
        ce = [sum(row["ce"][j] for row in self.rows) / frames for j in range(self.codec.config.n_q)]
        duration = sum(row["duration"] for row in self.rows) / len(self.rows)
        by_layer = {f"ce_{j}": value for j, value in enumerate(ce, 1)}
        first = sum(row["ce_whole"] for row in self.rows) / whole
        return {"loss": sum(ce) / len(ce) + duration, **by_layer, "ce_whole": first, "duration": duration}

    def export(self, network: MobileSpeechModel, folder: Path, provenance: dict[str, Any]) -> None:
        super().export(network, folder, provenance)
        if self.rows is None:  # cut off after the last step
            self.evaluate(network)
        write_json(folder / SCORES, self.rows)


class BaselineTask(VariantTask):
    """One of `ms_core.baselines`, whose loss on dev speech says nothing beside that of another kind: no row is kept."""

    def __init__(self, preset: Preset, pack: Pack, device: torch.device, kind: str):
        self.kind, self.network = kind, network_class(kind)
        super().__init__(preset, pack, device)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "network": self.kind}

    def loss(self, networks: dict[str, nn.Module], name: str, inputs: tuple[Tensor, ...], step: int, rank: int):
        return self._loss(networks[name], Batch(*inputs[:-2]))  # without the masks

    def _loss(self, network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        out = network(batch)
        loss = out["frames"] + self.config.duration_weight * out["duration"]
        return loss, {"loss": loss.detach(), **{key: value.detach() for key, value in out.items()}}

    @torch.inference_mode()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        self.rows, found = [], []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # of the times and noise that it draws
            found = [self._loss(network, batch.to(self.device))[1] for batch in self.dev_batches()]
        return {key: sum(values[key].item() for values in found) / len(found) for key in found[0]}


@torch.inference_mode()
def dev_scores(network: MobileSpeechModel, task: PackTask) -> list[dict[str, Any]]:
    """One row an utterance of the pack's dev speech: cross-entropy under masks that no variant changes.

    `ce` (n,): sums over the masked frames of each layer, `frames` their number, each frame masked with probability
    cos(u), the layers below visible; `ce_whole`: of layer 1, all of whose `frames_whole` are masked, as in the first
    pass of a decoding; `duration`: `model.duration_loss`.
    """
    rows = []
    for index, batch in enumerate(task.dev_batches()):
        batch = batch.to(task.device)
        real = lengths_to_mask(batch.durations.sum(1), batch.codes.shape[-1])
        _, part = draw_masks(real, 1, MaskConfig(alpha=1.0), torch.Generator().manual_seed(index))
        own = []
        for layer, masked in [(0, real), *((j, part) for j in range(task.codec.config.n_q))]:
            with torch.autocast(task.device.type, torch.bfloat16, enabled=task.config.bf16):
                own.append(network(batch, torch.full_like(real[:, 0], layer, dtype=torch.long), masked)["ce_sum"])
        whole, *by_layer = torch.stack(own).float().cpu()
        voice = network.voice(batch.prompt_codes, batch.prompt_phones, batch.prompt_durations)
        log_durations = network.predict_durations(network.text(batch.phones), batch.phones, voice)
        for i in range(len(real)):

            def one(values: Tensor, i: int = i) -> Tensor:
                return values[i : i + 1]

            lost = duration_loss(*map(one, (log_durations, batch.durations, batch.phones)))
            row = {"utterance": len(rows), "speaker": int(task.pack.dev.speakers[len(rows)])}
            row |= {"ce": [round(ce[i].item(), 3) for ce in by_layer], "frames": int(part[i].sum())}
            row |= {"ce_whole": round(whole[i].item(), 3), "frames_whole": int(real[i].sum())}
            rows.append({**row, "duration": round(lost.item(), 4)})
    return rows
