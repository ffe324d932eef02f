"""Voices, text to speech, and the errors of both."""

import csv
import json

import numpy as np
import pytest
import torch
from conftest import CODEC, MODEL, global_rng_untouched, new_model, speech, utterance
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ms_core import paths, synthesis, tokens
from ms_core.checkpoint import CheckpointError
from ms_core.codec.mini import MiniCodec
from ms_core.config import DecodingConfig
from ms_core.recordings.align import Aligned
from ms_core.recordings.audio import AudioError, read_audio
from ms_core.recordings.enrol import LONGEST_PAUSE, first_words, shorter_pauses
from ms_core.speaking.crossfade import blend
from ms_core.speaking.synthesizer import KEPT_VOICES, SHORTEST, SynthesisError
from ms_core.synthesis import MobileSpeech
from ms_core.text import BOUNDARIES, PHONES, TextError, chunks, phone_ids, phonemise
from ms_core.tokens import Tokens, Voice, VoiceError

TEXT = "Hello there, this is a test."


@pytest.fixture(scope="module")
def tts(codec) -> MobileSpeech:
    return MobileSpeech(codec, new_model(codec), DecodingConfig(steps=(4, 2, 1)))


def new_voice(codec: MiniCodec, seed: int = 0) -> Voice:
    part = utterance(seed, 3)
    names = tuple(PHONES[i] for i in part.phones)
    return Voice(part.codes, names, tuple(part.durations.tolist()), codec.token_digest, {"text": "x"})


@pytest.fixture
def voice(codec) -> Voice:
    return new_voice(codec)


# -- speech -----------------------------------------------------------------------------------------------------------


def test_a_text_becomes_a_waveform_that_the_seed_fixes(tts, voice) -> None:
    with global_rng_untouched():
        wav = tts.synthesize(TEXT, voice, seed=3)
    assert wav.dtype == np.float32
    assert wav.ndim == 1
    assert len(wav) % CODEC.hop == 0
    assert 0 < np.abs(wav).max() <= 1
    assert np.array_equal(wav, tts.synthesize(TEXT, voice, seed=3))
    assert not np.array_equal(wav, tts.synthesize(TEXT, voice, seed=4))
    assert np.array_equal(wav, tts.synthesize(TEXT, voice, seed=3, steps=(4, 2, 1)))  # as configured
    assert tts.sample_rate == 16_000


def test_codes_and_durations_fit_the_phones(tts, voice) -> None:
    phones = phonemise(TEXT)
    codes, frames = tts.generate(phones, voice)
    assert codes.shape == (3, sum(frames))
    assert 0 <= int(codes.min()) <= int(codes.max()) < CODEC.bins
    assert len(frames) == len(phones)
    assert all(f >= 1 for f, p in zip(frames, phones, strict=True) if p not in BOUNDARIES)
    assert len(tts.synthesize(TEXT, voice)) == sum(frames) * CODEC.hop
    own = [2] * len(phones)
    again, kept = tts.generate(phones, voice, durations=own)
    assert kept == own
    assert again.shape == (3, 2 * len(phones))
    for wrong in ([2], [-1, *own[1:]]):
        with pytest.raises(ValueError, match=f"{len(wrong)} durations for {len(phones)} phones"):
            tts.generate(phones, voice, durations=wrong)


def test_known_layers_are_kept(tts, voice) -> None:
    phones, frames = phonemise("Hello."), [3] * len(phonemise("Hello."))
    own, _ = tts.generate(phones, voice, durations=frames)
    other = (own[:2] + 1) % CODEC.bins
    codes, _ = tts.generate(phones, voice, durations=frames, known=other)
    assert np.array_equal(codes[:2], other)
    assert not np.array_equal(codes[2], own[2])


def test_passes_can_be_chosen_and_watched(tts, voice) -> None:
    seen = []
    tts.generate(
        phonemise("Hello."), voice, steps=(2, 1, 3), on_pass=lambda layer, step, codes: seen.append((layer, step))
    )
    assert seen == [(0, 1), (0, 2), (1, 1), (2, 1), (2, 2), (2, 3)]
    for steps in ((2, 1), (2, 0, 1), (1, 1, 1, 1)):
        with pytest.raises(SynthesisError, match="give 3 positive pass counts, one for each codec layer"):
            tts.synthesize(TEXT, voice, steps=steps)


def test_slower_speech_by_the_configured_scale(codec, tts, voice) -> None:
    slow = MobileSpeech(codec, tts.model, DecodingConfig(steps=(1, 1, 1), duration_scale=2.0))
    phones = phonemise(TEXT)
    normal, twice = sum(tts.generate(phones, voice)[1]), sum(slow.generate(phones, voice)[1])
    assert twice == pytest.approx(2 * normal, rel=0.15)


def test_two_synthesisers_share_a_model_and_not_its_decoding(codec) -> None:
    model, voice = new_model(codec), new_voice(codec)
    one = MobileSpeech(codec, model, DecodingConfig(steps=(1, 1, 1)))
    before = one.synthesize(TEXT, voice)
    other = MobileSpeech(codec, model, DecodingConfig(steps=(1, 1, 1), copy_sharpness=50.0))
    assert not np.array_equal(other.synthesize(TEXT, voice), before)
    assert np.array_equal(one.synthesize(TEXT, voice), before)


def test_a_voice_is_encoded_once_until_others_speak(codec, monkeypatch) -> None:
    tts = MobileSpeech(codec, new_model(codec), DecodingConfig(steps=(2, 1, 1)))
    encode, calls = tts.model.voice, []
    monkeypatch.setattr(tts.model, "voice", lambda *args: calls.append(1) or encode(*args))
    one, two = new_voice(codec, 1), new_voice(codec, 2)
    first = tts.synthesize(TEXT, one)
    tts.synthesize("Another text.", one)
    assert len(calls) == 1
    other = tts.synthesize(TEXT, two)
    assert np.array_equal(tts.synthesize(TEXT, one), first)  # a cached voice is a recomputed one
    assert len(calls) == 2  # both are kept
    for seed in range(3, 3 + KEPT_VOICES):
        tts.encode_voice(new_voice(codec, seed))
    assert np.array_equal(tts.synthesize(TEXT, one), first) and len(calls) == 3 + KEPT_VOICES
    assert not np.array_equal(first[: len(other)], other[: len(first)])  # and voices differ


def test_a_long_text_is_spoken_in_parts(tts, voice, monkeypatch) -> None:
    monkeypatch.setattr(tts, "chunk_phones", 24)
    text = "One two three, four five six. Seven eight nine ten, eleven twelve."
    parts = list(tts.stream(text, voice, seed=5, first=None))
    assert len(parts) == len(chunks(phonemise(text), 24)) > 2
    assert np.array_equal(np.concatenate(parts), tts.synthesize(text, voice, seed=5))


def test_parts_of_a_stream_meet_in_pauses_of_the_predicted_length(tts, voice) -> None:
    text = "One two three, four five six. Seven eight nine ten, eleven twelve."
    phones = phonemise(text)
    parts, (one, two) = list(tts.stream(text, voice, seed=5, first=32)), chunks(phones, synthesis.CHUNK_PHONES, 32)
    assert len(parts) == 2 and one == phonemise("One two three, four five six")
    pause = max(tts.predict_durations(phones, voice)[len(one) - 1], SHORTEST)
    first = [*tts.predict_durations(one, voice)[:-1], pause]
    second = [pause, *tts.predict_durations(two, voice)[1:]]
    waves = [
        tts.decode(tts.generate(part, voice, 5 + k, durations=frames)[0])
        for k, (part, frames) in enumerate(((one, first), (two, second)))
    ]
    both = pause * CODEC.hop
    assert np.array_equal(parts[0], waves[0][:-both])  # the pause waits for the next part
    assert np.array_equal(parts[1][:both], blend(waves[0][-both:], waves[1][:both]))
    assert np.array_equal(parts[1][both:], waves[1][both:])
    assert sum(map(len, parts)) == (sum(first) + sum(second) - pause) * CODEC.hop
    assert len(list(tts.stream("One two three.", voice))) == 1
    assert np.array_equal(tts.synthesize(text, voice, seed=5), tts.decode(tts.generate(phones, voice, seed=5)[0]))


def test_a_part_of_a_stream_is_read_once(codec, voice, monkeypatch) -> None:
    tts = MobileSpeech(codec, new_model(codec), DecodingConfig(steps=(1, 1, 1)))
    encode, read = tts._encode_text, []
    monkeypatch.setattr(tts, "_encode_text", lambda ids, states: read.append(ids.shape[1]) or encode(ids, states))
    text = "One two three, four five six. Seven eight nine ten, eleven twelve."
    phones = phonemise(text)
    parts = chunks(phones, tts.chunk_phones, 32)
    before = np.concatenate(list(tts.stream(text, voice, first=32)))
    assert len(parts) == 2 and sorted(read) == sorted([*map(len, parts), len(phones)])  # and once round the pause
    assert np.array_equal(before, np.concatenate(list(tts.stream(text, voice, first=32)))) and len(read) == 6


def test_timings_are_added_up(tts, voice) -> None:
    timings: dict[str, float] = {}
    tts.synthesize(TEXT, voice, timings=timings)
    assert set(timings) == {"text", "prompt", "duration", "smd", "codec", "passes"}
    assert timings["passes"] == sum(tts.decoding.steps)
    assert all(seconds >= 0 for seconds in timings.values())
    once = dict(timings)
    tts.synthesize(TEXT, voice, timings=timings)
    assert timings["smd"] > once["smd"]


@pytest.mark.parametrize("text", ["", "   ", "...", "你好", "word " * 2001])
def test_text_errors_reach_the_caller(tts, voice, text: str) -> None:
    with pytest.raises(TextError):
        tts.synthesize(text, voice)
    with pytest.raises(TextError):
        tts.voice((speech(2.0, 0), 16_000), text=text)


# -- chunks -----------------------------------------------------------------------------------------------------------

WORDS = st.lists(
    st.tuples(st.lists(st.sampled_from(PHONES[4:]), min_size=1, max_size=9), st.sampled_from("__,.")),
    min_size=1,
    max_size=25,
)


@settings(max_examples=200, deadline=None)
@given(WORDS, st.integers(12, 60))
def test_chunks_keep_every_phone_in_order_and_the_limit(words: list[tuple[list[str], str]], limit: int) -> None:
    phones = ["_"]
    for word, boundary in words:
        phones += [*word, boundary]
    phones[-1] = "_"
    parts = chunks(phones, limit)
    assert [p for part in parts for p in part if p not in BOUNDARIES] == [p for p in phones if p not in BOUNDARIES]
    for part in parts:
        assert part[0] == part[-1] == "_"
        assert 3 <= len(part) <= limit
        assert not any(a in BOUNDARIES and b in BOUNDARIES for a, b in zip(part, part[1:], strict=False))
    assert len(phones) > limit or parts == [phones]
    inner = [[p for p in part[1:-1] if p in BOUNDARIES] for part in parts]
    left = [p for p in phones[1:-1] if p in BOUNDARIES]
    for index, some in enumerate(inner):  # pauses inside parts stay; one boundary goes at each cut
        assert left[: len(some)] == some
        left = left[len(some) + (index < len(parts) - 1) :]
    assert left == []


def test_chunks_prefer_long_pauses_and_leave_a_long_word_whole() -> None:
    word = ["B", "AA1"]
    phones = ["_", *word, ".", *word, ",", *word, "_", *word, "_", *word, "_"]
    assert chunks(phones, 16) == [phones]
    one, three = ["_", *word, "_"], ["_", *word, "_", *word, "_", *word, "_"]
    assert chunks(phones, 12) == [one, one, three]  # at the full stop, then at the comma, though more would fit
    endless = ["_", *["B"] * 30, "_"]
    assert chunks(endless, 10) == [endless]
    assert chunks(["_", "B", ",", *["T"] * 30, "_"], 10) == [["_", "B", "_"], ["_", *["T"] * 30, "_"]]


@settings(max_examples=200, deadline=None)
@given(WORDS, st.integers(4, 40), st.integers(40, 80))
def test_early_parts_end_at_pauses_and_grow(words: list[tuple[list[str], str]], first: int, limit: int) -> None:
    phones = ["_"]
    for word, boundary in words:
        phones += [*word, boundary]
    phones[-1] = "_"
    parts, at, most = chunks(phones, limit, first), 0, first
    for part in parts[:-1]:
        left, at = phones[at:], at + len(part) - 1
        pauses = [i for i in range(max(most // 4, 1), min(len(left) - most // 4, limit)) if left[i] in ",."]
        assert phones[at] in BOUNDARIES and len(part) <= limit
        assert phones[at] in ",." or (len(left) > limit and (most >= limit or not pauses))
        if most < limit and pauses and len(part) > most:
            assert len(part) - 1 == pauses[0]  # none was nearer
        most = min(2 * most, limit)
    assert at + len(parts[-1]) == len(phones)
    assert len(phones) > first or parts == [phones]
    assert [p for part in parts for p in part if p not in BOUNDARIES] == [p for p in phones if p not in BOUNDARIES]


def test_early_parts_of_a_known_text() -> None:
    word = ["B", "AA1", "T", "_"]
    clause = [*word * 3][:-1]  # 11 phones
    phones = ["_", *clause, ",", *clause, ".", *clause, ",", *clause, "_"]
    one = ["_", *clause, "_"]
    assert chunks(phones, 160) == [phones]
    assert chunks(phones, 160, 16) == [one, one, ["_", *phones[25:]]]  # then at the full stop
    assert chunks(phones, 160, 30) == [[*phones[:24], "_"], ["_", *phones[25:]]]  # the full stop before the comma
    flat = ["_", *(word * 30)]
    assert chunks(flat, 160, 16) == [flat]  # no pause, so no early audio
    with pytest.raises(ValueError, match="first 3"):
        chunks(phones, 160, 3)


# -- voices -----------------------------------------------------------------------------------------------------------


def test_a_voice_survives_its_file(voice, tmp_path) -> None:
    path = tmp_path / "new" / "v.safetensors"
    voice.save(path)
    loaded = Voice.load(path)
    assert np.array_equal(loaded.codes, voice.codes)
    assert loaded.codes.dtype == np.int64
    assert (loaded.phones, loaded.durations, loaded.token_digest, loaded.meta) == (
        voice.phones, voice.durations, voice.token_digest, {"text": "x"},
    )  # fmt: skip
    assert [p.name for p in path.parent.iterdir()] == ["v.safetensors"]


def test_a_loaded_voice_speaks_alike(tts, voice, tmp_path) -> None:
    voice.save(tmp_path / "v.safetensors")
    assert np.array_equal(tts.synthesize(TEXT, tts.load_voice(tmp_path / "v.safetensors")), tts.synthesize(TEXT, voice))


def test_a_full_disk_keeps_the_earlier_voice(voice, codec, tmp_path, monkeypatch) -> None:
    path = tmp_path / "v.safetensors"
    voice.save(path)
    before = path.read_bytes()

    def full(tensors, temporary, metadata=None) -> None:
        temporary.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(tokens, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        new_voice(codec, 1).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["v.safetensors"]


def test_files_that_are_no_voices(voice, tmp_path, monkeypatch) -> None:
    path = tmp_path / "v.safetensors"
    with pytest.raises(VoiceError, match="no voice file .*; shipped voices: "):
        Voice.load(path)
    voice.save(path)
    tensors, meta = load_file(path), {"format": "ms-voice-1", "token_digest": voice.token_digest}
    for name, change, some_meta in (
        ("no format", {}, {}),
        ("other format", {}, {**meta, "format": "ms-voice-2"}),
        ("durations", {"durations": tensors["durations"] + 1}, meta),
        (
            "negative",
            {"durations": torch.cat([tensors["durations"][:-2], torch.tensor([-1, 99], dtype=torch.int16)])},
            meta,
        ),
        ("unknown phone", {"phones": tensors["phones"] + 70}, meta),
        ("fewer phones", {"phones": tensors["phones"][:-1].clone()}, meta),
        ("flat codes", {"codes": tensors["codes"].flatten()}, meta),
        ("negative codes", {"codes": tensors["codes"] - 32}, meta),
        ("nothing", {k: v[..., :0].clone() for k, v in tensors.items()}, meta),
    ):
        wrong = tmp_path / f"{name}.safetensors"
        save_file({**tensors, **change}, wrong, metadata=some_meta)
        with pytest.raises(VoiceError, match=f"{name}.safetensors: not a voice file of this version"):
            Voice.load(wrong)
    save_file({"codes": tensors["codes"]}, tmp_path / "part.safetensors", metadata=meta)
    (tmp_path / "text.safetensors").write_text("no")
    for name in ("part", "text"):
        with pytest.raises(VoiceError, match=f"{name}.safetensors: not a voice file"):
            Voice.load(tmp_path / f"{name}.safetensors")
    monkeypatch.setattr(tokens, "VOICE_FRAMES", 3)
    with pytest.raises(VoiceError, match="frames are too many for a voice"):
        Voice.load(path)
    monkeypatch.setattr(tokens, "VOICE_BYTES", 10)
    with pytest.raises(VoiceError, match="bytes are too many for a voice"):
        Voice.load(path)


def test_a_voice_of_another_codec_is_refused(tts, voice) -> None:
    other = Voice(voice.codes, voice.phones, voice.durations, "0123456789abcdef")
    with pytest.raises(VoiceError, match=f"tokens of codec 0123456789abcdef, the model needs {tts.codec.token_digest}"):
        tts.synthesize(TEXT, other)
    tts.synthesize("Hello.", voice)
    with pytest.raises(VoiceError, match="enrol the speaker again"):
        tts.synthesize(TEXT, other)


def test_codes_beyond_the_codebooks_are_refused(tts, voice) -> None:
    for codes in (voice.codes + CODEC.bins, voice.codes[:2]):
        with pytest.raises(VoiceError, match="codes"):
            tts.synthesize(TEXT, Voice(codes, voice.phones, voice.durations, voice.token_digest))


@pytest.fixture
def heard(monkeypatch) -> list[np.ndarray]:
    """What the aligner was given; it finds 12 words of equal length, whatever it hears."""
    recordings = []

    def align(wav: np.ndarray, text: str) -> Aligned:
        recordings.append(wav)
        phones = ["_"] + ["B", "AA1", "_"] * 12
        ends = [len(wav) / 16_000 * (i + 1) / len(phones) for i in range(len(phones))]
        return Aligned(phones, [0.0, *ends[:-1]], ends)

    monkeypatch.setattr(synthesis, "align", align)
    return recordings


def test_enrolment_takes_the_first_words(tts, heard) -> None:
    wave = speech(4.0, 0)
    codes = tts.codec.encode(torch.from_numpy(wave)[None, None])[0].numpy()
    whole = tts.voice((wave, 16_000), text="some words", seconds=None, meta={"speaker": "7"})
    assert np.array_equal(whole.codes, codes)
    assert len(whole.phones) == len(whole.durations) == 37
    assert sum(whole.durations) == 200
    assert whole.meta == {"text": "some words", "speaker": "7"}
    assert whole.token_digest == tts.codec.token_digest
    for seconds in (1.0, 2.0, 3.0):
        part = tts.voice((wave, 16_000), text="some words", seconds=seconds)
        size = part.codes.shape[1]
        assert abs(size - seconds * 50) <= 9  # half a word of 16 frames, and rounding
        assert np.array_equal(part.codes, codes[:, :size])
        assert part.phones == whole.phones[: len(part.phones)]
        assert part.phones[-1] == "_"
        assert sum(part.durations) == size
    assert len(tts.synthesize("Hello.", part)) > 0


def test_recordings_at_any_rate_reach_codec_and_aligner_at_theirs(codec, heard, tmp_path) -> None:
    import soundfile

    wave = speech(2.0, 1, 24_000)
    soundfile.write(tmp_path / "p.wav", wave, 24_000)
    other = MiniCodec(CODEC.model_copy(update={"sample_rate": 24_000}))  # 75 frames a second
    tts = MobileSpeech(other, new_model(codec), DecodingConfig(steps=(1, 1, 1)))
    for prompt in ((wave, 24_000), tmp_path / "p.wav", str(tmp_path / "p.wav")):
        voice = tts.voice(prompt, text="x", seconds=None)
        assert voice.codes.shape == (3, 150)
        assert len(heard[-1]) == 32_000
    tts = MobileSpeech(codec, new_model(codec), DecodingConfig(steps=(1, 1, 1)))
    assert tts.voice((wave, 24_000), text="x", seconds=None).codes.shape == (3, 100)
    assert tts.voice((np.stack([wave, wave]) * 0.5, 24_000), text="x", seconds=None).codes.shape == (3, 100)


def test_unusable_recordings(tts, heard) -> None:
    for wave, message in (
        (np.zeros(32_000, np.float32), "silent"),
        (speech(0.5, 0), "give a longer one"),
        (np.sign(speech(2.0, 0)).astype(np.float32), "clipped"),
    ):
        with pytest.raises(AudioError, match=message):
            tts.voice((wave, 16_000), text="x")
    with pytest.raises(AudioError, match="no such audio file"):
        tts.voice("none.wav", text="x")
    assert heard == []


def test_first_words_take_at_least_one() -> None:
    whole = utterance(5, 4)
    assert len(first_words(whole, 0).words()) == 2
    assert first_words(whole, 10_000).codes.shape == whole.codes.shape


# -- loading ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def shipped(codec, model, tmp_path, monkeypatch):
    """An assets folder that ships the pair `tiny` and the voice `anna`."""
    monkeypatch.setattr(paths, "ASSETS", tmp_path / "assets")
    codec.save(paths.shipped("tiny") / "codec", {})
    model.save(paths.shipped("tiny") / "model", codec, {})
    new_voice(codec).save(paths.ASSETS / "voices" / "anna.safetensors")
    return paths.shipped("tiny")


def test_a_checkpoint_says_its_language_and_an_older_one_speaks_english(shipped) -> None:
    config = shipped / "model" / "config.json"
    meta = json.loads(config.read_text())
    assert meta["language"] == MobileSpeech.from_pretrained("tiny").language == "en"
    config.write_text(json.dumps({**meta, "language": "zh"}))
    with pytest.raises(CheckpointError, match="speaks 'zh'; this version reads en"):
        MobileSpeech.from_pretrained("tiny")
    del meta["language"]
    config.write_text(json.dumps(meta))
    assert MobileSpeech.from_pretrained("tiny").language == "en"


def test_a_pair_is_loaded_by_name_or_folder(shipped, codec) -> None:
    by_name, by_folder = MobileSpeech.from_pretrained("tiny"), MobileSpeech.from_pretrained(shipped)
    voice = by_name.load_voice("anna")
    assert tokens.shipped_voices() == ["anna"]
    assert np.array_equal(by_name.synthesize(TEXT, voice), by_folder.synthesize(TEXT, voice))
    assert by_name.checkpoint == by_folder.checkpoint
    assert len(by_name.checkpoint) == 64
    assert by_name.decoding.steps == (16, 1, 1)
    assert not by_name.model.training
    assert by_name.model.config == MODEL
    with pytest.raises(VoiceError, match="no voice file bob; shipped voices: anna"):
        by_name.load_voice("bob")


def test_pairs_that_cannot_be_loaded(shipped, codec, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="no model 'large': give a folder, or one of the shipped tiny"):
        MobileSpeech.from_pretrained("large")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no readable codec checkpoint here"):
        MobileSpeech.from_pretrained(tmp_path / "empty")
    other = MiniCodec(CODEC)
    other.save(shipped / "codec", {})
    with pytest.raises(CheckpointError, match="use the codec that was saved with the model"):
        MobileSpeech.from_pretrained("tiny")


def test_silence_offset_and_level_do_not_change_which_words_a_voice_keeps() -> None:
    tts = MobileSpeech.from_pretrained("mini")
    with open(paths.ASSETS / "smoke/manifest.tsv") as file:
        row = next(csv.DictReader(file, delimiter="\t"))
    wave, _ = read_audio(paths.ASSETS / "smoke" / row["path"])
    plain = tts.voice(wave, row["text"], None)
    quiet = np.zeros(3 * tts.sample_rate, np.float32)
    for other in (np.concatenate([quiet, wave]), wave + np.float32(0.05), wave * np.float32(0.03)):
        voice = tts.voice(other, row["text"], None)
        assert [p for p in voice.phones if p not in "_,."] == [p for p in plain.phones if p not in "_,."]
        assert abs(voice.codes.shape[1] - plain.codes.shape[1]) <= LONGEST_PAUSE * tts.frame_rate


def test_long_pauses_lose_their_middles_alone() -> None:
    phones, frames = np.array(phone_ids(["_", "AA1", "_", "B", "_"])), np.array([50, 4, 40, 3, 31])
    cut = shorter_pauses(Tokens(phones, frames, np.arange(128)[None]), 50)
    assert cut.durations.tolist() == [30, 4, 30, 3, 30]
    assert cut.codes[0].tolist() == [*range(20, 69), *range(79, 127)]
