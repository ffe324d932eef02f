"""What an export costs and what it keeps: size, speed and memory beside PyTorch, and the share of equal tokens.

All systems speak the same texts with the same voice and seed in one process, one after the other in every repeat, so
that a busy machine slows them alike; memory is that of a fresh process each. The paper gives one number for phones, an
RTF of about 0.8 to 1.0 on a chip it does not name (paper.md, section 5.4); none of ours is comparable with it.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ms_core.evaluation.bench import footprint, torch_threads
from ms_core.evaluation.records import Provenance, Record, bootstrap, unit_of
from ms_core.export.runtime import MobileRuntime, MobileVoice
from ms_core.export.runtime.runtime import SpeakerStates
from ms_core.synthesis import MobileSpeech
from ms_core.text import chunks, phone_ids, phonemise
from ms_core.tokens import Voice

PYTORCH = "pytorch"
_SPEAK = """
import sys
from ms_core import MobileSpeech
from ms_core.evaluation.bench import peak_rss_mb
tts = MobileSpeech.from_pretrained(sys.argv[1])
tts.synthesize(sys.argv[3], tts.load_voice(sys.argv[2]))
print(peak_rss_mb())
"""


def compare(
    tts: MobileSpeech,
    folders: Mapping[str, str | Path],
    texts: Sequence[str],
    voice: Voice,
    seed: int = 0,
    repeats: int = 3,
    threads: int = 1,
    checkpoint: str | Path | None = None,
    parity: Sequence[str] | None = None,
) -> dict[str, dict]:
    """Measure PyTorch and exported folders ({"fp32": folder, "int8": folder}) side by side.

    Args:
        texts: each is spoken whole, for the clock.
        checkpoint: folder of the pair that was exported; its size and PyTorch's memory are reported where it is given.
        parity: texts on whose first parts (see `text.chunks`) tokens are compared; by default `texts`.

    Returns, for "pytorch" and each name of `folders`: `texts` (the number of `parity`) and `audio_seconds`; `rtf`, a
    list over repeats for `total`, `cpu` (CPU seconds of the process; steadier on a busy machine) and every part;
    `size_mb`; `peak_rss_mb` of a fresh process; and, but for "pytorch", what `agreement` returns.
    """
    parity = texts if parity is None else parity
    if not texts or not parity or repeats < 1:
        raise ValueError(f"{len(texts)} and {len(parity)} texts, {repeats} repeats: give at least one of each")
    runtimes = {name: MobileRuntime(folder, threads) for name, folder in folders.items()}
    states = {name: runtime.enrol(mobile_voice(voice)) for name, runtime in runtimes.items()}
    systems = {PYTORCH: (tts, voice), **{name: (runtimes[name], states[name]) for name in runtimes}}
    found: dict[str, dict] = {name: {"texts": len(parity), "rtf": {}} for name in systems}
    with torch_threads(threads):
        for repeat in range(-1, repeats):  # the first is a warm-up
            for name, (system, speaker) in systems.items():
                taken, seconds = _speak(system, speaker, texts, seed)
                found[name]["audio_seconds"] = seconds
                for part, value in taken.items():
                    if repeat >= 0:
                        found[name]["rtf"].setdefault(part, []).append(value / seconds)
        for name, runtime in runtimes.items():
            found[name] |= agreement(tts, runtime, parity, voice, states[name], seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "voice.safetensors")
        voice.save(path)
        for name, runtime in runtimes.items():
            found[name]["size_mb"] = runtime.manifest.megabytes
            out = str(Path(folder, "out.wav"))
            options = ["--text", texts[0], "--voice", str(path), "--out", out, "--threads", str(threads), "--json"]
            lines = _python(["-m", "ms_core.export.runtime", str(runtime.folder), *options], threads)
            found[name]["peak_rss_mb"] = json.loads(lines)["peak_rss_mb"]
        if checkpoint is not None:
            weights = [Path(checkpoint, part, "weights.safetensors") for part in ("model", "codec")]
            found[PYTORCH]["size_mb"] = sum(footprint(w)["size_mb"] for w in weights)
            lines = _python(["-c", _SPEAK, str(Path(checkpoint).resolve()), str(path), texts[0]], threads)
            found[PYTORCH]["peak_rss_mb"] = float(lines)
    return found


def mobile_voice(voice: Voice) -> MobileVoice:
    """A voice as the exported runtime takes it."""
    return MobileVoice(voice.codes.numpy().astype(np.int64), voice.phones, voice.durations, voice.token_digest)


def _speak(system, speaker, texts: Sequence[str], seed: int) -> tuple[dict[str, float], float]:
    """Seconds by part, and seconds of speech, of all texts."""
    taken: dict[str, float] = {}
    start, start_cpu = time.perf_counter(), time.process_time()
    samples = sum(len(system.synthesize(text, speaker, seed=seed, timings=taken)) for text in texts)
    taken.pop("passes", None)
    total = {"total": time.perf_counter() - start, "cpu": time.process_time() - start_cpu}
    return {**taken, **total}, samples / system.sample_rate


def _python(arguments: list[str], threads: int) -> str:
    """Standard output of a fresh interpreter. Raises RuntimeError with what it said when it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"python {' '.join(arguments[:3])} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout.strip().splitlines()[-1]


@torch.inference_mode()
def agreement(
    tts: MobileSpeech, runtime: MobileRuntime, texts: Sequence[str], voice: Voice, states: SpeakerStates, seed: int = 0
) -> dict[str, list[float]]:
    """Shares of tokens, by layer, in which a runtime agrees with PyTorch, durations being PyTorch's.

    `forced`: the greedy choice when PyTorch's tokens of the layers below are given. `free`: the same seed, every pass
    on the runtime's own tokens, so that one difference brings others. `durations`: of phones, by its own prediction.
    """
    config, model = tts.codec.config, tts.model
    forced, free, same = [], [], []
    for text in texts:
        phones = chunks(phonemise(text), runtime.manifest.chunk_phones)[0]
        codes, frames = tts.generate(phones, voice, seed)
        codes = codes.numpy()  # (n, t)
        free.append(runtime.generate(phones, states, seed, durations=frames)[0] == codes)
        row, _ = runtime.condition(phones, states, frames)
        same.append(np.array(runtime.condition(phones, states)[1]) == np.array(frames))
        run = runtime.smd_pass(row, states)
        kept = tts.encode_voice(voice)
        ids, count = torch.tensor([phone_ids(phones)]), codes.shape[1]
        condition = model.expand(model.text(ids), torch.tensor([frames]), count, kept)
        mask = torch.ones(1, count, dtype=torch.bool)
        equal = []
        for layer in range(config.n_q):
            grid = codes.copy()
            grid[layer:] = config.bins
            theirs, _ = model.smd(condition, torch.from_numpy(grid)[None], torch.tensor([layer]), mask)
            ours = run(grid, layer, np.arange(count))
            equal.append(ours.argmax(-1) == theirs[0].argmax(-1).numpy())
        forced.append(np.array(equal))
    return {
        "forced": np.concatenate(forced, 1).mean(1).tolist(),
        "free": np.concatenate(free, 1).mean(1).tolist(),
        "durations": [float(np.concatenate(same).mean())],
    }


def compare_records(found: Mapping[str, dict], provenance: Provenance, system: str, seconds: float) -> list[Record]:
    """Records of one `compare` of about `seconds` of speech; systems are `<system>-pytorch`, `<system>-int8` and so on.

    RTF and memory stand on the split `bench-<seconds>s`, sizes and agreement on `none`.
    """
    records = []
    for name, values in found.items():
        common = {**provenance.model_dump(), "system": f"{system}-{name}"}

        def add(metric: str, value: float, n: int, protocol: str, base=common, **fields: object) -> None:
            timed = metric.startswith("rtf_") or metric == "peak_rss_mb"
            fields = {"split": f"bench-{seconds:g}s" if timed else "none", "unit": "fraction", **fields}
            records.append(Record(**base, metric=metric, value=value, n=n, protocol=protocol, **fields))

        for part, series in values["rtf"].items():
            about = f"{values['audio_seconds']:.2f} s of speech after a warm-up, systems in turn; interval over repeats"
            metric, (value, low, high) = f"rtf_{part}", bootstrap(series, seed=0)
            add(metric, value, len(series), about, unit=unit_of(metric), ci_low=low, ci_high=high)
        for metric, note in (("size_mb", "all weights, constants and graphs"), ("peak_rss_mb", "of a fresh process")):
            if metric in values:
                add(metric, values[metric], 1, note, unit=unit_of(metric))
        for value in values.get("durations", ()):
            add("duration_agreement", value, values["texts"], "share of phones whose predicted frames equal PyTorch's")
        for kind in ("forced", "free"):
            for layer, value in enumerate(values.get(kind, ()), start=1):
                add(f"token_agreement_{kind}_layer{layer}", value, values["texts"], "share equal to PyTorch's tokens")
    return records
