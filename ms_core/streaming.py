"""Streamed speech: how soon sound starts, and whether the joins between its parts can be heard.

The paper's aim is speech on a phone, where a listener should not wait for a whole paragraph (its introduction); how the
authors split texts is unknown, so all of this is our choice. `text.chunks` cuts, `stream` of both runtimes speaks.
"""

import time
from collections.abc import Mapping, Sequence

import numpy as np

from ms_core.bench import torch_threads
from ms_core.config import ConfigError
from ms_core.records import Provenance, Record, bootstrap
from ms_core.synthesize import CHUNK_PHONES
from ms_core.text import FIRST_PHONES, chunks, phonemise
from ms_core.vocoder import F0_CEILING, F0_FLOOR

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
UNITS = {"pause": "s", "pause_level": "dB", "level_step": "dB", "f0_step": "semitones", "seam": "dB", "onset": "dB"}


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
    """The same pauses twice: as joins between streamed parts, and inside speech that was made in one part.

    Returns {"joined": ..., "whole": ...}, each with one number a pause and speaker for `pause` (s), `pause_level` (dB,
    of the pause's quietest half against the speech), `level_step` (dB, |speech after - speech before|), `f0_step`
    (semitones, likewise; nan without voiced speech), `seam` (dB, |level after - before| the sample at which parts meet,
    or the middle of the pause in whole speech) and `onset` (dB, the largest change from one 10 ms to the next in the
    pause and its edges). Pairs have the same place. Raises ValueError for a text that is not one part, or is not cut by
    `stream`, and ConfigError without pyworld.
    """
    rate = system.sample_rate
    found: dict[str, dict[str, list[float]]] = {side: {name: [] for name in UNITS} for side in ("joined", "whole")}

    def speak(phones: Sequence[str], speaker: object, number: int) -> tuple[np.ndarray, np.ndarray]:
        codes, frames = system.generate(phones, speaker, number)
        wave = system.decode(codes)
        return wave, np.cumsum([0, *frames]) * (len(wave) // sum(frames))  # samples, and where phones begin and end

    for text in texts:
        phones = phonemise(text)
        parts = chunks(phones, CHUNK_PHONES, FIRST_PHONES)
        if len(phones) > CHUNK_PHONES or len(parts) < 2:
            raise ValueError(f"{text!r} has {len(phones)} phones in {len(parts)} parts: give a text of at most "
                             f"{CHUNK_PHONES} phones with a pause that `stream` cuts at")  # fmt: skip
        for speaker in speakers:
            whole, bounds = speak(phones, speaker, seed)
            waves, edges = zip(*(speak(part, speaker, seed + k) for k, part in enumerate(parts)), strict=True)
            joined, starts = np.concatenate(waves), np.cumsum([0, *map(len, waves)])
            tracks = {"whole": Track(whole, rate), "joined": Track(joined, rate)}
            at = 0
            for k, part in enumerate(parts[:-1]):
                at += len(part) - 1  # the pause's index among the phones of the whole text
                sites = {
                    "whole": (bounds[at], (bounds[at] + bounds[at + 1]) // 2, bounds[at + 1]),
                    "joined": (starts[k] + edges[k][-2], starts[k + 1], starts[k + 1] + edges[k + 1][1]),
                }
                for side, site in sites.items():
                    for name, value in tracks[side].around(*site).items():
                        found[side][name].append(value)
    return found


class Track:
    """Level and F0 of a waveform, for a look at its pauses."""

    def __init__(self, wave: np.ndarray, rate: int):
        try:
            import pyworld
        except ImportError:
            raise ConfigError("F0 at joins needs pyworld: pip install 'ms-core[codec]'") from None
        self.rate, size = rate, round(FRAME * rate)
        power = (wave[: len(wave) // size * size].astype(np.float64).reshape(-1, size) ** 2).mean(1)
        self.power = power.clip(power.max() * 10 ** (FLOOR_DB / 10))
        wave = wave.astype(np.float64)
        f0, times = pyworld.dio(wave, rate, f0_floor=F0_FLOOR, f0_ceil=F0_CEILING)
        self.f0, self.times = pyworld.stonemask(wave, f0, times, rate), times

    def around(self, start: int, seam: int, end: int) -> dict[str, float]:
        """The numbers of `joins` for the pause between the samples `start` and `end`, met at `seam`."""
        a, middle, b = start / self.rate, seam / self.rate, end / self.rate
        before, after = self._power(a - SPEECH, a), self._power(b, b + SPEECH)
        pause = np.sort(self._power(a, b))
        steps = np.diff(10 * np.log10(self._power(a - EDGE, b + EDGE)))
        pitch = [self._pitch(a - VOICED, a, last=True), self._pitch(b, b + VOICED, last=False)]
        return {
            "pause": b - a,
            "pause_level": _db(pause[: max(len(pause) // 2, 1)], np.concatenate([before, after])),
            "level_step": abs(_db(after, before)),
            "f0_step": abs(12 * float(np.log2(pitch[1] / pitch[0]))),
            "seam": abs(_db(self._power(middle, middle + EDGE), self._power(middle - EDGE, middle))),
            "onset": float(np.abs(steps).max()),
        }

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
    """Records of `joins` on the split `joins`: at joins (`<system>`), in whole speech (`<system>-whole`), paired."""
    records = []
    for name, unit in UNITS.items():
        joined, whole = (np.array(found[side][name]) for side in ("joined", "whole"))
        kept = np.isfinite(joined) & np.isfinite(whole)
        if not kept.any():
            continue
        joined, whole = joined[kept], whole[kept]
        sides = (
            (bootstrap(joined), system, None),
            (bootstrap(whole), f"{system}-whole", None),
            (bootstrap(joined, minus=(whole, None)), system, f"{system}-whole"),
        )
        for interval, who, pair in sides:
            records.append(
                Record(**provenance.model_dump(), system=who, pair_with=pair, split="joins", metric=f"join_{name}",
                       **interval.fields(), unit=unit, n=len(joined),
                       protocol="the same pauses, as joins of streamed parts and inside one part: ms_core.streaming")
            )  # fmt: skip
    return records
