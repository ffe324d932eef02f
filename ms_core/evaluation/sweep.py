"""The speed study: RTF by component against the length of the speech, on one and two threads, in fp32 and bf16.

The paper gives two figures of speed (RTF 0.09 on an A100, about 0.8 to 1.0 on a phone) and says neither how long the
speech was nor how time grows with it. Here every length, thread count, precision and number of decoding passes takes
its turn in each round of one process, so that what else the machine does slows all alike, and a cost law is fitted to
the rounds: seconds = a + b L + c L^2, megabytes = a + b L for L seconds of speech. The laws are our choice.
"""

import ctypes
import gc
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import nnls

from ms_core.config import DecodingConfig, parse
from ms_core.evaluation.bench import bench_records, passage, peak_rss_mb, reset_peak_rss, text_of_length, torch_threads
from ms_core.evaluation.records import LEVEL, RESAMPLES, Interval, Provenance, Record, bootstrap
from ms_core.report.tables import COST_LAW
from ms_core.synthesis import CHUNK_PHONES, MobileSpeech
from ms_core.text import phonemise
from ms_core.tokens import Voice

SECONDS = (2.0, 5.0, 10.0, 20.0, 30.0)  # of speech, about
THREADS = (1, 2)
PASSES = (1, 2, 4, 8, 16, 32)  # in codec layer 1; each other layer takes one
PRECISIONS = {"fp32": "", "bf16": "-bf16"}  # -> end of the system's name
AGREEMENT_WORDS = (8, 16, 24)  # lengths of the texts on which the tokens of bf16 are compared with those of fp32
POWERS = ("fixed", "linear", "quadratic")  # coefficients of a law, by the power of the length that they go with
LAWS = {  # cost -> (what a sweep calls it, (unit, its size in seconds or MB) of each coefficient)
    "time": ("total", (("s", 1.0), ("s/s", 1.0), ("ms/s^2", 1e-3))),
    "memory": ("peak_rss_mb", (("MB", 1.0), ("MB/s", 1.0))),
}


class SweepError(ValueError):
    """A sweep that cannot be made; the message says what was given and what is allowed."""


@dataclass(frozen=True)
class Cell:
    """One condition of the sweep. passes: in codec layer 1; None takes the decoding of the model."""

    seconds: float
    threads: int = 1
    precision: str = "fp32"
    passes: int | None = None

    @property
    def ending(self) -> str:
        """The end of the system's name."""
        return PRECISIONS[self.precision] + (f"-steps{self.passes}" if self.passes else "")


def plan(
    lengths: Sequence[float] = SECONDS, passes: Sequence[int] = PASSES, at: float = 10.0, own: Sequence[int] = ()
) -> list[Cell]:
    """All lengths on `THREADS` in every precision, and the passes of layer 1 at `at` seconds on one thread in fp32.

    own: the model's own passes by layer, which are not timed twice. Raises SweepError for fewer than four different
    lengths, one more than the law has coefficients, or for numbers that are not positive.
    """
    if len(set(lengths)) <= len(POWERS) or not all(0 < number < math.inf for number in (*lengths, *passes, at)):
        raise SweepError(
            f"lengths {', '.join(f'{x:g}' for x in lengths)} s, passes {', '.join(map(str, passes))}: give at least "
            f"{len(POWERS) + 1} different lengths, all numbers above 0"
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


def _give_back_memory() -> None:
    """Collect what nothing refers to and let the C library return free memory, where it can (glibc)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def sweep(
    tts: MobileSpeech,
    prompt: np.ndarray | Path,
    prompt_text: str,
    cells: Iterable[Cell],
    repeats: int = 10,
    seed: int = 0,
) -> dict[Cell, dict[str, object]]:
    """Time every cell once in each of `repeats` rounds; results as `bench` returns them, `peak_rss_mb` one a round.

    In its turn a cell speaks its text twice with one voice, whose states are computed anew: the first time untimed, to
    warm up and to read the peak memory, the second time by the clock. Enrolment is timed once a round for each thread
    count and precision. Raises SweepError without a cell or a repeat.
    """
    cells = sorted(set(cells), key=_turn)
    if not cells or repeats < 1:
        raise SweepError(f"{len(cells)} conditions, {repeats} repeats: give at least one of each")
    voice = tts.voice(prompt, text=prompt_text)
    texts = {seconds: text_of_length(tts, voice, seconds, seed) for seconds in {cell.seconds for cell in cells}}
    found = {cell: {"total": [], "voice": [], "peak_rss_mb": [], "passes": None} for cell in cells}
    for _ in range(repeats):
        enrolled: dict[tuple[int, str], float] = {}
        for cell, result in found.items():
            with torch_threads(cell.threads), in_precision(cell.precision):
                if (key := (cell.threads, cell.precision)) not in enrolled:
                    start = time.perf_counter()
                    tts.voice(prompt, text=prompt_text)
                    enrolled[key] = time.perf_counter() - start
                steps = _steps(tts, cell)
                _give_back_memory()
                result["rss_was_reset"] = reset_peak_rss()
                tts.synthesize(texts[cell.seconds], replace(voice), seed=seed, steps=steps)
                result["peak_rss_mb"].append(peak_rss_mb())
                timings: dict[str, float] = {}
                fresh = replace(voice)
                start = time.perf_counter()
                wav = tts.synthesize(texts[cell.seconds], fresh, seed=seed, steps=steps, timings=timings)
                result["total"].append(time.perf_counter() - start)
            result["voice"].append(enrolled[key])
            result["audio_seconds"], result["passes"] = len(wav) / tts.sample_rate, timings.pop("passes", None)
            for part, value in timings.items():
                result.setdefault(part, []).append(float(value))
    return found


def _steps(tts: MobileSpeech, cell: Cell) -> tuple[int, ...]:
    """Decoding passes of each codec layer in a cell."""
    return (cell.passes, *[1] * (tts.codec.config.n_q - 1)) if cell.passes else tuple(tts.decoding.steps)


class Law(NamedTuple):
    """value = sum of coefficients[k] L^k, with their intervals, and what the law leaves unexplained.

    r2: share of the variance of the means that the law explains; worst: its largest error relative to a mean.
    """

    coefficients: tuple[Interval, ...]
    r2: float
    worst: float


def fit(
    lengths: Float[np.ndarray, " l"], values: Float[np.ndarray, " l"], degree: int
) -> Float[np.ndarray, " {degree}+1"]:
    """Coefficients, none below 0, of the polynomial in the length with the least sum of squared relative errors."""
    powers = lengths[:, None] ** np.arange(degree + 1)  # (l, degree + 1)
    size = powers.max(0)  # columns of one size are better conditioned
    return nnls(powers / size / values[:, None], np.ones(len(lengths)))[0] / size


def cost_law(
    lengths: Sequence[float], rounds: Float[np.ndarray, "r l"], degree: int, seed: int = 0, resamples: int = RESAMPLES
) -> Law:
    """Fit how a cost grows with the length, to the means over rounds; intervals by resampling whole rounds.

    Relative errors, since a second's error in thirty is not worth one in two. Raises SweepError for fewer lengths than
    coefficients, or costs that are not positive.
    """
    at, table = np.asarray(lengths, dtype=float), np.asarray(rounds, dtype=float)
    if table.ndim != 2 or table.shape[1] != len(at) or len(set(at.tolist())) <= degree or not (table > 0).all():
        raise SweepError(
            f"costs of shape {table.shape} at {len(set(at.tolist()))} different lengths: expected positive ones, "
            f"(rounds, lengths), at {degree + 1} lengths or more"
        )
    means = table.mean(0)
    best = fit(at, means, degree)
    told = np.polynomial.polynomial.polyval(at, best)
    spread = float(np.square(means - means.mean()).sum())
    r2 = 1 - float(np.square(means - told).sum()) / spread if spread else 0.0
    bounds = [(None, None)] * len(best)
    if len(table) > 1:
        index = np.random.default_rng(seed).integers(0, len(table), size=(resamples, len(table)))
        drawn = np.array([fit(at, table[rows].mean(0), degree) for rows in index])  # (resamples, degree + 1)
        tail = (1 - LEVEL) / 2
        bounds = [tuple(map(float, pair)) for pair in np.quantile(drawn, [tail, 1 - tail], axis=0).T]
    coefficients = tuple(Interval(float(value), *pair) for value, pair in zip(best, bounds, strict=True))
    return Law(coefficients, r2, float(np.abs(told / means - 1).max()))


def law_records(found: Mapping[Cell, dict[str, object]], provenance: Provenance, system: str) -> list[Record]:
    """Records on the split `cost-law`: laws of time and of peak memory for each thread count and precision.

    `time_fixed` (s), `time_linear` (s/s) and `time_quadratic` (ms/s^2), `memory_fixed` (MB) and `memory_linear` (MB/s),
    and of each law `_r2` and `_error`, its largest relative one. Groups with too few lengths for a law have none.
    """
    groups: dict[tuple[int, str], list[dict]] = {}
    for cell, result in found.items():
        if cell.passes is None:
            groups.setdefault((cell.threads, cell.precision), []).append(result)
    records = []
    for (threads, precision), results in sorted(groups.items()):
        lengths = [result["audio_seconds"] for result in results]
        if len(set(lengths)) <= len(POWERS):
            continue
        common = provenance.model_copy(update={"threads": threads}).model_dump()
        common |= {"system": system + PRECISIONS[precision], "split": COST_LAW}
        about = (
            f"fitted to means at {', '.join(f'{x:.1f}' for x in lengths)} s of speech, by least squares of relative "
            f"errors, no coefficient below 0; texts of more than {CHUNK_PHONES} phones are spoken in parts"
        )
        for cost, (key, units) in LAWS.items():
            rounds = np.array([result[key] for result in results]).T  # (rounds, lengths)
            law = cost_law(lengths, rounds, len(units) - 1)
            told = {"r2": (Interval(law.r2, None, None), "fraction")}
            told["error"] = Interval(law.worst, None, None), "fraction"
            for power, (unit, size), interval in zip(POWERS, units, law.coefficients, strict=False):
                told[power] = Interval(*(x if x is None else x / size for x in interval)), unit
            records += [
                Record(**common, **interval.fields(), metric=f"{cost}_{name}", unit=unit, n=len(rounds),
                       protocol=f"{about}; interval over rounds")
                for name, (interval, unit) in told.items()
            ]  # fmt: skip
    return records


def sweep_records(
    tts: MobileSpeech, found: Mapping[Cell, dict[str, object]], provenance: Provenance, system: str
) -> list[Record]:
    """Records of a `sweep`: those of `bench` for every cell, and the laws. Systems end in `-bf16` and `-steps<S>`."""
    records = law_records(found, provenance, system)
    for cell, result in found.items():
        changed = {**tts.decoding.model_dump(), "steps": _steps(tts, cell)}
        changes = {"threads": cell.threads, "config_hash": parse(DecodingConfig, changed, "steps").digest()}
        note = "conditions in turns; peak memory apart from the time, what was free given back before"
        note += "; torch's autocast to bf16" * (cell.precision == "bf16")
        told = provenance.model_copy(update=changes)
        records += bench_records(result, told, system + cell.ending, cell.seconds, note)
    return records


def agreement_records(
    tts: MobileSpeech, voice: Voice, provenance: Provenance, system: str, words: Sequence[int] = AGREEMENT_WORDS
) -> list[Record]:
    """Shares of greedy tokens and of durations of bf16 that are equal to those of fp32, with intervals over texts.

    words: lengths of the texts, read on from one another in the bench's passage. As in `export_report.agreement`,
    `forced` tokens are given fp32's layers below, `free` ones bf16's own; both have fp32's durations. One pass a layer.
    """
    layers = tts.codec.config.n_q
    greedy = [1] * layers
    begins = np.cumsum([0, *words])
    equal: dict[str, list[tuple[float, int]]] = {}  # metric -> (equal ones, all) of each text
    for begin, count in zip(begins, words, strict=False):
        phones = phonemise(" ".join(passage(int(begin) + count).split()[int(begin) :]))
        codes, frames = tts.generate(phones, replace(voice), steps=greedy)  # (n, t)
        with in_precision("bf16"):
            half = replace(voice)
            free, _ = tts.generate(phones, half, steps=greedy, durations=frames)
            guesses = tts.generate(phones, half, steps=greedy)[1]
            forced = [
                tts.generate(phones, half, steps=greedy, durations=frames, known=codes[:layer])[0][layer]
                for layer in range(layers)
            ]
        same = [a == b for a, b in zip(guesses, frames, strict=True)]
        equal.setdefault("duration_agreement", []).append((sum(same), len(same)))
        for kind, ours in (("forced", forced), ("free", free)):
            for layer, row in enumerate(ours):
                share = (int((row == codes[layer]).sum()), codes.shape[1])
                equal.setdefault(f"token_agreement_{kind}_layer{layer + 1}", []).append(share)
    about = "share equal to fp32's, one greedy pass a layer; tokens with fp32's durations; torch's autocast to bf16"
    common = {**provenance.model_dump(), "system": system + PRECISIONS["bf16"], "split": "none", "unit": "fraction"}
    return [
        Record(**common, **bootstrap(*zip(*counts, strict=True)).fields(), metric=metric, n=len(counts),
               protocol=f"{about}; interval over texts")
        for metric, counts in equal.items()
    ]  # fmt: skip
