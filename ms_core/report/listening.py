"""Listeners' opinions: what a blind listening test asks, its key, the files that it gives, and records out of them.

The three questions are those of the authors' group: MOS-Q, quality; MOS-P, prosody; MOS-S, similarity to the prompt's
voice (Mega-TTS, Jiang et al. 2023, section 4.1); the marks are the five of ITU-T P.800. A test (`sounds.py`) is a
page and a key: the page holds clips by ids alone, the key says which system made each, and stays with whoever asks.
Put the key (`*.key.json`) and the listeners' files (`*.json`) into `results/<preset>/listening/`; `write` makes
`results/<preset>/listening.json` of them, which tables and figures read like any other records.
"""

from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ms_core.evaluation.records import Record, Subject, bootstrap, write_records

KEY_FORMAT, RATINGS_FORMAT = "ms-core-listening-key-1", "ms-core-listening-ratings-1"
MARKS = ("bad", "poor", "fair", "good", "excellent")  # 1 to 5, ITU-T P.800
FOLDER, FILE = "listening", "listening.json"
MAX_BYTES = 1 << 20  # of one file
MAX_FILES = 2000
MAX_CLIPS = 2000


class Scale(NamedTuple):
    """One question: the metric of its records, its name, and how it is asked (our words)."""

    key: str
    name: str
    question: str


SCALES = (
    Scale("mos_q", "MOS-Q", "How good is the sound? Clear, or noisy, muffled, distorted?"),
    Scale("mos_p", "MOS-P", "How natural are rhythm, pauses and melody?"),
    Scale("mos_s", "MOS-S", "How alike are the voice and the prompt's voice?"),
)

Id = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Time = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?Z$")]
Mark = Annotated[int, Field(ge=1, le=len(MARKS))]


class ListeningError(ValueError):
    """A key or a listener's file that cannot be used; the message says which and why."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Clip(_Strict):
    """What stands behind an id: who made it, and of which utterance."""

    system: str = Field(min_length=1, max_length=200)
    utt: str = Field(min_length=1, max_length=200)


class Key(_Strict):
    """The key of a test: `page` is the sha256 of the page's data; every system has every utterance."""

    format: Literal["ms-core-listening-key-1"] = KEY_FORMAT
    page: Digest
    split: str = Field(min_length=1)
    systems: dict[str, Subject]  # by name
    clips: dict[Id, Clip] = Field(min_length=1, max_length=MAX_CLIPS)

    @model_validator(mode="after")
    def _balanced(self):
        pairs = sorted((clip.system, clip.utt) for clip in self.clips.values())
        utts = {utt for _, utt in pairs}
        if pairs != sorted((system, utt) for system in self.systems for utt in utts):
            raise ValueError("clips: every system must have every utterance once, and no other system any")
        return self


class Rating(_Strict):
    """The three marks of a clip."""

    clip: Id
    mos_q: Mark
    mos_p: Mark
    mos_s: Mark


class Ratings(_Strict):
    """What the page exports: one listener's marks, in the order in which the clips were offered.

    listener: a random number, no name; seed: of the order.
    """

    format: Literal["ms-core-listening-ratings-1"] = RATINGS_FORMAT
    page: Digest
    listener: Id
    seed: int = Field(ge=0, lt=2**32)
    started: Time
    finished: Time
    ratings: list[Rating] = Field(min_length=1, max_length=MAX_CLIPS)


_Model = TypeVar("_Model", bound=BaseModel)


def _read(path: Path, model: type[_Model]) -> _Model:
    if path.stat().st_size > MAX_BYTES:
        raise ListeningError(f"{path}: {path.stat().st_size} bytes, at most {MAX_BYTES} are read")
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or '(file)'}: {e['msg']}" for e in error.errors()]
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ListeningError(f"{path}: not a file of a listening test ({'; '.join(problems[:3])}{more})") from None


def read_ratings(folder: Path) -> list[tuple[Key, list[Ratings]]]:
    """The keys (`*.key.json`) of a folder, by split, each with its listeners' files (the other `*.json`).

    An absent folder holds nothing. Raises ListeningError for a file that is too large, not of a test, incomplete, of a
    page without a key, or given twice, and for two tests of one split.
    """
    files, keys, listeners = sorted(Path(folder).glob("*.json")), {}, {}
    if len(files) > MAX_FILES:
        raise ListeningError(f"{folder}: {len(files)} files, at most {MAX_FILES} are read")
    for path in (path for path in files if path.name.endswith(".key.json")):
        key = _read(path, Key)
        if key.split in {other.split for other in keys.values()}:
            raise ListeningError(f"{path}: another test of split {key.split!r} lies there: keep one")
        keys[key.page], listeners[key.page] = key, {}
    for path in (path for path in files if not path.name.endswith(".key.json")):
        ratings = _read(path, Ratings)
        page, clips = ratings.page[:12], [rating.clip for rating in ratings.ratings]
        if ratings.page not in keys:
            known = ", ".join(page[:12] for page in keys) or "none"
            raise ListeningError(f"{path}: of page {page}, whose key is not there; keys of pages: {known}")
        wanted = keys[ratings.page].clips
        if unknown := set(clips) - set(wanted):
            raise ListeningError(f"{path}: clip {min(unknown)} is not on page {page}")
        if twice := len(clips) - len(set(clips)):
            raise ListeningError(f"{path}: {twice} clips are rated twice: each may stand once")
        if missing := len(wanted) - len(clips):
            raise ListeningError(f"{path}: {missing} of {len(wanted)} clips are not rated: only whole tests count")
        if ratings.listener in listeners[ratings.page]:
            raise ListeningError(f"{path}: listener {ratings.listener} is there twice: keep one file")
        listeners[ratings.page][ratings.listener] = ratings
    return [(key, list(listeners[key.page].values())) for key in sorted(keys.values(), key=lambda key: key.split)]


def records(folder: Path) -> list[Record]:
    """MOS-Q, MOS-P and MOS-S of each system in a folder of keys and listeners' files, and their paired differences.

    The number of an utterance is the mean of its listeners' marks; intervals are over utterances, as for the other
    metrics, so they do not say how far other listeners would differ. Differences are to the recordings through the
    codec, or to the recordings where those were not asked about. The date is that of the last finished test.
    Raises as `read_ratings`.
    """
    rows = []
    for key, listeners in [(key, listeners) for key, listeners in read_ratings(folder) if listeners]:
        marks = [dict(key.clips[one.clip]) | dict(one) for listener in listeners for one in listener.ratings]
        means = pd.DataFrame(marks).groupby(["system", "utt"])[[scale.key for scale in SCALES]].mean()
        ceiling = next((s for s in ("ground-truth-codec", "ground-truth") if s in key.systems), None)
        about = (
            f"blind listening test, page {key.page[:12]}: {len(listeners)} listeners, each with an order of their own; "
            "marks 1 to 5; interval over utterances, not over listeners"
        )
        fields = {"date": max(listener.finished for listener in listeners)[:10], "study": "listening"}
        fields |= {"split": key.split, "evaluators": {"listeners": str(len(listeners))}}
        for system, metric in ((system, scale.key) for system in key.systems for scale in SCALES):
            values, made = means.loc[system][metric].tolist(), key.systems[system]
            fields |= {"n": len(values), "metric": metric, "system": made.system}
            rows.append(made.record(bootstrap(values), **fields, protocol=about))
            if ceiling not in (None, system):
                difference = bootstrap(values, minus=(means.loc[ceiling][metric].tolist(), None))
                pair = {"protocol": f"{about}; paired difference", "pair_with": ceiling}
                rows.append(made.record(difference, **fields, **pair))
    return sorted(rows, key=lambda record: record.key)


def write(results: Path) -> Path | None:
    """Write `listening.json` beside a preset's other records, out of its folder `listening/`; None without ratings.

    results: the preset's folder of records (`paths.results`). Raises as `read_ratings`.
    """
    scored = records(Path(results) / FOLDER)
    if not scored:
        return None
    write_records(Path(results) / FILE, scored)
    return Path(results) / FILE
