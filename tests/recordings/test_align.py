"""Forced alignment and durations, on shipped speech (else on that of the data folder)."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_core import paths
from ms_core.data import align as corpus_align
from ms_core.data.align import align_corpus
from ms_core.recordings.align import MIN_PHONE_FRAMES, Aligned, AlignmentError, align, align_scored, durations
from ms_core.recordings.audio import load_speech
from ms_core.text import BOUNDARIES, normalise, pronunciations

Speech = list[tuple[str, Path, np.ndarray, str]]


@pytest.fixture(scope="module")
def speech() -> Speech:
    """Six utterances of 3 to 9 s: (id, path, wav at 16 kHz, text)."""
    root = next((r for r in (paths.ASSETS / "smoke", paths.data()) if (r / "manifest.tsv").exists()), None)
    if root is None:
        pytest.skip("no speech: neither the shipped manifest nor $MS_DATA/manifest.tsv")
    with (root / "manifest.tsv").open(encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if 3 < float(r["seconds"]) < 9]
    rows = [r for r in rows if r["set"] != "train-accented"]
    chosen = rows[:: max(1, len(rows) // 6)][:6]
    return [(r["utt"], root / r["path"], load_speech(root / r["path"], 16_000), r["text"]) for r in chosen]


def words_of(aligned: Aligned) -> list[list[str]]:
    """Phones between boundaries."""
    words: list[list[str]] = [[]]
    for phone in aligned.phones:
        words.append([]) if phone in BOUNDARIES else words[-1].append(phone)
    return [w for w in words if w]


def test_an_alignment_covers_the_recording_and_the_text(speech: Speech) -> None:
    for _, _, wav, text in speech:
        aligned = align(wav, text)
        assert aligned.phones[0] == aligned.phones[-1] == "_"
        assert aligned.starts == [0.0, *aligned.ends[:-1]]
        assert aligned.ends[-1] == pytest.approx(len(wav) / 16_000, abs=1e-4)
        lengths = np.subtract(aligned.ends, aligned.starts)
        is_phone = np.array([p not in BOUNDARIES for p in aligned.phones])
        assert (lengths[is_phone] > MIN_PHONE_FRAMES * 0.01 - 1e-6).all()
        assert (lengths >= 0).all()
        words = [word for word in normalise(text) if word not in BOUNDARIES]
        for phones, word in zip(words_of(aligned), words, strict=True):
            assert phones in pronunciations(word)


def test_results_do_not_depend_on_the_order(speech: Speech) -> None:
    forward = [align_scored(wav, text) for _, _, wav, text in speech]
    backward = [align_scored(wav, text) for _, _, wav, text in reversed(speech)]
    assert forward == backward[::-1]


def test_speech_that_starts_later_is_aligned_later(speech: Speech) -> None:
    _, _, wav, text = speech[0]
    silence = np.random.default_rng(0).normal(0, 1e-4, 16_000).astype(np.float32)
    plain, late = align(wav, text), align(np.concatenate([silence, wav]), text)
    shift = np.subtract(late.ends, plain.ends)
    assert np.median(shift) == pytest.approx(1.0, abs=0.02)
    assert np.mean(np.abs(shift - 1) <= 0.05) > 0.9


def test_texts_that_do_not_fit_are_refused(speech: Speech) -> None:
    for i, (_, _, wav, text) in enumerate(speech):
        other = speech[i - 1][3]
        with pytest.raises(AlignmentError, match="give (the words|every word)"):
            align(wav, other)
        words = text.split()
        with pytest.raises(AlignmentError, match="give (the words|every word)"):
            align(wav, " ".join(words[: len(words) // 2]))


def test_recordings_without_speech_are_refused() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 48_000).astype(np.float32)
    for wav in (noise, np.zeros(48_000, np.float32)):
        with pytest.raises(AlignmentError):
            align(wav, "there is nothing of this kind to hear")


@pytest.mark.parametrize(
    ("wav", "message"),
    [
        (np.zeros(800, np.float32), r"15 phones, which take 0.45 s at the least, but the recording has only 0.05 s"),
        (np.zeros((2, 800), np.float32), r"got float32 of shape \(2, 800\)"),
        (np.zeros(800, np.int16), "got int16"),
        (np.full(800, np.nan), "finite"),
    ],
)
@pytest.mark.usefixtures("any_shape")
def test_unusable_input_is_refused(wav: np.ndarray, message: str) -> None:
    with pytest.raises(AlignmentError, match=message):
        align(wav, "many words in no time")


def aligned_of(phones: str, ends: list[float]) -> Aligned:
    return Aligned(phones.split(), [0.0, *ends[:-1]], ends)


def test_durations_round_the_cumulative_ends() -> None:
    aligned = aligned_of("_ DH AH0 _ K AE1 T _", [0.10, 0.13, 0.16, 0.16, 0.23, 0.31, 0.339, 0.5])
    assert durations(aligned, 25, 50) == [5, 2, 1, 0, 4, 4, 1, 8]
    assert durations(aligned, 26, 50) == [5, 2, 1, 0, 4, 4, 1, 9]
    assert durations(aligned, 38, 75) == [8, 2, 2, 0, 5, 6, 2, 13]


def test_a_phone_that_would_vanish_takes_a_frame_of_its_neighbour() -> None:
    assert durations(aligned_of("_ K AE1 T _", [0.100, 0.101, 0.102, 0.2, 0.2]), 10, 50) == [5, 1, 1, 3, 0]
    assert durations(aligned_of("_ K AE1 T _", [0.1, 0.198, 0.199, 0.2, 0.2]), 10, 50) == [5, 3, 1, 1, 0]
    assert durations(aligned_of("_ K AE1 T _", [0.0, 0.02, 0.04, 0.06, 0.06]), 3, 50) == [0, 1, 1, 1, 0]


def test_impossible_durations_are_refused() -> None:
    with pytest.raises(AlignmentError, match="3 phones do not fit into 2 codec frames"):
        durations(aligned_of("_ K AE1 T _", [0.0, 0.01, 0.02, 0.04, 0.04]), 2, 50)
    with pytest.raises(AlignmentError, match="99 frames, the alignment of 1.00 s at 50 Hz has 50.0"):
        durations(aligned_of("_ K _", [0.0, 0.5, 1.0]), 99, 50)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["_", "AA1", "K"]), st.floats(0, 0.3)), min_size=1), st.integers(-2, 2))
def test_durations_are_always_exact(parts: list[tuple[str, float]], off: int) -> None:
    phones = ["_", *(p for p, _ in parts), "_"]
    ends = np.cumsum([0.0, *(d for _, d in parts), 0.0]).tolist()
    n_frames = max(round(ends[-1] * 50) + off, 0)
    try:
        got = durations(Aligned(phones, [0.0, *ends[:-1]], ends), n_frames, 50)
    except AlignmentError:
        assert sum(p != "_" for p in phones) > n_frames
        return
    assert sum(got) == n_frames
    assert all(d >= (0 if p == "_" else 1) for p, d in zip(phones, got, strict=True))


def test_a_corpus_run_resumes(tmp_path: Path, speech: Speech) -> None:
    (a, path_a, wav, text_a), (b, path_b, _, text_b) = speech[:2]
    out = tmp_path / "made" / "corpus.jsonl"
    items = [(a, path_a, text_a), ("missing", tmp_path / "none.flac", "x"), ("wrong", path_a, text_b)]
    items.append((b, path_b, text_b))
    with pytest.warns(UserWarning, match="1 recordings could not be read, the first: .*none.flac"):
        align_corpus(items[:3], out, workers=1)
    whole = out.read_text(encoding="utf-8")
    lines = whole.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [a, "wrong"]  # what was not read is no alignment
    torn = lines[1][: len(lines[1]) // 2]  # killed while writing
    out.write_text("\n".join([lines[0], torn]), encoding="utf-8")
    soundfile.write(tmp_path / "none.flac", wav, 16_000)  # the disk is there again
    items[1] = ("missing", tmp_path / "none.flac", text_a)
    align_corpus(items, out, workers=1)
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [r["id"] for r in records] == [a, "missing", "wrong", b]
    assert out.read_text(encoding="utf-8").startswith(lines[0])
    assert ["error" in r for r in records] == [False, False, True, False]
    expected = align(wav, text_a)
    assert (records[0]["phones"], records[0]["ends"]) == (expected.phones, expected.ends)
    assert records[0]["seconds"] == expected.seconds
    before = out.read_bytes()
    align_corpus(items, out, workers=1)
    assert out.read_bytes() == before
    items[2] = ("wrong", path_a, text_a)  # its text is corrected
    align_corpus(items, out, workers=1)
    mended = {r["id"]: r for r in map(json.loads, out.read_text(encoding="utf-8").splitlines())}
    assert len(mended) == 4 and mended["wrong"]["phones"] == expected.phones


def test_a_line_of_another_reading_is_not_kept(tmp_path: Path, monkeypatch) -> None:
    rows = [{"id": "x", "phones": ["_", "DH", "AH0", "_", "K", "AE1", "T", "_"], "starts": [], "ends": []}]
    rows.append({"id": "y", "error": "no", "reading": corpus_align._digest("the cat")})
    out = tmp_path / "a.jsonl"
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = {"x": "The cat.", "y": "the cat"}
    assert corpus_align._done(out, texts) == {"x", "y"}
    monkeypatch.setattr(corpus_align, "pronunciations", lambda word: [["K", "AH0", "T"]])  # another dictionary
    assert corpus_align._done(out, {"x": "The cat."}) == {"y"}  # of no text that is asked for
    assert corpus_align._done(out, texts) == set() and out.read_text() == ""


def test_a_part_of_a_long_recording_is_aligned_as_if_alone(tmp_path: Path, speech: Speech) -> None:
    (_, _, before, _), (name, _, wav, text) = speech[:2]
    soundfile.write(tmp_path / "long.wav", np.concatenate([before, wav, before]), 16_000, subtype="FLOAT")
    part = (len(before) / 16_000, len(wav) / 16_000)
    out = align_corpus([(name, tmp_path / "long.wav", text, *part)], tmp_path / "out.jsonl", workers=1)
    row = json.loads(out.read_text(encoding="utf-8"))
    expected = align(wav, text)
    assert (row["phones"], row["ends"], row["seconds"]) == (expected.phones, expected.ends, expected.seconds)
