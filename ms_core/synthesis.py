"""Text and a voice to a waveform: the public face of the package."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from ms_core import paths
from ms_core.align import align, durations
from ms_core.audio import load_speech, resample
from ms_core.checkpoint import checkpoint_folder
from ms_core.codec import Codec, load_codec
from ms_core.config import ConfigError, DecodingConfig
from ms_core.crossfade import joined
from ms_core.decoding import fill_grid
from ms_core.encoder import round_durations
from ms_core.files import sha256
from ms_core.model import MobileSpeechModel, VoiceStates
from ms_core.text import BOUNDARIES, FIRST_PHONES, PHONES, chunks, phone_ids, phonemise
from ms_core.tokens import Tokens, Voice, VoiceError

ALIGN_RATE = 16_000  # Hz, what the aligner hears
PROMPT_SECONDS = 3.0  # the paper's prompt length
CHUNK_PHONES = 160  # a longer text is spoken in parts, cut at its pauses: about 12 s, the longest seen in training


class MobileSpeech:
    """Zero-shot text-to-speech: `voice` enrols a speaker once, `synthesize` speaks any text with that voice."""

    def __init__(self, codec: Codec, model: MobileSpeechModel, decoding: DecodingConfig, checkpoint: str = ""):
        self.codec, self.model, self.decoding, self.checkpoint = codec, model.eval(), decoding, checkpoint
        if model.smd.copy is not None:
            model.smd.copy.sharpness = decoding.copy_sharpness
        self.sample_rate = codec.config.sample_rate
        self._states: tuple[Voice, VoiceStates] | None = None  # of the voice that spoke last

    @classmethod
    def from_pretrained(cls, name: str | Path) -> "MobileSpeech":
        """Load a shipped pair by name, or a folder that holds `codec/` and `model/`.

        Raises CheckpointError when nothing is there, or the pair is damaged or does not belong together.
        """
        folder = checkpoint_folder(name)
        codec = load_codec(folder / "codec")
        model = MobileSpeechModel.load(folder / "model", codec)
        return cls(codec, model, model.decoding, sha256(folder / "model" / "weights.safetensors"))

    def voice(
        self,
        prompt: str | Path | np.ndarray | tuple[np.ndarray, int],
        text: str,
        seconds: float | None = PROMPT_SECONDS,
        meta: dict[str, str] | None = None,
    ) -> Voice:
        """Enrol a speaker from a recording and the words in it.

        Args:
            prompt: an audio file, samples at `sample_rate`, or (samples, their rate); 1 to 30 s of clear speech.
            text: what is said in it.
            seconds: use the first words of about this length, as the model was trained on; None keeps all.

        Raises AudioError (unusable recording), TextError (unreadable text) or AlignmentError (they do not match).
        """
        source, rate = prompt if isinstance(prompt, tuple) else (prompt, None)
        wave = load_speech(source, self.sample_rate, source_rate=rate)
        phones = align(resample(wave, self.sample_rate, ALIGN_RATE), text)
        codes = self.codec.encode(torch.from_numpy(wave)[None, None])[0].cpu()  # (n, t)
        frames = durations(phones, codes.shape[1], self.codec.config.frame_rate)
        whole = Tokens(np.array(phone_ids(phones.phones)), np.array(frames), codes.numpy())
        part = whole if seconds is None else first_words(whole, round(seconds * self.codec.config.frame_rate))
        names = tuple(PHONES[i] for i in part.phones)
        return Voice(
            torch.from_numpy(part.codes.copy()),
            names,
            tuple(int(f) for f in part.durations),
            self.codec.token_digest,
            {"text": text, **(meta or {})},
        )

    def load_voice(self, name: str | Path) -> Voice:
        """A shipped voice by name, or a voice file."""
        shipped = paths.ASSETS / "voices" / f"{name}.safetensors"
        return Voice.load(shipped if shipped.is_file() else name)

    @torch.inference_mode()
    def encode_voice(self, voice: Voice) -> VoiceStates:
        """The voice's states, kept until another voice speaks. Raises VoiceError for another codec's tokens."""
        if self._states is None or self._states[0] is not voice:
            if voice.token_digest != self.codec.token_digest:
                raise VoiceError(
                    f"this voice holds tokens of codec {voice.token_digest}, the model needs "
                    f"{self.codec.token_digest}: enrol the speaker again with this model"
                )
            n_q, bins = self.codec.config.n_q, self.codec.config.bins
            if len(voice.codes) != n_q or int(voice.codes.max()) >= bins:
                raise VoiceError(
                    f"this voice has codes of shape {tuple(voice.codes.shape)} up to {int(voice.codes.max())}; allowed "
                    f"are {n_q} layers of at most {bins - 1}: the file is damaged, enrol the speaker again"
                )
            phones = torch.tensor([phone_ids(voice.phones)])
            frames = torch.tensor([voice.durations])
            self._states = voice, self.model.voice(voice.codes[None].long(), phones, frames)
        return self._states[1]

    @torch.inference_mode()
    def generate(
        self,
        phones: Sequence[str],
        voice: Voice,
        seed: int = 0,
        steps: Sequence[int] | None = None,
        durations: Sequence[int] | None = None,
        known: Int[torch.Tensor, "n t"] | None = None,
        timings: dict[str, float] | None = None,
        on_pass=None,
    ) -> tuple[Int[torch.Tensor, "n t"], list[int]]:
        """Codes and durations for a sequence of phones.

        Args:
            durations: frames of each phone; predicted when None.
            known: true codes of the lowest layers, for a diagnosis; only the layers above are predicted.
            timings: a dict to which seconds spent on `prompt`, `duration` and `smd` are added.
        """
        clock = Clock(timings)
        states = self.encode_voice(voice)
        clock.lap("prompt")
        ids = torch.tensor([phone_ids(phones)])  # (1, p)
        text = self.model.text(ids)
        if durations is None:
            frames = self._durations(phones, text, ids, states)
        else:
            if len(durations) != len(phones) or min(durations) < 0:
                raise ValueError(f"{len(durations)} durations for {len(phones)} phones: give one each, none below 0")
            frames = torch.tensor([list(durations)])
        count = int(frames.sum())
        condition = self.model.expand(text, frames, count, states)
        clock.lap("duration")
        codes = fill_grid(
            self.model.smd,
            condition,
            torch.ones(1, count, dtype=torch.bool),
            self._steps(steps),
            [torch.Generator().manual_seed(seed)],
            self.decoding.temperature,
            self.decoding.choice_temperature,
            None if known is None else known[None],
            on_pass,
        )
        clock.lap("smd")
        if timings is not None:
            timings["passes"] = timings.get("passes", 0) + sum(self._steps(steps))
        return codes[0], frames[0].tolist()

    def _durations(self, phones: Sequence[str], text: torch.Tensor, ids: torch.Tensor, states: VoiceStates):
        spoken = torch.tensor([[p not in BOUNDARIES for p in phones]])
        predicted = self.model.predict_durations(text, ids, states)
        return round_durations(predicted, ids != 0, spoken, self.decoding.duration_scale)

    @torch.inference_mode()
    def predict_durations(self, phones: Sequence[str], voice: Voice) -> list[int]:
        """Frames of each phone, without speaking them."""
        ids = torch.tensor([phone_ids(phones)])
        return self._durations(phones, self.model.text(ids), ids, self.encode_voice(voice))[0].tolist()

    def _steps(self, steps: Sequence[int] | None) -> Sequence[int]:
        if steps is None:
            return self.decoding.steps
        n_q = self.codec.config.n_q
        if len(steps) != n_q or min(steps) < 1:
            raise ConfigError(f"steps {list(steps)}: give {n_q} positive pass counts, one for each codec layer")
        return steps

    @torch.inference_mode()
    def decode(self, codes: Int[torch.Tensor, "n t"]) -> Float[np.ndarray, " l"]:
        """Codes to float32 samples in [-1, 1]."""
        return self.codec.decode(codes[None])[0, 0].cpu().numpy()

    def stream(
        self,
        text: str,
        voice: Voice,
        seed: int = 0,
        steps: Sequence[int] | None = None,
        timings: dict[str, float] | None = None,
        first: int | None = FIRST_PHONES,
    ) -> Iterator[Float[np.ndarray, " l"]]:
        """Speech part by part, each as soon as it is ready; the parts meet in pauses of the text (`joining.joined`).

        first: phones of the first part, for early audio (see `text.chunks`); None cuts long texts alone, and the parts
        are then those of `synthesize`.
        """
        clock = Clock(timings)
        phones = phonemise(text)
        parts = chunks(phones, CHUNK_PHONES, first)
        clock.lap("text")

        def speak(index: int, frames: Sequence[int] | None) -> np.ndarray:
            codes, _ = self.generate(parts[index], voice, seed + index, steps, frames, timings=timings)
            clock.restart()
            wave = self.decode(codes)
            clock.lap("codec")
            return wave

        def durations(context: Sequence[str]) -> list[int]:
            clock.restart()
            frames = self.predict_durations(context, voice)
            clock.lap("duration")
            return frames

        yield from joined(phones, parts, speak, durations)

    def synthesize(
        self,
        text: str,
        voice: Voice,
        seed: int = 0,
        steps: Sequence[int] | None = None,
        timings: dict[str, float] | None = None,
    ) -> Float[np.ndarray, " l"]:
        """Speak a text: float32 samples in [-1, 1] at `sample_rate`. The seed fixes the result.

        `steps` are decoding passes for each codec layer. Seconds spent are added to `timings` under `text`, `prompt`,
        `duration`, `smd` and `codec`. Raises TextError for a text that cannot be read aloud.
        """
        return np.concatenate(list(self.stream(text, voice, seed, steps, timings, None)))


class Clock:
    """Adds the seconds between laps to a dict; does nothing for None."""

    def __init__(self, timings: dict[str, float] | None):
        self.timings = timings
        self.restart()

    def restart(self) -> None:
        self.since = time.perf_counter()

    def lap(self, name: str) -> None:
        if self.timings is not None:
            self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - self.since
        self.restart()


def first_words(utterance: Tokens, frames: int) -> Tokens:
    """The first words, up to the word boundary nearest to `frames`."""
    bounds = utterance.words()
    ends = np.cumsum(utterance.durations)[bounds]
    nearest = 1 + int(np.abs(ends[1:] - frames).argmin())
    return utterance.between(bounds[0], bounds[nearest])
