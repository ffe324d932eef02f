"""One call for all evaluators: waveforms in, one dict of scores a waveform out."""

from collections.abc import Sequence

import numpy as np
import soxr

from ms_core.evaluation.metrics import METRICS, RATE, count_errors, evaluator

TEXT_METRICS = ("wer", "cer")
SIMS = ("sim_campp", "sim_ge2e")
ALIGNED = ("pesq", "stoi")  # only of speech that is time-aligned with its original: a codec's output
REFERENCE_METRICS = (*SIMS, *ALIGNED)
SPOKEN = tuple(metric for metric in METRICS if metric not in ALIGNED)  # metrics of any speech
MAX_OFFSET = 0.1  # seconds by which a PESQ or STOI pair may differ in length: a codec pads its last frame


def _to_rate(wav: np.ndarray, sample_rate: int) -> np.ndarray:
    """Float32 (L,) at 16 kHz; raises ValueError for what is not a finite, audible mono waveform."""
    wav = np.asarray(wav, dtype=np.float32)
    if wav.ndim != 1 or len(wav) < sample_rate // 10 or not np.isfinite(wav).all():
        raise ValueError(f"waveform of shape {wav.shape}: expected (L,), finite, at least 0.1 s at {sample_rate} Hz")
    return wav if sample_rate == RATE else soxr.resample(wav, sample_rate, RATE).astype(np.float32)


def _aligned(reference: np.ndarray, wav: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both cut to the shorter one's length."""
    offset = abs(len(reference) - len(wav)) / RATE
    if offset > MAX_OFFSET:
        raise ValueError(f"PESQ and STOI need an aligned pair: lengths differ by {offset:.2f} s, at most {MAX_OFFSET}")
    length = min(len(reference), len(wav))
    return reference[:length], wav[:length]


def score(
    wavs: Sequence[np.ndarray],
    sample_rate: int,
    texts: Sequence[str] | None = None,
    references: Sequence[np.ndarray] | None = None,
    metrics: Sequence[str] = SPOKEN,
) -> list[dict[str, object]]:
    """Judge waveforms one by one, in this process.

    wavs, references: float (L,) in [-1, 1] at `sample_rate` Hz; `references` are what SIM compares with (and, for PESQ
    and STOI, the time-aligned original). texts: what should be heard. Returns one dict a waveform: `seconds`; the
    counts of `count_errors` and `hypothesis` when WER or CER is asked; the value under each other metric's own name.
    Raises ValueError for an unknown metric, a missing input, unequal lengths or a waveform that is not mono and finite;
    EvaluatorError for an evaluator that is not installed.
    """
    for metric in metrics:
        if metric not in METRICS:
            raise ValueError(f"unknown metric {metric!r}: choose among {', '.join(METRICS)}")
    for name, values, needed in (("texts", texts, TEXT_METRICS), ("references", references, REFERENCE_METRICS)):
        if values is None and set(metrics) & set(needed):
            raise ValueError(f"{', '.join(m for m in metrics if m in needed)} needs {name}: give one a waveform")
        if values is not None and len(values) != len(wavs):
            raise ValueError(f"{len(values)} {name} for {len(wavs)} waveforms: give one each")
    rows = []
    for index, raw in enumerate(wavs):
        wav = _to_rate(raw, sample_rate)
        row: dict[str, object] = {"seconds": round(len(wav) / RATE, 4)}
        reference = _to_rate(references[index], sample_rate) if set(metrics) & set(REFERENCE_METRICS) else None
        if set(metrics) & set(TEXT_METRICS):
            row["hypothesis"] = evaluator("wer")(wav)
            row |= count_errors(texts[index], row["hypothesis"])
        for metric in metrics:
            if metric in SIMS:
                row[metric] = evaluator(metric).similarity(reference, wav)
            elif metric in ALIGNED:
                row[metric] = evaluator(metric)(*_aligned(reference, wav))
            elif metric not in TEXT_METRICS:
                row[metric] = evaluator(metric)(wav)
        rows.append(row)
    return rows
