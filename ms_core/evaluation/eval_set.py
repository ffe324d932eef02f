"""Who speaks what with whose voice: the protocol of VALL-E (Wang et al. 2023), which the authors' group follows.

Each utterance of 4-10 s is spoken from its text with a prompt of about 3 s out of another utterance of the same speaker
(paper.md, section 4). VALL-E crops at random; we cut the prompt's beginning at the word boundary nearest 3 s, since our
voices need to know what is said in the prompt (our choice). Pairs depend on a seed and the utterances' names alone, so
that every system, and every subset of a split, is asked the same.
"""

import csv
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ms_core import paths
from ms_core.config import DataConfig
from ms_core.recordings.align import AlignmentError, align
from ms_core.recordings.audio import load_speech
from ms_core.text import BOUNDARIES
from ms_core.text import normalise as read_words

if TYPE_CHECKING:
    from lhotse import MonoCut

ALIGN_RATE = 16_000  # Hz
MIN_SECONDS, MAX_SECONDS = 4.0, 10.0  # of the utterances that are spoken
PROMPT_SECONDS = 3.0
PROMPT_SLACK = 1.0  # seconds by which the nearest word boundary may miss PROMPT_SECONDS before another prompt is taken
LENGTH_SLACK = 0.5  # the same where prompts of several lengths are compared
SHORTEST = 1.0  # seconds; no voice is taken from less (audio.load_speech)
DEMO = "paper-demo"
DEMO_SPLIT = "test-clean-24spk"  # where the demo's utterances and their speakers' other utterances lie


class ProtocolError(ValueError):
    """A split or utterance that cannot be evaluated; the message says which and what to do."""


@dataclass(frozen=True)
class Item:
    """One utterance of a split: its name, speaker, text and recording."""

    utt: str
    speaker: str
    text: str
    path: Path
    seconds: float


@dataclass(frozen=True)
class Prompt:
    """The beginning of an utterance, cut at a word boundary: name of the utterance, its words, and where it is cut."""

    utt: str
    text: str
    seconds: float


def read_tsv(path: Path) -> list[dict[str, str]]:
    """Rows of a file of tab-separated columns under their names. Raises ProtocolError where it is missing."""
    if not path.is_file():
        raise ProtocolError(f"{path} is missing: set MS_DATA to a folder that holds {DEMO}/")
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def cut_items(cuts: Iterable["MonoCut"]) -> list[Item]:
    """The utterances of lhotse cuts that are whole recordings with one supervision each.

    Raises ProtocolError for a part of a longer recording (LibriHeavy), which evaluation would read whole.
    """
    cuts = list(cuts)
    if parts := [cut.id for cut in cuts if cut.start or cut.duration < cut.recording.duration - 0.01]:
        raise ProtocolError(f"{parts[0]} is a part of a longer recording: evaluate on a corpus of whole utterances")
    return [
        Item(
            cut.supervisions[0].id,
            cut.supervisions[0].speaker,
            cut.supervisions[0].text,
            Path(cut.recording.sources[0].source),
            float(cut.duration),
        )
        for cut in cuts
    ]


def demo_rows() -> list[dict[str, str]]:
    """The authors' published English clips: item, librispeech_utt, text, system, seconds, path (made absolute)."""
    folder = paths.data() / DEMO
    return [{**row, "path": str(folder / row["path"])} for row in read_tsv(folder / "english.tsv")]


def rng_of(seed: int, *names: str) -> np.random.Generator:
    """A generator that depends on the seed and the names alone."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def boundaries(wav: np.ndarray, text: str) -> list[tuple[float, str]]:
    """(seconds, words so far) at the middle of each boundary after a word; wav float32 (L,) at 16 kHz.

    Raises AlignmentError (ms_core.recordings.align) when text and recording do not fit.
    """
    aligned = align(wav, text)
    words = [word for word in read_words(text) if word not in BOUNDARIES]
    gaps = [i for i, phone in enumerate(aligned.phones) if phone in BOUNDARIES][1:]
    if len(gaps) != len(words):
        raise AlignmentError(f"{len(gaps)} word ends found for {len(words)} words of {text!r}")
    middles = [(aligned.starts[i] + aligned.ends[i]) / 2 for i in gaps]
    return [(middle, " ".join(words[: k + 1])) for k, middle in enumerate(middles)]


class EvalSet:
    """The eval_set of one split: which utterances are spoken, with which prompts, and compared with which voices.

    items: every utterance that may be spoken or prompt; seed: of the pairs. Recordings are read when asked for.
    """

    def __init__(self, items: Sequence[Item], split: str, seed: int = 0, limit: int | None = None):
        self.split, self.seed = split, seed
        self.items = {item.utt: item for item in sorted(items, key=lambda item: item.utt)}
        chosen = [item for item in self.items.values() if MIN_SECONDS <= item.seconds <= MAX_SECONDS]
        if split == DEMO:
            names = {row["librispeech_utt"] for row in demo_rows()}
            chosen = [item for item in self.items.values() if item.utt in names]
        turn: dict[str, int] = {}
        order = []
        for item in chosen:  # round the speakers, so that a limit keeps them balanced
            turn[item.speaker] = turn.get(item.speaker, -1) + 1
            order.append((turn[item.speaker], item.speaker, item))
        self.targets = [item for *_, item in sorted(order, key=lambda entry: entry[:2])][:limit]
        if not self.targets:
            rule = f"{MIN_SECONDS:g}-{MAX_SECONDS:g} s"
            raise ProtocolError(f"split {split!r}: none of its {len(self.items)} utterances can be spoken ({rule})")
        self._prompts: dict[str, Prompt] = {}

    @classmethod
    def of_split(cls, config: DataConfig, split: str, seed: int = 0, limit: int | None = None) -> "EvalSet":
        """The eval_set of a split; `paper-demo` are the demo's sentences, with the voices of `test-clean-24spk`.

        Raises DataError (ms_core.data.prepare) for an unknown split or absent speech.
        """
        from ms_core.data.prepare import read_cuts  # imports lhotse, which scoring alone does not need

        return cls(cut_items(read_cuts(config, DEMO_SPLIT if split == DEMO else split)), split, seed, limit)

    @cached_property
    def speakers(self) -> dict[str, list[str]]:
        """Utterance names by speaker."""
        table: dict[str, list[str]] = {}
        for item in self.items.values():
            table.setdefault(item.speaker, []).append(item.utt)
        return table

    def candidates(self, item: Item) -> list[str]:
        """Other utterances of the speaker that are long enough to prompt, in the order in which they are tried."""
        least = PROMPT_SECONDS + PROMPT_SLACK / 2
        others = [u for u in self.speakers[item.speaker] if u != item.utt and self.items[u].seconds >= least]
        return [others[i] for i in rng_of(self.seed, item.utt).permutation(len(others))]

    def _aligned(self, item: Item) -> Iterator[tuple[str, np.ndarray, list[tuple[float, str]]]]:
        """Name, waveform and `boundaries` of the candidates that can be aligned, in their order."""
        for utt in self.candidates(item):
            wav = load_speech(self.items[utt].path, ALIGN_RATE)
            with suppress(AlignmentError):
                yield utt, wav, boundaries(wav, self.items[utt].text)

    def prompt(self, item: Item) -> Prompt:
        """The prompt of an utterance: the first candidate that can be aligned and has a word boundary near 3 s."""
        for utt, wav, cuts in () if item.utt in self._prompts else self._aligned(item):
            seconds, text = min(cuts, key=lambda cut: abs(cut[0] - PROMPT_SECONDS))
            if abs(seconds - PROMPT_SECONDS) <= PROMPT_SLACK:
                with suppress(AlignmentError):
                    align(wav[: round(seconds * ALIGN_RATE)], text)  # a part may fit less well than the whole
                    self._prompts[item.utt] = Prompt(utt, text, round(seconds, 4))
                    break
        if item.utt not in self._prompts:
            raise ProtocolError(f"{item.utt}: no other utterance of speaker {item.speaker} gives a 3 s prompt")
        return self._prompts[item.utt]

    def prompts(self, item: Item, lengths: Sequence[float]) -> list[Prompt] | None:
        """Prompts of several lengths (seconds), each cut at the word boundary nearest to it; None where one is missing.

        All are beginnings of one utterance where the speaker has one that gives them all; else each is of the first
        candidate that gives it.
        """
        if all(self.items[utt].seconds < max(lengths) - LENGTH_SLACK for utt in self.candidates(item)):
            return None
        first: dict[float, Prompt] = {}
        for utt, _, cuts in self._aligned(item):
            fitting: dict[float, Prompt] = {}
            for length in lengths:
                near = [c for c in cuts if c[0] >= SHORTEST and abs(c[0] - length) <= LENGTH_SLACK]
                if near:
                    seconds, text = min(near, key=lambda cut: abs(cut[0] - length))
                    fitting[length] = Prompt(utt, text, round(seconds, 4))
            if len(fitting) == len(lengths):
                return list(fitting.values())
            first = {**fitting, **first}
        return [first[length] for length in lengths] if len(first) == len(lengths) else None

    def cut_wav(self, prompt: Prompt, sample_rate: int) -> np.ndarray:
        """A prompt's waveform, float32 (L,)."""
        return load_speech(self.items[prompt.utt].path, sample_rate)[: round(prompt.seconds * sample_rate)]

    def prompt_wav(self, item: Item, sample_rate: int) -> np.ndarray:
        """The waveform of an utterance's prompt, float32 (L,)."""
        return self.cut_wav(self.prompt(item), sample_rate)

    def others(self, item: Item, count: int, least: int) -> list[Item]:
        """One utterance each of `count` other speakers, drawn by name: who babbles behind this one's prompt.

        Fewer, but at least `least`, where the split has no more speakers; raises ProtocolError below that.
        """
        names = sorted(set(self.speakers) - {item.speaker})
        if len(names) < least:
            raise ProtocolError(
                f"split {self.split!r} has {len(names)} speakers besides {item.speaker}: babble needs {least}"
            )
        rng = rng_of(self.seed, item.utt, "babble")
        chosen = [names[i] for i in rng.permutation(len(names))[:count]]
        return [self.items[self.speakers[name][rng.integers(len(self.speakers[name]))]] for name in chosen]

    def reference(self, item: Item, sample_rate: int) -> np.ndarray:
        """What SIM compares with: the recording of the same sentence, as for the authors' clips (no prompts there)."""
        return load_speech(item.path, sample_rate)

    def impostor(self, item: Item) -> Item:
        """An utterance to be spoken of another speaker, whose reference is the control of SIM."""
        others = [t for t in self.targets_all if t.speaker != item.speaker]
        if not others:
            raise ProtocolError(f"split {self.split!r} has one speaker: the control of SIM needs two")
        return others[rng_of(self.seed, item.utt, "stranger").integers(len(others))]

    @cached_property
    def targets_all(self) -> list[Item]:
        """Utterances from which impostors are drawn, by name: no limit changes them."""
        return [i for i in self.items.values() if MIN_SECONDS <= i.seconds <= MAX_SECONDS] or self.targets

    def describe(self) -> str:
        """The protocol in words, for records."""
        return (
            f"VALL-E protocol: text spoken with a prompt of about {PROMPT_SECONDS:g} s (cut at the nearest word end) "
            f"from another utterance of the speaker, pairs of seed {self.seed}; SIM against the recording of the same "
            "sentence"
        )
