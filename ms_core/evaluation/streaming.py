"""Streamed speech: how soon sound starts.

The paper's aim is speech on a phone, where a listener should not wait for a whole paragraph (its introduction); how the
authors split texts is unknown, so all of this is our choice. `text.chunks` cuts, `stream` of both runtimes speaks.
"""

import time
from collections.abc import Mapping, Sequence

from ms_core.evaluation.bench import torch_threads
from ms_core.evaluation.parity import fields_of
from ms_core.evaluation.records import Provenance, Record, bootstrap
from ms_core.text import FIRST_PHONES

STORY = (  # ours; 76 words
    "Every spring the river rose, and the whole village came down to the bridge to watch it. The children threw small "
    "sticks from one side, ran across, and saw them come out on the other. The miller did not laugh. He counted the "
    "days until the flood would pass, for his wheel stood still, and nobody could buy bread. When the water fell at "
    "last, he opened the gate himself, and the old stones began to turn again."
)


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
    rows = {(name, count): {"system": name, "words": count} for count in words for name in systems}
    with torch_threads(threads):
        for repeat in range(-1, repeats):
            for (name, count), row in rows.items():
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
    return list(rows.values())


def _waits(ready: Sequence[float], lengths: Sequence[float]) -> float:
    """Seconds of silence for a listener of parts that are ready at these times and sound so long."""
    waits, sounding = 0.0, ready[0]
    for at, before in zip(ready[1:], lengths, strict=False):
        sounding += before
        waits += max(at - sounding, 0.0)
        sounding = max(at, sounding)
    return waits


def first_audio_records(rows: Sequence[dict], provenance: Provenance, system: str) -> list[Record]:
    """Records of `first_audio`, whose systems are "pytorch" and precisions of ONNX."""
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
            interval = bootstrap(row[key])
            name = "first_audio" + key.removeprefix("first") if key.startswith("first") else f"stream_{key}"
            records.append(
                Record(**provenance.model_dump(), study="stream", system=system, **fields_of(row["system"]),
                       words=row["words"], metric=f"{name}_s", **interval.fields(), unit="s", n=len(row[key]),
                       protocol=f"{note}; {about}; interval over repeats after a warm-up")
            )  # fmt: skip
    return records
