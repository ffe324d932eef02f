"""Shards of prepared speech: the same batches whatever interrupts, and never more than a bounded part in memory."""

import gzip
import json
import weakref
from itertools import islice

import numpy as np
import pytest
import torch
from conftest import CODEC, PRESET, TRAIN, global_rng_untouched

from ms_core.config import override
from ms_core.data import prepare, shards
from ms_core.data.corpora import DataError
from ms_core.data.shards import Shards, ShardSampler, read_batches, synthetic_cuts, write_shards
from ms_core.tokens import BOUNDARY_IDS
from ms_core.training.loop import train
from ms_core.training.tasks import ModelTask

SHORT = override(PRESET, {"data.max_seconds": 3.0})


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def sampler(found: Shards, part: int = 0, parts: int = 1, **changes: object) -> ShardSampler:
    return ShardSampler(found, TRAIN.model_copy(update=changes), CODEC.frame_rate, part, parts)


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
    with pytest.raises(DataError, match="6 shards with 60 utterances for 7 readers"):
        sampler(made, 0, 7)
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


# -- batches ----------------------------------------------------------------------------------------------------------


def test_batch_k_of_a_part_is_a_function_of_k_alone(made) -> None:
    stream = sampler(made)
    with global_rng_untouched():
        straight = [batch for _, batch in zip(range(2 * stream.per_epoch + 2), stream.batches(0), strict=False)]
    assert [epoch for epoch, _ in straight] == [k // stream.per_epoch for k in range(len(straight))]
    for first in (1, stream.per_epoch - 1, stream.per_epoch, len(straight) - 1):
        epoch, batch = next(sampler(made).batches(first))
        assert epoch == straight[first][0] and equal(batch, straight[first][1])
    assert not any(equal(straight[0][1], batch) for _, batch in straight[1:])
    assert not equal(straight[0][1], next(sampler(made, seed=1).batches(0))[1])


def test_a_resumed_stream_reads_its_own_epoch_alone(made, monkeypatch) -> None:
    read, passes = [], ShardSampler._pass
    monkeypatch.setattr(ShardSampler, "_pass", lambda self, *which: read.append(which) or passes(self, *which))
    next(sampler(made).batches(100 * sampler(made).per_epoch + 1))
    assert {epoch for epoch, _ in read} == {100}


def test_an_epoch_has_nearly_every_utterance_and_none_twice(made) -> None:
    stream = sampler(made)
    ids = [[cut.id for chosen in stream._epoch(epoch) for cut in chosen] for epoch in range(8)]
    for found in ids:
        assert len(set(found)) == len(found) > 0.7 * made.utterances
    assert ids[0] != ids[1] and len(set().union(*ids)) == made.utterances  # what one leaves out, others have


def test_parts_share_the_shards_of_an_epoch(made) -> None:
    where = {cut.id: cut.shard_origin for cut in made.cuts()}
    seen = [{where[cut.id] for chosen in sampler(made, part, 3)._epoch(0) for cut in chosen} for part in range(3)]
    assert all(len(own) == 2 for own in seen) and len(set().union(*seen)) == 6


def test_a_part_of_small_shards_goes_over_them_again(codec, tmp_path) -> None:
    made = write_shards(synthetic_cuts(SHORT, 21), tmp_path / "train", codec, 10)  # the third holds one utterance
    counts = [len(list(sampler(made, part, 3)._epoch(0))) for part in range(3)]
    assert len(set(counts)) == 1 and counts[0] == sampler(made, 0, 3).per_epoch > 1


def test_prompts_come_from_recent_utterances_of_the_speaker(made) -> None:
    stream = sampler(made, other_utterance=1.0)
    own = {cut.id: prepare.tokens(cut).codes[0].tolist() for cut in made.cuts()}
    speaker = {cut.id: cut.supervisions[0].speaker for cut in made.cuts()}

    def holds(name: str, part: list[int]) -> bool:
        return any(own[name][t : t + len(part)] == part for t in range(len(own[name]) - len(part) + 1))

    rng, others = np.random.default_rng(0), 0
    for chosen in stream._epoch(0):
        for cut in chosen:
            prompt, target = stream.example(cut, rng)
            assert holds(cut.id, target.codes[0].tolist())
            sources = [name for name in own if holds(name, prompt.codes[0].tolist())]
            assert all(speaker[name] == speaker[cut.id] for name in sources) and len(sources) == 1
            others += sources[0] != cut.id
    assert others > 20
    alone = next(iter(stream.shards.cuts()))
    stream.speakers.clear()
    stream._remember(alone)
    prompt, target = stream.example(alone, rng)  # nobody else is known
    assert holds(alone.id, prompt.codes[0].tolist()) and holds(alone.id, target.codes[0].tolist())


def test_memory_is_bounded(codec, tmp_path, monkeypatch) -> None:
    """Of 400 utterances never more than the buffers are alive."""
    for name, value in (("BUFFER", 20), ("RECENT_SPEAKERS", 3), ("RECENT_UTTERANCES", 2)):
        monkeypatch.setattr(shards, name, value)
    made = write_shards(synthetic_cuts(SHORT, 400), tmp_path / "train", codec, 50)
    alive, most, seen, read = {}, 0, 0, Shards.cuts

    def watched(self, chosen=None):
        def note(cut):
            nonlocal seen
            seen += 1
            alive[seen] = weakref.ref(cut, lambda _, key=seen: alive.pop(key))
            return cut

        return read(self, chosen).map(note)

    monkeypatch.setattr(Shards, "cuts", watched)
    stream = sampler(made)
    for _, (epoch, _) in zip(range(stream.per_epoch), stream.batches(0), strict=False):
        most = max(most, len(alive))
        assert epoch == 0 and len(stream.speakers) <= 3
    assert seen > 350
    assert 20 <= most <= 20 + 3 * 2 + 2 * shards.OPEN_SHARDS + 5  # and what a batch and the open shards hold
    assert not hasattr(stream, "cache") and not hasattr(stream, "cuts")


def test_readers_take_turns(made) -> None:
    config = TRAIN.model_copy(update={"batch_seconds": 4.0})
    parts = [ShardSampler(made, config, CODEC.frame_rate, 2 + part, 4).batches(0) for part in range(2)]
    wanted = [next(parts[k % 2]) for k in range(7)]
    for first in (0, 3, 4):  # the second of two processes
        with global_rng_untouched():
            stream = read_batches(made, config, CODEC.frame_rate, 1, 2, first)
            found = [next(stream) for _ in range(7 - first)]
        for (epoch, batch), (wanted_epoch, wanted_batch) in zip(found, wanted[first:], strict=True):
            assert epoch == wanted_epoch and equal(batch, wanted_batch)
    with pytest.raises(DataError, match="for 8 readers"):
        read_batches(made, config, CODEC.frame_rate, 0, 4, 0)


def test_a_run_on_shards_resumes_with_the_same_bits(made, codec, cuts, tmp_path) -> None:
    def task() -> ModelTask:
        return ModelTask(SHORT, codec, made, cuts["dev"])

    straight = train(task(), tmp_path / "a")
    halted, batches = task(), ModelTask.batches
    halted.batches = lambda *which: islice(batches(halted, *which), 4)
    with pytest.raises(DataError):
        ModelTask(override(SHORT, {"train_model.speeds": [0.9, 1.0]}), codec, made, cuts["dev"])
    train(halted, tmp_path / "b")  # its batches end after four: saved at three
    resumed = train(task(), tmp_path / "b", resume=True)
    assert (straight / "weights.safetensors").read_bytes() == (resumed / "weights.safetensors").read_bytes()
    provenance = json.loads((straight / "config.json").read_text())["provenance"]
    assert provenance["speech_hours"] == pytest.approx(made.hours, abs=1e-3)


def test_the_text_of_a_shard_is_plain(made) -> None:
    with gzip.open(made.manifests[0], "rt") as file:
        row = json.loads(file.readline())
    assert row["supervisions"][0]["speaker"] == "s0" and "recording" not in row
