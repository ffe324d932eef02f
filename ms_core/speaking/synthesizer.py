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
from ms_core.speaking.controls import (
    DURATION_SPREAD,
    LONGEST_PAUSE,
    PAUSE_SHARE,
    VARIED_PASSES,
    VARIED_TEMPERATURE,
    Controls,
    Part,
    SynthesisError,
)
from ms_core.speaking.crossfade import joined, planned
from ms_core.speaking.script import Passage, one_sequence, read_script
from ms_core.text import BOUNDARIES, FIRST_PHONES, chunks, phone_ids
from ms_core.tokens import Voice, VoiceError, shipped_voice

CHUNK_PHONES = 160  # a longer text is spoken in parts, cut at its pauses: about 12 s, the longest seen in training
KEPT_VOICES = 4  # whose states stay in memory


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

    def _clock(self, timings: dict[str, float] | None) -> "Clock":
        return Clock(timings, self._wait)

    def load_voice(self, name: str | int | Path) -> Voice:
        """A shipped voice by name ("ls-8123", or 8123), or a voice file. Raises VoiceError."""
        return Voice.load(shipped_voice(name) or str(name))

    def _voice(self, voice: Voice | str | int | Path) -> Voice:
        return voice if isinstance(voice, Voice) else self.load_voice(voice)

    def encode_voice(self, voice: Voice | str | int | Path) -> Any:
        """The voice's states, kept until `KEPT_VOICES` others speak; what these states are is the backend's own.

        Raises VoiceError for a file that is no voice, and for a voice of another codec's tokens.
        """
        voice = self._voice(voice)
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

    def predict_durations(self, phones: Sequence[str], voice: Voice | str | Path, *how: Any) -> list[int]:
        """Frames of each phone, without speaking them; how: rates, spread and seed of `_durations`."""
        _, log_durations = self._text(phones, self.encode_voice(voice))
        return self._durations(phones, log_durations, *how).tolist()

    def generate(
        self,
        phones: Sequence[str],
        voice: Voice | str | Path,
        seed: int = 0,
        steps: Sequence[int] | None = None,
        durations: Sequence[int] | None = None,
        known: np.ndarray | None = None,
        timings: dict[str, float] | None = None,
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

    def _passes(self, steps: Sequence[int] | None, seed: int, variety: float) -> tuple[Sequence[int], float, float]:
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

    def read(self, text: str | Sequence[Passage], controls: Controls = Controls()) -> Sequence[Passage]:  # noqa: B008
        """What is to be said, before it is said; what was read already stays. Raises TextError for unreadable text."""
        return read_script(text, self.language, controls.lexicon) if isinstance(text, str) else text

    def parts(
        self,
        passages: Sequence[Passage],
        voice: Voice | str | int | Path,
        controls: Controls,
        seed: int = 0,
        first: int | None = None,
        clock: "Clock | None" = None,
    ) -> Iterator[Part]:
        """How passages are spoken: cut into parts (`text.chunks`), with the frames of their phones; part by part."""
        clock = clock or self._clock(None)
        names = {name: controls.voices.get(name, name) for name in {p.voice for p in passages} - {None}}
        loaded = {name: self._voice(named) for name, named in names.items()} | {None: self._voice(voice)}
        rhythm = None if controls.rhythm is None else self._voice(controls.rhythm)
        cut = [
            (loaded[passage.voice], part)
            for number, passage in enumerate(passages)
            for part in chunks(passage.phones, self._longest(passage, controls.speed), None if number else first)
        ]
        whole = one_sequence(passages)
        rates = np.array(whole.rates) * controls.speed
        per_second = self.frame_rate
        asked = [None if seconds is None else round(seconds * per_second) for seconds in whole.pauses]
        clock.lap("text")

        def durations(index: int, phones: Sequence[str], at: int) -> list[int]:
            speaker = cut[index][0]
            self.encode_voice(speaker)
            clock.lap("prompt")
            how = rates[at : at + len(phones)], controls.variety * DURATION_SPREAD, seed + index
            frames = self.predict_durations(phones, rhythm or speaker, *how)
            wanted = asked[at : at + len(phones)]
            clock.lap("duration")
            return [f if a is None else min(a, LONGEST_PAUSE) for f, a in zip(frames, wanted, strict=True)]

        at = 0
        plan = planned(whole.phones, [part for _, part in cut], durations)
        for index, ((speaker, part), (frames, pause)) in enumerate(zip(cut, plan, strict=True)):
            own = asked[at : at + len(part) - 1] + asked[-1:] * (index + 1 == len(cut))
            silences = {i: a - LONGEST_PAUSE for i, a in enumerate(own) if a is not None and a > LONGEST_PAUSE}
            yield Part(part, frames, speaker, seed + index, pause, silences)
            at += len(part) - 1

    def _longest(self, passage: Passage, speed: float) -> int:
        """Phones of a part at most: fewer where they are spoken slowly, so that its frames stay what a model knows."""
        return int(self.chunk_phones * min(1.0, speed * min(passage.rates)))

    def _spoken(
        self,
        text: str | Sequence[Passage],
        voice: Voice | str | int | Path,
        seed: int,
        steps: Sequence[int] | None,
        timings: dict[str, float] | None,
        first: int | None,
        controls: Controls,
        frames: list[int],
    ) -> Iterator[np.ndarray]:
        """The waves of the parts; frames of the phones of the whole are added to `frames`, silences included."""
        clock = self._clock(timings)
        self._read = ()  # a text that was spoken before is no faster
        passages = self.read(text, controls)
        parts: list[Part] = []

        def plan() -> Iterator[tuple[list[int], int, dict[int, int]]]:
            for part in self.parts(passages, voice, controls, seed, first, clock):
                parts.append(part)
                frames.extend(part.lasting())
                yield part.frames, part.pause, part.silences
                clock.restart()

        def speak(index: int, frames: Sequence[int]) -> np.ndarray:
            part = parts[index]
            codes, _ = self.generate(
                part.phones, part.voice, part.seed, steps, frames, timings=timings, variety=controls.variety
            )
            clock.restart()
            wave = self.decode(codes)
            clock.lap("codec")
            return wave

        yield from joined(plan(), speak)

    def stream(
        self,
        text: str | Sequence[Passage],
        voice: Voice | str | int | Path,
        seed: int = 0,
        steps: Sequence[int] | None = None,
        timings: dict[str, float] | None = None,
        first: int | None = FIRST_PHONES,
        **controls: Any,
    ) -> Iterator[np.ndarray]:
        """Speech part by part, each as soon as it is ready; the parts meet in pauses of the text (`crossfade.joined`).

        first: phones of the first part, for early audio (see `text.chunks`); None cuts long texts alone, and the parts
        are then those of `synthesize`, whose other arguments these are.
        """
        yield from self._spoken(text, voice, seed, steps, timings, first, Controls(**controls), [])

    def speak(
        self,
        text: str | Sequence[Passage],
        voice: Voice | str | int | Path,
        seed: int = 0,
        steps: Sequence[int] | None = None,
        timings: dict[str, float] | None = None,
        **controls: Any,
    ) -> Speech:
        """`synthesize`, with the times of words and phones; the text may have been read already."""
        asked, frames = Controls(**controls), []
        passages = self.read(text, asked)
        waves = list(self._spoken(passages, voice, seed, steps, timings, None, asked, frames))
        return Speech(np.concatenate(waves), self.sample_rate, passages, frames)

    def speak_batch(
        self,
        texts: Sequence[str | Sequence[Passage]],
        voices: Sequence[Voice],
        seed: int = 0,
        steps: Sequence[int] | None = None,
        **controls: Any,
    ) -> list[Speech]:
        """`speak` of several texts, each with its voice; a backend that can fills their tokens together."""
        return [self.speak(text, v, seed, steps, **controls) for text, v in zip(texts, voices, strict=True)]

    def synthesize_batch(
        self,
        texts: Sequence[str],
        voices: Voice | str | int | Path | Sequence[Voice | str | int | Path],
        seed: int = 0,
        steps: Sequence[int] | None = None,
        **controls: Any,
    ) -> list[np.ndarray]:
        """Speak several texts at once, which a GPU does in little more time than one: samples (l,) of each.

        voices: one for all, or one for each text; see `synthesize`, whose results these are, text by text, with the
        same seed and controls. Raises SynthesisError where there are not as many voices as texts, and what
        `synthesize` raises.
        """
        texts = list(texts)
        voices = [voices] * len(texts) if isinstance(voices, Voice | str | int | Path) else list(voices)
        if len(voices) != len(texts):
            raise SynthesisError(f"{len(voices)} voices for {len(texts)} texts: give one, or one for each text")
        loaded = {v: self.load_voice(v) for v in voices if not isinstance(v, Voice)}
        speakers = [v if isinstance(v, Voice) else loaded[v] for v in voices]
        return [speech.wav for speech in self.speak_batch(texts, speakers, seed, steps, **controls)]

    def synthesize(
        self,
        text: str,
        voice: Voice | str | int | Path,
        seed: int = 0,
        steps: Sequence[int] | None = None,
        timings: dict[str, float] | None = None,
        **controls: Any,
    ) -> np.ndarray:
        """Speak a text: float32 samples (l,) in [-1, 1] at `sample_rate`. The seed fixes the result.

        `voice` is an enrolled one, a voice file, or a shipped voice's name; `steps` are decoding passes for each codec
        layer. The text may hold marks such as [pause:0.5] (`script.py`); `controls` are speed, variety, rhythm, lexicon
        and voices (`Controls`). Seconds spent are added to `timings` under `text`, `prompt`, `duration`, `smd`
        and `codec`, the number of decoding passes under `passes`. Raises TextError for a text that cannot be read
        aloud, SynthesisError for a control that cannot be followed.
        """
        return np.concatenate(list(self.stream(text, voice, seed, steps, timings, None, **controls)))


class Clock:
    """Adds the seconds between laps to a dict, each lap ending when `wait` returns; does nothing for None."""

    def __init__(self, timings: dict[str, float] | None, wait: Callable[[], None]):
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
