"""Speech data: lhotse manifests -> aligned, tokenised cuts.

A prepared split is a JSONL file of lhotse cuts, each with its supervision (speaker, text), a phone alignment and a
pointer to its codes. It is written cut by cut, so a killed preparation carries on where it stopped; codes lie in a
folder named by the codec's token digest, so tokens of two codecs cannot mix.
"""

import hashlib
import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet, MonoCut, NumpyFilesWriter
from lhotse.supervision import AlignmentItem
from tqdm import tqdm

from ms_core import paths
from ms_core.codec import Codec
from ms_core.config import DataConfig, Preset
from ms_core.data.align import align_corpus
from ms_core.data.corpora import DataError, read_cuts
from ms_core.files import write_json
from ms_core.recordings.align import Aligned, durations
from ms_core.text import phone_ids
from ms_core.tokens import Tokens


def prepare(
    preset: Preset,
    split: str,
    codec: Codec,
    workers: int = 2,
) -> CutSet:
    """Align and tokenise a split; what was done before is kept. Returns the prepared cuts.

    Utterances that cannot be aligned or are shorter or longer than the preset allows are left out, and counted with the
    reason in a `.dropped.json` beside the cuts; raises DataError where none is left.

    The files' name ends with a digest of all that decides which cuts these are: names, lengths, speakers, texts and
    alignments. Another config, manifest, text rule or dictionary is another name, so nothing stale is ever returned.
    """
    config = preset.data
    folder = paths.run(preset.name) / "tokens" / codec.token_digest
    folder.mkdir(parents=True, exist_ok=True)
    cuts = list(read_cuts(config, split))
    short = [c for c in cuts if not config.min_seconds <= c.duration <= config.max_seconds]
    cuts = [c for c in cuts if config.min_seconds <= c.duration <= config.max_seconds]
    if config.per_speaker is not None and split in config.train.split("+"):
        of_speaker = defaultdict(list)
        for cut in cuts:
            of_speaker[cut.supervisions[0].speaker].append(cut.id)
        kept = {name for names in of_speaker.values() for name in names[: config.per_speaker]}
        cuts = [cut for cut in cuts if cut.id in kept]
    alignments = aligned(config, split, cuts, workers)
    dropped = defaultdict(list, {"length": [c.id for c in short]})
    name = f"{split}-{_digest(cuts, alignments)}"
    with (
        CutSet.open_writer(folder / f"{name}.jsonl", overwrite=False) as writer,
        NumpyFilesWriter(folder / name) as codes_writer,
        ThreadPoolExecutor(1) as reader,
    ):
        todo = [c for c in cuts if not writer.contains(c.id) and c.id in alignments]
        for cut in cuts:
            if cut.id not in alignments:
                dropped["alignment"].append(cut.id)
        waves = prefetch(reader, lambda c: c.resample(codec.config.sample_rate).load_audio(), todo)
        for cut, wave in tqdm(zip(todo, waves, strict=True), total=len(todo), desc=f"tokenise {split}", disable=None):
            codes = codec.encode(torch.from_numpy(wave)[None])[0].numpy().astype(np.int16)  # (n, t)
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
    prepared = CutSet.from_file(folder / f"{name}.jsonl") if (folder / f"{name}.jsonl").stat().st_size else ()
    if not len(prepared):
        raise DataError(
            f"split {split!r}: no utterance could be aligned and tokenised, see {folder / name}.dropped.json"
        )
    return prepared


def _digest(cuts: Iterable[MonoCut], alignments: Mapping[str, Aligned]) -> str:
    """Of what decides the prepared cuts, besides the codec; 12 hex digits."""
    digest = hashlib.sha256()
    for cut in cuts:
        supervision, alignment = cut.supervisions[0], alignments.get(cut.id)
        facts = [cut.id, cut.start, cut.duration, supervision.speaker, supervision.text]
        facts += [alignment.phones, alignment.ends] if alignment else []
        digest.update(json.dumps(facts).encode())
    return digest.hexdigest()[:12]


def prefetch(pool: Executor, function: Callable, items: Iterable, ahead: int = 8) -> Iterator:
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
    if not cuts:
        return {}
    out = paths.runs() / "align" / (f"shipped-{split}.jsonl" if config.corpus == "shipped" else f"{split}.jsonl")
    items = []
    for c in cuts:
        part = () if c.duration >= c.recording.duration else (c.start, c.duration)  # of a recording of a whole chapter
        items.append((c.id, Path(c.recording.sources[0].source), c.supervisions[0].text, *part))
    align_corpus(items, out, workers)
    ids = {c.id for c in cuts}
    rows = (json.loads(line) for line in out.read_text().splitlines())
    return {r["id"]: Aligned(r["phones"], r["starts"], r["ends"]) for r in rows if r["id"] in ids and "error" not in r}


def tokens(cut: MonoCut) -> Tokens:
    """Phones, durations and codes of a prepared cut."""
    supervision = cut.supervisions[0]
    phones = phone_ids([item.symbol for item in supervision.alignment["phone"]])
    codes = cut.codes.load().astype(np.int64)  # whole; cut.load_custom takes the wrong axis for a few frames
    return Tokens(np.array(phones), np.array(supervision.custom["frames"]), codes)
