"""When each word and phone of synthesised speech is heard, to a codec frame, and files that say so: JSON, SRT, VTT.

Times are sums of the durations that the speech was made with; nothing is aligned afterwards. Our choice.
"""

import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from functools import cached_property
from pathlib import Path

import numpy as np

from ms_core.files import write_atomic
from ms_core.speaking.script import Passage, one_sequence
from ms_core.text import read_words
from ms_core.text.phones import BOUNDARIES, TextError, TextWarning

CUE_LETTERS = 84  # of a caption, at most: two lines of 42, as broadcasters have it
CUE_GAP = 0.6  # seconds of silence that end a caption
FORMATS = (".json", ".srt", ".vtt")


@dataclass(frozen=True)
class Word:
    """A word as it is written, the words that are said for it, and when: seconds from the start of the sound."""

    text: str
    said: str
    start: float
    end: float
    phones: list[tuple[str, float, float]]


@dataclass(frozen=True, eq=False)
class Speech:
    """Sound with what is said in it when.

    Attributes:
        wav: float32 samples (l,) in [-1, 1] at `sample_rate` Hz.
        passages: what was said. frames: of each phone of `script.one_sequence(passages)`; they add up to the sound.
    """

    wav: np.ndarray
    sample_rate: int
    passages: Sequence[Passage]
    frames: Sequence[int]

    @cached_property
    def words(self) -> list[Word]:
        """The words in order, each with its phones."""
        phones = one_sequence(self.passages).phones
        seconds = len(self.wav) / self.sample_rate / max(sum(self.frames), 1)
        ends = [round(float(end * seconds), 6) for end in np.cumsum(self.frames)]
        spoken: list[list[tuple[str, float, float]]] = [[]]
        for phone, start, end in zip(phones, [0.0, *ends[:-1]], ends, strict=True):
            if phone in BOUNDARIES:
                spoken.append([])
            else:
                spoken[-1].append((phone, start, end))
        timed = iter([word for word in spoken if word])
        words = []
        for passage in self.passages:
            for text, said in as_written(passage):
                own = [next(timed) for _ in said]
                together = [phone for word in own for phone in word]
                words.append(Word(text, " ".join(said), together[0][1], together[-1][2], together))
        return words

    def save_captions(self, path: str | Path) -> None:
        """Write `words` as .json, or captions as .srt or .vtt. Raises TextError for another name."""
        path = Path(path)
        if path.suffix.lower() not in FORMATS:
            raise TextError(f"{path}: give a name that ends in {', '.join(FORMATS)}")
        write_atomic(path, lambda temporary: temporary.write_text(self.captions(path.suffix.lower()), encoding="utf-8"))

    def captions(self, form: str) -> str:
        """The text of a file of a form of `FORMATS`."""
        if form == ".json":
            length = round(len(self.wav) / self.sample_rate, 6)
            words = [asdict(word) for word in self.words]
            return json.dumps({"seconds": length, "words": words}, indent=1, ensure_ascii=False) + "\n"
        comma = "," if form == ".srt" else "."
        cues = [
            f"{number}\n{_clock(cue[0].start, comma)} --> {_clock(cue[-1].end, comma)}\n"
            f"{' '.join(word.text for word in cue)}\n"
            for number, cue in enumerate(_cues(self.words), 1)
        ]
        return "WEBVTT\n\n" * (form == ".vtt") + "\n".join(cues)


def _clock(seconds: float, comma: str) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{comma}{ms % 1000:03}"


def _cues(words: Sequence[Word]) -> list[list[Word]]:
    """Words by caption: it ends at a full stop, at a long pause, and where it would be too long."""
    cues: list[list[Word]] = []
    for word in words:
        last = cues[-1] if cues else []
        letters = sum(len(w.text) + 1 for w in last) + len(word.text)
        if not last or last[-1].text[-1:] in ".?!" or word.start - last[-1].end > CUE_GAP or letters > CUE_LETTERS:
            cues.append([])
        cues[-1].append(word)
    return cues


def as_written(passage: Passage) -> list[tuple[str, list[str]]]:
    """The words of a passage as it writes them, each with the words that are said for it.

    "at 7:45" -> ("at", ["at"]), ("7:45", ["seven", "forty", "five"]); words for which nothing is written are their own.
    """
    written = re.findall(r"\{[^{}]*\}\S*|\S+", re.sub(r"<[^<>]{0,2000}>", " ", passage.text))
    said = [word for word in passage.words if word not in BOUNDARIES]
    plain = [re.sub(r"[^\w']", "", token).lower() for token in written], [word.rstrip(".") for word in said]
    pairs: list[tuple[str, list[str]]] = []
    for _, i, i_end, j, j_end in SequenceMatcher(None, *plain, autojunk=False).get_opcodes():
        tokens = [token for token in written[i:i_end] if re.search(r"\w|\{", token) or i_end - i == j_end - j]
        if len(tokens) == j_end - j:
            pairs += [(token, [word]) for token, word in zip(tokens, said[j:j_end], strict=True)]
            continue
        while tokens[1:] and (own := _read_alone(tokens[0], passage.language)) == said[j : j + len(own)] and own:
            pairs.append((tokens.pop(0), own))
            j += len(own)
        if j < j_end:
            pairs.append((" ".join(tokens) or " ".join(said[j:j_end]), said[j:j_end]))
    return pairs


def _read_alone(token: str, language: str) -> list[str]:
    """The words of one token; none where it cannot be read by itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TextWarning)
        try:
            return [word for word in read_words(token, language) if word not in BOUNDARIES]
        except TextError:
            return []
