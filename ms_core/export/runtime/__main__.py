"""`python -m ms_core.export.runtime FOLDER --text TEXT --voice FILE --out FILE.wav`: speak from an exported folder."""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from ms_core.detect.watermark import POLICIES, sign
from ms_core.export.runtime import MobileRuntime
from ms_core.export.runtime.memory import peak_rss_mb
from ms_core.files import write_wav
from ms_core.speaking import lines as work
from ms_core.text import chunks, phonemise
from ms_core.tokens import Voice


def options() -> argparse.ArgumentParser:
    """The options; those that `ms-core synth` has too mean the same."""
    parser = argparse.ArgumentParser(prog="python -m ms_core.export.runtime", description=__doc__)
    parser.add_argument("folder", help="what `ms-core export` wrote")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", help="what to say; [pause:0.5], [voice:NAME], SSML")
    what.add_argument("--text-file", help="file of what to say; - is stdin")
    what.add_argument("--jsonl", help="file (- is stdin) of lines {text, voice, speed, variety, rhythm, seed, out}")
    parser.add_argument("--voice", help="a shipped voice's name or a voice file (.safetensors)")
    parser.add_argument("--out", type=Path, help="WAV file to write, or a folder: a file for each line of a file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", help="passes for each codec layer, for example 16,1,1,1,1,1,1,1")
    parser.add_argument("--speed", type=float, default=1.0, help="tempo, 0.5 to 2; the pitch stays")
    parser.add_argument("--variety", type=float, default=0.0, help="0 to 1: how much seeds differ")
    parser.add_argument("--takes", type=int, default=1, help="say it so often, with one seed after the other")
    parser.add_argument("--rhythm", help="a second voice: its rhythm, the first one's timbre")
    parser.add_argument("--lexicon", help="file of pronunciations, one WORD PHONES... a line")
    parser.add_argument("--show-phones", action="store_true", help="print words and phones")
    parser.add_argument("--timestamps", help="file for the times of words: .json, .srt, .vtt; for a folder the suffix")
    parser.add_argument("--stream", choices=work.STREAMS, help="write to stdout while it speaks: 16-bit PCM, or WAV")
    parser.add_argument("--watermark", choices=POLICIES, default="auto", help="mark the speech as synthetic")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1, help="with --json: say it so often, and report each time")
    parser.add_argument("--codes", help="also write the tokens of the text's first part (.npy), to compare machines")
    parser.add_argument("--json", action="store_true", help="print seconds, lengths and peak memory")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Speak. Returns the exit status: 2 for what cannot be done, 1 where some lines of several failed."""
    given = options().parse_args(arguments)
    try:
        return _run(given)
    except (ValueError, OSError, ImportError) as error:
        needed = f": {error.name} is needed for this text" if isinstance(error, ImportError) else ""
        print(f"error: {error}{needed}", file=sys.stderr)
        return 2


def _run(given: argparse.Namespace) -> int:
    request = work.Request.of(given, given.steps and [int(s) for s in given.steps.split(",")])
    if given.show_phones:
        print(work.shown_phones(request.lines), file=sys.stderr if given.stream else sys.stdout)
    if given.out is None and not given.stream:
        return 0
    voice = given.voice and Voice.load(given.voice)
    start = time.perf_counter()
    runtime = MobileRuntime(given.folder, given.threads)
    loaded = time.perf_counter()
    if given.codes:
        first = chunks(phonemise(given.text), runtime.chunk_phones)[0]
        np.save(given.codes, runtime.generate(first, voice, given.seed, request.steps)[0])
    if given.json:
        _timed(runtime, voice, given, request, loaded - start)
        return 0
    return (
        1 if request.speak(runtime, voice or None, print, lambda said: print(f"error: {said}", file=sys.stderr)) else 0
    )


def _timed(
    runtime: MobileRuntime, voice: Voice, given: argparse.Namespace, request: "work.Request", load: float
) -> None:
    """Say one text several times and print how long all took."""
    start = time.perf_counter()
    runtime.encode_voice(voice)
    enrolled = time.perf_counter() - start
    runs = []
    for _ in range(max(given.repeats, 1)):
        timings: dict[str, float] = {}
        begin, begin_cpu = time.perf_counter(), time.process_time()
        wav = runtime.synthesize(given.text, voice, given.seed, request.steps, timings, **request.controls)
        took = {"total": time.perf_counter() - begin, "total_cpu": time.process_time() - begin_cpu}
        runs.append({**timings, **took})
    wav, comment, _ = sign(wav, runtime.sample_rate, runtime.checkpoint, given.watermark, runtime.watermark)
    write_wav(given.out, wav, runtime.sample_rate, comment)
    measured = {"load": load, "voice": enrolled, "runs": runs, "audio_seconds": len(wav) / runtime.sample_rate}
    print(json.dumps({**measured, "peak_rss_mb": peak_rss_mb()}))


if __name__ == "__main__":
    sys.exit(main())
