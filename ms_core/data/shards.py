"""Lhotse Shar: prepared speech as numbered archives, read in order, for corpora that fit neither memory nor a disk.

A folder of shards holds `cuts.000000.jsonl.gz` (phones, durations, speaker), `codes.000000.tar` (int16) and so on, and
`shards.json`, which is written last. `data.train` of a preset may name such a folder, or one with many of them inside;
what has a slash in its name is a folder. The recordings are not needed any more. All here is our choice.
"""

import json
import shutil
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet, MonoCut, SupervisionSegment
from lhotse.dataset import DynamicBucketingSampler
from lhotse.dataset.sampling.dynamic_bucketing import estimate_duration_buckets
from lhotse.shar import SharWriter
from lhotse.supervision import AlignmentItem
from lhotse.utils import fastcopy
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ms_core.codec import Codec
from ms_core.config import Preset, TrainConfig
from ms_core.data.batches import Sampler
from ms_core.data.corpora import DataError
from ms_core.data.prepare import tokens
from ms_core.files import write_json
from ms_core.text import BOUNDARIES, BOUNDARY, PHONES
from ms_core.tokens import Batch, Tokens

INFO, FORMAT = "shards.json", "ms-shards-1"
SHARD_SIZE = 1000  # utterances: about 10 MB of codes and text
READERS = 2  # processes that read shards for each process that trains, each with shards of its own
OPEN_SHARDS = 8  # that a reader mixes, since neighbours in a shard are often of one speaker
BUFFER = 2000  # utterances that a reader holds to draw batches from
BUCKETS = 8  # lengths that are batched together
RECENT_SPEAKERS, RECENT_UTTERANCES = 2000, 4  # what a reader keeps of earlier batches, to draw prompts from
SECONDS_PER_PHONE = 0.08  # of synthetic speech


@dataclass(frozen=True)
class Shards:
    """One or more folders of shards, as `Shards.open` found them; nothing of the speech is in memory."""

    manifests: tuple[Path, ...]
    codes: tuple[Path, ...]
    utterances: int
    hours: float

    @classmethod
    def open(cls, folder: str | Path, codec: Codec) -> "Shards":
        """The shards in a folder and in all folders below it.

        Raises DataError where there is none, where one was not written to its end or holds another codec's tokens.
        """
        folder = Path(folder).expanduser()
        infos = sorted(folder.rglob(INFO))
        if not infos:
            raise DataError(f"no {INFO} in {folder} or below: write shards with `ms-core data --shards {folder}`")
        manifests, codes, utterances, hours = [], [], 0, 0.0
        for file in infos:
            info = json.loads(file.read_text())
            if info.get("format") != FORMAT or info.get("token_digest") != codec.token_digest:
                found = f"{info.get('format')}, tokens {info.get('token_digest')}"
                raise DataError(f"{file} says {found}; this codec needs {FORMAT}, tokens {codec.token_digest}")
            lists = [sorted(file.parent.glob(f"{field}.*")) for field in ("cuts", "codes")]
            if {len(paths) for paths in lists} != {info["shards"]}:
                raise DataError(f"{file} says {info['shards']} shards, beside it lie {len(lists[0])}: copy all of them")
            manifests += lists[0]
            codes += lists[1]
            utterances, hours = utterances + info["utterances"], hours + info["hours"]
        return cls(tuple(manifests), tuple(codes), utterances, hours)

    def cuts(self, chosen: Iterable[int] | None = None) -> CutSet:
        """Utterances with their codes, read one after the other, of all shards or of those chosen, in that order."""
        order = list(range(len(self.manifests)) if chosen is None else chosen)
        return CutSet.from_shar({"cuts": [self.manifests[i] for i in order], "codes": [self.codes[i] for i in order]})

    def bins(self) -> list[float]:
        """Lengths in seconds between the buckets, from the first utterances of the first shards."""
        cuts = islice(CutSet.from_shar({"cuts": list(self.manifests)}), BUFFER)
        return estimate_duration_buckets(cuts, max(2, min(BUCKETS, self.utterances // 50)))


def write_shards(cuts: Iterable[MonoCut], folder: Path, codec: Codec, shard_size: int = SHARD_SIZE) -> Shards:
    """Write prepared cuts (`data.prepare`) as shards, in their order; the folder appears whole or not at all.

    Utterances of a speaker should stay together, as they lie in a corpus: a prompt from another utterance is found only
    near. Raises DataError for a folder that is there, for no cuts, and for features in the place of codes.
    """
    folder = Path(folder).expanduser()
    if folder.exists():
        raise DataError(f"{folder} is there already: remove it, or give another folder")
    temporary = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    utterances, seconds = 0, 0.0
    with SharWriter(temporary, {"codes": "numpy"}, shard_size) as writer:
        for cut in cuts:
            array = cut.codes.array  # lhotse cuts a temporal array to the rounded duration, and the last frame is lost
            if array.shape[0] != codec.config.n_q:
                raise DataError(f"{cut.id}: {array.shape[0]} rows, the codec has {codec.config.n_q}: not codes")
            writer.write(fastcopy(cut, recording=None, custom={"codes": array}))
            utterances, seconds = utterances + 1, seconds + cut.duration
    if not utterances:
        shutil.rmtree(temporary)
        raise DataError(f"{folder}: there is no utterance to write")
    facts = {"utterances": utterances, "hours": seconds / 3600, "shards": -(-utterances // shard_size)}
    made = {"format": FORMAT, "token_digest": codec.token_digest, "frame_rate": codec.config.frame_rate}
    write_json(temporary / INFO, {**made, **facts})
    temporary.rename(folder)
    return Shards.open(folder, codec)


def synthetic_cuts(preset: Preset, utterances: int, seed: int = 0) -> Iterator[MonoCut]:
    """Random phones, durations and codes on the preset's grid, of 2 s up to `data.max_seconds`; ten a speaker.

    To prove a path: a model learns nothing from them. Draws from a generator of its own.
    """
    rng = np.random.default_rng(seed)
    rate, codec = preset.codec.frame_rate, preset.codec
    spoken = [phone for phone in PHONES[1:] if phone not in BOUNDARIES]  # the first is padding
    for index in range(utterances):
        frames = int(rng.uniform(2.0, preset.data.max_seconds) * rate)
        symbols = [BOUNDARY]
        for _ in range(max(1, round(frames / rate / SECONDS_PER_PHONE / 4))):
            symbols += [*rng.choice(spoken, int(rng.integers(1, 6))).tolist(), BOUNDARY]
        least = np.array([symbol != BOUNDARY for symbol in symbols], dtype=int)
        each = least + rng.multinomial(frames - least.sum(), np.full(len(symbols), 1 / len(symbols)))
        ends = np.cumsum(each) / rate
        items = [
            AlignmentItem(symbol, round(end - length / rate, 4), round(length / rate, 4))
            for symbol, end, length in zip(symbols, ends.tolist(), each.tolist(), strict=True)
        ]
        name, speaker = f"synthetic-{seed}-{index:08}", f"s{index // 10}"
        supervision = SupervisionSegment(name, name, 0.0, frames / rate, speaker=speaker, alignment={"phone": items})
        supervision.custom = {"frames": each.tolist()}
        codes = rng.integers(0, codec.bins, (codec.n_q, frames)).astype(np.int16)
        cut = MonoCut(name, 0.0, frames / rate, 0, supervisions=[supervision])
        yield cut.attach_tensor("codes", codes, frame_shift=1 / rate, temporal_dim=1)


class ShardSampler(Sampler):
    """`Sampler` for shards: batch k is a pure function of (shards, config, k) and of which part of how many this is.

    An epoch is a fixed number of batches, as many as the speech of a part would fill: so a resumed run knows its epoch
    from k, and reads again only what that epoch had before k (it skips batches, but must read their utterances, at
    worst one epoch's). Since batches are not quite full, the last few percent of an epoch's shards are left to the
    next, which has them in another order. Parts share an epoch's shards, shard by shard.

    In memory are `BUFFER` utterances and the last `RECENT_UTTERANCES` of each of the `RECENT_SPEAKERS` heard last. A
    prompt from another utterance comes from these; where they have none, the utterance gives both prompt and target.
    """

    def __init__(self, shards: Shards, config: TrainConfig, frame_rate: float, part: int = 0, parts: int = 1):
        if len(shards.manifests) < parts or shards.utterances < 2 * parts:
            raise DataError(
                f"{len(shards.manifests)} shards with {shards.utterances} utterances for {parts} readers ({READERS} a "
                "process): each needs a shard of its own; write smaller ones (--shard-size), or start fewer processes"
            )
        self.shards, self.config, self.frame_rate, self.equaliser = shards, config, frame_rate, None
        self.rank, self.world_size = part, parts
        self.per_epoch = max(1, int(3600 * shards.hours / (parts * config.batch_seconds)))
        self.lengths = shards.bins()
        self.speakers: OrderedDict[str, deque[MonoCut]] = OrderedDict()

    def _epoch(self, epoch: int) -> Iterator[CutSet]:
        self.speakers.clear()
        passes = (self._pass(epoch, again) for again in count())  # one is enough, unless this part's shards are small
        for cuts in islice(chain.from_iterable(passes), self.per_epoch):
            for cut in cuts:
                self._remember(cut)
            yield cuts

    def _pass(self, epoch: int, again: int) -> DynamicBucketingSampler:
        """Batches of this part's shards in one pass over them."""
        rng = np.random.default_rng((self.config.seed, epoch, again))  # the same on every part
        mine = rng.permutation(len(self.shards.manifests))[self.rank :: self.world_size].tolist()
        seed = int(rng.integers(2**31))
        mixed = [self.shards.cuts(mine[i::OPEN_SHARDS]) for i in range(min(OPEN_SHARDS, len(mine)))]
        cuts = CutSet.mux(*mixed, seed=seed) if len(mixed) > 1 else mixed[0]
        limits = {"max_duration": self.config.batch_seconds, "duration_bins": self.lengths, "buffer_size": BUFFER}
        limits["sync_buckets"] = False  # that would draw by the number of the worker process
        return DynamicBucketingSampler(cuts, **limits, shuffle=True, seed=seed, rank=0, world_size=1)

    def _remember(self, cut: MonoCut) -> None:
        speaker = cut.supervisions[0].speaker
        self.speakers.setdefault(speaker, deque(maxlen=RECENT_UTTERANCES)).append(cut)
        self.speakers.move_to_end(speaker)
        if len(self.speakers) > RECENT_SPEAKERS:
            self.speakers.popitem(last=False)

    def tokens(self, cut: MonoCut) -> Tokens:
        return tokens(cut)  # kept nowhere


class _Reader(IterableDataset):
    """Every `READERS`-th batch from `first` on, in the worker process of a DataLoader."""

    def __init__(self, shards: Shards, config: TrainConfig, frame_rate: float, rank: int, world_size: int, first: int):
        self.given, self.first = (shards, config, frame_rate), first
        self.rank, self.parts = rank, world_size * READERS

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        index = self.first + get_worker_info().id
        part = self.rank * READERS + index % READERS
        return ShardSampler(*self.given, part, self.parts).batches(index // READERS)


def read_batches(
    shards: Shards, config: TrainConfig, frame_rate: float, rank: int, world_size: int, first: int
) -> Iterator[tuple[int, Batch]]:
    """(epoch, batch) from batch `first` on, made ahead by `READERS` processes; they take turns, so k decides all."""
    ShardSampler(shards, config, frame_rate, 0, world_size * READERS)  # raises here what the processes could only print
    reader = _Reader(shards, config, frame_rate, rank, world_size, first)
    loader = DataLoader(reader, batch_size=None, num_workers=READERS, generator=torch.Generator(), prefetch_factor=4)
    return iter(loader)
