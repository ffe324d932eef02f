"""From recordings to batches."""

import gzip
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import soundfile
import torch
from conftest import PRESET, fake_alignments, speech, utterance, write_corpus
from hypothesis import strategies as st

from ms_core import paths
from ms_core.config import override
from ms_core.data import corpora, prepare
from ms_core.data.corpora import DataError
from ms_core.data.prepare import prefetch
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


def test_a_part_of_each_speaker_s_training_speech(corpus, codec) -> None:
    preset = override(PRESET, {"data.per_speaker": 2})
    whole, part = (prepare.prepare(p, "train", codec) for p in (PRESET, preset))
    assert len(whole) == 12 and [c.id for c in part] == [c.id for c in whole][:4]  # two readers, in turns
    assert len(prepare.prepare(preset, "dev", codec)) == 4


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


def test_a_damaged_file_is_left_out_and_names_are_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("MS_DATA", str(tmp_path))
    header = "set\tutt\tspeaker\tsex\tseconds\tpath\ttext\n"
    soundfile.write(tmp_path / "good.flac", speech(1.0, 0), 16_000)
    (tmp_path / "bad.flac").write_bytes(b"no sound")

    def manifest(*rows: tuple[str, str]) -> None:
        lines = (f"train\t{utt}\t1\tF\t1.0\t{path}\tTHE WORDS\n" for utt, path in rows)
        (tmp_path / "manifest.tsv").write_text(header + "".join(lines))

    manifest(("1-a", "good.flac"), ("1-b", "bad.flac"), ("1-c", "none.flac"))
    with pytest.warns(UserWarning, match="2 recordings of 'train' are unreadable, the first: .*bad.flac"):
        assert [cut.id for cut in corpora.read_cuts(PRESET.data, "train")] == ["1-a"]
    manifest(("1-b", "bad.flac"))
    with pytest.raises(DataError, match="none of the 1 recordings of set 'train' can be read"):
        corpora.read_cuts(PRESET.data, "train")
    manifest(("1-a", "good.flac"), ("1-a", "good.flac"))
    with pytest.raises(DataError, match="utterance '1-a' twice"):
        corpora.read_cuts(PRESET.data, "train")
    for name in ("../evil", "a/b", ".hidden"):
        manifest((name, "good.flac"))
        with pytest.raises(DataError, match="a name holds letters, digits"):
            corpora.read_cuts(PRESET.data, "train")


def test_a_failed_download_says_from_where_and_leaves_nothing(tmp_path, monkeypatch):
    def fail(url, filename, **options):
        Path(filename).touch()
        raise URLError("no address")

    monkeypatch.setattr(corpora, "resumable_download", fail)
    config = PRESET.data.model_copy(update={"corpus": "speechocean762"})
    with pytest.raises(DataError, match=r"cannot be fetched from https://.*speechocean762.tar.gz \(no address\)"):
        corpora.download(config, root=tmp_path)
    assert list(tmp_path.iterdir()) == []
