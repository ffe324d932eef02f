"""MobileSpeech: phone encoder, durations, speaker prompt and SMD joined; its training loss; saving and loading."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ms_core.additions import VoiceModulation
from ms_core.checkpoint import CheckpointError, damaged, load_checkpoint, save_checkpoint
from ms_core.codec import Codec
from ms_core.config import CodecConfig, DecodingConfig, ModelConfig, parse
from ms_core.encoder import DurationExtractor, DurationPredictor, Frames, PhoneEncoder
from ms_core.layers import lengths_to_mask
from ms_core.prompt import Condition, PromptStates, SpeakerPrompt
from ms_core.smd import SpeechMaskDecoder, apply_mask
from ms_core.speaker import SpeakerEncoder
from ms_core.text import LANGUAGES, PHONES, phone_table
from ms_core.tokens import BOUNDARY_IDS, Batch

OLD_NAMES = {  # of weights, in checkpoints written before 28 November 2026
    "place.": "position_in_phone.",
    ".enter.": ".in_proj.",
    ".leave.": ".out_proj.",
    ".trust.": ".copy_gate.",
    ".enter_said.": ".content_proj.",
    ".likeness_weight": ".content_weight",
}
ROWS = 64  # to multiples of which the masked frames of a layer are filled up on a CPU


@dataclass(frozen=True)
class VoiceStates:
    """What the model keeps of a prompt: acoustic states and duration states."""

    prompt: PromptStates
    durations: Float[Tensor, "b q d"] | None
    duration_mask: Bool[Tensor, "b q"]
    decoder: SpeechMaskDecoder | None = None  # of a voice that was adapted to; else the model's own


def duration_loss(
    log_durations: Float[Tensor, "b p"], durations: Int[Tensor, "b p"], phones: Int[Tensor, "b p"]
) -> Float[Tensor, ""]:
    """Mean squared errors of log(d + 1) of phones, of words and of whole utterances, added up.

    Three levels as in NATSpeech, the authors' base (weights here 1 each, our choice): an error of phones alone is least
    for durations whose sum is too short, since the mean of a logarithm lies below the logarithm of the mean. A pause
    counts as a word.
    """
    real = phones != 0
    frames = torch.expm1(log_durations.clamp(0, 7)) * real
    edge = sum((phones == boundary).long() for boundary in BOUNDARY_IDS)
    word = (edge + F.pad(edge, (1, -1))).cumsum(1)  # a boundary opens a word of its own, and the next phone another
    word = word.clamp_max(frames.shape[1] - 1)
    true = durations.float()
    words, true_words = (torch.zeros_like(frames).scatter_add(1, word, x) for x in (frames, true))
    levels = [
        (log_durations, torch.log1p(true), real),
        (torch.log1p(words), torch.log1p(true_words), true_words > 0),
        (torch.log1p(frames.sum(1)), torch.log1p(true.sum(1)), real.any(1)),
    ]
    return sum(((a - b).square() * where).sum() / where.sum().clamp_min(1) for a, b, where in levels)


class MobileSpeechModel(nn.Module):
    """The acoustic model.

    Args:
        config: sizes and switches.
        codec_config: says how many layers and entries the token grid has.
        codebooks: the codec's code vectors (n, bins, c) for `codebook_prior`; None where the codec has none.
    """

    FORMAT = "ms-model-1"  # of its checkpoints

    def __init__(self, config: ModelConfig, codec_config: CodecConfig, codebooks: Float[Tensor, "n bins c"] | None):
        super().__init__()
        self.config, self.codec_config = config, codec_config
        self.decoding = DecodingConfig(steps=(16,) + (1,) * (codec_config.n_q - 1))  # how it is meant to be decoded
        self.language = "en"  # a name of `text.LANGUAGES`
        self.text = PhoneEncoder(config, len(PHONES))
        self.position_in_phone = nn.Linear(2, config.dim)
        self.extractor = DurationExtractor(config, len(PHONES)) if config.prompt_durations else None
        self.duration = DurationPredictor(config)
        self.prompt = SpeakerPrompt(config, len(PHONES))
        self.smd = SpeechMaskDecoder(config, codec_config.n_q, codec_config.bins, codebooks)
        self.speaker = SpeakerEncoder(codec_config) if config.speaker == "ge2e" else None
        width = SpeakerEncoder.WIDTH if self.speaker else 0
        modulated = config.speaker != "none"
        self.modulation = VoiceModulation(config.dim, config.smd_layers, width) if modulated else None

    def voice(
        self,
        codes: Int[Tensor, "b n s"],
        phones: Int[Tensor, "b q"],
        durations: Int[Tensor, "b q"],
    ) -> VoiceStates:
        """Encode a prompt once: states, attention keys and values, duration states."""
        words = None if self.smd.copy is None else self.text(phones)
        prompt = self.prompt_states(codes, phones, Frames.of(durations, codes.shape[-1]), words)
        duration_states = None if self.extractor is None else self.extractor(phones, durations)
        return VoiceStates(prompt, duration_states, phones != 0)

    def prompt_states(
        self,
        codes: Int[Tensor, "b n s"],
        phones: Int[Tensor, "b q"],
        frames: Frames,
        words: Float[Tensor, "b q d"] | None,
    ) -> PromptStates:
        """What the decoder needs of a prompt; words: its text states, for `PromptCopy`."""
        mask = frames.mask
        lengths = None if mask is None else mask.sum(1)
        states, mean = self.prompt(self.smd.embed(codes), frames.phones(phones), mask)
        attention = self.prompt.attention
        cross = None if attention is None else attention.keys_values(states)
        prefix = tuple(b.attention.prompt_cache(states, lengths) for b in self.smd.blocks) if self.config.prefix else ()
        copy = content_keys = None
        if self.smd.copy is not None:
            copy = self.smd.copy.keys(states), self.smd.prior.partial_sums(codes)
            content_keys = self.smd.copy.content_keys(self._regulated(words, frames))
        modulation = None
        if self.modulation is not None:
            real = torch.ones_like(states[..., 0], dtype=torch.bool) if mask is None else mask
            embedding = None if self.speaker is None else self.speaker(self.smd.prior.known(codes), real)
            modulation = self.modulation(states, real, embedding)
        return PromptStates(mask, mean, cross, prefix, copy, content_keys, modulation)

    def predict_durations(
        self, states: Float[Tensor, "b p d"], phones: Int[Tensor, "b p"], voice: VoiceStates
    ) -> Float[Tensor, "b p"]:
        """log(d + 1) of each phone."""
        return self.duration(states, phones != 0, voice.durations, voice.duration_mask)

    def expand(
        self,
        states: Float[Tensor, "b p d"],
        durations: Int[Tensor, "b p"],
        frames: int,
        voice: VoiceStates,
        sharpness: float = 1.0,
    ) -> Condition:
        """Length regulator, then cross-attention to the prompt: the text row of Figure 1.

        sharpness: above 1, `PromptCopy` copies fewer frames than in training (`DecodingConfig.copy_sharpness`).
        """
        return self.condition(states, Frames.of(durations, frames), voice.prompt, sharpness)

    def condition(
        self, states: Float[Tensor, "b p d"], frames: Frames, prompt: PromptStates, sharpness: float = 1.0
    ) -> Condition:
        """`expand` where it is known to which phone a frame belongs."""
        text, copy = self._regulated(states, frames), self.smd.copy
        row = self.prompt.attend(text, prompt)
        if copy is None:
            return Condition(row, prompt)
        content_scores = copy.content_scores(text, prompt.content_keys)
        row = row + copy.preview(content_scores, prompt.copy[1], prompt.mask)
        return Condition(row, prompt, content_scores, sharpness)

    def _regulated(self, states: Float[Tensor, "b p d"], frames: Frames) -> Float[Tensor, "b t d"]:
        return frames.expand(states) + self.position_in_phone(frames.position)

    def forward(
        self,
        batch: Batch,
        layer: Int[Tensor, " b"],
        masked: Bool[Tensor, "b t"],
        latent_weight: float = 0.0,
        above: bool = False,
    ) -> dict[str, Tensor]:
        """Losses of one batch under the masks that `smd.draw_masks` drew: the layer that each example trains (0-based)
        and its masked frames.

        above: take the cross-entropy of the layers above as well (`MaskConfig.loss`).
        Returns `ce` (mean over masked frames of those layers), `duration` (see `duration_loss`), `latent` (0 unless
        weighted), and per example `layer`, `masked` (count), `ce_sum`, `correct` for the log. Nothing here is random
        but dropout, and nothing waits for the device, so that a CUDA graph can hold it.
        """
        frames = batch.codes.shape[-1]
        mask = lengths_to_mask(batch.durations.sum(1), frames)
        voice = self.voice(batch.prompt_codes, batch.prompt_phones, batch.prompt_durations)
        states = self.text(batch.phones)
        condition = self.expand(states, batch.durations, frames, voice)
        grid = apply_mask(batch.codes, layer, masked, self.smd.mask_id)
        x, copied = self.smd.states(condition, grid, layer, mask)
        if x.device.type == "cpu":
            ce, latent, correct = self._scores_of_masked(x, copied, batch.codes, layer, masked, latent_weight > 0)
        else:
            ce, latent, correct = self._scores(x, copied, batch.codes, layer, latent_weight > 0)
        log_durations = self.predict_durations(states, batch.phones, voice).float()
        ce = ce * masked
        total, count = ce.sum(), masked.sum()
        for step in range(1, self.smd.n_q) if above else ():
            higher, where = layer + step, mask & (layer + step < self.smd.n_q)[:, None]
            more = self._above(x, batch.codes, higher.clamp_max(self.smd.n_q - 1), where)
            total, count = total + (more * where).sum(), count + where.sum()
        return {
            "ce": total / count,
            "duration": duration_loss(log_durations, batch.durations, batch.phones),
            "latent": (latent * masked).sum() / masked.sum(),
            "layer": layer,
            "masked": masked.sum(1),
            "ce_sum": ce.detach().sum(1),
            "correct": (correct & masked).sum(1),
        }

    def _above(
        self,
        x: Float[Tensor, "b t d"],
        codes: Int[Tensor, "b n t"],
        layer: Int[Tensor, " b"],
        where: Bool[Tensor, "b t"],
    ) -> Float[Tensor, "b t"]:
        """Cross-entropy of a layer that was not asked for, from the states alone."""
        if x.device.type == "cpu":
            return self._scores_of_masked(x, None, codes, layer, where, False)[0]
        return self._scores(x, None, codes, layer, False)[0]

    def _scores(
        self,
        x: Float[Tensor, "b t d"],
        copied: Float[Tensor, "b t c"] | None,
        codes: Int[Tensor, "b n t"],
        layer: Int[Tensor, " b"],
        with_latent: bool,
    ) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t"], Bool[Tensor, "b t"]]:
        """Of each frame: cross-entropy, error of the latent (0 unless asked for), whether the likeliest is right."""
        logits, residual = self.smd.logits(x, copied, layer)
        target = codes.gather(1, layer[:, None, None].expand(-1, 1, codes.shape[-1]))[:, 0]  # (b, t)
        ce = F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), reduction="none").view_as(target)  # (b, t)
        latent = torch.zeros_like(ce)
        if residual is not None and with_latent:
            prior = self.smd.prior
            lower = apply_mask(codes, layer, torch.ones_like(target, dtype=torch.bool), self.smd.mask_id)
            true = prior.known(codes) - prior.known(lower)  # (b, t, c)
            scale = prior.scale[layer][:, None]  # (b, 1, c)
            latent = (residual - true).square().sum(-1) / scale.square().sum(-1)
        chosen = logits.detach().gather(-1, target[..., None])[..., 0]
        return ce, latent, chosen == logits.detach().amax(-1)  # argmax takes several times as long on a CPU

    def _scores_of_masked(self, x, copied, codes, layer, masked, with_latent):
        """`_scores` of the masked frames alone, zero elsewhere; layer by layer, since each has a head of its own.

        On a CPU, where asking how many they are costs nothing.
        """
        size = masked.numel()
        scores = [[], [], []]
        masked_rows = []
        for j in layer.unique():
            rows = (masked & (layer == j)[:, None]).flatten().nonzero()[:, 0]
            # shapes recur, since the CPU compiles each new one: the last frame stands in for what is missing
            fill = rows[-1:].expand(-len(rows) % ROWS)
            index = torch.cat([rows, fill])  # (r,)
            tensors = [None if y is None else y.flatten(0, 1)[index][None] for y in (x, copied, codes.transpose(1, 2))]
            scores_of_layer = self._scores(tensors[0], tensors[1], tensors[2].transpose(1, 2), j[None], with_latent)
            for score, values in zip(scores, scores_of_layer, strict=True):
                score.append(values[0, : len(rows)])
            masked_rows.append(rows)
        index = torch.cat(masked_rows)
        spread = (torch.zeros(size, dtype=s[0].dtype).index_put((index,), torch.cat(s)) for s in scores)
        return tuple(values.view_as(masked) for values in spread)

    def save(self, folder: Path, codec: Codec, provenance: dict[str, object]) -> None:
        """Write fp16 weights and JSON that names the codec whose tokens this model speaks."""
        meta = {
            "format": self.FORMAT,
            "config": self.config.model_dump(mode="json"),
            "codec_config": self.codec_config.model_dump(mode="json"),
            "decoding": self.decoding.model_dump(mode="json"),
            "token_digest": codec.token_digest,
            "language": self.language,
            "phones": list(phone_table(self.language)),
            "provenance": provenance,
        }
        save_checkpoint(folder, {k: v.half() for k, v in self.state_dict().items()}, meta)

    @classmethod
    def load(cls, folder: Path, codec: Codec) -> "MobileSpeechModel":
        """Raises CheckpointError when the files are damaged or belong to another codec or phone table."""
        tensors, meta = load_checkpoint(folder, cls.FORMAT)
        with damaged(folder):
            if meta["token_digest"] != codec.token_digest:
                raise CheckpointError(
                    f"{folder}: trained on tokens {meta['token_digest']}, this codec makes {codec.token_digest}; "
                    "use the codec that was saved with the model"
                )
            language = meta.get("language", "en")  # older checkpoints do not say
            if language not in LANGUAGES:
                raise CheckpointError(f"{folder}: speaks {language!r}; this version reads {', '.join(LANGUAGES)}")
            if meta["phones"] != list(phone_table(language)):
                raise CheckpointError(f"{folder}: its phone table is not this version's")
            config = parse(ModelConfig, meta["config"], str(folder))
            model = cls(config, parse(CodecConfig, meta["codec_config"], str(folder)), codec.codebooks())
            model.load_state_dict({_new_name(k): v.float() for k, v in tensors.items()})
            model.language = language
            model.decoding = parse(DecodingConfig, meta["decoding"], str(folder))
        return model.eval()


def _new_name(weight: str) -> str:
    for old, new in OLD_NAMES.items():
        weight = weight.replace(old, new)
    return weight
