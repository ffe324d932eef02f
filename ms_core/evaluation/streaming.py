"""Streamed speech: how soon sound starts, and whether the joins between its parts can be heard.

The paper's aim is speech on a phone, where a listener should not wait for a whole paragraph (its introduction); how the
authors split texts is unknown, so all of this is our choice. `text.chunks` cuts, `stream` of both runtimes speaks.
"""

import time
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from ms_core.codec.source_filter import F0_CEILING, F0_FLOOR
from ms_core.config import ConfigError
from ms_core.crossfade import joined
from ms_core.evaluation.bench import torch_threads
from ms_core.evaluation.records import Interval, Provenance, Record, bootstrap
from ms_core.synthesis import CHUNK_PHONES
from ms_core.text import FIRST_PHONES, chunks, phonemise

STORY = (  # ours; 76 words
    "Every spring the river rose, and the whole village came down to the bridge to watch it. The children threw small "
    "sticks from one side, ran across, and saw them come out on the other. The miller did not laugh. He counted the "
    "days until the flood would pass, for his wheel stood still, and nobody could buy bread. When the water fell at "
    "last, he opened the gate himself, and the old stones began to turn again."
)
JOINED_TEXTS = (  # ours; each is one part for `synthesize` and has a pause at which `stream` cuts
    "Every spring the river rose over its banks. The whole village came down to the bridge to watch the brown water.",
    "The children threw small sticks from one side, ran across the stones, and saw them come out on the other.",
    "He counted the days until the flood would pass. His wheel stood still, and nobody in the town could buy bread.",
    "When the water fell at last, he opened the gate himself, and the old stones began to turn again with a low sound.",
    "There was a letter on the kitchen table this morning. I have not opened it, because I know who wrote it.",
    "If you take the road along the coast, the journey is an hour longer. The view is worth every minute of it.",
)
FRAME = 0.01  # s, for levels
SPEECH = 0.15  # s of speech beside a pause whose level is measured
VOICED = 0.4  # s beside a pause in which voiced speech is looked for
VOICED_FRAMES = 10  # of 5 ms, whose median is the pitch beside a pause
FLOOR_DB = -60.0  # below the loudest frame; less is silence to a listener
EDGE = 0.05  # s beside a pause, or a seam, that belong to it
BANDS, BAND_FLOOR = 8, 100.0  # bands of the spectrum beside a seam, and where the lowest starts, Hz
UNITS = {
    "pause": "s",
    "pause_level": "dB",
    "level_step": "dB",
    "f0_step": "semitones",
    "seam": "dB",
    "colour": "dB",
    "onset": "dB",
}
SIDES = ("joined", "butted", "whole")


def first_audio(
    systems: Mapping[str, tuple[object, object]],
    words: Sequence[int] = (1, 5, 10, 20, 40, 60),
    seed: int = 0,
    repeats: int = 3,
    first: int | None = FIRST_PHONES,
    threads: int = 1,
) -> list[dict]:
    """Time from a text to its first sound, by the length of the text; systems take turns, after a warm-up.

    Args:
        systems: name -> (a `MobileSpeech` or `MobileRuntime`, a voice that it has enrolled).
        words: lengths; the texts are the beginnings of `STORY`.
        first: see `text.chunks`; None for speech that starts when the first long part is done.
        threads: of torch; a `MobileRuntime` has its own.

    Returns a dict for each system and length: `system`, `words`, `parts`, `audio_seconds`, `first_seconds` (of sound in
    the first part) and, one number a repeat in seconds: `first`, `first_cpu` (the process's CPU seconds), `total`, and
    `waits`, for how long a listener who starts at once would hear nothing since a part was not ready.
    Raises ValueError for no system, a length outside the story, or no repeat.
    """
    story = STORY.split()
    if not systems or not words or min(words) < 1 or max(words) > len(story) or repeats < 1:
        raise ValueError(
            f"{len(systems)} systems, lengths {list(words)}, {repeats} repeats: give at least one of each, and lengths "
            f"from 1 to {len(story)} words"
        )
    found = {(name, count): {"system": name, "words": count} for count in words for name in systems}
    with torch_threads(threads):
        for repeat in range(-1, repeats):
            for (name, count), row in found.items():
                (system, speaker), text = systems[name], " ".join(story[:count])
                start, start_cpu = time.perf_counter(), time.process_time()
                ready, lengths, cpu = [], [], 0.0
                for wave in system.stream(text, speaker, seed=seed, first=first):
                    cpu = cpu or time.process_time() - start_cpu
                    ready.append(time.perf_counter() - start)
                    lengths.append(len(wave) / system.sample_rate)
                row |= {"parts": len(lengths), "audio_seconds": sum(lengths), "first_seconds": lengths[0]}
                numbers = {"first": ready[0], "first_cpu": cpu, "total": ready[-1], "waits": _waits(ready, lengths)}
                for key, value in numbers.items() if repeat >= 0 else ():
                    row.setdefault(key, []).append(value)
    return list(found.values())


def _waits(ready: Sequence[float], lengths: Sequence[float]) -> float:
    """Seconds of silence for a listener of parts that are ready at these times and sound so long."""
    waits, heard = 0.0, ready[0]
    for at, before in zip(ready[1:], lengths, strict=False):
        heard += before
        waits += max(at - heard, 0.0)
        heard = max(at, heard)
    return waits


def joins(
    system, speakers: Sequence[object], texts: Sequence[str] = JOINED_TEXTS, seed: int = 0
) -> dict[str, dict[str, list[float]]]:
    """The same pauses three times: as `stream` makes them, with the parts put end to end, and in speech made whole.

    Returns {"joined": ..., "butted": ..., "whole": ...}, each with one number a pause and speaker for `pause` (s),
    `pause_level` (dB, of the pause's quietest half against the speech), `level_step` (dB, |speech after - speech
    before|), `f0_step` (semitones, likewise; nan without voiced speech), `seam` (dB, |level after - before| the sample
    at which parts meet, or the middle of a pause that is whole or blended), `colour` (dB, the mean change of the level
    of `BANDS` bands there) and `onset` (dB, the largest change from one 10 ms to the next in the pause and its edges).
    Also {"place": {"speaker": ..., "text": ...}}, their indices. Pauses have the same place in all lists.
    Raises ValueError for a text that is not one part, or is not cut by `stream`, and ConfigError without pyworld.
    """
    rate = system.sample_rate
    found: dict[str, dict[str, list[float]]] = {side: {name: [] for name in UNITS} for side in SIDES}
    found["place"] = {"speaker": [], "text": []}

    for which, text in enumerate(texts):
        phones = phonemise(text)
        parts = chunks(phones, CHUNK_PHONES, FIRST_PHONES)
        if len(phones) > CHUNK_PHONES or len(parts) < 2:
            raise ValueError(f"{text!r} has {len(phones)} phones in {len(parts)} parts: give a text of at most "
                             f"{CHUNK_PHONES} phones with a pause that `stream` cuts at")  # fmt: skip
        for number, speaker in enumerate(speakers):
            spoken = _spoken(system, speaker, phones, parts, seed)
            tracks = {side: (Track(wave, rate), pauses) for side, (wave, pauses) in spoken.items()}
            for side, (track, pauses) in tracks.items():
                for pause in pauses:
                    for name, value in track.around(*pause).items():
                        found[side][name].append(value)
            found["place"]["speaker"] += [number] * (len(parts) - 1)
            found["place"]["text"] += [which] * (len(parts) - 1)
    return found


def _spoken(
    system, speaker: object, phones: Sequence[str], parts: Sequence[Sequence[str]], seed: int
) -> dict[str, tuple[np.ndarray, list[tuple[int, int, int]]]]:
    """Of each of `SIDES`: samples, and the start, the seam and the end of each pause between `parts`, in samples."""

    def speak(some: Sequence[str], index: int, given: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        codes, frames = system.generate(some, speaker, seed + index, durations=given)
        wave = system.decode(codes)
        return wave, np.array(frames) * (len(wave) // sum(frames))

    whole, lengths = speak(phones, 0)
    bounds = np.cumsum([0, *lengths])
    cuts = np.cumsum([len(part) - 1 for part in parts[:-1]])  # indices of the pauses among the phones
    inside = [(bounds[at], (bounds[at] + bounds[at + 1]) // 2, bounds[at + 1]) for at in cuts]

    alone = [speak(part, k) for k, part in enumerate(parts)]
    meet = np.cumsum([len(wave) for wave, _ in alone])
    ends = [(m - a[-1], m, m + b[0]) for m, (_, a), (_, b) in zip(meet, alone, alone[1:], strict=False)]

    given = []

    def remembered(index: int, frames: Sequence[int] | None) -> np.ndarray:
        wave, samples = speak(parts[index], index, frames)
        given.append(samples)
        return wave

    pieces = list(joined(phones, parts, remembered, lambda some: system.predict_durations(some, speaker)))
    starts = np.cumsum([len(piece) for piece in pieces])
    blends = [(s, s + samples[-1] // 2, s + samples[-1]) for s, samples in zip(starts, given[:-1], strict=False)]
    return {
        "joined": (np.concatenate(pieces), blends),
        "butted": (np.concatenate([wave for wave, _ in alone]), ends),
        "whole": (whole, inside),
    }


def telling(found: Mapping[str, dict[str, list[float]]], side: str = "joined") -> Interval:
    """How well a listener for such numbers tells the pauses of `side` from those of whole speech: the area under the
    ROC curve (AUC; .5 where nothing tells) of a logistic regression on all numbers of `joins`.

    It is trained on all speakers but one and judges that one, each in turn; the AUC is the mean over speakers' pauses
    of the chance that a joined pause of a speaker looks more like a join than a whole one of the same speaker. The
    interval is a bootstrap over pauses, by their part in the AUC (DeLong et al. 1988). Raises ValueError below two
    speakers.
    """
    speaker = np.array(found["place"]["speaker"])
    if len(set(speaker)) < 2:
        raise ValueError("to judge the joins of one speaker by those of others takes at least two speakers")
    sides = [np.array([found[s][name] for name in UNITS]).T for s in (side, "whole")]  # 2 x (pauses, numbers)
    share = np.empty(len(speaker))
    for one in set(speaker):
        held = speaker == one
        trained = np.concatenate([numbers[~held] for numbers in sides])
        mean, scale = np.nanmean(trained, 0), np.nanstd(trained, 0)
        x, *judged = (np.nan_to_num((y - mean) / np.maximum(scale, 1e-6)) for y in (trained, *(y[held] for y in sides)))
        weights = _logistic(x, np.arange(len(x)) < len(x) // 2)
        ours, theirs = (numbers @ weights for numbers in judged)
        above = (ours[:, None] > theirs) + (ours[:, None] == theirs) / 2
        share[held] = above.mean(1) + above.mean(0) - above.mean()
    value, low, high = bootstrap(share)
    return Interval(value, *(None if bound is None else min(max(bound, 0.0), 1.0) for bound in (low, high)))


def _logistic(x: np.ndarray, positive: np.ndarray, penalty: float = 1.0, rounds: int = 25) -> np.ndarray:
    """Weights of a logistic regression without their offset, which orders nothing; Newton's method, L2 penalty."""
    x, target = np.column_stack([x, np.ones(len(x))]), positive.astype(float)
    ridge, weights = penalty * np.diag([1.0] * (x.shape[1] - 1) + [0.0]), np.zeros(x.shape[1])
    for _ in range(rounds):
        chance = 1 / (1 + np.exp(-(x @ weights)))
        slope = x.T @ (target - chance) - ridge @ weights
        weights += np.linalg.solve((x * (chance * (1 - chance))[:, None]).T @ x + ridge, slope)
    return weights[:-1]


class Track:
    """Level and F0 of a waveform, for a look at its pauses."""

    def __init__(self, wave: np.ndarray, rate: int):
        try:
            import pyworld
        except ImportError:
            raise ConfigError("F0 at joins needs pyworld: pip install 'ms-core[codec]'") from None
        self.rate, size = rate, round(FRAME * rate)
        power = (wave[: len(wave) // size * size].astype(np.float64).reshape(-1, size) ** 2).mean(1)
        self.floor = power.max() * 10 ** (FLOOR_DB / 10)
        self.wave, self.power = wave, power.clip(self.floor)
        wave = wave.astype(np.float64)
        f0, times = pyworld.dio(wave, rate, f0_floor=F0_FLOOR, f0_ceil=F0_CEILING)
        self.f0, self.times = pyworld.stonemask(wave, f0, times, rate), times

    def around(self, start: int, seam: int, end: int) -> dict[str, float]:
        """The numbers of `joins` for the pause between the samples `start` and `end`, met at `seam`."""
        a, middle, b = start / self.rate, seam / self.rate, end / self.rate
        before, after = self._power(a - SPEECH, a), self._power(b, b + SPEECH)
        pause = np.sort(self._power(a, b))
        steps = np.diff(10 * np.log10(self._power(a - EDGE, b + EDGE)))
        colours = [self._colour(seam - round(EDGE * self.rate)), self._colour(seam)]
        pitch = [self._pitch(a - VOICED, a, last=True), self._pitch(b, b + VOICED, last=False)]
        return {
            "pause": b - a,
            "pause_level": _db(pause[: max(len(pause) // 2, 1)], np.concatenate([before, after])),
            "level_step": abs(_db(after, before)),
            "f0_step": abs(12 * float(np.log2(pitch[1] / pitch[0]))),
            "seam": abs(_db(self._power(middle, middle + EDGE), self._power(middle - EDGE, middle))),
            "colour": float(np.abs(colours[1] - colours[0]).mean()),
            "onset": float(np.abs(steps).max()),
        }

    def _colour(self, start: int) -> np.ndarray:
        """Levels (dB) of `BANDS` bands of equal width on a logarithmic scale in `EDGE` seconds from a sample on."""
        part = self.wave[max(start, 0) : max(start, 0) + round(EDGE * self.rate)].astype(np.float64)
        power = np.abs(np.fft.rfft(part * np.hanning(len(part)))) ** 2 / max((np.hanning(len(part)) ** 2).sum(), 1e-9)
        bounds = np.geomspace(BAND_FLOOR, self.rate / 2, BANDS + 1) * len(part) / self.rate
        bands = [power[round(a) : max(round(b), round(a) + 1)].sum() for a, b in pairwise(bounds)]
        return 10 * np.log10(np.maximum(2 * np.array(bands) / max(len(part), 1), self.floor / BANDS))

    def _power(self, start: float, end: float) -> np.ndarray:
        low = max(round(start / FRAME), 0)
        return self.power[low : max(round(end / FRAME), low + 1)]

    def _pitch(self, start: float, end: float, last: bool) -> float:
        inside = self.f0[(self.times >= start) & (self.times < end) & (self.f0 > 0)]
        near = inside[-VOICED_FRAMES:] if last else inside[:VOICED_FRAMES]
        return float(np.median(near)) if len(near) else float("nan")


def _db(power: np.ndarray, against: np.ndarray) -> float:
    return float(10 * np.log10(power.mean() / against.mean()))


def first_audio_records(rows: Sequence[dict], provenance: Provenance, system: str) -> list[Record]:
    """Records of `first_audio`: systems are `<system>-<name>`, splits `stream-<words>w`."""
    records = []
    notes = {
        "first": "from text to the first part's samples",
        "first_cpu": "the same in CPU seconds of the process",
        "total": "from text to the last part's samples",
        "waits": "silence that a listener from the first part on would hear, since a part is not ready",
    }
    for row in rows:
        about = (
            f"{row['audio_seconds']:.2f} s of speech in {row['parts']} parts, the first {row['first_seconds']:.2f} s"
        )
        for key, note in notes.items():
            found = bootstrap(row[key])
            name = "first_audio" + key.removeprefix("first") if key.startswith("first") else f"stream_{key}"
            records.append(
                Record(**provenance.model_dump(), system=f"{system}-{row['system']}", split=f"stream-{row['words']}w",
                       metric=f"{name}_s", **found.fields(), unit="s", n=len(row[key]),
                       protocol=f"{note}; {about}; interval over repeats after a warm-up")
            )  # fmt: skip
    return records


def join_records(found: Mapping[str, dict[str, list[float]]], provenance: Provenance, system: str) -> list[Record]:
    """Records of `joins` on the split `joins`: as `stream` joins (`<system>`), with parts put end to end
    (`<system>-butted`) and in whole speech (`<system>-whole`), differences to that, and what `telling` finds.
    """
    names = {"joined": system, "butted": f"{system}-butted", "whole": f"{system}-whole"}
    records = []

    def add(side: str, metric: str, interval: Interval, n: int, protocol: str, **fields: str | None) -> None:
        fields = {"unit": "AUC", "system": names[side], "split": "joins", **fields}
        records.append(
            Record(**provenance.model_dump(), metric=metric, **interval.fields(), n=n, protocol=protocol, **fields)
        )

    about = "the same pauses, as joins of streamed parts and inside one part: ms_core.evaluation.streaming"
    for name, unit in UNITS.items():
        values = {side: np.array(found[side][name]) for side in SIDES}
        kept = np.isfinite(list(values.values())).all(0)
        if not kept.any():
            continue
        for side in SIDES:
            value = values[side][kept]
            add(side, f"join_{name}", bootstrap(value), len(value), about, unit=unit)
            if side != "whole":
                less = bootstrap(value, minus=(values["whole"][kept], None))
                add(side, f"join_{name}", less, len(value), about, unit=unit, pair_with=names["whole"])
    judged = (
        "joins and the same pauses in whole speech, told apart by a logistic regression on all other numbers that was "
        "trained on the other speakers; AUC, .5: nothing tells; interval over pauses: ms_core.evaluation.streaming"
    )
    for side in ("joined", "butted"):
        add(side, "join_auc", telling(found, side), len(found["place"]["speaker"]), judged)
    return records
