"""A speaker encoder on the codec's latents, and the speaker consistency loss that the model may be trained with.

Cross-entropy asks for the likeliest token of each frame; where the model is unsure it hedges, and what is heard of that
is a mixture of voices. This loss asks about whole utterances instead: tokens that the model would speak should give the
embedding that the recording's own tokens give. YourTTS (Casanova et al. 2022) has such a loss; using one here is our
choice. The encoder is an x-vector (Snyder et al. 2018) that learns from the training speech alone, so that no judge of
the evaluation has a part in the training.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from lhotse import CutSet
from torch import Tensor, nn

from ms_core.augment import Equaliser
from ms_core.checkpoint import CheckpointError, damaged, load_checkpoint, save_checkpoint
from ms_core.codec import Codec
from ms_core.config import Preset
from ms_core.data import DataError, tokens

FORMAT = "ms-speaker-1"
WIDTH, EMBEDDING = 256, 192  # channels of the encoder; size of an embedding. Our choice
CONTEXTS = ((5, 1), (3, 2), (3, 3), (1, 1))  # (kernel, dilation) of its layers: 15 frames together, as in x-vectors
MARGIN, SCALE = 0.2, 30.0  # of the additive angular margin softmax (Deng et al. 2019)


class LatentSpeakerEncoder(nn.Module):
    """Latents of a run of frames to an embedding of unit length; layers with context, then mean and deviation.

    Args:
        scale: standard deviation of the latents (c,), by which they are divided.
    """

    def __init__(self, scale: Float[Tensor, " c"]):
        super().__init__()
        self.register_buffer("scale", scale.clone())
        widths = [len(scale)] + [WIDTH] * len(CONTEXTS)
        self.layers = nn.ModuleList(
            nn.Conv1d(a, b, kernel, dilation=dilation, padding=dilation * (kernel - 1) // 2)
            for a, b, (kernel, dilation) in zip(widths, widths[1:], CONTEXTS, strict=False)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in CONTEXTS)
        self.embedding = nn.Linear(2 * WIDTH, EMBEDDING)

    def forward(self, latents: Float[Tensor, "b t c"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, "b e"]:
        """The embedding of what is heard where `mask`; frames around it serve as context."""
        x = latents / self.scale
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(F.gelu(layer(x.transpose(1, 2)).transpose(1, 2)))
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            weight = (mask / mask.sum(1, keepdim=True).clamp_min(1))[..., None]
            mean = (x * weight).sum(1)
            deviation = (((x - mean[:, None]).square() * weight).sum(1) + 1e-5).sqrt()
            return F.normalize(self.embedding(torch.cat([mean, deviation], -1)), dim=-1)

    def save(self, folder: Path, codec: Codec, provenance: dict[str, object]) -> None:
        meta = {"format": FORMAT, "token_digest": codec.token_digest, "provenance": provenance}
        save_checkpoint(folder, {k: v.half() for k, v in self.state_dict().items()}, meta)

    @classmethod
    def load(cls, folder: Path, codec: Codec) -> "LatentSpeakerEncoder":
        """Raises CheckpointError when the files are damaged or belong to another codec."""
        tensors, meta = load_checkpoint(folder, FORMAT)
        with damaged(folder):
            if meta["token_digest"] != codec.token_digest:
                raise CheckpointError(
                    f"{folder}: a speaker encoder on tokens {meta['token_digest']}, this codec makes "
                    f"{codec.token_digest}; train one with `ms-core train speaker`"
                )
            encoder = cls(tensors["scale"].float())
            encoder.load_state_dict({k: v.float() for k, v in tensors.items()})
        return encoder.eval().requires_grad_(False)


class SpeakerClassifier(nn.Module):
    """The encoder and, for its training alone, a direction for each training speaker."""

    def __init__(self, scale: Float[Tensor, " c"], speakers: int):
        super().__init__()
        self.encoder = LatentSpeakerEncoder(scale)
        self.speakers = nn.Parameter(torch.randn(speakers, EMBEDDING))

    def forward(
        self, latents: Float[Tensor, "b t c"], mask: Bool[Tensor, "b t"], speaker: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Additive angular margin softmax loss, and the share of examples whose speaker comes first without margin."""
        cosine = self.encoder(latents, mask) @ F.normalize(self.speakers, dim=-1).T
        own = torch.acos(cosine.gather(1, speaker[:, None]).clamp(-1 + 1e-6, 1 - 1e-6))
        harder = torch.cos((own + MARGIN).clamp_max(math.pi))
        loss = F.cross_entropy(SCALE * cosine.scatter(1, speaker[:, None], harder), speaker)
        return loss, (cosine.argmax(1) == speaker).float().mean()


def consistency_loss(
    encoder: LatentSpeakerEncoder,
    spoken: Float[Tensor, "b t c"],
    recorded: Float[Tensor, "b t c"],
    mask: Bool[Tensor, "b t"],
) -> Float[Tensor, ""]:
    """One minus the cosine of the embeddings, weighed by the frames compared; no gradient flows to `recorded`."""
    with torch.no_grad():
        wanted = encoder(recorded, mask)
    apart = 1 - (encoder(spoken, mask) * wanted).sum(-1)  # (b,)
    frames = mask.sum(1)
    return (apart * frames).sum() / frames.sum().clamp_min(1)


def equal_error_rate(own: Float[np.ndarray, " k"], others: Float[np.ndarray, " m"]) -> float:
    """The rate at which as many pairs of one speaker fall below a threshold as pairs of two speakers reach it."""
    thresholds = np.sort(np.concatenate([own, others]))
    missed = np.searchsorted(np.sort(own), thresholds) / len(own)
    accepted = 1 - np.searchsorted(np.sort(others), thresholds) / len(others)
    best = int(np.abs(missed - accepted).argmin())
    return float(missed[best] + accepted[best]) / 2


class SpeakerTask:
    """The speaker encoder on prepared cuts: every speaker as often as any other, windows of `crop_seconds`.

    Windows come as the model would hear them: through the random equaliser, and half of them of the lowest layers alone
    (as many as a draw says), since the loss is taken at every layer.
    """

    FEWER_LAYERS = 0.5

    def __init__(self, preset: Preset, codec: Codec, train: CutSet, dev: CutSet):
        self.preset, self.config, self.codec = preset, preset.train_speaker, codec
        torch.manual_seed(self.config.seed)
        books = codec.codebooks()
        self.frames = round(self.config.crop_seconds * codec.config.frame_rate)
        self.cuts: dict[str, list] = {}
        for cut in train:
            self.cuts.setdefault(cut.supervisions[0].speaker, []).append(cut)
        self.names = sorted(self.cuts)
        if len(self.names) < 2:
            raise DataError(f"speech of {len(self.names)} speaker: a speaker encoder needs two at least")
        self.dev = list(dev)
        self.hours = sum(cut.duration for cut in train) / 3600
        self.networks = {"speaker": SpeakerClassifier(books.square().mean(1).sum(0).sqrt(), len(self.names))}
        self.books = books
        self.equaliser = Equaliser(codec, preset.train_model.timbre_db) if preset.train_model.augmented else None
        self._grids: dict[str, np.ndarray] = {}

    def describe(self) -> dict[str, Any]:
        preset = self.preset.model_dump(mode="json", include={"name", "data", "codec", "train_speaker"})
        varied = {"speeds": self.preset.train_model.speeds, "timbre_db": self.preset.train_model.timbre_db}
        known = {"token_digest": self.codec.token_digest, "speech_hours": round(self.hours, 3)}
        return {**preset, **varied, **known, "speakers": len(self.names)}

    def _window(self, grid: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A random window (n, t) of a grid, which is repeated where it is shorter."""
        grid = np.tile(grid, (1, -(-self.frames // grid.shape[1])))
        first = int(rng.integers(grid.shape[1] - self.frames + 1))
        return grid[:, first : first + self.frames]

    def _codes(self, cut, rng: np.random.Generator) -> Int[np.ndarray, "n t"]:
        """Codes of a random window of a cut."""
        if cut.id not in self._grids:
            self._grids[cut.id] = tokens(cut).codes
        grid = self._window(self._grids[cut.id], rng)
        return grid if self.equaliser is None else self.equaliser(grid, self.equaliser.draw(rng))

    def batches(self, first: int, rank: int, world_size: int) -> Iterator[tuple[int, tuple[Tensor, Tensor, Tensor]]]:
        """(epoch, (codes (b, n, t), how many layers count (b,), speaker (b,)))."""
        count = max(2, round(self.config.batch_seconds / self.config.crop_seconds))
        index = first
        while True:
            rng = np.random.default_rng((self.config.seed, rank, index))
            chosen = rng.integers(len(self.names), size=count)
            cuts = [self.cuts[self.names[i]] for i in chosen]
            grids = [self._codes(mine[rng.integers(len(mine))], rng) for mine in cuts]
            n_q = self.codec.config.n_q
            layers = np.where(rng.random(count) < self.FEWER_LAYERS, rng.integers(1, n_q + 1, count), n_q)
            batch = (torch.from_numpy(np.stack(grids)), torch.from_numpy(layers), torch.from_numpy(chosen))
            yield int(index * count * world_size / max(1, sum(map(len, self.cuts.values())))), batch
            index += 1

    def phases(self, step: int) -> list[str]:
        return ["speaker"]

    def _latents(self, codes: Int[Tensor, "b n t"], layers: Int[Tensor, " b"]) -> Float[Tensor, "b t c"]:
        vectors = torch.stack([book[c] for book, c in zip(self.books, codes.unbind(1), strict=True)], 1)  # (b, n, t, c)
        counted = torch.arange(codes.shape[1]) < layers[:, None]
        return (vectors * counted[:, :, None, None]).sum(1)

    def loss(self, networks: dict[str, nn.Module], name: str, batch: tuple, step: int, rank: int):
        codes, layers, speaker = batch
        device = next(networks[name].parameters()).device
        latents = self._latents(codes.long(), layers).to(device)
        mask = torch.ones(latents.shape[:2], dtype=torch.bool, device=device)
        loss, share = networks[name](latents, mask, speaker.to(device))
        return loss, {"loss": loss.item(), "accuracy": share.item()}

    @torch.inference_mode()
    def evaluate(self, network: SpeakerClassifier) -> dict[str, float]:
        """Equal error rate over all pairs of dev windows, in full and of the lowest layer alone."""
        device = next(network.parameters()).device
        speakers = np.array([cut.supervisions[0].speaker for cut in self.dev])
        rng = np.random.default_rng(0)
        grids = [self._window(tokens(cut).codes, rng) for cut in self.dev]
        codes = torch.from_numpy(np.stack(grids)).long()
        upper = np.triu(np.ones((len(grids), len(grids)), dtype=bool), 1)
        same = speakers[:, None] == speakers
        values = {}
        for key, layers in (("eer", self.codec.config.n_q), ("eer_layer1", 1)):
            latents = self._latents(codes, torch.full((len(codes),), layers)).to(device)
            found = network.encoder(latents, torch.ones(latents.shape[:2], dtype=torch.bool, device=device))
            cosine = (found @ found.T).float().cpu().numpy()
            if (same & upper).any() and (~same & upper).any():
                values[key] = equal_error_rate(cosine[same & upper], cosine[~same & upper])
        return values

    def export(self, network: SpeakerClassifier, folder: Path, provenance: dict[str, Any]) -> None:
        network.encoder.save(folder, self.codec, provenance)
