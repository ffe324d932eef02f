"""Streamed speech: how soon sound starts.

The paper's aim is speech on a phone, where a listener should not wait for a whole paragraph (its introduction); how the
authors split texts is unknown, so all of this is our choice. `text.chunks` cuts, `stream` of both runtimes speaks.
"""

import time
from collections.abc import Mapping, Sequence

from ms_core.evaluation.bench import in_turns
from ms_core.evaluation.parity import fields_of
from ms_core.evaluation.records import Provenance, Record, bootstrap
from ms_core.text import FIRST_PHONES

STORY = (  # ours; 76 words
    "Every spring the river rose, and the whole village came down to the bridge to watch it. The children threw small "
    "sticks from one side, ran across, and saw them come out on the other. The miller did not laugh. He counted the "
    "days until the flood would pass, for his wheel stood still, and nobody could buy bread. When the water fell at "
    "last, he opened the gate himself, and the old stones began to turn again."
)
TIMES = {  # of `first_audio` -> the metric of its records, and what it is
    "first": ("first_audio_s", "from text to the first part's samples"),
    "first_cpu": ("first_audio_cpu_s", "the same in CPU seconds of the process"),
    "total": ("stream_total_s", "from text to the last part's samples"),
    "waits": ("stream_waits_s", "silence that a listener from the first part on would hear, since a part is not ready"),
}


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

    Returns a dict for each system and length: `system`, `fields` of its records, `words`, `parts`, `audio_seconds`,
    `first_seconds` (of sound in the first part) and, one number a repeat in seconds, those of `TIMES`.
    Raises ValueError for no system, a length outside the story, or no repeat.
    """
    story = STORY.split()
    if not systems or not words or min(words) < 1 or max(words) > len(story) or repeats < 1:
        raise ValueError(
            f"{len(systems)} systems, lengths {list(words)}, {repeats} repeats: give at least one of each, and lengths "
            f"from 1 to {len(story)} words"
        )

    def stream(name: str, count: int) -> dict:
        (system, voice), ready, cpu, lengths = systems[name], [], [], []
        start, start_cpu = time.perf_counter(), time.process_time()
        for wave in system.stream(" ".join(story[:count]), voice, seed=seed, first=first):
            ready.append(time.perf_counter() - start)
            cpu.append(time.process_time() - start_cpu)
            lengths.append(len(wave) / system.sample_rate)
        row = {"parts": len(lengths), "audio_seconds": sum(lengths), "first_seconds": lengths[0]}
        return {**row, "first": ready[0], "first_cpu": cpu[0], "total": ready[-1], "waits": _waits(ready, lengths)}

    runs = {(name, count): lambda key=(name, count): stream(*key) for count in words for name in systems}
    return [
        {"system": name, "words": count, "fields": fields_of(systems[name][0]), **rounds[0]}
        | {key: [one[key] for one in rounds] for key in TIMES}
        for (name, count), rounds in in_turns(runs, repeats, threads).items()
    ]


def _waits(ready: Sequence[float], lengths: Sequence[float]) -> float:
    """Seconds of silence for a listener of parts that are ready at these times and sound so long."""
    waits, sounding = 0.0, ready[0]
    for at, before in zip(ready[1:], lengths, strict=False):
        sounding += before
        waits += max(at - sounding, 0.0)
        sounding = max(at, sounding)
    return waits


def first_audio_records(rows: Sequence[dict], provenance: Provenance, system: str) -> list[Record]:
    """Records of `first_audio`."""
    records = []
    for row in rows:
        about = (
            f"{row['audio_seconds']:.2f} s of speech in {row['parts']} parts, the first {row['first_seconds']:.2f} s"
        )
        shared = {"study": "stream", "system": system, **row["fields"], "words": row["words"], "unit": "s"}
        for key, (metric, note) in TIMES.items():
            how = f"{note}; {about}; interval over repeats after a warm-up"
            fields = {**shared, "metric": metric, "n": len(row[key]), "protocol": how}
            records.append(provenance.record(bootstrap(row[key]), **fields))
    return records
