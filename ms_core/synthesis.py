"""The public face of the package: a trained codec and model speak through PyTorch, and enrol voices."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ms_core.checkpoint import checkpoint_folder
from ms_core.codec import Codec, load_codec
from ms_core.config import DecodingConfig
from ms_core.decoding import decoding_passes
from ms_core.files import sha256
from ms_core.layers import lengths_to_mask
from ms_core.model import MobileSpeechModel, VoiceStates
from ms_core.prompt import Condition
from ms_core.recordings.align import SAMPLE_RATE, align, durations
from ms_core.recordings.audio import load_speech, normalise, resample
from ms_core.recordings.enrol import first_words, shorter_pauses, transcript
from ms_core.speaking.captions import Speech
from ms_core.speaking.controls import Controls
from ms_core.speaking.crossfade import Part
from ms_core.speaking.synthesizer import CHUNK_PHONES, Steps, Synthesizer, Text
from ms_core.text import PHONES, phone_ids
from ms_core.tokens import Tokens, Voice, VoiceError

__all__ = ["CHUNK_PHONES", "MobileSpeech", "Voice"]

PROMPT_SECONDS = 10.0  # of a recording, at most: SIM rises with each second up to 8 (results/mini/robustness.md)
BATCH_FRAMES = 16_384  # of the grids that `synthesize_batch` fills at once, padding included; memory grows with it


@dataclass
class _Grid:
    """One part of one text, to be filled."""

    condition: Condition
    part: Part
    codes: np.ndarray | None = None  # (n, frames), once filled

    @property
    def frames(self) -> int:
        return sum(self.part.frames)


class MobileSpeech(Synthesizer):
    """Zero-shot text-to-speech: `voice` enrols a speaker once, `synthesize` speaks any text with that voice.

    codec, model: both on one device. checkpoint: sha256 of the model's weights, for records.
    """

    def __init__(self, codec: Codec, model: MobileSpeechModel, decoding: DecodingConfig, checkpoint: str = ""):
        self.codec, self.model, self.decoding, self.checkpoint = codec, model.eval(), decoding, checkpoint
        self.sample_rate, self.token_digest = codec.config.sample_rate, codec.token_digest
        self.n_q, self.bins, self.frame_rate = codec.config.n_q, codec.config.bins, codec.config.frame_rate
        self.language = model.language
        self.device = next(model.parameters()).device

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str | torch.device = "cpu") -> "MobileSpeech":
        """Load a shipped checkpoint by name, or a folder that holds `codec/` and `model/`, onto a device.

        Raises CheckpointError when nothing is there, or codec and model are damaged or do not belong together.
        """
        folder = checkpoint_folder(name)
        codec = load_codec(folder / "codec")
        model = MobileSpeechModel.load(folder / "model", codec)
        digest = sha256(folder / "model" / "weights.safetensors")
        return cls(codec.to(device), model.to(device), model.decoding, digest)

    def voice(
        self,
        prompt: str | Path | np.ndarray | tuple[np.ndarray, int],
        text: str | None = None,
        seconds: float | None = PROMPT_SECONDS,
        meta: dict[str, str] | None = None,
    ) -> Voice:
        """Enrol a speaker from a recording and the words in it.

        Args:
            prompt: an audio file, samples at `sample_rate`, or (samples, their rate); 1 to 30 s of clear speech.
            text: what is said in it; where None, whisper-base hears it, and `meta["text"]` of the voice says what.
            seconds: use the first words of about this length, 3 for the paper's protocol; None keeps all.

        Raises AudioError (unusable recording), TextError (unreadable text), AlignmentError (they do not match), or
        EvaluatorError (no text, and no recogniser either).
        """
        source, rate = prompt if isinstance(prompt, tuple) else (prompt, None)
        wave = normalise(load_speech(source, self.sample_rate, source_rate=rate))
        heard = resample(wave, self.sample_rate, SAMPLE_RATE)
        text = transcript(heard) if text is None else text
        phones = align(heard, text)
        codes = self.codec.encode(torch.from_numpy(wave)[None, None].to(self.device))[0].cpu().numpy()  # (n, t)
        frames = durations(phones, codes.shape[1], self.codec.config.frame_rate)
        whole = shorter_pauses(Tokens(np.array(phone_ids(phones.phones)), np.array(frames), codes), self.frame_rate)
        part = whole if seconds is None else first_words(whole, round(seconds * self.codec.config.frame_rate))
        names = tuple(PHONES[i] for i in part.phones)
        return Voice(
            part.codes.copy(),
            names,
            tuple(int(f) for f in part.durations),
            self.codec.token_digest,
            {"text": text, **(meta or {})},
        )

    @torch.inference_mode()
    def _encode_voice(self, voice: Voice) -> VoiceStates:
        arrays = (voice.codes, np.array(phone_ids(voice.phones)), np.array(voice.durations))
        tokens = [torch.from_numpy(x)[None].long().to(self.device) for x in arrays]
        if not voice.adapter:
            return self.model.voice(*tokens)
        model = self._adapted(voice)
        return replace(model.voice(*tokens), decoder=model.smd)

    def _adapted(self, voice: Voice) -> MobileSpeechModel:
        """A copy of the model with a voice's low-rank changes. Raises VoiceError for those of another model."""
        if voice.meta.get("adapted_to") != self.checkpoint:
            raise VoiceError(
                f"this voice was adapted to model {voice.meta.get('adapted_to', '(unknown)')[:12]}, this one is "
                f"{self.checkpoint[:12]}: enrol and adapt again"
            )
        model = deepcopy(self.model)
        try:
            for name in sorted({name.rpartition(".")[0] for name in voice.adapter}):
                a, b = (
                    torch.from_numpy(voice.adapter[f"{name}.{part}"]).float().to(self.device) for part in ("a", "b")
                )
                model.smd.blocks.get_submodule(name).weight += b @ a
        except (AttributeError, KeyError, RuntimeError) as error:
            raise VoiceError(f"this voice's changes do not fit the model ({error}): enrol and adapt again") from None
        return model

    @torch.inference_mode()
    def _encode_text(self, ids: np.ndarray, states: VoiceStates) -> tuple[torch.Tensor, np.ndarray]:
        phones = torch.from_numpy(ids).to(self.device)
        text = self.model.text(phones)
        return text, self.model.predict_durations(text, phones, states)[0].float().cpu().numpy()

    @torch.inference_mode()
    def condition(self, text: torch.Tensor, durations: np.ndarray, states: VoiceStates) -> Condition:
        frames = torch.from_numpy(durations)[None].to(self.device)
        return self.model.expand(text, frames, int(durations.sum()), states, self.decoding.copy_sharpness)

    def run_pass(self, condition: Condition, states: VoiceStates):
        mask = torch.ones(condition.text.shape[:2], dtype=torch.bool, device=self.device)
        decoder = states.decoder or self.model.smd

        @torch.inference_mode()
        def run(codes: np.ndarray, layer: int, frames: np.ndarray) -> np.ndarray:
            grid = torch.from_numpy(codes)[None].to(self.device)
            logits, _ = decoder(condition, grid, torch.full((1,), layer, device=self.device), mask)
            return logits[0, torch.from_numpy(frames).to(self.device)].float().cpu().numpy()

        return run

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def speak_batch(
        self, texts: Sequence[Text], voices: Sequence[Voice], seed: int = 0, steps: Steps = None, **controls: object
    ) -> list[Speech]:
        """`Synthesizer.speak_batch`: grids are filled together, `BATCH_FRAMES` at a time.

        A sum may be rounded otherwise in a batch, so that where two tokens are equally likely to six digits the other
        one may be taken. Our choice.
        """
        asked = Controls(**controls)
        passes = self._passes(steps, seed, asked.variety)
        passages = [self.read(text, asked) for text in texts]
        by_text: dict[int, list[_Grid]] = {}
        for i in sorted(range(len(texts)), key=lambda i: id(voices[i])):  # each voice is encoded once
            parts = self.parts(passages[i], voices[i], asked, seed)
            by_text[i] = [_Grid(self._conditioned(p.phones, self.encode_voice(p.voice), p.frames)[0], p) for p in parts]
        grids = [grid for some in by_text.values() for grid in some]
        if any(grid.part.voice.adapter for grid in grids):  # each has a decoder of its own
            return super().speak_batch(texts, voices, seed, steps, **controls)
        for together in _together(grids):
            self._fill(together, *passes)
        spoken = ([(grid.part, self.decode(grid.codes)) for grid in by_text[i]] for i in range(len(texts)))
        return [self._joined(*both) for both in zip(passages, spoken, strict=True)]

    @torch.inference_mode()
    def _fill(self, grids: Sequence[_Grid], steps: Sequence[int], *temperatures: float) -> None:
        """Set the codes of grids, of which each pass computes all at once."""
        decoders = [decoding_passes(self.n_q, self.bins, g.frames, steps, g.part.seed, *temperatures) for g in grids]
        lengths = torch.from_numpy(np.array([g.frames for g in grids])).to(self.device)
        mask = lengths_to_mask(lengths, max(g.frames for g in grids))
        condition = _padded([g.condition for g in grids])
        codes = np.full((len(grids), self.n_q, mask.shape[1]), self.bins)
        wanted = [next(decoder) for decoder in decoders]
        for _ in range(sum(steps)):
            layer = torch.full_like(lengths, wanted[0][1])
            for row, (known, _, _) in zip(codes, wanted, strict=True):
                row[:, : known.shape[1]] = known
            logits, _ = self.model.smd(condition, torch.from_numpy(codes).to(self.device), layer, mask)
            frames = [where for _, _, where in wanted]
            rows = np.repeat(np.arange(len(grids)), [len(where) for where in frames])
            index = (torch.from_numpy(x).to(self.device) for x in (rows, np.concatenate(frames)))
            found = np.split(logits[tuple(index)].float().cpu().numpy(), np.cumsum([len(w) for w in frames])[:-1])
            for number, (decoder, values) in enumerate(zip(decoders, found, strict=True)):
                try:
                    wanted[number] = decoder.send(values)
                except StopIteration as done:
                    grids[number].codes = done.value

    @torch.inference_mode()
    def _decode(self, codes: np.ndarray) -> np.ndarray:
        return self.codec.decode(torch.from_numpy(codes)[None].to(self.device))[0, 0].float().cpu().numpy()


def _together(grids: Sequence[_Grid]) -> Iterator[list[_Grid]]:
    """Grids of like length, at most `BATCH_FRAMES` together, or one."""
    chosen: list[_Grid] = []
    for grid in sorted(grids, key=lambda g: g.frames):
        if chosen and (len(chosen) + 1) * grid.frames > BATCH_FRAMES:
            yield chosen
            chosen = []
        chosen.append(grid)
    if chosen:
        yield chosen


def _padded(conditions: Sequence[Condition]) -> Condition:
    """Conditions of one example each as one of several, padded with zeros where an axis is longer in others."""

    def batch(values: Sequence):
        """Tensors (1, ...) to one (b, ...); tuples and dataclasses of them field by field; None stays."""
        first = values[0]
        if isinstance(first, Tensor):
            longest = [max(sizes) for sizes in zip(*(v.shape for v in values), strict=True)]
            whole = first.new_zeros(len(values), *longest[1:])
            for row, value in zip(whole, values, strict=True):
                row[tuple(slice(size) for size in value.shape[1:])] = value[0]
            return whole
        if isinstance(first, tuple):
            return tuple(batch(parts) for parts in zip(*values, strict=True))
        if is_dataclass(first) and not isinstance(first, type):
            return replace(first, **{f.name: batch([getattr(v, f.name) for v in values]) for f in fields(first)})
        return first

    return batch(conditions)
