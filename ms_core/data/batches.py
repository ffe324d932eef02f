"""Training examples out of prepared cuts: prompts and targets cut at words, padded to batches."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import torch
from lhotse import CutSet, MonoCut
from lhotse.dataset import DynamicBucketingSampler

from ms_core.config import TrainConfig
from ms_core.data.augment import Equaliser
from ms_core.data.corpora import DataError
from ms_core.data.prepare import tokens
from ms_core.text import phone_ids
from ms_core.tokens import COMMA_SECONDS, PAD_TO, PHRASE_WORDS, STOP_SECONDS, Batch, Tokens


class Sampler:
    """An endless, seeded stream of training batches: batch k is a pure function of (cuts, config, k).

    lhotse's DynamicBucketingSampler groups utterances of like length; each epoch has a shuffle of its own. `equaliser`
    is for cuts prepared with `speeds`.
    """

    per_epoch = 0  # batches, where every epoch has as many; else an epoch is known by counting those before

    def __init__(
        self,
        cuts: CutSet,
        config: TrainConfig,
        frame_rate: float,
        rank: int = 0,
        world_size: int = 1,
        equaliser: Equaliser | None = None,
    ):
        self.cuts = cuts.to_eager()
        if len(self.cuts) < 2 * world_size:
            raise DataError(f"{len(self.cuts)} utterances are too few to train on: give at least {2 * world_size}")
        self.config, self.frame_rate = config, frame_rate
        self.rank, self.world_size, self.equaliser = rank, world_size, equaliser
        self.speakers = defaultdict(list)
        for cut in self.cuts:
            self.speakers[cut.supervisions[0].speaker].append(cut)
        self.cache: dict[str, Tokens] = {}

    def batches(self, first: int) -> Iterator[tuple[int, Batch]]:
        """(epoch, batch) from batch index `first` on."""
        epoch = first // self.per_epoch if self.per_epoch else 0
        index = epoch * self.per_epoch
        while True:
            for cuts in self._epoch(epoch):
                if index >= first:
                    rng = np.random.default_rng((self.config.seed, self.rank, index))
                    yield epoch, collate([self.example(cut, rng) for cut in cuts])
                index += 1
            epoch += 1

    def _epoch(self, epoch: int) -> Iterator[CutSet]:
        sampler = DynamicBucketingSampler(
            self.cuts,
            max_duration=self.config.batch_seconds,
            num_buckets=max(2, min(8, len(self.cuts) // 50)),  # lhotse needs two
            shuffle=True,
            seed=self.config.seed,
            rank=self.rank,
            world_size=self.world_size,
            buffer_size=len(self.cuts),
        )
        sampler.set_epoch(epoch)
        return iter(sampler)

    def tokens(self, cut: MonoCut) -> Tokens:
        if cut.id not in self.cache:
            self.cache[cut.id] = tokens(cut)
        return self.cache[cut.id]

    def example(self, cut: MonoCut, rng: np.random.Generator) -> tuple[Tokens, Tokens]:
        """(prompt, target) of an utterance, by the config's prompt and target lengths."""
        whole = self.tokens(cut)
        others = [c for c in self.speakers[cut.supervisions[0].speaker] if c.id != cut.id]
        wanted, longest = (round(s * self.frame_rate) for s in (self.config.prompt_seconds, self.config.max_seconds))
        short = None
        if others and self.config.phrases > 0 and rng.random() < self.config.phrases:
            short = crop_phrase(whole, round(STOP_SECONDS * self.frame_rate), rng)
        if short is None and self.config.own_prompt > 0 and rng.random() < self.config.own_prompt:
            target = crop_words(whole, longest, rng)
            prompt = crop_words(target, wanted, rng)
        elif short is not None or (others and rng.random() < self.config.other_utterance):
            prompt = crop_words(self.tokens(others[rng.integers(len(others))]), wanted, rng)
            target = crop_words(whole, longest, rng) if short is None else short
        else:
            both = crop_words(whole, longest + wanted, rng)
            prompt, target = split(both, min(wanted, int(both.durations.sum() * 0.4)), bool(rng.random() < 0.5))
        if self.equaliser is not None:
            curve = self.equaliser.draw(rng)
            prompt, target = (replace(part, codes=self.equaliser(part.codes, curve)) for part in (prompt, target))
        return label_pauses(prompt, self.frame_rate, rng), label_pauses(target, self.frame_rate, rng)


def crop_words(utterance: Tokens, frames: int, rng: np.random.Generator) -> Tokens:
    """A random run of whole words of at most `frames` frames (at least one word)."""
    bounds = utterance.words()
    ends = np.cumsum(utterance.durations)
    starts = ends - utterance.durations
    if ends[-1] <= frames:
        return utterance
    latest = int(np.searchsorted(starts[bounds], ends[-1] - frames, "right"))  # from here on all fits, up to the end
    first = int(rng.integers(min(latest, len(bounds) - 2) + 1))
    fits = np.flatnonzero(ends[bounds] - starts[bounds[first]] <= frames)
    last = max(int(fits[-1]) if len(fits) else 0, first + 1)
    return utterance.slice(bounds[first], bounds[last])


def crop_phrase(utterance: Tokens, pause: int, rng: np.random.Generator) -> Tokens | None:
    """A random run of up to `PHRASE_WORDS` words between silences of `pause` frames or more; None where there is none.

    So are short texts said. A window of a longer utterance has them in the midst of others: its words are shorter, and
    without a beginning and an end.
    """
    bounds = utterance.words()
    pauses = np.flatnonzero(utterance.durations[bounds] >= pause)
    runs = [(a, b) for a, b in combinations(pauses, 2) if b - a <= PHRASE_WORDS]
    if not runs:
        return None
    first, last = runs[rng.integers(len(runs))]
    return utterance.slice(bounds[first], bounds[last])


def split(utterance: Tokens, prompt_frames: int, at_start: bool) -> tuple[Tokens, Tokens]:
    """(prompt, rest): the prompt taken off the start or the end at the word boundary nearest to `prompt_frames`."""
    bounds = utterance.words()
    if len(bounds) < 3:
        return utterance, utterance  # a single word cannot be divided
    middle = np.cumsum(utterance.durations)[bounds[1:-1]]
    wanted = prompt_frames if at_start else int(utterance.durations.sum()) - prompt_frames
    cut = int(bounds[1 + int(np.abs(middle - wanted).argmin())])
    left, right = utterance.split_at(cut)
    return (left, right) if at_start else (right, left)


def label_pauses(utterance: Tokens, frame_rate: float, rng: np.random.Generator) -> Tokens:
    """In half of the calls, long silences between words become "," or ".", as a written text would have them.

    LibriSpeech's texts have no punctuation. This teaches the model both kinds of text: with pauses marked and without.
    """
    if rng.random() < 0.5:
        return utterance
    phones = utterance.phones.copy()
    inner = utterance.words()[1:-1]
    comma, stop = phone_ids([",", "."])
    pause = utterance.durations[inner]
    phones[inner[pause >= COMMA_SECONDS * frame_rate]] = comma
    phones[inner[pause >= STOP_SECONDS * frame_rate]] = stop
    return Tokens(phones, utterance.durations, utterance.codes)


def collate(examples: Sequence[tuple[Tokens, Tokens]]) -> Batch:
    """Pad (prompt, target) pairs to a batch.

    Lengths are rounded up to multiples of `PAD_TO`, so that shapes recur: on a CPU each new shape of a matrix product
    costs a compilation, a quarter of the training time when every batch has its own.
    """

    def pad(arrays: Sequence[np.ndarray]) -> torch.Tensor:
        longest = -(-max(a.shape[-1] for a in arrays) // PAD_TO) * PAD_TO
        padded = [np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, longest - a.shape[-1])]) for a in arrays]
        return torch.from_numpy(np.stack(padded)).long()

    prompts, targets = zip(*examples, strict=True)
    return Batch(
        *(pad([getattr(t, name) for t in targets]) for name in ("phones", "durations", "codes")),
        *(pad([getattr(t, name) for t in prompts]) for name in ("phones", "durations", "codes")),
    )
