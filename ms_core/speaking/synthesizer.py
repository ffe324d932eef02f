"""Text and an enrolled voice to a waveform, whatever computes: the same code over PyTorch, ONNX and ExecuTorch.

A backend says how a voice and a text are encoded and how one pass of the speech mask decoder runs; all else is numpy
(`decoding.py`). Nothing here imports torch.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ms_core.decoding import Noise, Pass, iterative_decode, round_durations
from ms_core.speaking.captions import Speech
from ms_core.speaking.controls import Controls, SynthesisError
from ms_core.speaking.crossfade import Part, joined
from ms_core.speaking.script import Passage, one_sequence, read_script
from ms_core.text import BOUNDARIES, FIRST_PHONES, chunks, phone_ids
from ms_core.tokens import Voice, VoiceError

CHUNK_PHONES = 160  # a longer text is spoken in parts, cut at its pauses: about 12 s, the longest seen in training
KEPT_VOICES = 4  # whose states stay in memory
CONTEXT = 80  # phones on each side of a pause by which its length is predicted; ExecuTorch programs take 256 in all
SHORTEST = 2  # codec frames of a pause between parts: 40 ms at 50 frames a second, so that there is room for a blend
LONGEST_PAUSE = 20  # codec frames of a pause that the model fills; what a text asks for beyond them is silence
PAUSE_SHARE = 0.5  # a pause changes with the tempo to this power: speakers who hurry shorten phones more than pauses
# of `variety`, chosen on dev-other (results/mini/variety.json): passes and, at 1, temperature of layer 1 and the spread
# of log durations; at .5 WER is .082 where greedy has .087, at .75 .100
VARIED_PASSES, VARIED_TEMPERATURE, DURATION_SPREAD = 8, 2.0, 0.4
AnyVoice = Voice | str | int | Path  # an enrolled voice, a voice file, or a shipped voice's name or number
Text = str | Sequence[Passage]  # a text, or what was read of one
Steps = Sequence[int] | None  # decoding passes of each codec layer; None for the model's own
Timings = dict[str, float] | None  # where seconds are added, by part


class Synthesizer:
    """What all backends share; one gives the attributes and the five methods that raise NotImplementedError here.

    Attributes:
        sample_rate: Hz. frame_rate: codec frames a second.
        n_q, bins: layers and entries of the codec's token grid.
        token_digest: of the tokens that the model was trained on.
        language: that the model speaks, a name of `text.LANGUAGES`.
        decoding: `steps`, `temperature`, `choice_temperature` and `duration_scale`, as in `config.DecodingConfig`.
        chunk_phones: a longer text is spoken in parts.
    """

    sample_rate: int
    frame_rate: float
    n_q: int
    bins: int
    token_digest: str
    decoding: Any
    chunk_phones = CHUNK_PHONES
    language = "en"
    # both are replaced whole, never changed, so that threads may share them
    checkpoint: str = ""  # sha256 of the model's weights
    watermark: Path | None = None  # the file with which speech is marked; None takes the installed package
    _kept: tuple[tuple[Voice, Any], ...] = ()  # the voices that spoke last, with their states
    _read: tuple[tuple[Sequence[str], Any, Any], ...] = ()  # phones, states, what they made of them

    def _encode_voice(self, voice: Voice) -> Any:
        """States of a checked voice."""
        raise NotImplementedError

    def _encode_text(self, ids: np.ndarray, states: Any) -> tuple[Any, np.ndarray]:
        """Phone ids (1, p) -> text states, and log(d + 1) of each phone (p,)."""
        raise NotImplementedError

    def condition(self, text: Any, durations: np.ndarray, states: Any) -> Any:
        """Text states and frames of each phone (p,) -> all that the decoder is given besides codes."""
        raise NotImplementedError

    def run_pass(self, condition: Any, states: Any) -> Pass:
        """A pass of the speech mask decoder under a condition."""
        raise NotImplementedError

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        """Checked codes (m, t) of the lowest m layers -> float32 samples (l,) in [-1, 1]."""
        raise NotImplementedError

    def _wait(self) -> None:
        """Return when all that was begun is done; a backend whose device runs beside the processor says how."""

    def _clock(self, timings: Timings) -> "Clock":
        return Clock(timings, self._wait)

    def load_voice(self, voice: AnyVoice) -> Voice:
        """A shipped voice by name ("ls-8123", or 8123), a voice file, or a voice as it is. Raises VoiceError."""
        return voice if isinstance(voice, Voice) else Voice.load(voice)

    def encode_voice(self, voice: AnyVoice) -> Any:
        """The voice's states, kept until `KEPT_VOICES` others speak; what these states are is the backend's own.

        Raises VoiceError for a file that is no voice, and for a voice of another codec's tokens.
        """
        voice = self.load_voice(voice)
        for known, states in self._kept:
            if known is voice:
                return states
        if voice.token_digest != self.token_digest:
            raise VoiceError(
                f"this voice holds tokens of codec {voice.token_digest or '(unknown)'}, the model needs "
                f"{self.token_digest}: enrol the speaker again with this model"
            )
        if len(voice.codes) != self.n_q or int(voice.codes.max()) >= self.bins:
            raise VoiceError(
                f"this voice has codes of shape {voice.codes.shape} up to {int(voice.codes.max())}; allowed "
                f"are {self.n_q} layers of at most {self.bins - 1}: the file is damaged, enrol the speaker again"
            )
        states = self._encode_voice(voice)
        self._kept = (*self._kept[1 - KEPT_VOICES :], (voice, states))
        return states

    def _durations(
        self,
        phones: Sequence[str],
        log_durations: np.ndarray,
        rates: np.ndarray | float = 1.0,
        spread: float = 0.0,
        seed: int = 0,
    ) -> np.ndarray:
        """Frames of each phone; rates: times the natural tempo; spread: deviation of drawn log durations."""
        spoken = np.array([phone not in BOUNDARIES for phone in phones])
        rates = np.broadcast_to(np.asarray(rates, dtype=np.float64), spoken.shape)
        scale = self.decoding.duration_scale / np.where(spoken, rates, rates**PAUSE_SHARE)
        if spread:
            scale = scale * np.exp(spread * Noise(seed).drift(len(spoken)))
        return round_durations(log_durations, spoken, scale)

    def _text(self, phones: Sequence[str], states: Any, of_any_voice: bool = False) -> tuple[Any, np.ndarray]:
        """`_encode_text`, remembered for a part of a stream, whose durations are asked for before it is spoken.

        of_any_voice: the text states alone matter, which no voice changes.
        """
        phones = tuple(phones)
        for known, of, made in self._read:
            if known == phones and (of is states or of_any_voice):
                return made
        made = self._encode_text(np.array([phone_ids(phones)]), states)
        self._read = (*self._read[-1:], (phones, states, made))  # a part and its pause's surroundings
        return made

    def predict_durations(self, phones: Sequence[str], voice: AnyVoice, *how: Any) -> list[int]:
        """Frames of each phone, without speaking them; how: rates, spread and seed of `_durations`."""
        _, log_durations = self._text(phones, self.encode_voice(voice))
        return self._durations(phones, log_durations, *how).tolist()

    def generate(
        self,
        phones: Sequence[str],
        voice: AnyVoice,
        seed: int = 0,
        steps: Steps = None,
        durations: Sequence[int] | None = None,
        known: np.ndarray | None = None,
        timings: Timings = None,
        on_pass: Callable[[int, int, np.ndarray], object] | None = None,
        variety: float = 0.0,
    ) -> tuple[np.ndarray, list[int]]:
        """Codes (n, t) and durations for a sequence of phones.

        Args:
            steps: decoding passes of each codec layer; the model's own where None.
            durations: frames of each phone; predicted when None.
            known: true codes (m, t) of the lowest layers, for a diagnosis; only the layers above are predicted.
            timings: a dict to which seconds spent on `prompt`, `duration` and `smd`, and the `passes`, are added.
            on_pass: see `decoding.iterative_decode`.
            variety: of the tokens, see `Controls`.

        Raises SynthesisError for a seed, steps or durations that cannot be.
        """
        steps, *temperatures = self._passes(steps, seed, variety)
        clock = self._clock(timings)
        states = self.encode_voice(voice)
        clock.lap("prompt")
        condition, frames = self._conditioned(phones, states, durations)
        clock.lap("duration")
        grid = (self.n_q, self.bins, int(frames.sum()))
        run = self.run_pass(condition, states)
        codes = iterative_decode(run, *grid, steps, seed, *temperatures, known, on_pass)
        clock.lap("smd")
        clock.count("passes", sum(steps[0 if known is None else len(known) :]))
        return codes, frames.tolist()

    def _conditioned(
        self, phones: Sequence[str], states: Any, durations: Sequence[int] | None
    ) -> tuple[Any, np.ndarray]:
        """The condition, and the frames (p,) of each phone: `durations`, or what is predicted for None."""
        text, log_durations = self._text(phones, states, durations is not None)
        if durations is None:
            durations = self._durations(phones, log_durations)
        elif len(durations) != len(phones) or min(durations) < 0 or sum(durations) < 1:
            raise SynthesisError(
                f"{len(durations)} durations for {len(phones)} phones: give one each, none below 0 and not all 0"
            )
        frames = np.array(durations, dtype=np.int64)
        return self.condition(text, frames, states), frames

    def _passes(self, steps: Steps, seed: int, variety: float) -> tuple[Sequence[int], float, float]:
        """Checked passes of each layer, and the temperatures of layer 1's; SynthesisError for what cannot be."""
        if seed < 0:
            raise SynthesisError(f"seed {seed}: give a whole number, at least 0")
        if steps is not None and (len(steps) != self.n_q or min(steps) < 1):
            raise SynthesisError(f"steps {list(steps)}: give {self.n_q} positive pass counts, one for each codec layer")
        ours = self.decoding
        if variety:
            varied = max(VARIED_PASSES, ours.steps[0]), *ours.steps[1:]
            return steps or varied, variety * VARIED_TEMPERATURE, ours.choice_temperature
        return steps or ours.steps, ours.temperature, ours.choice_temperature

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes (m, t) of the lowest m layers, at least one, to float32 samples (l,) in [-1, 1]."""
        if codes.ndim != 2 or not 1 <= len(codes) <= self.n_q or not codes.size:
            raise SynthesisError(f"codes of shape {codes.shape}: expected (1 to {self.n_q} layers, at least 1 frame)")
        if codes.min() < 0 or codes.max() >= self.bins:
            raise SynthesisError(f"codes between {codes.min()} and {codes.max()}: allowed are 0 to {self.bins - 1}")
        return self._decode(codes)

    def read(self, text: Text, controls: Controls = Controls()) -> Sequence[Passage]:  # noqa: B008
        """What is to be said, before it is said; what was read already stays. Raises TextError for unreadable text."""
        return read_script(text, self.language, controls.lexicon) if isinstance(text, str) else text

    def parts(
        self,
        passages: Sequence[Passage],
        voice: AnyVoice,
        controls: Controls,
        seed: int = 0,
        first: int | None = None,
        clock: "Clock | None" = None,
    ) -> Iterator[Part]:
        """How passages are spoken: cut into parts (`text.chunks`), with the frames of their phones; part by part."""
        clock = clock or self._clock(None)
        named = {None: voice, **controls.voices}
        voices = {name: self.load_voice(named.get(name, name)) for name in {None, *(p.voice for p in passages)}}
        rhythm = None if controls.rhythm is None else self.load_voice(controls.rhythm)
        cut = [
            (voices[passage.voice], phones)
            for number, passage in enumerate(passages)
            for phones in chunks(passage.phones, self._longest(passage, controls.speed), None if number else first)
        ]
        whole = one_sequence(passages)
        rates = np.array(whole.rates) * controls.speed
        asked = [None if seconds is None else round(seconds * self.frame_rate) for seconds in whole.pauses]
        clock.lap("text")

        def durations(index: int, phones: Sequence[str], at: int) -> list[int]:
            """Frames of phones that stand at a place of the whole, as a part's voice says them."""
            speaker, here = cut[index][0], slice(at, at + len(phones))
            self.encode_voice(speaker)
            clock.lap("prompt")
            how = rates[here], controls.variety * DURATION_SPREAD, seed + index
            frames = self.predict_durations(phones, rhythm or speaker, *how)
            clock.lap("duration")
            return [f if a is None else min(a, LONGEST_PAUSE) for f, a in zip(frames, asked[here], strict=True)]

        at = pause = 0
        for index, (speaker, phones) in enumerate(cut):
            frames, end, is_last = durations(index, phones, at), at + len(phones) - 1, index + 1 == len(cut)
            frames[0] = pause if index else frames[0]
            pause = 0
            if not is_last:  # as long as the whole text would pause there; the next part begins with it too
                start = max(end - CONTEXT, 0)
                around = durations(index, whole.phones[start : end + CONTEXT + 1], start)
                frames[-1] = pause = max(around[end - start], SHORTEST)
            own = enumerate(asked[at : end + is_last])
            silences = {i: a - LONGEST_PAUSE for i, a in own if a is not None and a > LONGEST_PAUSE}
            yield Part(phones, frames, speaker, seed + index, pause, silences)
            at = end

    def _longest(self, passage: Passage, speed: float) -> int:
        """Phones of a part at most: fewer where they are spoken slowly, so that its frames stay what a model knows."""
        return int(self.chunk_phones * min(1.0, speed * min(passage.rates)))

    def _spoken(
        self,
        passages: Sequence[Passage],
        voice: AnyVoice,
        seed: int,
        steps: Steps,
        clock: "Clock",
        first: int | None,
        controls: Controls,
    ) -> Iterator[tuple[Part, np.ndarray]]:
        """The parts with their samples."""
        self._read = ()  # a text that was spoken before is no faster
        for part in self.parts(passages, voice, controls, seed, first, clock):
            how = {"timings": clock.timings, "variety": controls.variety}
            codes, _ = self.generate(part.phones, part.voice, part.seed, steps, part.frames, **how)
            clock.restart()
            wave = self.decode(codes)
            clock.lap("codec")
            yield part, wave
            clock.restart()

    def _joined(self, passages: Sequence[Passage], spoken: Sequence[tuple[Part, np.ndarray]]) -> Speech:
        frames = [count for part, _ in spoken for count in part.lasting()]
        return Speech(np.concatenate(list(joined(spoken))), self.sample_rate, passages, frames)

    def stream(
        self,
        text: Text,
        voice: AnyVoice,
        seed: int = 0,
        steps: Steps = None,
        timings: Timings = None,
        first: int | None = FIRST_PHONES,
        **controls: Any,
    ) -> Iterator[np.ndarray]:
        """Speech part by part, each as soon as it is ready; the parts meet in pauses of the text (`crossfade.joined`).

        first: phones of the first part, for early audio (see `text.chunks`); None cuts long texts alone, and the parts
        are then those of `synthesize`, whose other arguments these are.
        """
        clock, asked = self._clock(timings), Controls(**controls)
        return joined(self._spoken(self.read(text, asked), voice, seed, steps, clock, first, asked))

    def speak(
        self, text: Text, voice: AnyVoice, seed: int = 0, steps: Steps = None, timings: Timings = None, **controls: Any
    ) -> Speech:
        """`synthesize`, with the times of words and phones; the text may have been read already."""
        clock, asked = self._clock(timings), Controls(**controls)
        passages = self.read(text, asked)
        return self._joined(passages, list(self._spoken(passages, voice, seed, steps, clock, None, asked)))

    def speak_batch(
        self, texts: Sequence[Text], voices: Sequence[Voice], seed: int = 0, steps: Steps = None, **controls: Any
    ) -> list[Speech]:
        """`speak` of several texts, each with its voice; a backend that can fills their tokens together."""
        return [self.speak(text, v, seed, steps, **controls) for text, v in zip(texts, voices, strict=True)]

    def synthesize_batch(
        self,
        texts: Sequence[Text],
        voices: AnyVoice | Sequence[AnyVoice],
        seed: int = 0,
        steps: Steps = None,
        **controls: Any,
    ) -> list[np.ndarray]:
        """Speak several texts at once, which a GPU does in little more time than one: samples (l,) of each.

        voices: one for all, or one for each text; see `synthesize`, whose results these are, text by text, with the
        same seed and controls. Raises SynthesisError where there are not as many voices as texts, and what
        `synthesize` raises.
        """
        texts = list(texts)
        voices = [voices] * len(texts) if isinstance(voices, AnyVoice) else list(voices)
        if len(voices) != len(texts):
            raise SynthesisError(f"{len(voices)} voices for {len(texts)} texts: give one, or one for each text")
        loaded = {voice: self.load_voice(voice) for voice in voices}
        speeches = self.speak_batch(texts, [loaded[voice] for voice in voices], seed, steps, **controls)
        return [speech.wav for speech in speeches]

    def synthesize(
        self, text: Text, voice: AnyVoice, seed: int = 0, steps: Steps = None, timings: Timings = None, **controls: Any
    ) -> np.ndarray:
        """Speak a text: float32 samples (l,) in [-1, 1] at `sample_rate`. The seed fixes the result.

        `voice` is an enrolled one, a voice file, or a shipped voice's name; `steps` are decoding passes for each codec
        layer. The text may hold marks such as [pause:0.5] (`script.py`); `controls` are speed, variety, rhythm, lexicon
        and voices (`Controls`). Seconds spent are added to `timings` under `text`, `prompt`, `duration`, `smd`
        and `codec`, the number of decoding passes under `passes`. Raises TextError for a text that cannot be read
        aloud, SynthesisError for a control that cannot be followed.
        """
        return self.speak(text, voice, seed, steps, timings, **controls).wav


class Clock:
    """Adds the seconds between laps to a dict, each lap ending when `wait` returns; does nothing for None."""

    def __init__(self, timings: Timings, wait: Callable[[], None]):
        self.timings, self.wait = timings, wait
        self.restart()

    def restart(self) -> None:
        self.since = time.perf_counter()

    def lap(self, name: str) -> None:
        if self.timings is not None:
            self.wait()
            self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - self.since
        self.restart()

    def count(self, name: str, number: int) -> None:
        if self.timings is not None:
            self.timings[name] = self.timings.get(name, 0) + number
