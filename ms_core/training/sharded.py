"""Training batches out of shards, for corpora that fit no memory: a few shards at a time are drawn from like a pack."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from lhotse import MonoCut

from ms_core.codec import Codec
from ms_core.config import TrainConfig
from ms_core.data.corpora import DataError
from ms_core.data.prepare import prefetch, tokens
from ms_core.data.shards import Shards
from ms_core.tokens import Batch
from ms_core.training.pack import Item, Utterances
from ms_core.training.resident import TokenBatches

HELD = 8  # shards that are drawn from together, since neighbours in a shard are often of one speaker


@dataclass(frozen=True)
class ShardedSpeech:
    """Training speech in shards, in the place of a pack's `Utterances`."""

    shards: Shards

    def batches(
        self, codec: Codec, config: TrainConfig, device: torch.device, rank: int, world_size: int, first: int
    ) -> Iterator[tuple[int, Batch]]:
        """(epoch, batch) from batch `first` on; batch k is a pure function of (shards, config, rank, world_size, k).

        A process has shards of its own in each epoch. So many of its batches come from `HELD` of them as these have
        speech for, while the next ones are read; a prompt comes from these too. Raises DataError for too few shards.
        """
        total = len(self.shards.manifests)
        if total < world_size:
            raise DataError(
                f"{total} shards for {world_size} processes: each needs one of its own; write smaller ones "
                "(--shard-size), or start fewer processes"
            )
        held = min(HELD, total // world_size)
        groups = total // world_size // held  # of a process in an epoch
        each = max(1, round(3600 * self.shards.hours / total * held / config.batch_seconds))  # batches of a group

        def read(number: int) -> Utterances:
            epoch, group = divmod(number, groups)
            order = np.random.default_rng((config.seed, epoch)).permutation(total)[rank::world_size]
            return Utterances.of(map(item, self.shards.cuts(order[group * held : (group + 1) * held].tolist())))

        def drawn() -> Iterator[tuple[int, Batch]]:
            start = first // each
            with ThreadPoolExecutor(1) as reader:
                for number, speech in enumerate(prefetch(reader, read, count(start), 2), start):
                    stream = TokenBatches(speech, codec, config, device, rank)
                    for index in range(max(first, number * each), (number + 1) * each):
                        yield number // groups, stream.batch(index)

        return drawn()


def item(cut: MonoCut) -> Item:
    """A prepared cut for `Utterances.of`."""
    utterance = tokens(cut)
    return cut.supervisions[0].speaker, utterance.phones, utterance.durations, utterance.codes
