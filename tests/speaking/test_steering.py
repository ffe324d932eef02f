"""What each control does to the sound of the shipped model: lengths, places, pitch and speakers, measured."""

import io
import json
import sys

import numpy as np
import pytest
import soundfile
from conftest import global_rng_untouched

from ms_core.recordings.align import align
from ms_core.speaking.captions import as_written
from ms_core.speaking.controls import Controls, SynthesisError
from ms_core.speaking.lines import Line, write_stream
from ms_core.speaking.script import read_script
from ms_core.synthesis import MobileSpeech
from ms_core.text import BOUNDARIES

TEXT = "The old boat sailed past the island, and nobody said a word."
RATE = 16_000
WOMAN, MAN = "ls-8123", "ls-445"


@pytest.fixture(scope="module")
def tts() -> MobileSpeech:
    return MobileSpeech.from_pretrained("mini")


@pytest.fixture(scope="module")
def plain(tts):
    return tts.speak(TEXT, WOMAN)


def pitch(wav: np.ndarray) -> float:
    """Median F0 of voiced frames, Hz."""
    pyworld = pytest.importorskip("pyworld")
    f0, _ = pyworld.dio(wav.astype(np.float64), RATE)
    return float(np.median(f0[f0 > 0]))


def level(wav: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(wav)) + 1e-12))


def lengths(speech) -> tuple[float, float]:
    """Seconds of phones, and of the pauses between words."""
    phones = sum(end - start for word in speech.words for _, start, end in word.phones)
    return phones, sum(b.start - a.end for a, b in zip(speech.words, speech.words[1:], strict=False))


@pytest.mark.parametrize("speed", [0.5, 1.5, 2.0])
def test_speed_changes_durations_and_not_the_pitch(tts, plain, speed) -> None:
    fast = tts.speak(TEXT, WOMAN, speed=speed)
    assert len(plain.wav) / len(fast.wav) == pytest.approx(speed, rel=0.12)
    assert pitch(fast.wav) == pytest.approx(pitch(plain.wav), rel=0.12)
    (phones, pauses), (own_phones, own_pauses) = lengths(fast), lengths(plain)
    assert phones < own_phones if speed > 1 else phones > own_phones
    assert abs(np.log(pauses / own_pauses)) < 0.8 * abs(np.log(phones / own_phones))  # pauses are scaled less


def test_the_tempo_of_one_word(tts, plain) -> None:
    slow = tts.speak(TEXT.replace("nobody", '<prosody rate="50%">nobody</prosody>'), WOMAN)
    own, others = [np.array([word.end - word.start for word in speech.words]) for speech in (slow, plain)]
    place = [word.said for word in plain.words].index("nobody")
    assert own[place] == pytest.approx(2 * others[place], rel=0.1)
    assert np.abs(np.delete(own - others, place)).max() < 0.021  # rounding


@pytest.mark.parametrize(("mark", "seconds"), [("[pause:1.5]", 1.5), ('<break time="240ms"/>', 0.24), ("[pause:0]", 0)])
def test_a_pause_is_as_long_as_asked_and_silent(tts, mark, seconds) -> None:
    speech = tts.speak(f"The old boat {mark} sailed on.", WOMAN)
    before, after = speech.words[2:4]
    assert after.start - before.end == pytest.approx(seconds, abs=0.0101)
    if seconds:
        gap = speech.wav[int((before.end + 0.06) * RATE) : int((after.start - 0.06) * RATE)]
        assert level(gap) < level(speech.wav) - 15
    assert len(speech.wav) == sum(speech.frames) * tts.codec.config.hop


def test_pauses_at_the_edges_and_where_parts_meet(tts, monkeypatch) -> None:
    monkeypatch.setattr(tts, "chunk_phones", 24)
    text = "[pause:1]The old boat sailed past the island. [pause:2] Nobody said a word. [pause:0.5]"
    speech = tts.speak(text, WOMAN)
    last, following = speech.words[6], speech.words[7]
    assert (last.text, following.text) == ("island.", "Nobody")
    assert speech.words[0].start == 1.0 and following.start - last.end == pytest.approx(2.0)
    assert len(speech.wav) / RATE - speech.words[-1].end == pytest.approx(0.5)
    assert np.array_equal(np.concatenate(list(tts.stream(text, WOMAN, first=None))), speech.wav)
    assert level(speech.wav[: RATE // 2]) < -45
    assert level(speech.wav[int((last.end + 0.3) * RATE) : int((following.start - 0.3) * RATE)]) < -60


def test_words_stand_where_the_aligner_hears_them(plain) -> None:
    aligned = align(plain.wav, TEXT)
    starts = [aligned.starts[i + 1] for i, phone in enumerate(aligned.phones[:-1]) if phone in BOUNDARIES]
    apart = np.abs(np.array([word.start for word in plain.words]) - starts)
    assert np.median(apart) <= 0.04 and apart.max() < 0.12  # one has frames of 20 ms, the other of 10
    assert sum(plain.frames) * 320 == len(plain.wav)


def test_captions(tts, plain, tmp_path) -> None:
    for suffix in (".json", ".srt", ".vtt"):
        plain.save_captions(tmp_path / f"a{suffix}")
    told = json.loads((tmp_path / "a.json").read_text())
    assert [word["text"] for word in told["words"]] == TEXT.split() and told["seconds"] == len(plain.wav) / RATE
    assert told["words"][0]["phones"][0][0] == "DH"
    srt, vtt = ((tmp_path / f"a{suffix}").read_text() for suffix in (".srt", ".vtt"))
    start, end = (f"{plain.words[i].__getattribute__(name):06.3f}" for i, name in ((0, "start"), (-1, "end")))
    assert f"1\n00:00:{start} --> 00:00:{end}\n{TEXT}\n".replace(".", ",", 2) in srt
    assert vtt == "WEBVTT\n\n" + srt.replace(",", ".", 2)
    (passage,) = read_script("At 7:45, well-known Dr. Smith & I left")
    assert as_written(passage) == [
        ("At", ["at"]), ("7:45,", ["seven", "forty", "five"]), ("well-known", ["well", "known"]), ("Dr.", ["doctor"]),
        ("Smith", ["smith"]), ("&", ["and"]), ("I", ["i"]), ("left", ["left"]),
    ]  # fmt: skip


def test_phones_in_the_text_and_in_a_lexicon_are_what_is_said(tts) -> None:
    car = tts.synthesize("My car is old.", WOMAN)
    assert np.array_equal(tts.synthesize("My {K AA1 R} is old.", WOMAN), car)
    assert np.array_equal(tts.synthesize("My zorb is old.", WOMAN, lexicon={"zorb": "K AA1 R"}), car)
    assert not np.array_equal(tts.synthesize("My zorb is old.", WOMAN), car)


def test_two_voices_speak_in_turn(tts) -> None:
    speech = tts.speak(f"[voice:{WOMAN}] Who is there at the door? [voice:him] Nobody that I know of.", MAN,
                       voices={"him": tts.load_voice(MAN)})  # fmt: skip
    middle = int((speech.words[5].end + speech.words[6].start) / 2 * RATE)
    assert speech.words[6].text == "Nobody"
    assert pitch(speech.wav[:middle]) > 1.25 * pitch(speech.wav[middle:])
    assert 0.04 <= speech.words[6].start - speech.words[5].end < 0.8  # as two sentences


def test_rhythm_of_one_voice_and_timbre_of_another(tts) -> None:
    slow, fast = (tts.load_voice(name) for name in ("ls-6836", "ls-89"))
    spoken = {rhythm: tts.speak(TEXT, MAN, rhythm=rhythm) for rhythm in (slow, fast)}
    own = {rhythm: tts.speak(TEXT, rhythm) for rhythm in (slow, fast)}
    for rhythm, speech in spoken.items():
        assert speech.frames == own[rhythm].frames  # the tempo is the rhythm's
    assert len(spoken[slow].wav) > 1.1 * len(spoken[fast].wav)
    assert pitch(spoken[fast].wav) < 0.75 * pitch(own[fast].wav)  # a man's voice with a woman's rhythm
    metrics = pytest.importorskip("ms_core.evaluation.metrics")
    if "sim_campp" in metrics.available(["sim_campp"])[0]:
        encoder, prompt = metrics.evaluator("sim_campp"), tts.decode(tts.load_voice(MAN).codes)
        heard = spoken[fast].wav
        assert encoder.similarity(heard, prompt) > encoder.similarity(heard, tts.decode(fast.codes)) + 0.2


def test_variety_lets_seeds_differ_and_none_does_not(tts) -> None:
    text = "Nobody said a word."
    same = [tts.speak(text, WOMAN, seed=seed) for seed in (0, 1)]
    assert np.array_equal(same[0].wav, same[1].wav)
    with global_rng_untouched():
        one, two = (tts.speak(text, WOMAN, seed=seed, variety=0.5) for seed in (0, 1))
    assert one.frames != two.frames  # durations differ
    assert np.array_equal(one.wav, tts.synthesize(text, WOMAN, seed=0, variety=0.5))
    (batched,) = tts.synthesize_batch([text], WOMAN, seed=0, variety=0.5)
    assert np.array_equal(one.wav, batched)

    def spread(variety: float) -> float:
        return float(np.mean(np.abs(np.log(np.array(tts.speak(text, WOMAN, 1, variety=variety).frames) + 1.0)
                                    - np.log(np.array(same[0].frames) + 1.0))))  # fmt: skip

    assert 0 < spread(0.5) < spread(1.0)
    greedy = tts.generate(tts.read(text)[0].phones, WOMAN)[0]
    codes = [tts.generate(tts.read(text)[0].phones, WOMAN, seed, variety=0.5)[0] for seed in (0, 1)]
    assert not np.array_equal(codes[0][0], codes[1][0]) and not np.array_equal(codes[0][0], greedy[0])


def test_a_stream_is_raw_samples_or_wav_and_the_same_sound(tts) -> None:
    line = Line(1, TEXT, passages=read_script(TEXT))
    raw, wav = io.BytesIO(), io.BytesIO()
    count = write_stream(tts, line, tts.load_voice(WOMAN), raw, "raw", speed=2.0)
    write_stream(tts, line, WOMAN, wav, "wav", speed=2.0)
    samples = np.frombuffer(raw.getvalue(), "<i2")
    assert len(samples) == count and wav.getvalue()[:4] == b"RIFF" and wav.getvalue().endswith(raw.getvalue())
    direct = np.concatenate(list(tts.stream(TEXT, WOMAN, speed=2.0)))
    np.testing.assert_allclose(samples / 32768, direct, atol=2e-5)
    heard, rate = soundfile.read(io.BytesIO(wav.getvalue()))
    assert rate == RATE and len(heard) == count


@pytest.mark.parametrize("wrong", [{"speed": 3}, {"speed": "fast"}, {"variety": -1}, {"variety": float("nan")}])
def test_controls_that_cannot_be(wrong) -> None:
    with pytest.raises(SynthesisError, match=f"{next(iter(wrong))} .*: give a number from"):
        Controls(**wrong)


def test_nothing_that_a_user_runs_needs_posix() -> None:
    """`resource` and other modules that Windows lacks stay out of what speaks."""
    import subprocess

    code = (
        "import sys\nfor name in ('resource', 'fcntl', 'pwd', 'grp', 'termios'): sys.modules[name] = None\n"
        "import ms_core.cli, ms_core.synthesis, ms_core.export.runtime.__main__, ms_core.speaking.lines\n"
        "ms_core.cli.app(['synth', '--text', 'Go.', '--show-phones'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "Go.\tG OW1\n", done.stderr
