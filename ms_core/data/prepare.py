"""Speech data: lhotse manifests -> aligned, tokenised cuts -> batches.

A prepared split is a JSONL file of lhotse cuts, each with its supervision (speaker, text), a phone alignment and a
pointer to its codes. It is written cut by cut, so a killed preparation carries on where it stopped; codes lie in a
folder named by the codec's token digest, so tokens of two codecs cannot mix.
"""

import csv
import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet, MonoCut, NumpyFilesWriter, Recording, SupervisionSegment
from lhotse.dataset import DynamicBucketingSampler
from lhotse.supervision import AlignmentItem
from tqdm import tqdm

from ms_core import paths
from ms_core.align import Aligned, align_corpus, durations
from ms_core.checkpoint import write_json
from ms_core.codec.mini import Codec
from ms_core.config import DataConfig, Preset, TrainConfig
from ms_core.data.augment import Equaliser, perturbed, sped
from ms_core.model import Batch
from ms_core.text import phone_ids

COMMA_SECONDS, STOP_SECONDS = 0.08, 0.25  # a silence this long between words may be written "," or "." in training
PHRASE_WORDS = 3  # of `phrase`, at most
PAD_TO = 32  # frames or phones
BOUNDARY_IDS = frozenset(phone_ids(["_", ",", "."]))


class DataError(ValueError):
    """Speech data that is missing or cannot be used; the message says what and where."""


@dataclass(frozen=True)
class Tokens:
    """One utterance (or part of one) as the model sees it: phone ids (p,), durations (p,), codes (n, t)."""

    phones: np.ndarray
    durations: np.ndarray
    codes: np.ndarray

    def words(self) -> np.ndarray:
        """Indices of the boundary phones; word i lies between the i-th and the next."""
        return np.flatnonzero(np.isin(self.phones, list(BOUNDARY_IDS)))

    def between(self, first: int, last: int) -> "Tokens":
        """The part from boundary phone index `first` to boundary phone index `last`, both included."""
        ends = np.cumsum(self.durations)
        start, stop = ends[first] - self.durations[first], ends[last]
        return Tokens(self.phones[first : last + 1], self.durations[first : last + 1], self.codes[:, start:stop])

    def divided(self, boundary: int) -> tuple["Tokens", "Tokens"]:
        """The parts before and after a boundary phone; each gets the phone, and a half of its frames."""
        left, right = self.between(0, boundary), self.between(boundary, len(self.phones) - 1)
        half = self.durations[boundary] // 2
        kept = left.codes.shape[1] - half
        return (
            Tokens(left.phones, np.append(left.durations[:-1], left.durations[-1] - half), left.codes[:, :kept]),
            Tokens(right.phones, np.append(half, right.durations[1:]), right.codes[:, right.durations[0] - half :]),
        )


def read_cuts(config: DataConfig, split: str) -> CutSet:
    """Recordings and transcripts of a split, unaligned.

    `librispeech` and `shipped` read a `manifest.tsv` (set utt speaker sex seconds path text); a folder without one must
    hold LibriSpeech's own layout, and is read by lhotse's recipe. "a+b" joins splits. Raises DataError when nothing is
    there, and for a folder of shards.
    """
    if "/" in split:
        raise DataError(f"{split!r} is a folder of shards, which hold no recordings: name a split of {config.corpus}")
    if "+" in split:
        return CutSet.from_cuts(cut for part in split.split("+") for cut in read_cuts(config, part))
    root = paths.ASSETS / "smoke" if config.corpus == "shipped" else paths.data()
    manifest = root / "manifest.tsv"
    if config.corpus == "libritts":
        return _recipe_cuts("libritts", root, split)
    if config.corpus == "libriheavy":
        return CutSet.from_cuts(_libriheavy_cuts(root / "libriheavy", split))
    if not manifest.is_file():
        if config.corpus == "shipped":
            raise DataError(f"{manifest} is missing: the package is incomplete, install it again")
        return _recipe_cuts("librispeech", root, split)
    with open(manifest, newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if r["set"] == split]
    if not rows:
        raise DataError(f"{manifest} has no utterance of set {split!r}")
    return CutSet.from_cuts(_cut(row, root) for row in rows)


def _cut(row: dict[str, str], root: Path) -> MonoCut:
    recording = Recording.from_file(root / row["path"], recording_id=row["utt"])
    supervision = SupervisionSegment(
        row["utt"], row["utt"], 0.0, recording.duration, 0, row["text"], "en", row["speaker"], row["sex"]
    )
    return MonoCut(row["utt"], 0.0, recording.duration, 0, recording=recording, supervisions=[supervision])


def _recipe_cuts(corpus: str, root: Path, split: str) -> CutSet:
    """Cuts by lhotse's own recipe from a corpus unpacked under `root`."""
    from lhotse.recipes import prepare_librispeech, prepare_libritts

    folder = root / {"librispeech": "LibriSpeech", "libritts": "LibriTTS"}[corpus]
    if not (folder / split).is_dir():
        raise DataError(
            f"no {split!r} under {folder}: set MS_DATA to the folder that holds {folder.name}, or fetch it with "
            f"`ms-core data --download {corpus} --split {split}`"
        )
    prepare = {"librispeech": prepare_librispeech, "libritts": prepare_libritts}[corpus]
    manifests = prepare(folder, dataset_parts=split)[split]
    cuts = CutSet.from_manifests(recordings=manifests["recordings"], supervisions=manifests["supervisions"])
    return cuts.trim_to_supervisions(keep_overlapping=False)


def _libriheavy_cuts(folder: Path, split: str) -> Iterator[MonoCut]:
    """Utterances of LibriHeavy (Kang et al. 2023), read cut by cut.

    Its manifests are lhotse's own, and need no recipe: `libriheavy_cuts_<split>.jsonl.gz`, each utterance a part of a
    long recording of LibriLight under `download/librilight`, as the authors' `run.sh` leaves them in its folder. Texts
    are the books', with case and punctuation. Raises DataError for a manifest or recording that is missing.
    """
    manifest = folder / f"libriheavy_cuts_{split}.jsonl.gz"
    if not manifest.is_file():
        raise DataError(
            f"{manifest} is missing: set MS_DATA to the folder that holds {folder.name}, a checkout of "
            "k2-fsa/libriheavy whose run.sh has fetched the manifests, and LibriLight into download/librilight"
        )
    seen = None
    for cut in CutSet.from_jsonl_lazy(manifest).with_recording_path_prefix(folder):
        source = cut.recording.sources[0].source
        if source != seen and not Path(source).is_file():
            raise DataError(f"{source} is missing, {manifest} names it: unpack LibriLight there")
        seen, supervision = source, cut.supervisions[0]
        supervision.text = supervision.text or supervision.custom["texts"][0]
        supervision.custom = None  # the text before and what a recogniser heard
        yield cut.with_id(cut.id.replace("/", "-"))  # ids name files


def prepare(
    preset: Preset,
    split: str,
    codec: Codec,
    workers: int = 2,
    limit: int | None = None,
    speeds: Sequence[float] | None = None,
) -> CutSet:
    """Align and tokenise a split; what was done before is kept. Returns the prepared cuts.

    With `speeds` the split is taken once at each speed, and log-mel features are stored where there were codes, for
    `augment.Equaliser`. Utterances that cannot be aligned or are shorter or longer than the preset allows are left out,
    and counted with the reason in `<split>.dropped.json` beside the cuts.
    """
    config = preset.data
    folder = paths.run(preset.name) / "tokens" / codec.token_digest
    folder.mkdir(parents=True, exist_ok=True)
    cuts = list(read_cuts(config, split))[:limit]
    short = [c for c in cuts if not config.min_seconds <= c.duration <= config.max_seconds]
    cuts = [c for c in cuts if config.min_seconds <= c.duration <= config.max_seconds]
    alignments = aligned(config, split, cuts, workers)
    dropped = defaultdict(list, {"length": [c.id for c in short]})
    name = split
    if speeds is not None:
        name = f"{split}-features-{'-'.join(f'{speed:g}' for speed in speeds)}"
        alignments = {
            cut.id: sped(alignments[source.id], speed)
            for speed in speeds
            for source in cuts
            if source.id in alignments and (cut := perturbed(source, speed))
        }
        cuts = [perturbed(cut, speed) for speed in speeds for cut in cuts]
    with (
        CutSet.open_writer(folder / f"{name}.jsonl", overwrite=False) as writer,
        NumpyFilesWriter(folder / name) as codes_writer,
        ThreadPoolExecutor(1) as reader,
    ):
        todo = [c for c in cuts if not writer.contains(c.id) and c.id in alignments]
        for cut in cuts:
            if cut.id not in alignments:
                dropped["alignment"].append(cut.id)
        waves = read_ahead(reader, lambda c: c.resample(codec.config.sample_rate).load_audio(), todo)
        for cut, wave in tqdm(zip(todo, waves, strict=True), total=len(todo), desc=f"tokenise {split}", disable=None):
            wave = torch.from_numpy(wave)[None]
            if speeds is None:
                codes = codec.encode(wave)[0].numpy().astype(np.int16)  # (n, t)
            else:
                codes = codec.features(codec.magnitudes(wave))[0].numpy().astype(np.float16)  # (m, t)
            phones = alignments[cut.id]
            try:
                frames = durations(phones, codes.shape[1], codec.config.frame_rate)
            except ValueError:
                dropped["durations"].append(cut.id)
                continue
            items = [
                AlignmentItem(p, s, e - s) for p, s, e in zip(phones.phones, phones.starts, phones.ends, strict=True)
            ]
            cut.supervisions[0].alignment = {"phone": items}
            cut.supervisions[0].custom = {"frames": frames}
            cut.codes = codes_writer.store_array(
                cut.id, codes, frame_shift=1 / codec.config.frame_rate, temporal_dim=1, start=0.0
            )
            writer.write(cut)
    write_json(folder / f"{name}.dropped.json", dropped)
    return CutSet.from_file(folder / f"{name}.jsonl")


def read_ahead(pool: Executor, function: Callable, items: Iterable, ahead: int = 8) -> Iterator:
    """`pool.map` that holds at most `ahead` results, where the former would hold a whole corpus."""
    waiting = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) == ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def aligned(config: DataConfig, split: str, cuts: Sequence[MonoCut], workers: int) -> dict[str, Aligned]:
    """Phone alignments by utterance id, made where missing and kept under the runs folder for every preset."""
    out = paths.runs() / "align" / (f"shipped-{split}.jsonl" if config.corpus == "shipped" else f"{split}.jsonl")
    items = []
    for c in cuts:
        part = () if c.duration >= c.recording.duration else (c.start, c.duration)  # of a recording of a whole chapter
        items.append((c.id, Path(c.recording.sources[0].source), c.supervisions[0].text, *part))
    align_corpus(items, out, workers)
    wanted = {c.id for c in cuts}
    rows = (json.loads(line) for line in out.read_text().splitlines())
    return {
        r["id"]: Aligned(r["phones"], r["starts"], r["ends"]) for r in rows if r["id"] in wanted and "error" not in r
    }


def tokens(cut: MonoCut) -> Tokens:
    """Phones, durations and codes (or, where the cut holds these, features) of a prepared cut."""
    supervision = cut.supervisions[0]
    phones = phone_ids([item.symbol for item in supervision.alignment["phone"]])
    grid = cut.codes.load()  # whole; cut.load_custom takes the wrong axis for fewer frames than features
    grid = grid.astype(np.int64) if np.issubdtype(grid.dtype, np.integer) else grid
    return Tokens(np.array(phones), np.array(supervision.custom["frames"]), grid)


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
            short = phrase(whole, round(STOP_SECONDS * self.frame_rate), rng)
        if short is None and self.config.own_prompt > 0 and rng.random() < self.config.own_prompt:
            target = window(whole, longest, rng)
            prompt = window(target, wanted, rng)
        elif short is not None or (others and rng.random() < self.config.other_utterance):
            prompt = window(self.tokens(others[rng.integers(len(others))]), wanted, rng)
            target = window(whole, longest, rng) if short is None else short
        else:
            both = window(whole, longest + wanted, rng)
            prompt, target = split(both, min(wanted, int(both.durations.sum() * 0.4)), bool(rng.random() < 0.5))
        if self.equaliser is not None:
            curve = self.equaliser.draw(rng)
            prompt, target = (replace(part, codes=self.equaliser(part.codes, curve)) for part in (prompt, target))
        return label_pauses(prompt, self.frame_rate, rng), label_pauses(target, self.frame_rate, rng)


def window(utterance: Tokens, frames: int, rng: np.random.Generator) -> Tokens:
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
    return utterance.between(bounds[first], bounds[last])


def phrase(utterance: Tokens, pause: int, rng: np.random.Generator) -> Tokens | None:
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
    return utterance.between(bounds[first], bounds[last])


def split(utterance: Tokens, prompt_frames: int, at_start: bool) -> tuple[Tokens, Tokens]:
    """(prompt, rest): the prompt taken off the start or the end at the word boundary nearest to `prompt_frames`."""
    bounds = utterance.words()
    if len(bounds) < 3:
        return utterance, utterance  # a single word cannot be divided
    middle = np.cumsum(utterance.durations)[bounds[1:-1]]
    wanted = prompt_frames if at_start else int(utterance.durations.sum()) - prompt_frames
    cut = int(bounds[1 + int(np.abs(middle - wanted).argmin())])
    left, right = utterance.divided(cut)
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
