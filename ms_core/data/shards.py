"""Lhotse Shar: prepared speech as numbered archives, read in order, for corpora that fit neither memory nor a disk.

A folder of shards holds `cuts.000000.jsonl.gz` (phones, durations, speaker), `codes.000000.tar` (int16) and so on, and
`shards.json`, which is written last. `data.train` of a preset may name such a folder, or one with many of them inside;
what has a slash in its name is a folder. The recordings are not needed any more. All here is our choice.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lhotse import CutSet, MonoCut, SupervisionSegment
from lhotse.shar import SharWriter
from lhotse.supervision import AlignmentItem
from lhotse.utils import fastcopy

from ms_core.codec import Codec
from ms_core.config import Preset
from ms_core.data.corpora import DataError
from ms_core.files import write_json
from ms_core.text import BOUNDARIES, BOUNDARY, PHONES

INFO, FORMAT = "shards.json", "ms-shards-1"
SHARD_SIZE = 1000  # utterances: about 10 MB of codes and text
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
                stated = f"{info.get('format')}, tokens {info.get('token_digest')}"
                raise DataError(f"{file} says {stated}; this codec needs {FORMAT}, tokens {codec.token_digest}")
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


def write_shards(cuts: Iterable[MonoCut], folder: Path, codec: Codec, shard_size: int = SHARD_SIZE) -> Shards:
    """Write prepared cuts (`data.prepare`) as shards, in their order; the folder appears whole or not at all.

    Utterances of a speaker should stay together, as they lie in a corpus: a prompt from another utterance is found only
    near. Raises DataError for a folder that is there, for no cuts, and for codes of another codec.
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
                raise DataError(f"{cut.id}: {array.shape[0]} layers of codes, the codec has {codec.config.n_q}")
            writer.write(fastcopy(cut, recording=None, custom={"codes": array}))
            utterances, seconds = utterances + 1, seconds + cut.duration
    if not utterances:
        shutil.rmtree(temporary)
        raise DataError(f"{folder}: there is no utterance to write")
    facts = {"utterances": utterances, "hours": seconds / 3600, "shards": -(-utterances // shard_size)}
    origin = {"format": FORMAT, "token_digest": codec.token_digest, "frame_rate": codec.config.frame_rate}
    write_json(temporary / INFO, {**origin, **facts})
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
