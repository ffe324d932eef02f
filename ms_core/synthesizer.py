"""Text and an enrolled voice to a waveform, whatever computes: the same code over PyTorch, ONNX and ExecuTorch.

A backend says how a voice and a text are encoded and how one pass of the speech mask decoder runs; all else is numpy
(`decoding.py`). Nothing here imports torch.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ms_core import paths
from ms_core.crossfade import joined, planned
from ms_core.decoding import Pass, iterative_decode, round_durations
from ms_core.text import BOUNDARIES, FIRST_PHONES, chunks, phone_ids, phonemise
from ms_core.tokens import Voice, VoiceError

CHUNK_PHONES = 160  # a longer text is spoken in parts, cut at its pauses: about 12 s, the longest seen in training


class SynthesisError(ValueError):
    """A request that cannot be spoken; the message says what was given and what is allowed."""


class Synthesizer:
    """What all backends share; one gives the attributes and the five methods that raise NotImplementedError here.

    Attributes:
        sample_rate: Hz.
        n_q, bins: layers and entries of the codec's token grid.
        token_digest: of the tokens that the model was trained on.
        decoding: `steps`, `temperature`, `choice_temperature` and `duration_scale`, as in `config.DecodingConfig`.
        chunk_phones: a longer text is spoken in parts.
    """

    sample_rate: int
    n_q: int
    bins: int
    token_digest: str
    decoding: Any
    chunk_phones = CHUNK_PHONES
    _kept: tuple[Voice, Any] | None = None  # the voice that spoke last, with its states
    _read: tuple[Any, dict[tuple[str, ...], tuple[Any, np.ndarray]]] = None, {}  # states, what they made of phones

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

    def load_voice(self, name: str | Path) -> Voice:
        """A shipped voice by name, or a voice file. Raises VoiceError."""
        shipped = paths.ASSETS / "voices" / f"{name}.safetensors"
        return Voice.load(shipped if shipped.is_file() else name)

    def encode_voice(self, voice: Voice | str | Path) -> Any:
        """The voice's states, kept until another voice speaks; what these states are is the backend's own.

        Raises VoiceError for a file that is no voice, and for a voice of another codec's tokens.
        """
        voice = voice if isinstance(voice, Voice) else self.load_voice(voice)
        if self._kept is None or self._kept[0] is not voice:
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
            self._kept = voice, self._encode_voice(voice)
        return self._kept[1]

    def _durations(self, phones: Sequence[str], log_durations: np.ndarray) -> np.ndarray:
        spoken = np.array([phone not in BOUNDARIES for phone in phones])
        return round_durations(log_durations, spoken, self.decoding.duration_scale)

    def _text(self, phones: Sequence[str], states: Any) -> tuple[Any, np.ndarray]:
        """`_encode_text`, remembered for a part of a stream, whose durations are asked for before it is spoken."""
        if self._read[0] is not states:
            self._read = states, {}
        made = self._read[1]
        if (key := tuple(phones)) not in made:
            if len(made) == 2:  # a part and its pause's surroundings
                made.pop(next(iter(made)))
            made[key] = self._encode_text(np.array([phone_ids(phones)]), states)
        return made[key]

    def predict_durations(self, phones: Sequence[str], voice: Voice | str | Path) -> list[int]:
        """Frames of each phone, without speaking them."""
        _, log_durations = self._text(phones, self.encode_voice(voice))
        return self._durations(phones, log_durations).tolist()

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
    ) -> tuple[np.ndarray, list[int]]:
        """Codes (n, t) and durations for a sequence of phones.

        Args:
            steps: decoding passes of each codec layer; the model's own where None.
            durations: frames of each phone; predicted when None.
            known: true codes (m, t) of the lowest layers, for a diagnosis; only the layers above are predicted.
            timings: a dict to which seconds spent on `prompt`, `duration` and `smd`, and the `passes`, are added.
            on_pass: see `decoding.iterative_decode`.

        Raises SynthesisError for a seed, steps or durations that cannot be.
        """
        steps = self._steps(steps, seed)
        clock = self._clock(timings)
        states = self.encode_voice(voice)
        clock.lap("prompt")
        condition, frames = self._conditioned(phones, states, durations)
        clock.lap("duration")
        grid = (self.n_q, self.bins, int(frames.sum()))
        temperatures = self.decoding.temperature, self.decoding.choice_temperature
        run = self.run_pass(condition, states)
        codes = iterative_decode(run, *grid, steps, seed, *temperatures, known, on_pass)
        clock.lap("smd")
        clock.count("passes", sum(steps[0 if known is None else len(known) :]))
        return codes, frames.tolist()

    def _conditioned(
        self, phones: Sequence[str], states: Any, durations: Sequence[int] | None
    ) -> tuple[Any, np.ndarray]:
        """The condition, and the frames (p,) of each phone: `durations`, or what is predicted for None."""
        text, log_durations = self._text(phones, states)
        if durations is None:
            durations = self._durations(phones, log_durations)
        elif len(durations) != len(phones) or min(durations) < 0 or sum(durations) < 1:
            raise SynthesisError(
                f"{len(durations)} durations for {len(phones)} phones: give one each, none below 0 and not all 0"
            )
        frames = np.array(durations, dtype=np.int64)
        return self.condition(text, frames, states), frames

    def _steps(self, steps: Sequence[int] | None, seed: int) -> Sequence[int]:
        """Checked passes of each layer; raises SynthesisError for these and for a seed that cannot be."""
        if seed < 0:
            raise SynthesisError(f"seed {seed}: give a whole number, at least 0")
        if steps is None:
            return self.decoding.steps
        if len(steps) != self.n_q or min(steps) < 1:
            raise SynthesisError(f"steps {list(steps)}: give {self.n_q} positive pass counts, one for each codec layer")
        return steps

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes (m, t) of the lowest m layers, at least one, to float32 samples (l,) in [-1, 1]."""
        if codes.ndim != 2 or not 1 <= len(codes) <= self.n_q or not codes.size:
            raise SynthesisError(f"codes of shape {codes.shape}: expected (1 to {self.n_q} layers, at least 1 frame)")
        if codes.min() < 0 or codes.max() >= self.bins:
            raise SynthesisError(f"codes between {codes.min()} and {codes.max()}: allowed are 0 to {self.bins - 1}")
        return self._decode(codes)

    def stream(
        self,
        text: str,
        voice: Voice | str | Path,
        seed: int = 0,
        steps: Sequence[int] | None = None,
        timings: dict[str, float] | None = None,
        first: int | None = FIRST_PHONES,
    ) -> Iterator[np.ndarray]:
        """Speech part by part, each as soon as it is ready; the parts meet in pauses of the text (`crossfade.joined`).

        first: phones of the first part, for early audio (see `text.chunks`); None cuts long texts alone, and the parts
        are then those of `synthesize`.
        """
        clock = self._clock(timings)
        self._read = None, {}  # a text that was spoken before is no faster
        phones = phonemise(text)
        parts = chunks(phones, self.chunk_phones, first)
        voice = voice if isinstance(voice, Voice) else self.load_voice(voice)
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

        yield from joined(planned(phones, parts, durations), speak)

    def synthesize(
        self,
        text: str,
        voice: Voice | str | Path,
        seed: int = 0,
        steps: Sequence[int] | None = None,
        timings: dict[str, float] | None = None,
    ) -> np.ndarray:
        """Speak a text: float32 samples (l,) in [-1, 1] at `sample_rate`. The seed fixes the result.

        `voice` is an enrolled one, a voice file, or a shipped voice's name; `steps` are decoding passes for each codec
        layer. Seconds spent are added to `timings` under `text`, `prompt`, `duration`, `smd` and `codec`, the number of
        decoding passes under `passes`. Raises TextError for a text that cannot be read aloud.
        """
        return np.concatenate(list(self.stream(text, voice, seed, steps, timings, None)))


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
