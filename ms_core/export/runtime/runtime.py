"""Text and a voice to a waveform, on onnxruntime: the counterpart of `ms_core.synthesis.MobileSpeech`."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ms_core.crossfade import joined
from ms_core.export.runtime.codec import MobileCodec
from ms_core.export.runtime.decoding import fill_grid, regulate, round_durations
from ms_core.export.runtime.manifest import MobileError, read_manifest
from ms_core.export.runtime.voice import MobileVoice
from ms_core.text import BOUNDARIES, FIRST_PHONES, PHONES, chunks, phone_ids, phonemise

SpeakerStates = dict[str, np.ndarray]
"""By name, the outputs of the prompt's graph and its words: all that the other graphs need of a voice."""
CONSTANTS = "codec.safetensors"
VECTORS = "vectors.bin"  # the codec's code vectors, float32 (float16 in an int8 export)
RESIDENT = ("text", "condition", "smd", "codec")  # graphs that stay loaded; the prompt's runs once for a voice


class MobileRuntime:
    """Zero-shot text-to-speech from an exported folder.

    Args:
        folder: what `ms_core.export.onnx.export` wrote.
        threads: that onnxruntime uses for one operator.
        check: compare every file with its sha256 in the manifest; without, sizes alone are compared.

    Raises MobileError for a folder that is incomplete, damaged, of another version or for another runtime.
    """

    kind = "onnx"  # of the folders that it runs

    def __init__(self, folder: str | Path, threads: int = 1, check: bool = True):
        if threads < 1:
            raise MobileError(f"threads {threads}: give at least 1")
        self.folder, self.threads = Path(folder), threads
        self.manifest = read_manifest(folder, check)
        if self.manifest.runtime != self.kind:
            raise MobileError(
                f"{folder} is an export to {self.manifest.runtime}, {type(self).__name__} runs {self.kind}: "
                f"`ms-core export --to {self.kind}` writes that"
            )
        if self.manifest.phones != PHONES:
            raise MobileError(f"{folder}: its phone table is not this version's: export the model again")
        self.sample_rate = self.manifest.codec.sample_rate
        codec = self.manifest.codec
        try:
            vectors = np.fromfile(
                self.folder / VECTORS, np.float16 if self.manifest.precision == "int8" else np.float32
            )
            books = vectors.reshape(codec.n_q, codec.bins + 1, -1)[:, :-1].astype(np.float32)
            self.codec = MobileCodec(codec, {**load_file(self.folder / CONSTANTS), "books": books})
        except (SafetensorError, KeyError, ValueError) as error:
            raise MobileError(f"{self.folder}: {CONSTANTS} and {VECTORS} are not the codec's ({error})") from None
        self._sessions = {name: self._load(name) for name in RESIDENT}

    def _load(self, name: str) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads cost battery
        try:
            return onnxruntime.InferenceSession(self.folder / f"{name}.onnx", options, ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise MobileError(f"{self.folder / name}.onnx cannot be loaded by onnxruntime ({error})") from error

    def _run(self, name: str, **inputs: np.ndarray) -> list[np.ndarray]:
        """Outputs of a graph; inputs that it does not have are left out."""
        return _run(self._sessions[name], inputs)

    def enrol(self, voice: MobileVoice | str | Path) -> SpeakerStates:
        """Encode a voice (file) once; the states serve any number of texts.

        Raises MobileError for a file that is no voice, or a voice whose tokens are another codec's.
        """
        voice = voice if isinstance(voice, MobileVoice) else MobileVoice.load(voice)
        if voice.token_digest != self.manifest.token_digest:
            raise MobileError(
                f"this voice holds tokens of codec {voice.token_digest or '(unknown)'}, the model needs "
                f"{self.manifest.token_digest}: enrol the speaker again with the model that was exported"
            )
        self._check_codes(voice.codes)
        ids = np.array(phone_ids(voice.phones))
        frames = np.array(voice.durations)
        session = self._load("prompt")  # released again: half a voice's memory would stay idle
        states = _run_named(
            session,
            {
                "prompt_codes": voice.codes[None],
                "prompt_frame_phones": np.repeat(ids, frames)[None],
                "prompt_phones": ids[None],
                "prompt_durations": frames[None],
            },
        )
        index, place = regulate(frames)
        words, _ = self._run("text", phones=ids[None], **states)
        return {**states, "prompt_states": words, "prompt_index": index, "prompt_place": place[None]}

    def smd_pass(
        self, condition: Mapping[str, np.ndarray], voice: SpeakerStates
    ) -> Callable[[np.ndarray, int, np.ndarray], np.ndarray]:
        """One pass of the speech mask decoder under what `condition` gave: see `decoding.Pass`."""

        def run(codes: np.ndarray, layer: int, frames: np.ndarray) -> np.ndarray:
            inputs = {"codes": codes[None], "layer": np.array([layer]), "frames": frames}
            return self._run("smd", **inputs, **condition, **voice)[0][0]

        return run

    def condition(
        self, phones: Sequence[str], voice: SpeakerStates, durations: Sequence[int] | None = None
    ) -> tuple[dict[str, np.ndarray], list[int]]:
        """What every pass over an utterance is given, its text states (1, t, d) first, and the frames of each phone:
        predicted where None."""
        ids = np.array([phone_ids(phones)])
        states, log_durations = self._run("text", phones=ids, **voice)
        if durations is None:
            durations = self._durations(phones, log_durations)
        if len(durations) != len(phones) or min(durations) < 0 or sum(durations) < 1:
            raise MobileError(f"durations {list(durations)}: give {len(phones)} frame counts >= 0, not all 0")
        index, place = regulate(np.array(durations))
        inputs = {"states": states, "index": index, "place": place[None], **voice}
        return _run_named(self._sessions["condition"], inputs), list(durations)

    def _durations(self, phones: Sequence[str], log_durations: np.ndarray) -> list[int]:
        spoken = np.array([p not in BOUNDARIES for p in phones])
        return round_durations(log_durations[0], spoken, self.manifest.decoding.duration_scale).tolist()

    def predict_durations(self, phones: Sequence[str], voice: SpeakerStates) -> list[int]:
        """Frames of each phone, without speaking them."""
        return self._durations(phones, self._run("text", phones=np.array([phone_ids(phones)]), **voice)[1])

    def generate(
        self,
        phones: Sequence[str],
        voice: SpeakerStates,
        seed: int = 0,
        steps: Sequence[int] | None = None,
        durations: Sequence[int] | None = None,
        known: np.ndarray | None = None,
        timings: dict[str, float] | None = None,
    ) -> tuple[np.ndarray, list[int]]:
        """Codes (n, t) and durations for a sequence of phones.

        Args:
            durations: frames of each phone; predicted when None.
            known: codes (m, t) of the lowest layers; only the layers above are predicted.
            timings: a dict to which seconds spent on `duration` and `smd` and the number of `passes` are added.
        """
        steps, decoding, codec = self._steps(steps), self.manifest.decoding, self.manifest.codec
        if seed < 0:
            raise MobileError(f"seed {seed}: give a whole number, at least 0")
        start = time.perf_counter()
        condition, frames = self.condition(phones, voice, durations)
        start = _lap(timings, "duration", start)
        codes = fill_grid(
            self.smd_pass(condition, voice),
            codec.n_q,
            codec.bins,
            sum(frames),
            steps,
            seed,
            decoding.temperature,
            decoding.choice_temperature,
            known,
        )
        _lap(timings, "smd", start)
        if timings is not None:
            timings["passes"] = timings.get("passes", 0) + sum(steps[0 if known is None else len(known) :])
        return codes, frames

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes (n, t), n at least 1, to float32 samples (t * hop,) in [-1, 1]."""
        self._check_codes(codes)
        controls = self._run("codec", latent=self.codec.dequantise(codes)[None])
        return self.codec.waveform(*(control[0] for control in controls))

    def stream(
        self,
        text: str,
        voice: SpeakerStates | MobileVoice | str | Path,
        seed: int = 0,
        steps: Sequence[int] | None = None,
        timings: dict[str, float] | None = None,
        first: int | None = FIRST_PHONES,
    ) -> Iterator[np.ndarray]:
        """Speech part by part, each as soon as it is ready; the parts meet in pauses of the text (`joining.joined`).

        first: phones of the first part, for early audio (see `text.chunks`); None cuts long texts alone, and the parts
        are then those of `synthesize`.
        """
        start = time.perf_counter()
        phones = phonemise(text)
        parts = chunks(phones, self.manifest.chunk_phones, first)
        start = _lap(timings, "text", start)
        states = voice if isinstance(voice, dict) else self.enrol(voice)
        _lap(timings, "prompt", start)

        def speak(index: int, frames: Sequence[int] | None) -> np.ndarray:
            codes, _ = self.generate(parts[index], states, seed + index, steps, frames, timings=timings)
            start = time.perf_counter()
            wave = self.decode(codes)
            _lap(timings, "codec", start)
            return wave

        def durations(context: Sequence[str]) -> list[int]:
            start = time.perf_counter()
            frames = self.predict_durations(context, states)
            _lap(timings, "duration", start)
            return frames

        yield from joined(phones, parts, speak, durations)

    def synthesize(
        self,
        text: str,
        voice: SpeakerStates | MobileVoice | str | Path,
        seed: int = 0,
        steps: Sequence[int] | None = None,
        timings: dict[str, float] | None = None,
    ) -> np.ndarray:
        """Speak a text: float32 samples (l,) in [-1, 1] at `sample_rate`. The seed fixes the result.

        `voice` is a voice file, or better what `enrol` made of it; `steps` are decoding passes for each codec layer.
        Seconds spent are added to `timings` under `text`, `prompt`, `duration`, `smd` and `codec`, and the number of
        decoding passes under `passes`. Raises TextError for a text that cannot be read aloud.
        """
        return np.concatenate(list(self.stream(text, voice, seed, steps, timings, None)))

    def _steps(self, steps: Sequence[int] | None) -> Sequence[int]:
        if steps is None:
            return self.manifest.decoding.steps
        n_q = self.manifest.codec.n_q
        if len(steps) != n_q or min(steps) < 1:
            raise MobileError(f"steps {list(steps)}: give {n_q} positive pass counts, one for each codec layer")
        return steps

    def _check_codes(self, codes: np.ndarray) -> None:
        c = self.manifest.codec
        if codes.ndim != 2 or not 1 <= len(codes) <= c.n_q or not codes.size:
            raise MobileError(f"codes of shape {codes.shape}: expected (1 to {c.n_q} layers, at least 1 frame)")
        if codes.min() < 0 or codes.max() >= c.bins:
            raise MobileError(f"codes between {codes.min()} and {codes.max()}: allowed are 0 to {c.bins - 1}")


def _run(session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    return session.run(None, {i.name: inputs[i.name] for i in session.get_inputs()})


def _run_named(session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(zip((output.name for output in session.get_outputs()), _run(session, inputs), strict=True))


def _lap(timings: dict[str, float] | None, name: str, since: float) -> float:
    """Adds the seconds since `since` to a dict, if there is one; returns the time now."""
    now = time.perf_counter()
    if timings is not None:
        timings[name] = timings.get(name, 0.0) + now - since
    return now
