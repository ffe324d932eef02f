"""Texts to sound files or to a pipe: what both command lines, `ms-core synth` and the phone runtime's, do with them.

Nothing here imports torch.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from ms_core.detect.watermark import WatermarkError, comment, ready, sign
from ms_core.files import UNKNOWN, pcm_bytes, wav_head, write_wav
from ms_core.paths import check_out
from ms_core.speaking.captions import FORMATS, as_written
from ms_core.speaking.controls import Controls, SynthesisError
from ms_core.speaking.script import Passage, read_file, read_lexicon, read_script
from ms_core.speaking.synthesizer import AnyVoice, Steps, Synthesizer
from ms_core.text.phones import BOUNDARIES, TextError
from ms_core.tokens import Voice, VoiceError

MAX_LINES = 10_000
TOGETHER = 16  # lines of a batch where a GPU fills their tokens at once
STREAMS = ("raw", "wav")
MAX_TAKES = 100


class LineError(ValueError):
    """A file of texts, or a line of it, that cannot be used; the message says which and why."""


@dataclass
class Line:
    """One text to say, with what it asks otherwise than the rest: `voice`, `seed`, `out` and fields of `Controls`.

    number: in its file, from 1. error: why it cannot be said.
    """

    number: int
    text: str = ""
    voice: str | None = None
    seed: int | None = None
    out: str | None = None
    controls: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    passages: Sequence[Passage] = ()


_FIELDS = {"text": str, "voice": str | int, "seed": int, "out": str}
_CONTROLS = {"speed": int | float, "variety": int | float, "rhythm": str | int}


def read_lines(text: str, form: str) -> list[Line]:
    """The lines of a text, "plain" or "jsonl": a JSON object a line with `text`, and may be voice, seed, out, speed,
    variety, rhythm. Empty ones are left out; a bad one carries its error. Raises LineError for none or too many."""
    rows = [(number, row) for number, row in enumerate(text.splitlines(), 1) if row.strip()]
    if not rows or len(rows) > MAX_LINES:
        raise LineError(f"{len(rows):,} lines of text; give at least one and at most {MAX_LINES:,}")
    return [Line(number, row) if form == "plain" else _of_json(number, row) for number, row in rows]


def _of_json(number: int, row: str) -> Line:
    try:
        values = json.loads(row)
    except (ValueError, RecursionError) as error:
        return Line(number, error=f"not JSON ({error})")
    if not isinstance(values, dict) or "text" not in values:
        return Line(number, error="not a JSON object with a text: give one such as " + '{"text": "Hello."}')
    known = _FIELDS | _CONTROLS
    for name, value in values.items():
        if name not in known:
            return Line(number, error=f"unknown {name!r}; allowed are {', '.join(known)}")
        if not isinstance(value, known[name]) or isinstance(value, bool):
            return Line(number, error=f"{name} {value!r} is of the wrong kind")
    own = {name: values.pop(name) for name in _FIELDS if name in values}
    return Line(number, **own, controls=values)


def prepare(lines: Sequence[Line], controls: Mapping[str, Any], language: str = "en") -> None:
    """Read what is to be said, before a model is loaded: sets `passages`, or `error`, of each line."""
    for line in lines:
        if line.error is None:
            try:
                asked = Controls(**{**controls, **line.controls})
                line.passages = read_script(line.text, language, asked.lexicon)
                for name in [line.voice, asked.rhythm, *(passage.voice for passage in line.passages)]:
                    if isinstance(name, str | int) and name not in asked.voices:
                        Voice.load(name)
                if line.out and (Path(line.out).name != line.out or Path(line.out).suffix.lower() != ".wav"):
                    raise LineError(f"out {line.out!r}: give a file's name that ends in .wav, without a folder")
                if line.seed is not None and line.seed < 0:
                    raise SynthesisError(f"seed {line.seed}: give a whole number, at least 0")
            except (TextError, VoiceError, SynthesisError, LineError) as error:
                line.error = str(error)


def one_line(lines: Sequence[Line], numbered: bool = True) -> Line:
    """Lines as one, to be joined like sentences: each in its voice and at its speed. Raises LineError."""
    passages: list[Passage] = []
    for line in lines:
        unable = [name for name in ("variety", "rhythm") if name in line.controls]
        unable += [name for name in ("seed", "out") if getattr(line, name) is not None]
        error = line.error or (unable and f"{', '.join(unable)}: of lines that get files of their own, in a folder")
        if error:
            raise LineError(f"line {line.number}: {error}" if numbered else error)
        for passage in line.passages:
            rates = tuple(rate * line.controls.get("speed", 1) for rate in passage.rates)
            passages.append(replace(passage, voice=passage.voice or line.voice, rates=rates))
    return Line(1, " ".join(line.text for line in lines), passages=passages)


def shown_phones(lines: Sequence[Line]) -> str:
    """What is said and how, a word a line, as a lexicon has it: the word, a tab, its phones."""
    rows = []
    for line in lines:
        for passage in line.passages:
            said = iter(" ".join("/" if p in BOUNDARIES else p for p in passage.phones).strip("/ ").split(" / "))
            rows += [f"{text}\t{' _ '.join(next(said) for _ in words)}" for text, words in as_written(passage)]
    return "\n".join(rows)


@dataclass
class Request:
    """What a command line was asked for: lines to be said, and how; `options` as it names them, see `of`."""

    options: Any
    lines: list[Line]
    controls: dict[str, Any]
    steps: Steps
    in_folder: bool  # a file for each line

    @classmethod
    def of(cls, options: Any, steps: Steps, has_prompt: bool = False) -> "Request":
        """Read and check everything before a model is loaded.

        options: `text`, `text_file`, `jsonl`, `voice`, `out`, `seed`, `speed`, `variety`, `takes`, `rhythm`, `lexicon`,
        `show_phones`, `timestamps`, `stream` and `watermark`.
        Raises LineError, OutputError, TextError, SynthesisError, VoiceError, WatermarkError.
        """
        sources = options.text, options.text_file, options.jsonl
        if sum(source is not None for source in sources) != 1:
            raise LineError("give one of --text, --text-file and --jsonl")
        if options.stream and (options.out or options.timestamps or options.takes > 1):
            raise LineError("--stream writes to stdout: it goes without --out, --timestamps and --takes")
        if options.out is None and not (options.stream or options.show_phones):
            raise LineError("give --out, --stream or --show-phones")
        has_voice = options.voice is not None or has_prompt
        if not has_voice and options.jsonl is None and (options.out or options.stream):
            raise LineError("give either --voice, or --prompt with --prompt-text")
        in_folder = options.out is not None and options.text is None and options.out.suffix == ""
        _check_files(options.out, options.timestamps, in_folder)
        controls = {name: getattr(options, name) for name in ("speed", "variety", "rhythm")}
        controls["lexicon"] = read_lexicon(options.lexicon) if options.lexicon else {}
        Controls(**controls)
        if not 1 <= options.takes <= MAX_TAKES or options.takes > 1 and not (options.variety or steps):
            raise LineError(
                f"--takes {options.takes}: 1 to {MAX_TAKES}, and above 1 with --variety, else all are equal"
            )
        if options.text is not None:
            lines = [Line(1, options.text)]
        else:
            content = read_file(options.jsonl or options.text_file)
            form = "plain" if options.jsonl is None else "jsonl"
            lines = read_lines(content, form) if options.jsonl or in_folder else [Line(1, content)]
        prepare(lines, controls)
        if not in_folder:
            lines = [one_line(lines, options.jsonl is not None)]
        for line in lines:
            silent = line.voice is None and any(passage.voice is None for passage in line.passages)
            if silent and not has_voice and (options.out or options.stream):
                line.error = line.error or "no voice: give it in the line, or --voice"
                if not in_folder:
                    raise LineError(line.error)
        if options.stream and options.watermark == "require":
            raise WatermarkError("--watermark require: a stream is not marked; write a file")
        return cls(options, lines, controls, steps, in_folder)

    def speak(self, tts: Synthesizer, voice: Voice | None, told: Callable, failed: Callable) -> int:
        """Say all lines; returns how many could not be said. A line that fails does not keep the others from files.

        told, failed: are given what was done, and what could not be, in a line each.
        """
        options = self.options
        if options.watermark == "require":
            ready(tts.watermark)
        if options.stream:
            print("no watermark: a stream is not marked", file=sys.stderr)
            how, speaker = {"seed": options.seed, "steps": self.steps, **self.controls}, _speaker(self.lines[0], voice)
            write_stream(tts, self.lines[0], speaker, sys.stdout.buffer, options.stream, **how)
            return 0
        if self.in_folder:
            options.out.mkdir(exist_ok=True)
        alike: dict[tuple, list[Line]] = {}
        for line in self.lines:
            if line.error is None:
                alike.setdefault((line.seed, *line.controls.items()), []).append(line)
        size = TOGETHER if str(getattr(tts, "device", "cpu")) != "cpu" else 1
        for lines in alike.values():
            for at in range(0, len(lines), size):
                try:
                    self._write(tts, lines[at : at + size], voice, told)
                except (TextError, VoiceError, SynthesisError) as error:
                    if not self.in_folder:
                        raise
                    for line in lines[at : at + size]:
                        line.error = str(error)
        unable = [line for line in self.lines if line.error is not None]
        for line in unable:
            failed(f"line {line.number}: {line.error}")
        if unable:
            failed(f"{len(unable)} of {len(self.lines)} lines were not spoken")
        return len(unable)

    def _write(self, tts: Synthesizer, lines: Sequence[Line], voice: Voice | None, told: Callable) -> None:
        """Say lines that ask for the same, all takes of them, and write their files."""
        asked, options = {**self.controls, **lines[0].controls}, self.options
        first = options.seed if lines[0].seed is None else lines[0].seed
        voices = [tts.load_voice(_speaker(line, voice)) for line in lines]
        for take in range(options.takes):
            begin = time.perf_counter()
            spoken = tts.speak_batch([line.passages for line in lines], voices, first + take, self.steps, **asked)
            spent = time.perf_counter() - begin
            seconds = sum(len(speech.wav) for speech in spoken) / tts.sample_rate
            for line, speech in zip(lines, spoken, strict=True):
                file = self._file(line, take)
                wav, note, mark = sign(speech.wav, tts.sample_rate, tts.checkpoint, options.watermark, tts.watermark)
                write_wav(file, wav, tts.sample_rate, note)
                print(f"{file}: {mark}", file=sys.stderr)
                if options.timestamps is not None:
                    several = self.in_folder or options.takes > 1
                    suffix = options.timestamps if self.in_folder else Path(options.timestamps).suffix
                    speech.save_captions(file.with_suffix(suffix) if several else options.timestamps)
                told(f"{file}: {len(speech.wav) / tts.sample_rate:.2f} s of speech, RTF {spent / seconds:.3f}")

    def _file(self, line: Line, take: int) -> Path:
        digits = len(str(self.lines[-1].number))
        file = self.options.out / (line.out or f"{line.number:0{digits}}.wav") if self.in_folder else self.options.out
        return file.with_stem(f"{file.stem}-{take + 1}") if self.options.takes > 1 else file


def _speaker(line: Line, voice: Voice | None) -> AnyVoice:
    """Who says a line: its own voice, else the one of all lines, else the one with whom it begins."""
    return next(v for v in (line.voice, voice, line.passages[0].voice) if v is not None)


def _check_files(out: Path | None, timestamps: str | None, in_folder: bool) -> None:
    """Raises LineError or OutputError for files and folders that cannot be written."""
    if in_folder and (out.is_file() or not out.parent.is_dir()):
        raise LineError(f"--out {out}: give a folder, new or not, in one that is there")
    if out is not None and not in_folder:
        check_out(out, ".wav")
    if in_folder and timestamps not in (None, *FORMATS):
        raise LineError(f"--timestamps {timestamps}: for the files of a folder give one of {', '.join(FORMATS)}")
    if timestamps is not None and not in_folder:
        check_out(Path(timestamps), *FORMATS, option="--timestamps")


def write_stream(
    tts: Synthesizer, line: Line, voice: Voice | str | int, file: BinaryIO, form: str, **options: Any
) -> int:
    """Write speech to a pipe as it becomes ready: 16-bit mono samples, "raw" or as a "wav" of unknown length.

    options: of `Synthesizer.stream`. Returns how many samples were written; BrokenPipeError where the reader has gone.
    """
    if form == "wav":
        file.write(wav_head(tts.sample_rate, UNKNOWN, comment(tts.checkpoint, "no watermark")))
    samples = 0
    for wave in tts.stream(line.passages, voice, **options):
        file.write(pcm_bytes(wave))
        file.flush()
        samples += len(wave)
    return samples
