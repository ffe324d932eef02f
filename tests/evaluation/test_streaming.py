"""Time to first audio, and the numbers of joins, on signals whose answers are known."""

import math

import numpy as np
import pytest
from conftest import new_model, stir

from ms_core.codec.mini import MiniCodec
from ms_core.config import DecodingConfig
from ms_core.crossfade import SHORTEST, blend, joined
from ms_core.evaluation.records import Provenance
from ms_core.evaluation.streaming import (
    JOINED_TEXTS,
    SIDES,
    STORY,
    UNITS,
    Track,
    _waits,
    first_audio,
    first_audio_records,
    join_records,
    joins,
    telling,
)
from ms_core.synthesis import CHUNK_PHONES, MobileSpeech
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


def test_colour_is_the_change_of_the_spectrum_at_a_seam() -> None:
    """Noise above 2 kHz meets noise below it, of the same level; then noise meets noise of its own kind."""
    pytest.importorskip("pyworld")
    noise = np.random.default_rng(0).normal(size=RATE)
    spectrum, split = np.fft.rfft(noise), 2000  # 1 Hz a bin
    low, high = (
        np.fft.irfft(np.where(keep, spectrum, 0)) for keep in (np.arange(8001) < split, np.arange(8001) >= split)
    )
    high *= low.std() / high.std()
    track = Track(np.concatenate([high, low, low]) / 10, RATE)
    here, there = (track.around(at - 1600, at, at + 1600) for at in (RATE, 2 * RATE))
    assert here["colour"] > 20 > 10 * there["seam"] and here["seam"] < 3 and there["colour"] < 6


def test_joining_keeps_speech_and_length_and_blends_pauses() -> None:
    """Phones are loud, boundaries are noise; the pause at the cut is to have 3 frames."""
    hop, rng = 40, np.random.default_rng(0)
    phones = ["_", "B", "AA1", ",", "B", "T", "_"]
    parts, spoken = [phones[:3] + ["_"], ["_", *phones[4:]]], []

    def speak(index, frames):
        levels = np.repeat([0.1 if p == "_" else 1.0 for p in parts[index]], np.array(frames) * hop)
        spoken.append(((0.5 * levels * rng.uniform(-1, 1, len(levels))).astype(np.float32), frames))
        return spoken[-1][0]

    def durations(some):
        return [{"_": 9, ",": 3}.get(p, 4) for p in some]

    pieces = list(joined(phones, parts, speak, durations))
    assert [frames for _, frames in spoken] == [[9, 4, 4, 3], [3, 4, 4, 9]]
    assert [len(piece) for piece in pieces] == [17 * hop, 20 * hop]  # a pause comes with the part after it
    assert pieces[0].dtype == pieces[1].dtype == np.float32
    assert np.array_equal(pieces[0], spoken[0][0][: 17 * hop]) and np.array_equal(
        pieces[1][3 * hop :], spoken[1][0][3 * hop :]
    )
    pause = pieces[1][: 3 * hop]
    assert np.abs(pause[:2] - spoken[0][0][-3 * hop :][:2]).max() < 2e-3  # it goes over from one part to the other
    assert np.abs(pause[-2:] - spoken[1][0][: 3 * hop][-2:]).max() < 2e-3
    short = list(joined(phones, parts, speak, lambda some: [{",": 0}.get(p, 4) for p in some]))
    assert spoken[-1][1][0] == SHORTEST and len(np.concatenate(short)) == (4 + 8 + SHORTEST + 8 + 4) * hop
    whole = list(joined(phones, [phones], lambda index, frames: np.zeros(7) if frames is None else None, durations))
    assert len(whole) == 1 and len(whole[0]) == 7  # nothing is given to a text that is not cut


def test_a_blend_keeps_the_power_of_noise_and_the_range() -> None:
    one, other = np.random.default_rng(0).normal(size=(2, 64_000)).astype(np.float32) / 20
    power = (blend(one, other) ** 2).reshape(8, -1).mean(1) / (one**2).mean()
    assert np.abs(power - 1).max() < 0.1
    assert np.abs(blend(np.ones(9), np.ones(9))).max() == 1 and blend(one[:0], other[:0]).shape == (0,)


def numbers(offset: float, speakers: int = 4, pauses: int = 30, seed: int = 0) -> dict[str, dict[str, list[float]]]:
    """Made up as `joins` would find them: joined pauses like whole ones, butted ones with another seam by `offset`."""
    rng = np.random.default_rng(seed)
    found = {side: {n: rng.normal(5, 1, speakers * pauses).tolist() for n in UNITS} for side in SIDES}
    found["butted"]["seam"] = (np.array(found["butted"]["seam"]) + offset).tolist()
    found["joined"]["f0_step"][0] = math.nan
    return {**found, "place": {"speaker": np.repeat(range(speakers), pauses).tolist(), "text": [0] * speakers * pauses}}


def test_a_listener_for_numbers_hears_a_seam_and_nothing_else() -> None:
    found = numbers(offset=2.0)
    nothing, seam = telling(found), telling(found, "butted")
    assert nothing.low < 0.5 < nothing.high and abs(nothing.value - 0.5) < 0.1
    assert seam.low > 0.8 and seam.value == pytest.approx(0.92, abs=0.05)  # of two normals 2 sd apart
    assert telling({**found, "joined": found["whole"]}).value == 0.5
    far = telling(numbers(offset=100.0), "butted")
    assert far.value == far.low == far.high == 1
    with pytest.raises(ValueError, match="at least two speakers"):
        telling(numbers(0.0, speakers=1))


def test_joins_and_their_records(codec) -> None:
    pytest.importorskip("pyworld")
    from test_synthesis import new_voice

    own = MiniCodec(codec.config)
    own.load_state_dict(codec.state_dict())
    stir(own.decoder, 1, 0.02)
    tts = MobileSpeech(own, new_model(own), DecodingConfig(steps=(2, 1, 1)))
    found = joins(tts, [new_voice(codec, 1), new_voice(codec, 2)], JOINED_TEXTS[:2])
    cuts = [len(chunks(phonemise(t), CHUNK_PHONES, FIRST_PHONES)) - 1 for t in JOINED_TEXTS[:2]]
    assert all(len(found[side][name]) == 2 * sum(cuts) for side in SIDES for name in UNITS)
    assert found["place"]["speaker"] == ([0] * cuts[0] + [1] * cuts[0] + [0] * cuts[1] + [1] * cuts[1])
    shortest = SHORTEST * codec.config.hop / RATE
    for joint, whole in zip(found["joined"]["pause"], found["whole"]["pause"], strict=True):
        assert joint == pytest.approx(max(whole, shortest))
    values = {"joined": {n: [2.0, 3.0, math.nan] for n in UNITS}, "whole": {n: [1.0, 1.0, 9.0] for n in UNITS}}
    values |= {"butted": values["joined"], "place": {"speaker": [0, 1, 1], "text": [0, 0, 1]}}
    records = join_records(values, Provenance.of("smoke"), "tiny")
    for system in ("tiny", "tiny-butted"):
        paired = [r for r in records if r.pair_with == "tiny-whole" and r.system == system]
        assert len(paired) == len(UNITS) and all(r.value == 1.5 and r.n == 2 for r in paired)
    assert {r.system: r.n for r in records if r.metric == "join_auc"} == {"tiny": 3, "tiny-butted": 3}
    assert len({r.key for r in records}) == len(records)
    with pytest.raises(ValueError, match="give a text of at most"):
        joins(tts, [new_voice(codec, 1)], ["Go on."])


def test_every_text_of_joins_is_cut_once_or_more() -> None:
    for text in JOINED_TEXTS:
        phones = phonemise(text)
        assert len(phones) <= CHUNK_PHONES and len(chunks(phones, CHUNK_PHONES, FIRST_PHONES)) > 1
