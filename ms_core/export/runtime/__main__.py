"""`python -m ms_core.export.runtime FOLDER --text TEXT --voice FILE --out FILE.wav`: speak from an exported folder."""

import argparse
import json
import sys
import time

import numpy as np

from ms_core.detect.watermark import FILE, POLICIES, sign
from ms_core.export.runtime import MobileError, MobileRuntime
from ms_core.export.runtime.memory import peak_rss_mb
from ms_core.files import write_wav
from ms_core.text import TextError, chunks, phonemise


def main(arguments: list[str] | None = None) -> int:
    """Speak once; with `--json`, print seconds, lengths and peak memory of this process. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ms_core.export.runtime", description=__doc__)
    parser.add_argument("folder", help="what `ms-core export` wrote")
    parser.add_argument("--text", required=True)
    parser.add_argument("--voice", required=True, help="voice file (.safetensors)")
    parser.add_argument("--out", required=True, help="WAV file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", help="passes for each codec layer, for example 16,1,1,1,1,1,1,1")
    parser.add_argument("--watermark", choices=POLICIES, default="auto", help="as of `ms-core synth`")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1, help="say it so often; --json reports each time")
    parser.add_argument("--codes", help="also write the tokens of the text's first part (.npy), to compare machines")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    try:
        steps = [int(s) for s in given.steps.split(",")] if given.steps else None
        start = time.perf_counter()
        runtime = MobileRuntime(given.folder, given.threads)
        loaded = time.perf_counter()
        voice = runtime.load_voice(given.voice)
        runtime.encode_voice(voice)
        enrolled = time.perf_counter()
        runs = []
        for _ in range(max(given.repeats, 1)):
            timings: dict[str, float] = {}
            begin, begin_cpu = time.perf_counter(), time.process_time()
            wav = runtime.synthesize(given.text, voice, given.seed, steps, timings)
            took = {"total": time.perf_counter() - begin, "total_cpu": time.process_time() - begin_cpu}
            runs.append({**timings, **took})
        encoder, checkpoint = runtime.folder / FILE, runtime.manifest.checkpoint_sha256
        wav, comment, told = sign(wav, runtime.sample_rate, checkpoint, given.watermark, encoder)
        write_wav(given.out, wav, runtime.sample_rate, comment)
        print(told, file=sys.stderr)
        if given.codes:
            first = chunks(phonemise(given.text), runtime.chunk_phones)[0]
            np.save(given.codes, runtime.generate(first, voice, given.seed, steps)[0])
    except (MobileError, TextError, ValueError, OSError, ImportError) as error:
        needed = f": {error.name} is needed for this text" if isinstance(error, ImportError) else ""
        print(f"error: {error}{needed}", file=sys.stderr)
        return 2
    if given.json:
        found = {
            "load": loaded - start,
            "voice": enrolled - loaded,
            "runs": runs,
            "audio_seconds": len(wav) / runtime.sample_rate,
            "peak_rss_mb": peak_rss_mb(),
        }
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
