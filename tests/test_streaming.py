"""Time to first audio, and the numbers of joins, on signals whose answers are known."""

import math

import numpy as np
import pytest
from conftest import new_model, stir

from ms_core.codec import MiniCodec
from ms_core.config import DecodingConfig
from ms_core.records import Provenance
from ms_core.streaming import (
    JOINED_TEXTS,
    STORY,
    UNITS,
    Track,
    _waits,
    first_audio,
    first_audio_records,
    join_records,
    joins,
)
from ms_core.synthesize import CHUNK_PHONES, MobileSpeech
from ms_core.text import FIRST_PHONES, chunks, phonemise

RATE = 16_000


class Talker:
    """Says each part in no time, a tenth of a second for a phone."""

    sample_rate = RATE

    def stream(self, text, voice, seed=0, first=None):
        for part in chunks(phonemise(text), CHUNK_PHONES, first):
            yield np.zeros(RATE // 10 * len(part), dtype=np.float32)


def test_first_audio() -> None:
    rows = first_audio({"a": (Talker(), None), "b": (Talker(), None)}, words=(3, 40), repeats=2)
    assert [(r["system"], r["words"]) for r in rows] == [("a", 3), ("b", 3), ("a", 40), ("b", 40)]
    short, long = rows[0], rows[2]
    assert short["parts"] == 1 and short["first_seconds"] == short["audio_seconds"]
    assert long["parts"] > 1 and long["first_seconds"] <= (FIRST_PHONES + 1) / 10
    for row in rows:
        assert len(row["first"]) == len(row["waits"]) == 2
        assert all(0 <= f <= t for f, t in zip(row["first"], row["total"], strict=True)) and max(row["waits"]) == 0
    whole = first_audio({"a": (Talker(), None)}, words=(20,), repeats=1, first=None)[0]
    assert whole["parts"] == 1
    records = first_audio_records(rows, Provenance.of("smoke"), "tiny")
    assert len({r.key for r in records}) == len(records) == 16
    assert {r.system for r in records} == {"tiny-a", "tiny-b"} and {r.split for r in records} == {
        "stream-3w", "stream-40w",
    }  # fmt: skip
    assert {r.metric for r in records} == {"first_audio_s", "first_audio_cpu_s", "stream_total_s", "stream_waits_s"}
    for bad in ((), (0,), (len(STORY.split()) + 1,)):
        with pytest.raises(ValueError, match="give at least one"):
            first_audio({"a": (Talker(), None)}, words=bad)


def test_waits() -> None:
    assert _waits([1.0], [9.0]) == 0
    assert _waits([1.0, 2.0, 4.0], [2.0, 2.0, 2.0]) == 0  # heard until 3, 5
    assert _waits([1.0, 4.0, 5.0, 10.0], [2.0, 2.0, 2.0, 2.0]) == pytest.approx(1.0 + 2.0)  # gaps at 3 to 4, 8 to 10


def test_numbers_of_a_known_pause() -> None:
    """100 Hz, then a pause of 0.3 s, then an octave higher at half the amplitude."""
    pytest.importorskip("pyworld")
    time = np.arange(RATE) / RATE

    def voice(f0: float) -> np.ndarray:
        return sum(np.sin(2 * math.pi * k * f0 * time) for k in range(1, 9)) / 8

    quiet = 1e-3 * np.random.default_rng(0).normal(size=round(0.3 * RATE))
    louder = 10 * quiet
    wave = np.concatenate([voice(100), quiet, 0.5 * voice(200)])
    found = Track(wave, RATE).around(RATE, RATE + len(quiet) // 2, RATE + len(quiet))
    assert found["pause"] == pytest.approx(0.3)
    assert found["level_step"] == pytest.approx(6.02, abs=0.3)
    assert found["f0_step"] == pytest.approx(12, abs=0.5)
    assert found["seam"] < 1 and found["pause_level"] < -40 and found["onset"] > 30
    half = len(quiet) // 2
    wave[RATE + half : RATE + len(quiet)] = louder[half:]
    stepped = Track(wave, RATE).around(RATE, RATE + half, RATE + len(quiet))
    assert stepped["seam"] == pytest.approx(20, abs=2)
    silent = np.concatenate([voice(100), np.zeros(2 * RATE), voice(100)])
    unvoiced = Track(silent, RATE).around(2 * RATE - 800, 2 * RATE, 2 * RATE + 800)
    assert math.isnan(unvoiced["f0_step"])


def test_joins_and_their_records(codec) -> None:
    pytest.importorskip("pyworld")
    from test_synthesize import new_voice

    own = MiniCodec(codec.config)
    own.load_state_dict(codec.state_dict())
    stir(own.decoder, 1, 0.02)
    tts = MobileSpeech(own, new_model(own), DecodingConfig(steps=(2, 1, 1)))
    found = joins(tts, [new_voice(codec, 1)], JOINED_TEXTS[:2])
    cuts = sum(len(chunks(phonemise(t), CHUNK_PHONES, FIRST_PHONES)) - 1 for t in JOINED_TEXTS[:2])
    assert all(len(found[side][name]) == cuts for side in ("joined", "whole") for name in UNITS)
    assert all(value >= 0 for value in found["joined"]["pause"] + found["whole"]["pause"])
    values = {"joined": {n: [2.0, 3.0, math.nan] for n in UNITS}, "whole": {n: [1.0, 1.0, 9.0] for n in UNITS}}
    records = join_records(values, Provenance.of("smoke"), "tiny")
    paired = [r for r in records if r.pair_with == "tiny-whole"]
    assert len(paired) == len(UNITS) and all(r.value == 1.5 and r.n == 2 for r in paired)
    with pytest.raises(ValueError, match="give a text of at most"):
        joins(tts, [new_voice(codec, 1)], ["Go on."])


def test_every_text_of_joins_is_cut_once_or_more() -> None:
    for text in JOINED_TEXTS:
        phones = phonemise(text)
        assert len(phones) <= CHUNK_PHONES and len(chunks(phones, CHUNK_PHONES, FIRST_PHONES)) > 1
