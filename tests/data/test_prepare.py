"""From recordings to batches."""

import gzip
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
import torch
from conftest import CODEC, PRESET, TRAIN, fake_alignments, global_rng_untouched, speech, utterance, write_corpus
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import CutSet

from ms_core import paths
from ms_core.config import override
from ms_core.data import batches, corpora, prepare
from ms_core.data.batches import PAD_TO, PHRASE_WORDS, Sampler, collate, crop_phrase, crop_words, label_pauses, split
from ms_core.data.corpora import DataError
from ms_core.data.prepare import prefetch
from ms_core.text import phone_ids
from ms_core.tokens import BOUNDARY_IDS, Tokens

UTTERANCES = st.builds(utterance, st.integers(0, 999), st.integers(1, 8))


def check(part: Tokens) -> None:
    """What every utterance, prompt and target must hold."""
    assert len(part.phones) == len(part.durations)
    assert int(part.durations.sum()) == part.codes.shape[1]
    assert {int(part.phones[0]), int(part.phones[-1])} <= BOUNDARY_IDS
    spoken = ~np.isin(part.phones, list(BOUNDARY_IDS))
    assert (part.durations[spoken] >= 1).all()
    assert (part.durations >= 0).all()


def tagged(words: int, seed: int) -> Tokens:
    """An utterance whose codes are the numbers of its frames."""
    whole = utterance(seed, words)
    return Tokens(whole.phones, whole.durations, np.arange(whole.codes.shape[1])[None].repeat(3, 0))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 8), st.integers(0, 999), st.integers(1, 60), st.integers(0, 99))
def test_a_window_is_a_run_of_whole_words(words: int, seed: int, frames: int, draw: int) -> None:
    whole = tagged(words, seed)
    part = crop_words(whole, frames, np.random.default_rng(draw))
    check(part)
    assert len(part.words()) >= 2
    assert part.codes.shape[1] <= frames or len(part.words()) == 2  # one word is the least
    first = int(part.codes[0, 0])
    assert part.codes[0].tolist() == list(range(first, first + part.codes.shape[1]))  # nothing is left out
    if whole.codes.shape[1] <= frames:
        assert part is whole
    ends = np.cumsum(whole.durations)
    starts = (ends - whole.durations)[whole.words()]
    assert first in starts  # it starts where a boundary starts


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 8), st.integers(0, 999), st.integers(1, 12), st.integers(0, 99))
def test_a_phrase_is_a_few_words_between_pauses(words: int, seed: int, pause: int, draw: int) -> None:
    whole = tagged(words, seed)
    part = crop_phrase(whole, pause, np.random.default_rng(draw))
    long = np.flatnonzero(whole.durations[whole.words()] >= pause)
    if part is None:
        assert len(long) < 2 or np.diff(long).min() > PHRASE_WORDS
        return
    check(part)
    assert 1 <= len(part.words()) - 1 <= PHRASE_WORDS
    assert part.durations[0] >= pause and part.durations[-1] >= pause
    assert np.array_equal(np.diff(part.codes[0]), np.ones(part.codes.shape[1] - 1))  # nothing is left out


def test_windows_reach_every_word() -> None:
    whole = tagged(8, 3)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        seen |= set(crop_words(whole, 20, rng).codes[0].tolist())
    assert seen == set(range(whole.codes.shape[1]))


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 8), st.integers(0, 999), st.integers(0, 60), st.booleans())
def test_a_prompt_never_overlaps_its_target(words: int, seed: int, frames: int, at_start: bool) -> None:
    whole = tagged(words, seed)
    prompt, target = split(whole, frames, at_start)
    check(prompt)
    check(target)
    first, second = (prompt, target) if at_start else (target, prompt)
    assert first.codes[0].tolist() + second.codes[0].tolist() == list(range(whole.codes.shape[1]))  # all, and once
    assert [*first.phones[:-1], *second.phones] == whole.phones.tolist()
    assert len(prompt.words()) >= 2 <= len(target.words())
    middles = [len(first.codes[0])]
    bounds = whole.words()
    ends = np.cumsum(whole.durations)
    middles += [int(ends[b] - whole.durations[b] // 2) for b in bounds[1:-1]]
    wanted = frames if at_start else whole.codes.shape[1] - frames
    assert min(abs(m - wanted) for m in middles) >= abs(middles[0] - wanted) - 3  # the nearest, up to one pause


def test_a_single_word_is_not_divided() -> None:
    whole = tagged(1, 0)
    assert split(whole, 3, True) == (whole, whole)


def test_pauses_are_labelled_by_their_length_in_half_of_the_calls() -> None:
    phones = np.array(phone_ids(["_", "B", "_", "T", "_", "S", "_", "N", "_"]))
    frames = np.array([20, 2, 3, 2, 4, 2, 13, 2, 20])  # at 50 Hz: 0.06, 0.08 and 0.26 s between words
    whole = Tokens(phones, frames, np.zeros((3, frames.sum()), int))
    rng = np.random.default_rng(0)
    seen = {tuple(label_pauses(whole, 50.0, rng).phones.tolist()) for _ in range(50)}
    marked = tuple(phone_ids(["_", "B", "_", "T", ",", "S", ".", "N", "_"]))
    assert seen == {tuple(phones.tolist()), marked}
    assert whole.phones.tolist() == phones.tolist()  # the original stays


def test_collate_pads_with_zeros() -> None:
    pairs = [(utterance(0, 2), utterance(1, 5)), (utterance(2, 3), utterance(3, 2))]
    batch = collate(pairs)
    for index, (prompt, target) in enumerate(pairs):
        for part, names in (
            (target, ("phones", "durations", "codes")),
            (prompt, ("prompt_phones", "prompt_durations", "prompt_codes")),
        ):
            for name, array in zip(names, (part.phones, part.durations, part.codes), strict=True):
                row = getattr(batch, name)[index]
                assert row.dtype == torch.int64
                size = array.shape[-1]
                assert np.array_equal(row[..., :size].numpy(), array)
                assert not row[..., size:].any()


def test_prepared_cuts_hold_aligned_tokens(cuts, codec) -> None:
    assert {split_: len(part) for split_, part in cuts.items()} == {"train": 12, "dev": 4}
    for cut in cuts["train"]:
        whole = prepare.tokens(cut)
        check(whole)
        assert whole.codes.shape == (3, -(-cut.num_samples // 320))
        wave = torch.from_numpy(cut.load_audio())[None]
        assert np.array_equal(whole.codes, codec.encode(wave)[0].numpy())
        assert cut.supervisions[0].speaker in "01"


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    root = tmp_path / "corpus"
    root.mkdir()
    write_corpus(root)
    monkeypatch.setenv("MS_DATA", str(root))
    monkeypatch.setattr(prepare, "align_corpus", fake_alignments)
    return root


def test_preparation_carries_on_where_it_stopped(corpus, codec) -> None:
    class Counting:
        config, token_digest, done = codec.config, codec.token_digest, 0

        def encode(self, wav: torch.Tensor) -> torch.Tensor:
            if self.done == 2:
                raise KeyboardInterrupt
            self.done += 1
            return codec.encode(wav)

    killed = Counting()
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(PRESET, "dev", killed)
    again = Counting()
    prepared = prepare.prepare(PRESET, "dev", again)
    assert len(list(prepared)) == 4
    assert again.done == 2  # the other two were kept
    full = Counting()
    assert [c.id for c in prepare.prepare(PRESET, "dev", full)] == [c.id for c in prepared]
    assert full.done == 0


def test_what_is_left_out_is_counted(corpus, codec, monkeypatch) -> None:
    preset = override(PRESET, {"data.max_seconds": 2.0})  # indices 6, 7, 14, 15 have 2.1 and 2.2 s

    def some_fail(items, out, workers):
        fake_alignments(items, out, workers)
        lines = out.read_text().splitlines()
        bad = json.loads(lines[0])
        short = {**json.loads(lines[1]), "ends": [0.1] * 20, "starts": [0.0] * 20}
        out.write_text("\n".join([json.dumps({"id": bad["id"], "error": "no"}), json.dumps(short), *lines[2:]]) + "\n")
        return out

    monkeypatch.setattr(prepare, "align_corpus", some_fail)
    prepared = prepare.prepare(preset, "train", codec)
    (file,) = (paths.run("tiny") / "tokens" / codec.token_digest).glob("train-*.dropped.json")
    dropped = json.loads(file.read_text())
    assert dropped == {"length": ["0-06", "1-07"], "alignment": ["0-00"], "durations": ["1-01"]}
    assert len(list(prepared)) == 8


def test_what_was_prepared_is_not_taken_for_another_config_manifest_or_text(corpus, codec) -> None:
    names = {cut.id for cut in prepare.prepare(PRESET, "train", codec)}
    short = override(PRESET, {"data.max_seconds": 1.75})
    kept = list(prepare.prepare(short, "train", codec))
    assert kept and all(cut.duration <= 1.75 for cut in kept) and len(kept) < len(names)
    manifest = corpus / "manifest.tsv"
    lines = manifest.read_text().splitlines()
    lines[1] = lines[1].replace("train\t", "test\t")  # an utterance is moved
    lines[2] = lines[2].replace("A TEXT", "ANOTHER TEXT")
    manifest.write_text("\n".join(lines) + "\n")
    again = {cut.id: cut for cut in prepare.prepare(PRESET, "train", codec)}
    assert names - again.keys() == {"0-00"}
    assert again["1-01"].supervisions[0].text == "ANOTHER TEXT"
    with pytest.raises(DataError, match="no utterance could be aligned and tokenised, see .*dropped.json"):
        prepare.prepare(override(PRESET, {"data.max_seconds": 0.51}), "train", codec)


def test_missing_data_says_what_to_do(tmp_path, corpus, monkeypatch) -> None:
    with pytest.raises(DataError, match="manifest.tsv has no utterance of set 'test'"):
        corpora.read_cuts(PRESET.data, "test")
    monkeypatch.setenv("MS_DATA", str(tmp_path / "empty"))
    with pytest.raises(DataError, match="set MS_DATA to the folder that holds LibriSpeech"):
        corpora.read_cuts(PRESET.data, "dev-clean")
    with pytest.raises(DataError, match="set MS_DATA to the folder that holds LibriTTS"):
        corpora.read_cuts(PRESET.data.model_copy(update={"corpus": "libritts"}), "dev-clean")


@pytest.fixture
def libriheavy(tmp_path, monkeypatch):
    """Two utterances of a long recording in the layout that LibriHeavy's own run.sh leaves."""
    folder = tmp_path / "libriheavy"
    name = "small/100/a_book_64kb_mp3/01_chapter_64kb"
    audio = folder / "download" / "librilight" / f"{name}.flac"
    audio.parent.mkdir(parents=True)
    soundfile.write(audio, speech(9.0, 0), 16_000)
    source = {"type": "file", "channels": [0], "source": f"download/librilight/{name}.flac"}
    recording = {"id": name, "sources": [source], "sampling_rate": 16_000, "num_samples": 144_000, "duration": 9.0}
    with gzip.open(folder / "libriheavy_cuts_small.jsonl.gz", "wt") as file:
        for index, (start, texts) in enumerate([(0.5, ['A "text"?', "A TEXT"]), (5.25, ["Another.", "ANOTHER"])]):
            segment = {"id": f"{name}_{index}", "recording_id": name, "start": 0, "duration": 2.5, "channel": 0}
            segment |= {"language": "English", "speaker": "100", "custom": {"texts": texts, "pre_texts": ["..", ".."]}}
            cut = {"id": f"{name}_{index}", "start": start, "duration": 2.5, "channel": 0, "supervisions": [segment]}
            cut |= {"recording": {**recording, "channel_ids": [0]}, "custom": {"text_path": "x"}, "type": "MonoCut"}
            file.write(json.dumps(cut) + "\n")
    monkeypatch.setenv("MS_DATA", str(tmp_path))
    return audio


def test_libriheavy_is_read_by_its_own_manifests(libriheavy, codec, monkeypatch) -> None:
    preset = override(PRESET, {"data.corpus": "libriheavy", "data.train": "small"})
    first, second = corpora.read_cuts(preset.data, "small")
    assert (first.id, first.duration) == ("small-100-a_book_64kb_mp3-01_chapter_64kb_0", 2.5)
    assert (first.supervisions[0].text, first.supervisions[0].speaker) == ('A "text"?', "100")
    assert np.allclose(second.load_audio()[0], speech(9.0, 0)[84_000:124_000], atol=1e-4)  # 5.25 s to 7.75 s

    parts = []
    kept = lambda items, *rest: parts.extend(items) or fake_alignments(items, *rest)  # noqa: E731
    monkeypatch.setattr(prepare, "align_corpus", kept)
    prepared = prepare.prepare(preset, "small", codec)
    assert [item[3:] for item in parts] == [(0.5, 2.5), (5.25, 2.5)]
    for cut in prepared:
        check(prepare.tokens(cut))
        wave = torch.from_numpy(cut.load_audio())[None]
        assert np.array_equal(prepare.tokens(cut).codes, codec.encode(wave)[0].numpy())
    assert len(list(prepared)) == 2

    with pytest.raises(DataError, match="libriheavy_cuts_large.jsonl.gz is missing: set MS_DATA to the folder that"):
        list(corpora.read_cuts(preset.data, "large"))
    libriheavy.unlink()
    with pytest.raises(DataError, match=f"{libriheavy} is missing, .*small.jsonl.gz names it: unpack LibriLight there"):
        list(corpora.read_cuts(preset.data, "small"))
    with pytest.raises(DataError, match="run.sh"):
        corpora.archives(preset.data, "small")


def test_a_folder_of_shards_has_no_recordings() -> None:
    with pytest.raises(DataError, match="'/a/b.c' is a folder of shards.*name a split of librispeech"):
        corpora.read_cuts(PRESET.data, "/a/b.c")


def test_reading_ahead_is_ordered_and_bounded() -> None:
    lock, begun = threading.Lock(), []

    def work(item: int) -> int:
        with lock:
            begun.append(item)
        return item * item

    with ThreadPoolExecutor(1) as pool:
        for count, value in enumerate(prefetch(pool, work, range(50), ahead=4)):
            assert value == count * count
            assert len(begun) <= count + 4
    assert begun == list(range(50))
    with ThreadPoolExecutor(1) as pool:
        assert list(prefetch(pool, work, [3])) == [9]


# -- batches ----------------------------------------------------------------------------------------------------------


def sampler(cuts: CutSet, rank: int = 0, world_size: int = 1, **changes: object) -> Sampler:
    return Sampler(cuts, TRAIN.model_copy(update=changes), CODEC.frame_rate, rank, world_size)


def take(stream, count: int) -> list:
    return [next(stream) for _ in range(count)]


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def test_batch_k_is_a_function_of_k_alone(cuts) -> None:
    with global_rng_untouched():
        straight = take(sampler(cuts["train"]).batches(0), 9)
    assert straight[-1][0] > 0  # more than one epoch
    for first in (1, 4, 8):
        epoch, batch = next(sampler(cuts["train"]).batches(first))
        assert epoch == straight[first][0]
        assert equal(batch, straight[first][1])
    assert not equal(straight[0][1], next(sampler(cuts["train"], seed=1).batches(0))[1])
    assert not any(equal(straight[0][1], batch) for _, batch in straight[1:])


def test_batches_hold_to_their_limits(cuts) -> None:
    for _, batch in take(sampler(cuts["train"]).batches(0), 8):
        for durations, codes in (
            (batch.durations, batch.codes),
            (batch.prompt_durations, batch.prompt_codes),
        ):
            longest = int(durations.sum(1).max())
            assert codes.shape[-1] == -(-longest // PAD_TO) * PAD_TO
            assert longest <= 100  # 2 s at 50 Hz: max_seconds and a prompt
        assert len(batch.codes) * 1.5 <= TRAIN.batch_seconds + 1.5
        assert (batch.durations.sum(1) > 0).all()
        assert (batch.prompt_durations.sum(1) > 0).all()


def test_an_epoch_has_every_utterance_once(cuts) -> None:
    stream = sampler(cuts["train"])
    for epoch in (0, 1):
        ids = [cut.id for chosen in stream._epoch(epoch) for cut in chosen]
        assert sorted(ids) == sorted(cut.id for cut in cuts["train"])
    assert [c.id for x in stream._epoch(0) for c in x] != [c.id for x in stream._epoch(1) for c in x]


def test_two_processes_share_an_epoch(cuts) -> None:
    parts = [[cut.id for chosen in sampler(cuts["train"], rank, 2)._epoch(0) for cut in chosen] for rank in (0, 1)]
    assert not set(parts[0]) & set(parts[1])
    assert set(parts[0]) | set(parts[1]) <= {cut.id for cut in cuts["train"]}
    counts = [len(list(sampler(cuts["train"], rank, 2)._epoch(0))) for rank in (0, 1)]
    assert counts[0] == counts[1] > 0  # else one process would wait for the other for ever


def test_prompts_are_of_the_same_speaker_and_of_the_wanted_share(cuts) -> None:
    stream = sampler(cuts["train"])
    own = {cut.id: prepare.tokens(cut) for cut in cuts["train"]}
    speaker = {cut.id: cut.supervisions[0].speaker for cut in cuts["train"]}

    def source(part: Tokens, candidates) -> set[str]:
        """Ids of the utterances in which the part's codes stand."""
        size = part.codes.shape[1]
        return {
            name
            for name in candidates
            if any(
                np.array_equal(own[name].codes[:, t : t + size], part.codes)
                for t in range(own[name].codes.shape[1] - size + 1)
            )
        }

    other = 0
    rng = np.random.default_rng(0)
    for cut in list(cuts["train"]) * 3:
        prompt, target = stream.example(cut, rng)
        check(prompt)
        check(target)
        assert cut.id in source(target, own)
        found = source(prompt, own)
        assert any(speaker[name] == speaker[cut.id] for name in found)
        other += cut.id not in found
    assert 8 <= other <= 28  # of 36, by a share of one half
    for share, count in ((0.0, 0), (1.0, 12)):
        stream = sampler(cuts["train"], other_utterance=share)
        assert sum(cut.id not in source(stream.example(cut, rng)[0], own) for cut in cuts["train"]) == count


def test_own_prompts_are_cut_out_of_the_target(cuts) -> None:
    stream = sampler(cuts["train"], own_prompt=1.0, prompt_seconds=0.3)
    rng = np.random.default_rng(0)
    for cut in cuts["train"]:
        prompt, target = stream.example(cut, rng)
        check(prompt)
        size = prompt.codes.shape[1]
        places = range(target.codes.shape[1] - size + 1)
        assert any(np.array_equal(target.codes[:, t : t + size], prompt.codes) for t in places)


def test_phrases_come_with_the_prompt_of_another_utterance(cuts, monkeypatch) -> None:
    stream = sampler(cuts["train"], phrases=1.0, own_prompt=1.0, max_seconds=10.0)
    rng = np.random.default_rng(0)
    for cut in cuts["train"]:  # five words without a pause that is long enough: as without `phrases`
        assert len(stream.example(cut, rng)[1].words()) - 1 > PHRASE_WORDS
    monkeypatch.setattr(batches, "STOP_SECONDS", 0.01)
    for cut in cuts["train"]:
        prompt, target = stream.example(cut, rng)
        check(prompt)
        check(target)
        assert len(target.words()) - 1 <= PHRASE_WORDS
        whole = stream.tokens(cut).codes
        size = prompt.codes.shape[1]
        assert not any(np.array_equal(whole[:, t : t + size], prompt.codes) for t in range(whole.shape[1] - size + 1))
