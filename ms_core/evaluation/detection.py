"""How well synthetic speech is told from recordings, by the detector and by the watermark, and what breaks them.

Equal error rate, and misses where 1 % of recordings are flagged: speakers and texts that the detector was not trained
on, each clip cut to some seconds and degraded (`detect.degrade`). Intervals resample speakers. Our choice; the paper
says only that a detector can be built.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ms_core.detect import network, scores
from ms_core.detect.degrade import MEASURED, RATE
from ms_core.detect.watermark import PRESENT, read
from ms_core.evaluation.eval_set import EvalSet, demo_rows, rng_of
from ms_core.evaluation.evaluate import GROUND_TRUTH, GROUND_TRUTH_CODEC, through_codec
from ms_core.evaluation.records import LEVEL, Interval, Provenance, Record, bootstrap
from ms_core.files import sha256
from ms_core.recordings.audio import load_speech
from ms_core.synthesis import MobileSpeech

RESAMPLES = 500
FALSE_ALARMS = 0.01


@dataclass(frozen=True)
class Clip:
    """Speech (l,) at 16 kHz: which utterance, by whom, and what made it (`records.Subject.system`)."""

    name: str
    speaker: str
    system: str
    wav: np.ndarray


@dataclass(frozen=True)
class Score:
    """A clip's score after a degradation (the network's, or the watermark's)."""

    speaker: str
    system: str
    condition: str
    seconds: float
    value: float


def spoken(tts: MobileSpeech, trials: EvalSet, system: str) -> Iterator[Clip]:
    """Each utterance of a split recorded, through the codec, and spoken by the model with another prompt."""
    for item in trials.targets:
        wav = trials.reference(item, RATE)
        yield Clip(item.utt, item.speaker, GROUND_TRUTH, wav)
        yield Clip(item.utt, item.speaker, GROUND_TRUTH_CODEC, through_codec(tts.codec, wav))
        voice = tts.voice(trials.prompt_wav(item, tts.sample_rate), trials.prompt(item).text, seconds=None)
        yield Clip(item.utt, item.speaker, system, tts.synthesize(item.text, voice))


def others() -> Iterator[Clip]:
    """The authors' published clips (MobileSpeech, VALL-E ...): systems that the detector was not trained on."""
    for row in demo_rows():
        if not row["system"].startswith(GROUND_TRUTH):
            utt = row["librispeech_utt"]
            yield Clip(utt, utt.partition("-")[0], f"authors/{row['system']}", load_speech(row["path"], RATE))


def score(clip: Clip, condition: str, seconds: float, watermark: bool = False) -> Score:
    """A clip's middle, degraded, as the detector (or the watermark's reader) sees it; seeded by the clip's name."""
    size = round(seconds * RATE)
    start = max(0, len(clip.wav) - size) // 2
    wav = clip.wav[start : start + size]
    wav = MEASURED[condition](wav, rng_of(0, clip.name, condition)).astype(np.float32)
    value = read(wav, RATE) if watermark else float(np.mean(scores(wav, RATE)))
    return Score(clip.speaker, clip.system, condition, seconds, value)


def error_curve(recordings: np.ndarray, synthetic: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds, and at each the share of recordings flagged and of synthetic clips missed."""
    cuts = np.append(np.unique(np.concatenate([recordings, synthetic])), np.inf)
    alarms = (len(recordings) - np.searchsorted(np.sort(recordings), cuts)) / len(recordings)
    return cuts, alarms, np.searchsorted(np.sort(synthetic), cuts) / len(synthetic)


def equal_error_rate(recordings: np.ndarray, synthetic: np.ndarray) -> float:
    """Where both errors are equal, or the mean of both where they are nearest."""
    _, alarms, misses = error_curve(recordings, synthetic)
    nearest = np.abs(alarms - misses).argmin()
    return float(alarms[nearest] + misses[nearest]) / 2


def misses_at(recordings: np.ndarray, synthetic: np.ndarray, false_alarms: float = FALSE_ALARMS) -> float:
    """The share of synthetic clips missed at a threshold that at most `false_alarms` of the recordings pass."""
    _, alarms, misses = error_curve(recordings, synthetic)
    return float(misses[alarms <= false_alarms][0])


METRICS = {"eer": equal_error_rate, "miss_at_1pct_fa": misses_at}


def interval(measure, recordings: Sequence[Score], synthetic: Sequence[Score]) -> Interval:
    """A rate of two classes, with a bootstrap interval over speakers."""
    by_speaker = [
        {name: np.array([s.value for s in side if s.speaker == name]) for name in {s.speaker for s in side}}
        for side in (recordings, synthetic)
    ]
    names = sorted(set(by_speaker[0]) & set(by_speaker[1]))
    value = measure(*(np.concatenate([*side.values()]) for side in by_speaker))
    if len(names) < 2:
        return Interval(value, None, None)
    rng = np.random.default_rng(0)
    drawn = rng.choice(names, (RESAMPLES, len(names)))
    values = [measure(*(np.concatenate([side[name] for name in row]) for side in by_speaker)) for row in drawn]
    return Interval(value, *np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))


def records(found: Iterable[Score], split: str, provenance: Provenance, watermark: bool = False) -> list[Record]:
    """What the scores of a split say, by system, condition and length: `METRICS` of each system against the recordings,
    and the share that the shipped threshold flags; of the watermark's reader, the share that it finds marked.
    """
    cells: dict[tuple, list[Score]] = {}
    for one in found:
        cells.setdefault((one.condition, one.seconds, one.system), []).append(one)
    known, made = network.load(), []
    for (condition, seconds, system), group in cells.items():
        own = (
            provenance
            if system.startswith("mobilespeech-")
            else provenance.model_copy(update={"config_hash": None, "checkpoint_sha256": None})
        )
        protocol = f"the middle {seconds:g} s of each clip, degraded; intervals resample speakers"
        shared = {**own.model_dump(), "study": "detection", "split": split, "system": system, "protocol": protocol}
        shared |= {"condition": condition, "seconds": seconds, "n": len(group), "unit": "fraction"}
        shared["evaluators"] = {"perth": "1.0"} if watermark else {"detector": sha256(network.FILE)[:16]}
        limit, metric = (PRESENT, "watermark_read") if watermark else (known["threshold"], "flagged")
        share = bootstrap([s.value > limit for s in group], speakers=[s.speaker for s in group])
        made.append(Record(**shared, metric=metric, **share.fields()))
        recordings = cells.get((condition, seconds, GROUND_TRUTH))
        for name, measure in METRICS.items() if recordings and system != GROUND_TRUTH and not watermark else ():
            made.append(Record(**shared, metric=name, **interval(measure, recordings, group).fields()))
    return made
