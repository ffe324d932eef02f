"""Shards of prepared speech: what they hold, and which are refused."""

import gzip
import json

import numpy as np
import pytest
from conftest import CODEC, PRESET

from ms_core.config import override
from ms_core.data import prepare
from ms_core.data.corpora import DataError
from ms_core.data.shards import Shards, synthetic_cuts, write_shards
from ms_core.tokens import BOUNDARY_IDS

SHORT = override(PRESET, {"data.max_seconds": 3.0})


@pytest.fixture
def made(codec, tmp_path) -> Shards:
    """60 random utterances of six speakers in six shards."""
    return write_shards(synthetic_cuts(SHORT, 60), tmp_path / "s" / "train", codec, 10)


def test_shards_hold_what_the_prepared_cuts_hold(cuts, codec, tmp_path) -> None:
    found = write_shards(cuts["train"], tmp_path / "train", codec, 5)
    assert (found.utterances, len(found.manifests), len(found.codes)) == (12, 3, 3)
    assert found.hours == pytest.approx(sum(c.duration for c in cuts["train"]) / 3600)
    for before, after in zip(cuts["train"], found.cuts(), strict=True):
        assert (before.id, before.duration) == (after.id, after.duration) and not after.has_recording
        assert before.supervisions[0].speaker == after.supervisions[0].speaker
        for one, two in zip(*(vars(prepare.tokens(cut)).values() for cut in (before, after)), strict=True):
            assert np.array_equal(one, two)  # to the last frame
    again = write_shards(synthetic_cuts(SHORT, 20), tmp_path / "more" / "b", codec, 10)
    write_shards(cuts["dev"], tmp_path / "more" / "a", codec)
    both = Shards.open(tmp_path / "more", codec)
    assert (both.utterances, len(both.manifests)) == (24, 3) and both.manifests[1:] == again.manifests


def test_shards_that_cannot_be_used_are_refused(made, cuts, codec, tmp_path) -> None:
    class Other:
        config, token_digest = codec.config, "another"

    folder = made.manifests[0].parent
    with pytest.raises(DataError, match=f"no shards.json in {tmp_path}/none"):
        Shards.open(tmp_path / "none", codec)
    with pytest.raises(DataError, match=f"tokens {codec.token_digest}; this codec needs .* tokens another"):
        Shards.open(folder, Other())
    with pytest.raises(DataError, match="is there already"):
        write_shards(cuts["dev"], folder, codec)
    with pytest.raises(DataError, match="no utterance"):
        write_shards([], tmp_path / "empty", codec)
    made.codes[2].unlink()
    with pytest.raises(DataError, match="6 shards, beside it lie"):
        Shards.open(folder, codec)


def test_shards_that_were_not_written_to_the_end_are_not_there(codec, tmp_path) -> None:
    def killed():
        yield from synthetic_cuts(SHORT, 12)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(killed(), tmp_path / "s" / "train", codec, 5)
    with pytest.raises(DataError, match="no shards.json"):
        Shards.open(tmp_path / "s", codec)
    assert len(write_shards(synthetic_cuts(SHORT, 12), tmp_path / "s" / "train", codec, 5).manifests) == 3


def test_synthetic_speech_is_utterances_of_the_grid() -> None:
    made = list(synthetic_cuts(SHORT, 30))
    for cut in made:
        whole = prepare.tokens(cut)
        assert whole.codes.shape == (CODEC.n_q, round(cut.duration * CODEC.frame_rate)) and 2 <= cut.duration <= 3
        assert len(whole.phones) == len(whole.durations) and whole.durations.sum() == whole.codes.shape[1]
        spoken = ~np.isin(whole.phones, list(BOUNDARY_IDS))
        assert whole.durations[spoken].min() >= 1 and whole.codes.min() >= 0 and whole.codes.max() < CODEC.bins
    assert [c.supervisions[0].speaker for c in made[::10]] == ["s0", "s1", "s2"]
    assert not np.array_equal(made[0].codes.load(), next(synthetic_cuts(SHORT, 1, seed=1)).codes.load())


def test_the_text_of_a_shard_is_plain(made) -> None:
    with gzip.open(made.manifests[0], "rt") as file:
        row = json.loads(file.readline())
    assert row["supervisions"][0]["speaker"] == "s0" and "recording" not in row
