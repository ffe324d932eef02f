"""Time to first audio, by a synthesiser that takes no time."""

from types import SimpleNamespace

import numpy as np
import pytest

from ms_core.evaluation.records import Provenance
from ms_core.evaluation.streaming import STORY, _waits, first_audio, first_audio_records
from ms_core.synthesis import CHUNK_PHONES
from ms_core.text import FIRST_PHONES, chunks, phonemise

RATE = 16_000


class Talker:
    """Says each part in no time, a tenth of a second for a phone."""

    sample_rate = RATE

    def __init__(self, precision=None):
        self.manifest = precision and SimpleNamespace(runtime="onnx", precision=precision)

    def stream(self, text, voice, seed=0, first=None):
        for part in chunks(phonemise(text), CHUNK_PHONES, first):
            yield np.zeros(RATE // 10 * len(part), dtype=np.float32)


def test_first_audio() -> None:
    rows = first_audio({"pytorch": (Talker(), None), "int8": (Talker("int8"), None)}, words=(3, 40), repeats=2)
    turns = [("pytorch", 3), ("int8", 3), ("pytorch", 40), ("int8", 40)]
    assert [(r["system"], r["words"]) for r in rows] == turns
    short, long = rows[0], rows[2]
    assert short["parts"] == 1 and short["first_seconds"] == short["audio_seconds"]
    assert long["parts"] > 1 and long["first_seconds"] <= (FIRST_PHONES + 1) / 10
    for row in rows:
        assert len(row["first"]) == len(row["waits"]) == 2
        assert all(0 <= f <= t for f, t in zip(row["first"], row["total"], strict=True)) and max(row["waits"]) == 0
    whole = first_audio({"a": (Talker(), None)}, words=(20,), repeats=1, first=None)[0]
    assert whole["parts"] == 1
    records = first_audio_records(rows, Provenance.of("smoke"), "mobilespeech-tiny")
    assert len({r.key for r in records}) == len(records) == 16
    assert {r.name for r in records} == {"mobilespeech-tiny-pytorch", "mobilespeech-tiny-onnx-int8"}
    assert {r.words for r in records} == {3, 40}
    assert {r.metric for r in records} == {"first_audio_s", "first_audio_cpu_s", "stream_total_s", "stream_waits_s"}
    for bad in ((), (0,), (len(STORY.split()) + 1,)):
        with pytest.raises(ValueError, match="give at least one"):
            first_audio({"a": (Talker(), None)}, words=bad)


def test_waits() -> None:
    assert _waits([1.0], [9.0]) == 0
    assert _waits([1.0, 2.0, 4.0], [2.0, 2.0, 2.0]) == 0  # heard until 3, 5
    assert _waits([1.0, 4.0, 5.0, 10.0], [2.0, 2.0, 2.0, 2.0]) == pytest.approx(1.0 + 2.0)  # gaps at 3 to 4, 8 to 10
