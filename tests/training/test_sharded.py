"""Training from shards: the same batches whatever interrupts, and never more than a bounded part in memory."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PRESET, TRAIN, global_rng_untouched

from ms_core.config import override
from ms_core.data.corpora import DataError
from ms_core.data.prepare import tokens
from ms_core.data.shards import Shards, synthetic_cuts, write_shards
from ms_core.training import sharded
from ms_core.training.acoustic import PackTask
from ms_core.training.loop import train
from ms_core.training.pack import Pack, Utterances
from ms_core.training.sharded import ShardedSpeech, item

SHORT = override(PRESET, {"data.max_seconds": 3.0})
CPU = torch.device("cpu")


@pytest.fixture
def shards(codec, tmp_path, monkeypatch) -> Shards:
    """60 random utterances of six speakers in six shards, of which two are held at a time."""
    monkeypatch.setattr(sharded, "HELD", 2)
    return write_shards(synthetic_cuts(SHORT, 60), tmp_path / "s" / "train", codec, 10)


def stream(shards: Shards, codec, first: int = 0, rank: int = 0, world: int = 1, **changes: object):
    return ShardedSpeech(shards).batches(codec, TRAIN.model_copy(update=changes), CPU, rank, world, first)


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def test_batch_k_is_a_function_of_k_alone(shards, codec) -> None:
    with global_rng_untouched():
        straight = list(islice(stream(shards, codec, batch_seconds=30.0), 12))
    assert [epoch for epoch, _ in straight] == sorted(epoch for epoch, _ in straight) and straight[-1][0] > 0
    for first in (1, 5, 11):
        epoch, batch = next(stream(shards, codec, first, batch_seconds=30.0))
        assert epoch == straight[first][0] and equal(batch, straight[first][1])
    assert not any(equal(straight[0][1], batch) for _, batch in straight[1:])
    assert not equal(straight[0][1], next(stream(shards, codec, batch_seconds=30.0, seed=1))[1])


def test_every_shard_is_read_once_an_epoch_and_few_at_a_time(shards, codec, monkeypatch) -> None:
    read, cuts = [], Shards.cuts
    monkeypatch.setattr(Shards, "cuts", lambda self, chosen=None: read.append(chosen) or cuts(self, chosen))
    epochs = [epoch for epoch, _ in islice(stream(shards, codec, batch_seconds=30.0), 8)]
    done = read[: 3 * (max(epochs) + 1)]  # the next ones are read ahead
    assert all(len(group) == 2 for group in done)
    for epoch in range(max(epochs)):
        assert sorted(sum(done[3 * epoch : 3 * epoch + 3], [])) == list(range(6))
    read.clear()
    next(stream(shards, codec, 1000, batch_seconds=30.0))
    assert len(read) <= 2  # a resumed stream begins where it left off


def test_processes_share_the_shards_and_prompts_are_of_the_speaker(shards, codec) -> None:
    where = {tokens(cut).codes.astype(np.int16).tobytes(): cut.supervisions[0].speaker for cut in shards.cuts()}
    own = {name: np.concatenate([np.frombuffer(k, np.int16).reshape(3, -1) for k, v in where.items() if v == name], 1)
           for name in where.values()}  # fmt: skip

    def speakers(codes: torch.Tensor, frames: int) -> set[str]:
        part = codes[0, : min(frames, 12)].numpy()
        runs = {name: np.lib.stride_tricks.sliding_window_view(rows[0], len(part)) for name, rows in own.items()}
        return {name for name, rows in runs.items() if (rows == part).all(1).any()}

    seen = []
    for rank in range(3):
        heard = set()
        for _, batch in islice(stream(shards, codec, 0, rank, 3, batch_seconds=10.0), 4):
            for i in range(len(batch.codes)):
                target = speakers(batch.codes[i], int(batch.durations[i].sum()))
                assert target & speakers(batch.prompt_codes[i], int(batch.prompt_durations[i].sum()))
                heard |= target
        seen.append(heard)
    assert all(seen) and not seen[0] & seen[1] and not seen[1] & seen[2]  # a speaker a shard
    with pytest.raises(DataError, match="6 shards for 7 processes"):
        stream(shards, codec, 0, 0, 7)


def test_a_run_on_shards_resumes_with_the_same_bits(shards, codec, cuts, tmp_path) -> None:
    def task() -> PackTask:
        speech = ShardedSpeech(shards), Utterances.of(map(item, cuts["dev"]))
        return PackTask(SHORT, Pack(*speech, codec, {"speech_hours": shards.hours}), "cpu")

    straight = train(task(), tmp_path / "a")
    halted, batches = task(), PackTask.batches
    halted.batches = lambda *which: islice(batches(halted, *which), 4)
    train(halted, tmp_path / "b")  # its batches end after four: saved at three
    resumed = train(task(), tmp_path / "b", resume=True)
    files = [Path(export, "weights.safetensors").read_bytes() for export in (straight, resumed)]
    assert files[0] == files[1]
