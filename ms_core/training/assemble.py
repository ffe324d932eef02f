"""A preset's speech as a pack, to be trained on or written: recordings and, where asked for, virtual voices."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from lhotse import MonoCut
from tqdm import tqdm

from ms_core.codec import Codec
from ms_core.codec.mini import MiniCodec
from ms_core.config import ConfigError, Preset
from ms_core.data.augment import draw_voice, virtual_voices, world
from ms_core.data.prepare import prefetch, prepare
from ms_core.data.shards import Shards
from ms_core.files import replacing
from ms_core.training.pack import Item, Pack, Utterances
from ms_core.training.sharded import ShardedSpeech, item


def assemble(preset: Preset, codec: Codec, voices: int = 0, workers: int = 2) -> Pack:
    """The preset's train and dev speech as a pack; what is not yet aligned and tokenised is, by `data.prepare`.

    A split that names a folder of shards ("/" in it) is read from these: train as it is needed, dev into memory.
    voices: so many virtual voices of each reader (`data.augment.virtual_voices`) say the train speech too, as further
    speakers; `workers` processes make them.

    Raises DataError for speech that is missing, or where voices are asked for without pyworld; ConfigError for voices
    of shards, which hold no recordings.
    """
    if voices:
        world()
    about = {"preset": preset.name, "train": preset.data.train, "dev": preset.data.dev, "voices": voices}
    dev = Utterances.of(map(item, _cuts(preset, preset.data.dev, codec, workers)))
    if "/" in preset.data.train:
        if voices:
            raise ConfigError(f"preset {preset.name}: its train speech is shards, which hold no recordings for voices")
        shards = Shards.open(preset.data.train, codec)
        about |= {"speech_hours": round(shards.hours, 3), "utterances": shards.utterances}
        return Pack(ShardedSpeech(shards), dev, codec, about)
    train = _cuts(preset, preset.data.train, codec, workers)
    recorded = Utterances.of(map(item, train))
    about |= {
        "speech_hours": round(recorded.codes.shape[1] / codec.config.frame_rate / 3600, 3),  # as recorded
        "utterances": len(recorded.speakers),
        "speakers": int(recorded.speakers[-1] + 1),
    }
    both = recorded.joined(Utterances.of(_virtual(train, codec, voices, workers))) if voices else recorded
    return Pack(both, dev, codec, about)


def _cuts(preset: Preset, splits: str, codec: Codec, workers: int) -> list[MonoCut]:
    """Prepared cuts, split by split, so that "a+b" shares alignments and tokens with "a" and "b"."""
    if "/" in splits:
        return list(Shards.open(splits, codec).cuts())
    return [cut for part in splits.split("+") for cut in prepare(preset, part, codec, workers)]


def _virtual(cuts: Iterable[MonoCut], codec: MiniCodec, voices: int, workers: int) -> Iterator[Item]:
    """The cuts as each virtual voice says them; tokens are kept beside the recordings', so a killed run goes on."""

    def file(cut: MonoCut, copy: int) -> Path:
        kept = Path(cut.codes.array.storage_path)  # its name tells speech, alignments and codec
        return kept.with_name(f"{kept.name}-virtual") / str(copy) / f"{cut.id}.npy"

    numbers = range(1, voices + 1)
    todo = [(cut, missing) for cut in cuts if (missing := [k for k in numbers if not file(cut, k).is_file()])]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        waves = prefetch(pool, partial(_say, codec.config.sample_rate), todo, 4 * workers)
        for (cut, copies), voiced in tqdm(zip(todo, waves, strict=True), total=len(todo), desc="voices", disable=None):
            for copy, codes in zip(copies, codec.encode(torch.from_numpy(voiced)[:, None]).numpy(), strict=True):
                with replacing(file(cut, copy)) as temporary:
                    np.save(temporary, codes.astype(np.int16))
    for cut in cuts:
        speaker, phones, durations, _ = item(cut)
        for copy in numbers:
            yield f"{speaker}#{copy}", phones, durations, np.load(file(cut, copy))


def _say(rate: int, item: tuple[MonoCut, list[int]]) -> Float[np.ndarray, "k l"]:
    """A cut in so many virtual voices of its speaker, named by their numbers."""
    cut, copies = item
    wave = cut.resample(rate).load_audio()[0]
    return virtual_voices(wave, rate, [draw_voice(cut.supervisions[0].speaker, copy) for copy in copies])
