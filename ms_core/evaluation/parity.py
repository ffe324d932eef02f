"""What an export costs and what it keeps: size, speed and memory beside PyTorch, and the share of equal tokens.

All systems speak the same texts with the same voice and seed in one process, one after the other in every repeat, so
that a busy machine slows them alike; memory is that of a fresh process each. The paper gives one number for phones, an
RTF of about 0.8 to 1.0 on a chip it does not name (paper.md, section 5.4); none of ours is comparable with it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from ms_core import paths
from ms_core.checkpoint import CheckpointError, checkpoint_folder, read_provenance
from ms_core.evaluation.bench import footprint, torch_threads
from ms_core.evaluation.conditions import PYTORCH, hard_texts
from ms_core.evaluation.records import Provenance, Record, bootstrap, unit_of, write_records
from ms_core.evaluation.sweep import agreement, agreement_records
from ms_core.export.executorch import MADE_WITH, ExecutorchRuntime, export_executorch, need_executorch
from ms_core.export.onnx import ExportError
from ms_core.export.runtime import MobileError, MobileRuntime
from ms_core.speaking.synthesizer import Synthesizer
from ms_core.synthesis import MobileSpeech
from ms_core.text import chunks, phonemise
from ms_core.tokens import Voice, VoiceError, shipped_voices

_SPEAK = """
import sys
from ms_core import MobileSpeech
from ms_core.export.runtime.memory import peak_rss_mb
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
    systems = {PYTORCH: tts, **runtimes}
    measured: dict[str, dict] = {name: {"texts": len(parity), "rtf": {}} for name in systems}
    with torch_threads(threads):
        for repeat in range(-1, repeats):  # the first is a warm-up
            for name, system in systems.items():
                taken, seconds = _speak(system, voice, texts, seed)
                measured[name]["audio_seconds"] = seconds
                for part, value in taken.items():
                    if repeat >= 0:
                        measured[name]["rtf"].setdefault(part, []).append(value / seconds)
        for name, runtime in runtimes.items():
            measured[name] |= agreement(tts, runtime, parity, voice, seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "voice.safetensors")
        voice.save(path)
        for name, runtime in runtimes.items():
            measured[name]["size_mb"] = runtime.manifest.megabytes
            out = str(Path(folder, "out.wav"))
            options = ["--text", texts[0], "--voice", str(path), "--out", out, "--threads", str(threads), "--json"]
            lines = _python(["-m", "ms_core.export.runtime", str(runtime.folder), *options], threads)
            measured[name]["peak_rss_mb"] = json.loads(lines)["peak_rss_mb"]
        if checkpoint is not None:
            weights = [Path(checkpoint, part, "weights.safetensors") for part in ("model", "codec")]
            measured[PYTORCH]["size_mb"] = sum(footprint(w)["size_mb"] for w in weights)
            lines = _python(["-c", _SPEAK, str(Path(checkpoint).resolve()), str(path), texts[0]], threads)
            measured[PYTORCH]["peak_rss_mb"] = float(lines)
    return measured


def _speak(system: Synthesizer, voice: Voice, texts: Sequence[str], seed: int) -> tuple[dict[str, float], float]:
    """Seconds by part, and seconds of speech, of all texts."""
    taken: dict[str, float] = {}
    start, start_cpu = time.perf_counter(), time.process_time()
    samples = sum(len(system.synthesize(text, voice, seed=seed, timings=taken)) for text in texts)
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


def compare_records(
    measured: Mapping[str, dict], provenance: Provenance, system: str, seconds: float | None
) -> list[Record]:
    """Records of one `compare` of about `seconds` of speech: RTF and memory of study `bench`, the others of `model`."""
    records = []
    for name, values in measured.items():
        common = {**provenance.model_dump(), "system": system, **fields_of(name)}

        def add(metric: str, value: float, n: int, protocol: str, base=common, **fields: object) -> None:
            timed = metric.startswith("rtf_") or metric == "peak_rss_mb"
            place = {"study": "bench", "seconds": seconds} if timed else {"study": "model"}
            fields = {**place, "unit": "fraction", **fields}
            records.append(Record(**base, metric=metric, value=value, n=n, protocol=protocol, **fields))

        for part, series in values["rtf"].items():
            about = f"{values['audio_seconds']:.2f} s of speech after a warm-up, systems in turn; interval over repeats"
            metric, (value, low, high) = f"rtf_{part}", bootstrap(series, seed=0)
            add(metric, value, len(series), about, unit=unit_of(metric), ci_low=low, ci_high=high)
        for metric, note in (("size_mb", "all weights, constants and graphs"), ("peak_rss_mb", "of a fresh process")):
            if metric in values:
                add(metric, values[metric], 1, note, unit=unit_of(metric))
        if "forced" in values:
            records.extend(agreement_records(values, values["texts"], "PyTorch's", **common))
    return records


def fields_of(name: str) -> dict[str, str]:
    """What records say of "pytorch", or of the ONNX export of a precision."""
    return {"runtime": PYTORCH} if name == PYTORCH else {"runtime": "onnx", "precision": name}


@torch.inference_mode()
def f0_difference(
    tts: MobileSpeech, runtime: MobileRuntime, texts: Sequence[str], voice: Voice, seed: int
) -> list[float]:
    """Mean |F0 / PyTorch's F0 - 1| of each text's first part, its tokens being PyTorch's."""
    differences = []
    for text in texts:
        codes, _ = tts.generate(chunks(phonemise(text), runtime.chunk_phones)[0], voice, seed)
        latent = tts.codec.dequantise(torch.from_numpy(codes)[None])
        theirs = tts.codec.decoder.controls(latent)[0].numpy()
        ours = runtime._run("codec", latent=latent.numpy())[0]
        differences.append(float(np.abs(np.expm1(ours - theirs)).mean()))
    return differences


def measure_executorch(
    tts: MobileSpeech,
    root: Path,
    texts: Sequence[str],
    voice: Voice,
    trained: Mapping[str, object],
    provenance: Provenance,
    system: str,
) -> list[Record]:
    """Export to `root`/fp32 and `root`/int8, run both, and return their records.

    Sizes of the whole and of each program, seconds of the export, agreement with PyTorch as `agreement` finds it, F0.
    Raises ExportError without ExecuTorch, ValueError without a text.
    """
    if not texts:
        raise ValueError("no text: give at least one")
    versions, records = {name: version(name) for name in MADE_WITH}, []
    for precision in ("fp32", "int8"):
        start = time.perf_counter()
        folder = export_executorch(tts, root / precision, trained, int8=precision == "int8")
        seconds = time.perf_counter() - start
        runtime, seed = ExecutorchRuntime(folder), provenance.seed or 0
        measured = {"texts": len(texts), "size_mb": runtime.manifest.megabytes, "rtf": {}}
        measured |= agreement(tts, runtime, texts, voice, seed)
        difference = bootstrap(f0_difference(tts, runtime, texts, voice, seed))
        runs_on = {"runtime": "executorch", "precision": precision}
        records += [
            r.model_copy(update=runs_on) for r in compare_records({precision: measured}, provenance, system, None)
        ]
        common = {**provenance.model_dump(), "study": "model", "system": system, **runs_on}
        records.append(Record(**common, metric="export_seconds", value=seconds, n=1, unit="s",
                              protocol="of all programs, clock time of one run"))  # fmt: skip
        records.append(Record(**common, metric="f0_difference", **difference.fields(), n=len(texts), unit="fraction",
                              protocol="mean |F0 / PyTorch's - 1|, of the same tokens"))  # fmt: skip
        for file, entry in runtime.manifest.files.items():
            if file.endswith(".pte"):
                records.append(Record(**common, metric=f"size_mb_{Path(file).stem}", value=entry["bytes"] / 1e6, n=1,
                                      unit="MB", protocol="one program"))  # fmt: skip
    return [record.model_copy(update={"evaluators": versions}) for record in records]


def executorch_summary(records: Sequence[Record]) -> str:
    """What `measure_executorch` found, in the words that notebook 6 has."""

    def records_of(precision: str, metric: str) -> list[Record]:
        matching = [r for r in records if (r.runtime, r.precision, r.metric) == ("executorch", precision, metric)]
        if not matching:
            raise ValueError(f"no record of {metric} in {precision}: python -m ms_core.evaluation.parity writes them")
        return matching

    parts = []
    for precision in ("fp32", "int8"):
        (size,), (f0,) = records_of(precision, "size_mb"), records_of(precision, "f0_difference")
        forced, free = (
            100 * float(np.mean([r.value for r in records_of(precision, f"token_agreement_{kind}")]))
            for kind in ("forced", "free")
        )
        parts.append(
            f"in {precision} they take {size.value:.1f} MB and give {forced:.4g} % of PyTorch's tokens where the "
            f"layers below are given, {free:.4g} % alone, with an F0 that differs by {100 * f0.value:.2g} %"
        )
    return f"On {f0.n} texts, {'; '.join(parts)}."


def main(arguments: list[str] | None = None) -> int:
    """Export in both precisions and write records; returns 1 where fp32 has other tokens than PyTorch, 2 for errors."""
    parser = argparse.ArgumentParser(prog="python -m ms_core.evaluation.parity", description=main.__doc__)
    parser.add_argument("--model", default="mini", help="a shipped model's name, or a folder with codec/ and model/")
    parser.add_argument("--voice", default=shipped_voices()[0], help="a shipped voice's name, or a voice file")
    parser.add_argument("--texts", type=int, default=10, help="hard texts on which tokens are compared")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="for the exports; default: <runs>/<preset>/executorch")
    parser.add_argument("--out", type=Path, help="JSON file for the records; default: results/<preset>/executorch.json")
    options = parser.parse_args(arguments)
    try:
        need_executorch()
        tts, pair = MobileSpeech.from_pretrained(options.model), checkpoint_folder(options.model)
        trained, every = read_provenance(pair), [hard.text for hard in hard_texts()]
        preset, texts = trained["name"], every[:: max(1, len(every) // max(options.texts, 1))][: max(options.texts, 0)]
        provenance = Provenance.of(preset, pair, options.seed, tts.decoding.digest(), torch.get_num_threads())
        root, system = options.folder or paths.run(preset) / "executorch", f"mobilespeech-{preset}"
        records = measure_executorch(tts, root, texts, tts.load_voice(options.voice), trained, provenance, system)
        write_records(options.out or paths.results(preset) / "executorch.json", records)
    except (CheckpointError, ExportError, MobileError, VoiceError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for record in records:
        print(f"{record.name}	{record.metric}	{record.value:g}")
    print(f"notebook 6, under ExecuTorch: {executorch_summary(records)}")
    free = [r.value for r in records if r.precision == "fp32" and r.metric.startswith("token_agreement")]
    return int(min(free) < 1)


if __name__ == "__main__":
    sys.exit(main())
