"""Texts to sound files or to a pipe: what both command lines, `ms-core synth` and the phone runtime's, do with them.

Nothing here imports torch.
"""

import json
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from ms_core.detect.watermark import WatermarkError, comment, ready, sign
from ms_core.files import comment_chunk, pcm_bytes, write_wav
from ms_core.speaking.captions import FORMATS, as_written
from ms_core.speaking.controls import Controls, SynthesisError
from ms_core.speaking.script import Passage, read_lexicon, read_script
from ms_core.speaking.synthesizer import Synthesizer
from ms_core.text.phones import BOUNDARIES, TextError
from ms_core.tokens import Voice, VoiceError, shipped_voice

MAX_LINES = 10_000
MAX_BYTES = 16 << 20  # of a file of texts
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


def read_text(path: str) -> str:
    """A UTF-8 file, "-" for what comes through stdin. Raises LineError for one that cannot be read."""
    try:
        if path == "-":
            content = sys.stdin.buffer.read(MAX_BYTES + 1)
        elif Path(path).stat().st_size > MAX_BYTES:
            raise LineError(f"{path}: more than {MAX_BYTES >> 20} MiB of text; split it")
        else:
            content = Path(path).read_bytes()
        if len(content) > MAX_BYTES:
            raise LineError(f"stdin: more than {MAX_BYTES >> 20} MiB of text; split it")
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LineError(f"{path}: cannot be read as UTF-8 text ({error})") from None


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
    if not isinstance(values, dict):
        return Line(number, error="not a JSON object: give one such as " + '{"text": "Hello."}')
    known = _FIELDS | _CONTROLS
    for name, value in values.items():
        if name not in known:
            return Line(number, error=f"unknown {name!r}; allowed are {', '.join(known)}")
        if not isinstance(value, known[name]) or isinstance(value, bool):
            return Line(number, error=f"{name} {value!r} is of the wrong kind")
    if "text" not in values:
        return Line(number, error="has no text")
    controls = {name: values[name] for name in _CONTROLS if name in values}
    return Line(number, **{name: values[name] for name in _FIELDS if name in values}, controls=controls)


def prepare(lines: Sequence[Line], controls: Mapping[str, Any], language: str = "en") -> None:
    """Read what is to be said, before a model is loaded: sets `passages`, or `error`, of each line."""
    for line in lines:
        if line.error is None:
            try:
                asked = Controls(**{**controls, **line.controls})
                line.passages = read_script(line.text, language, asked.lexicon)
                for name in [line.voice, asked.rhythm, *(passage.voice for passage in line.passages)]:
                    if name is not None and not isinstance(name, Voice) and name not in asked.voices:
                        Voice.load(shipped_voice(name) or str(name))
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
    """What a command line was asked for: lines to be said, how, and where the sound goes."""

    lines: list[Line]
    controls: dict[str, Any]
    seed: int
    steps: Sequence[int] | None
    out: Path | None
    in_folder: bool
    takes: int
    timestamps: str | None
    stream: str | None
    watermark: str = "auto"

    @classmethod
    def of(cls, options: Any, steps: Sequence[int] | None, has_prompt: bool = False) -> "Request":
        """Read and check everything before a model is loaded. Raises LineError, TextError, SynthesisError, VoiceError.

        options: `text`, `text_file`, `jsonl`, `voice`, `out`, `seed`, `speed`, `variety`, `takes`, `rhythm`, `lexicon`,
        `show_phones`, `timestamps`, `stream` and `watermark`, as the command lines name them.
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
        if options.out is not None:
            _check_out(options.out, in_folder)
        _check_timestamps(options.timestamps, in_folder)
        controls = {name: getattr(options, name) for name in ("speed", "variety", "rhythm")}
        controls["lexicon"] = read_lexicon(options.lexicon) if options.lexicon else {}
        Controls(**controls)
        if not 1 <= options.takes <= MAX_TAKES or options.takes > 1 and not (options.variety or steps):
            raise LineError(
                f"--takes {options.takes}: 1 to {MAX_TAKES}, and above 1 with --variety, else all are equal"
            )
        if options.text is not None:
            lines = [Line(1, options.text)]
        elif options.jsonl is None and not in_folder:
            lines = [Line(1, read_text(options.text_file))]
        else:
            form = "plain" if options.jsonl is None else "jsonl"
            lines = read_lines(read_text(options.jsonl or options.text_file), form)
        prepare(lines, controls)
        if not in_folder:
            lines = [one_line(lines, options.jsonl is not None)]
        for line in lines:
            silent = line.voice is None and any(passage.voice is None for passage in line.passages)
            if silent and not has_voice and (options.out or options.stream):
                line.error = line.error or "no voice: give it in the line, or --voice"
                if not in_folder:
                    raise LineError(line.error)
        rest = options.takes, options.timestamps, options.stream, options.watermark
        if options.stream and options.watermark == "require":
            raise WatermarkError("--watermark require: a stream is not marked; write a file")
        return cls(lines, controls, options.seed, steps, options.out, in_folder, *rest)

    def speak(
        self,
        tts: Synthesizer,
        voice: Voice | None,
        told: Callable[[str], object],
        failed: Callable[[str], object],
    ) -> int:
        """Say all lines; returns how many could not be said. A line that fails does not keep the others from files."""
        if self.watermark == "require":
            ready(tts.watermark)
        if self.stream:
            print("no watermark: a stream is not marked", file=sys.stderr)
            speaker = voice or self.lines[0].passages[0].voice
            options = {"seed": self.seed, "steps": self.steps, **self.controls}
            write_stream(tts, self.lines[0], speaker, sys.stdout.buffer, self.stream, **options)
            return 0
        if self.in_folder:
            self.out.mkdir(exist_ok=True)
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
        asked = {**self.controls, **lines[0].controls}
        first = self.seed if lines[0].seed is None else lines[0].seed
        names = [line.voice if voice is None or line.voice is not None else voice for line in lines]
        voices = [self._voice(tts, line.passages[0].voice if name is None else name)
                  for name, line in zip(names, lines, strict=True)]  # fmt: skip
        for take in range(self.takes):
            begin = time.perf_counter()
            spoken = tts.speak_batch([line.passages for line in lines], voices, first + take, self.steps, **asked)
            spent = time.perf_counter() - begin
            seconds = sum(len(speech.wav) for speech in spoken) / tts.sample_rate
            for line, speech in zip(lines, spoken, strict=True):
                file = self._file(line, take)
                wav, note, mark = sign(speech.wav, tts.sample_rate, tts.checkpoint, self.watermark, tts.watermark)
                write_wav(file, wav, tts.sample_rate, note)
                print(f"{file}: {mark}", file=sys.stderr)
                if self.timestamps is not None:
                    several = self.in_folder or self.takes > 1
                    suffix = self.timestamps if self.in_folder else Path(self.timestamps).suffix
                    speech.save_captions(file.with_suffix(suffix) if several else self.timestamps)
                told(f"{file}: {len(speech.wav) / tts.sample_rate:.2f} s of speech, RTF {spent / seconds:.3f}")

    def _voice(self, tts: Synthesizer, name: Voice | str | int) -> Voice:
        return name if isinstance(name, Voice) else tts.load_voice(name)

    def _file(self, line: Line, take: int) -> Path:
        digits = len(str(self.lines[-1].number))
        file = self.out / (line.out or f"{line.number:0{digits}}.wav") if self.in_folder else self.out
        return file.with_stem(f"{file.stem}-{take + 1}") if self.takes > 1 else file


def _check_out(out: Path, in_folder: bool) -> None:
    """Raises LineError for a file or folder that cannot be written."""
    if not in_folder and out.suffix.lower() != ".wav":
        raise LineError(f"--out {out}: give a name that ends in .wav")
    if in_folder and out.is_file() or not in_folder and out.is_dir():
        raise LineError(
            f"--out {out} is a {'file' if in_folder else 'folder'}: give a {'folder' * in_folder or 'file'}"
        )
    if not out.parent.is_dir():
        raise LineError(f"--out {out}: there is no folder {out.parent}")


def _check_timestamps(timestamps: str | None, in_folder: bool) -> None:
    """Raises LineError for a file of times that cannot be written, or no suffix where many are."""
    if timestamps is None:
        return
    if in_folder and timestamps not in FORMATS:
        raise LineError(f"--timestamps {timestamps}: for the files of a folder give one of {', '.join(FORMATS)}")
    if not in_folder and Path(timestamps).suffix.lower() not in FORMATS:
        raise LineError(f"--timestamps {timestamps}: give a file's name that ends in {', '.join(FORMATS)}")
    if not Path(timestamps).parent.is_dir():
        raise LineError(f"--timestamps {timestamps}: there is no folder {Path(timestamps).parent}")


def write_stream(
    tts: Synthesizer, line: Line, voice: Voice | str | int, file: BinaryIO, form: str, **options: Any
) -> int:
    """Write speech to a pipe as it becomes ready: 16-bit mono samples, "raw" or as a "wav" of unknown length.

    options: of `Synthesizer.stream`. Returns how many samples were written; BrokenPipeError where the reader has gone.
    """
    if form == "wav":
        rate, unknown = tts.sample_rate, 0xFFFFFFFF
        head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", unknown, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
        head += comment_chunk(comment(tts.checkpoint, "no watermark"))
        file.write(head + struct.pack("<4sI", b"data", unknown - len(head)))
    samples = 0
    for wave in tts.stream(line.passages, voice, **options):
        file.write(pcm_bytes(wave))
        file.flush()
        samples += len(wave)
    return samples
