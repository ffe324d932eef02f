"""What an export, or another precision, costs and keeps: size, speed and memory beside PyTorch, shares of equal tokens.

All systems speak the same texts with the same voice and seed in one process and in turns; memory is that of a fresh
process each. The paper gives one number for phones, an RTF of about 0.8 to 1.0 on a chip it does not name (paper.md,
section 5.4); none of ours is comparable with it.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np

from ms_core.evaluation.bench import footprint, in_turns
from ms_core.evaluation.records import PYTORCH, Provenance, Record, bootstrap
from ms_core.export.executorch import ExecutorchRuntime
from ms_core.export.runtime import MobileRuntime
from ms_core.export.runtime.manifest import read_manifest
from ms_core.speaking.synthesizer import Synthesizer
from ms_core.synthesis import MobileSpeech
from ms_core.text import chunks, phonemise
from ms_core.tokens import Voice

_SPEAK = """
import sys
from ms_core import MobileSpeech
from ms_core.export.runtime.memory import peak_rss_mb
tts = MobileSpeech.from_pretrained(sys.argv[1])
tts.synthesize(sys.argv[3], tts.load_voice(sys.argv[2]))
print(peak_rss_mb())
"""


def agreement(
    tts: Synthesizer,
    other: Synthesizer,
    texts: Sequence[str],
    voice: Voice,
    seed: int = 0,
    within: Callable[[], AbstractContextManager] = nullcontext,
) -> dict[str, list[float]]:
    """Shares of tokens, by layer, in which another runtime, or the same `within` a precision, agrees with `tts`.

    Of each text's first part, with the durations of `tts`. `forced`: the greedy choice when the tokens of the layers
    below are given. `free`: the same seed, every pass on its own tokens, so that one difference brings others.
    `durations`: of phones, by its own prediction.
    """
    forced, free, same = [], [], []
    for text in texts:
        phones = chunks(phonemise(text), other.chunk_phones)[0]
        codes, frames = tts.generate(phones, voice, seed)  # (n, t)
        greedy = _greedy(tts, phones, voice, codes, frames)
        with within():
            own = replace(voice)  # encoded anew
            free.append(other.generate(phones, own, seed, durations=frames)[0] == codes)
            same.append(np.array(other.predict_durations(phones, own)) == np.array(frames))
            forced.append(_greedy(other, phones, own, codes, frames) == greedy)
    tokens = {kind: np.concatenate(equal, 1).mean(1).tolist() for kind, equal in (("forced", forced), ("free", free))}
    return {**tokens, "durations": [float(np.concatenate(same).mean())]}


def _greedy(
    system: Synthesizer, phones: Sequence[str], voice: Voice, codes: np.ndarray, frames: Sequence[int]
) -> np.ndarray:
    """The likeliest tokens (n, t) of each layer where `codes` of the layers below are given."""
    options = {"steps": [1] * system.n_q, "durations": frames}
    layers = range(system.n_q)
    return np.stack([system.generate(phones, voice, **options, known=codes[:layer])[0][layer] for layer in layers])


def agreement_records(
    shares: Mapping[str, Sequence[float]], texts: int, whose: str, provenance: Provenance, **fields: object
) -> list[Record]:
    """Records of `agreement`; whose: tokens, in words; fields: of every record."""
    about = {**fields, "study": "model", "unit": "fraction", "n": texts}
    how = f"share of phones whose predicted frames equal {whose}"
    durations = [provenance.record(x, **about, metric="duration_agreement", protocol=how) for x in shares["durations"]]
    about["protocol"] = f"share equal to {whose} tokens"
    return durations + [
        provenance.record(value, **about, metric=f"token_agreement_{kind}", layer=layer)
        for kind in ("forced", "free")
        for layer, value in enumerate(shares[kind], start=1)
    ]


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
        folders: exports to ONNX or ExecuTorch, by any names.
        texts: each is spoken whole, for the clock.
        checkpoint: folder of the pair that was exported; its size and PyTorch's memory are reported where it is given.
        parity: texts on whose first parts (see `text.chunks`) tokens are compared; by default `texts`.

    Returns, for "pytorch" and each name of `folders`: `fields` of its records, `texts` (the number of `parity`) and
    `audio_seconds`; `rtf`, a list over repeats for `total`, `cpu` (CPU seconds of the process; steadier on a busy
    machine) and every part; `size_mb`; `peak_rss_mb` of a fresh process, but of ExecuTorch; and, but for "pytorch",
    what `agreement` returns.
    """
    parity = texts if parity is None else parity
    if not texts or not parity or repeats < 1:
        raise ValueError(f"{len(texts)} and {len(parity)} texts, {repeats} repeats: give at least one of each")
    runtimes = {name: _runtime(folder, threads) for name, folder in folders.items()}
    systems = {PYTORCH: tts, **runtimes}
    runs = {name: lambda system=system: _spoken(system, texts, voice, seed) for name, system in systems.items()}
    measured = {}
    for name, rounds in in_turns(runs, repeats, threads).items():
        audio = rounds[0].pop("audio")
        rtf = {part: [spent[part] / audio for spent in rounds] for part in rounds[0]}
        measured[name] = {"texts": len(parity), "audio_seconds": audio, "rtf": rtf, "fields": fields_of(systems[name])}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "voice.safetensors")
        voice.save(path)
        for name, runtime in runtimes.items():
            measured[name] |= {"size_mb": runtime.manifest.megabytes, **agreement(tts, runtime, parity, voice, seed)}
            if runtime.kind == "onnx":
                options = ["--text", texts[0], "--voice", str(path), "--out", str(Path(scratch, "out.wav")), "--json"]
                options += ["--threads", str(threads)]
                said = _python(["-m", "ms_core.export.runtime", str(runtime.folder), *options], threads)
                measured[name]["peak_rss_mb"] = json.loads(said)["peak_rss_mb"]
        if checkpoint is not None:
            weights = [Path(checkpoint, part, "weights.safetensors") for part in ("model", "codec")]
            measured[PYTORCH]["size_mb"] = sum(footprint(w)["size_mb"] for w in weights)
            said = _python(["-c", _SPEAK, str(Path(checkpoint).resolve()), str(path), texts[0]], threads)
            measured[PYTORCH]["peak_rss_mb"] = float(said)
    return measured


def _runtime(folder: str | Path, threads: int) -> MobileRuntime:
    executorch = read_manifest(folder, check=False).runtime == ExecutorchRuntime.kind
    return ExecutorchRuntime(folder) if executorch else MobileRuntime(folder, threads)


def _spoken(system: Synthesizer, texts: Sequence[str], voice: Voice, seed: int) -> dict[str, float]:
    """Seconds by part, in all and of the process's CPU, and seconds of speech (`audio`), of all texts."""
    taken: dict[str, float] = {}
    start, start_cpu = time.perf_counter(), time.process_time()
    samples = sum(len(system.synthesize(text, voice, seed=seed, timings=taken)) for text in texts)
    taken |= {"total": time.perf_counter() - start, "cpu": time.process_time() - start_cpu}
    taken.pop("passes", None)
    return {**taken, "audio": samples / system.sample_rate}


def _python(arguments: list[str], threads: int) -> str:
    """Standard output of a fresh interpreter. Raises RuntimeError with what it said when it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"python {' '.join(arguments[:3])} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout.strip().splitlines()[-1]


def compare_records(measured: Mapping[str, dict], provenance: Provenance, system: str, seconds: float) -> list[Record]:
    """Records of one `compare` of about `seconds` of speech: RTF and memory of study `bench`, the others of `model`."""
    records = []
    for values in measured.values():
        about = {"system": system, **values["fields"]}
        timed = {**about, "study": "bench", "seconds": seconds}
        how = f"{values['audio_seconds']:.2f} s of speech after a warm-up, systems in turn; interval over repeats"
        records += [
            provenance.record(bootstrap(series), **timed, metric=f"rtf_{part}", n=len(series), protocol=how)
            for part, series in values["rtf"].items()
        ]
        notes = {"size_mb": (about | {"study": "model"}, "all weights, constants and graphs")}
        notes["peak_rss_mb"] = timed, "of a fresh process"
        records += [
            provenance.record(values[metric], **fields, metric=metric, n=1, protocol=note)
            for metric, (fields, note) in notes.items()
            if metric in values
        ]
        if "forced" in values:
            records += agreement_records(values, values["texts"], "PyTorch's", provenance, **about)
    return records


def fields_of(system: Synthesizer) -> dict[str, str]:
    """What records say of PyTorch, or of an exported folder's runtime and precision."""
    if manifest := getattr(system, "manifest", None):
        return {"runtime": manifest.runtime, "precision": manifest.precision}
    return {"runtime": PYTORCH}
