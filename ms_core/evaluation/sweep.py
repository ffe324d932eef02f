"""The speed study: RTF by component against the length of the speech, on one and two threads, in fp32 and bf16.

The paper gives two figures of speed (RTF 0.09 on an A100, about 0.8 to 1.0 on a phone) and says neither how long the
speech was nor how time grows with it. Here every length, thread count, precision and number of decoding passes takes
its turn in each round of one process, so that what else the machine does slows all alike.
"""

import ctypes
import gc
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ms_core.config import DecodingConfig, parse
from ms_core.evaluation.bench import passage, seconds_of, text_of_length, torch_threads
from ms_core.evaluation.eval_set import PROMPT_SECONDS
from ms_core.evaluation.parity import agreement, agreement_records
from ms_core.evaluation.records import Provenance, Record, bootstrap
from ms_core.export.runtime.memory import peak_rss_mb
from ms_core.synthesis import MobileSpeech
from ms_core.tokens import Voice

SECONDS = (2.0, 5.0, 10.0, 20.0, 30.0)  # of speech, about
THREADS = (1, 2)
PASSES = (1, 2, 4, 8, 16, 32)  # in codec layer 1; each other layer takes one
PRECISIONS = ("fp32", "bf16")
AGREEMENT_WORDS = (8, 16, 24)  # lengths of the texts on which the tokens of bf16 are compared with those of fp32


class SweepError(ValueError):
    """A sweep that cannot be made; the message says what was given and what is allowed."""


@dataclass(frozen=True)
class Cell:
    """One condition of the sweep. passes: in codec layer 1; None takes the decoding of the model."""

    seconds: float
    threads: int = 1
    precision: str = "fp32"
    passes: int | None = None


def plan(
    lengths: Sequence[float] = SECONDS, passes: Sequence[int] = PASSES, at: float = 10.0, own: Sequence[int] = ()
) -> list[Cell]:
    """All lengths on `THREADS` in every precision, and the passes of layer 1 at `at` seconds on one thread in fp32.

    own: the model's own passes by layer, not timed twice. Raises SweepError for numbers that are not positive.
    """
    if not lengths or not all(0 < number < math.inf for number in (*lengths, *passes, at)):
        raise SweepError(
            f"lengths {', '.join(f'{x:g}' for x in lengths)} s, passes {', '.join(map(str, passes))}: all must be "
            "above 0, and at least one length given"
        )
    cells = {Cell(float(s), t, p) for s in lengths for t in THREADS for p in PRECISIONS}
    apart = [n for n in passes if (n, *[1] * (len(own) - 1)) != tuple(own)]
    return sorted(cells | {Cell(float(at))} | {Cell(float(at), passes=n) for n in apart}, key=_turn)


def _turn(cell: Cell) -> tuple:
    """Place in a round: from short to long, so that no length finds the memory that a longer one left behind."""
    return cell.seconds, cell.threads, cell.precision, cell.passes or 0


def in_precision(name: str) -> AbstractContextManager:
    """fp32 as the model is, or bf16 by torch's autocast on the CPU: products and convolutions in bf16."""
    return torch.autocast("cpu", torch.bfloat16, enabled=name == "bf16")


def _forget_memory() -> bool:
    """Collect what nothing refers to, let the C library return free memory (glibc), and begin a new record of the peak.

    False where the kernel cannot set its record of the peak back.
    """
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def sweep(
    tts: MobileSpeech,
    prompt: np.ndarray | Path,
    prompt_text: str,
    cells: Iterable[Cell],
    repeats: int = 10,
    seed: int = 0,
) -> dict[Cell, dict[str, object]]:
    """Time every cell once in each of `repeats` rounds; returns `audio_seconds`, `passes` and, one number
    a round, `peak_rss_mb` and the seconds `voice` (enrolment), `total` (text to waveform) and of each part.

    In its turn a cell speaks its text twice with one voice, whose states are computed anew: the first time untimed, to
    warm up and to read the peak memory, the second time by the clock. Enrolment is timed once a round for each thread
    count and precision. Raises SweepError without a cell or a repeat.
    """
    cells = sorted(set(cells), key=_turn)
    if not cells or repeats < 1:
        raise SweepError(f"{len(cells)} conditions, {repeats} repeats: give at least one of each")
    voice = tts.voice(prompt, prompt_text, PROMPT_SECONDS)
    texts = {seconds: text_of_length(tts, voice, seconds, seed) for seconds in {cell.seconds for cell in cells}}
    results: dict[Cell, dict] = {cell: {"total": [], "voice": [], "peak_rss_mb": []} for cell in cells}
    for _ in range(repeats):
        enrolled: dict[tuple[int, str], float] = {}
        for cell, result in results.items():
            key, steps, timings = (cell.threads, cell.precision), _steps(tts, cell), {}
            with torch_threads(cell.threads), in_precision(cell.precision):
                if key not in enrolled:
                    enrolled[key] = seconds_of(lambda: tts.voice(prompt, prompt_text, PROMPT_SECONDS))
                result["rss_was_reset"] = _forget_memory()
                tts.synthesize(texts[cell.seconds], replace(voice), seed=seed, steps=steps)
                result["peak_rss_mb"].append(peak_rss_mb())
                fresh = replace(voice)
                start = time.perf_counter()
                wav = tts.synthesize(texts[cell.seconds], fresh, seed=seed, steps=steps, timings=timings)
                result["total"].append(time.perf_counter() - start)
            result["voice"].append(enrolled[key])
            result["audio_seconds"], result["passes"] = len(wav) / tts.sample_rate, timings.pop("passes", None)
            for part, value in timings.items():
                result.setdefault(part, []).append(float(value))
    return results


def _steps(tts: MobileSpeech, cell: Cell) -> tuple[int, ...]:
    """Decoding passes of each codec layer in a cell."""
    return (cell.passes, *[1] * (tts.codec.config.n_q - 1)) if cell.passes else tuple(tts.decoding.steps)


def sweep_records(
    tts: MobileSpeech, results: Mapping[Cell, dict[str, object]], provenance: Provenance, system: str
) -> list[Record]:
    """Records of a `sweep`: rtf_total, rtf_<part>, rtf_smd_pass, audio_seconds and peak_rss_mb."""
    records = []
    for cell, result in results.items():
        decoding = parse(DecodingConfig, {**tts.decoding.model_dump(), "steps": _steps(tts, cell)}, "steps")
        changes = {"threads": cell.threads, "steps": cell.passes, "config_hash": decoding.digest()}
        half = None if cell.precision == "fp32" else cell.precision
        audio, peaks = result["audio_seconds"], result["peak_rss_mb"]
        note = "conditions in turns; peak memory apart from the time, what was free given back before"
        note += f"; torch's autocast to {half}" if half else ""
        timed = (
            f"about {cell.seconds:g} s of speech ({audio:.2f} s) after a warm-up; rtf_total is text to waveform with "
            f"the voice enrolled; rtf_voice is enrolment over the same audio; interval over repeats; {note}"
        )
        whole = "peak resident memory of the whole process" + " since the start of the bench" * result["rss_was_reset"]
        series = {f"rtf_{k}": np.divide(v, audio) for k, v in result.items() if isinstance(v, list) and v is not peaks}
        if result.get("passes") and "smd" in result:
            series["rtf_smd_pass"] = series["rtf_smd"] / result["passes"]
        rows = [(metric, values, timed) for metric, values in series.items()]
        rows.append(("audio_seconds", [audio], f"of the text that was spoken; {note}"))
        rows.append(("peak_rss_mb", peaks, f"{whole}; {note}"))
        about = {"study": "bench", "system": system, "seconds": cell.seconds, "precision": half}
        own = provenance.model_copy(update=changes)
        records += [own.record(bootstrap(v), **about, metric=m, n=len(v), protocol=how) for m, v, how in rows]
    return records


def precision_records(
    tts: MobileSpeech, voice: Voice, provenance: Provenance, system: str, words: Sequence[int] = AGREEMENT_WORDS
) -> list[Record]:
    """Records of `agreement` of bf16 with fp32, on texts of so many words, read on from one another in the passage."""
    begins = np.cumsum([0, *words])
    texts = [" ".join(passage(int(b) + n).split()[int(b) :]) for b, n in zip(begins, words, strict=False)]
    shares = agreement(tts, tts, texts, voice, within=lambda: in_precision("bf16"))
    whose = "fp32's (bf16 by torch's autocast)"
    return agreement_records(shares, len(texts), whose, provenance, system=system, precision="bf16")
