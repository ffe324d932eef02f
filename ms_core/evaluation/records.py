"""Result records: one measured number with its interval and everything that made it.

A result that a table or a figure prints is a `Record` in a JSON file of `results/<preset>/`; one file may hold a list.
What it is about stands in its fields, a field being None where the model or the protocol was left as it is; `name` and
`place` are made of fields for headings and rows, and are never taken apart.
Intervals are percentile bootstrap intervals (Efron and Tibshirani 1993) over speakers and then each one's utterances; a
rate of the corpus such as WER is resampled as a ratio of sums, and a difference of two systems by the same utterances
of both (paired).
"""

import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ms_core import paths
from ms_core.files import sha256, write_json

DIGITS = 6  # decimals of a stored number
RESAMPLES = 2000
MILESTONES = "runs.json"  # lies beside records, and holds none: see ms_core.evaluation.run_history
LEVEL = 0.95
CLEAN, PYTORCH = "clean", "pytorch"  # the controls of noise and of exported models
UNITS = {  # of the metrics that have a fixed name; a metric of another name states its own unit
    metric: unit
    for unit, metrics in {
        "fraction": "wer cer wer_sub wer_del wer_ins wer_del_ins wer_shuffled stoi duration_ratio_share "
        "speech_ratio_share enrolment_refused eer miss_at_1pct_fa flagged watermark_read",
        "cosine": "sim_campp sim_ge2e sim_campp_margin sim_ge2e_margin",
        "MOS": "dnsmos distillmos mos_q mos_p mos_s",
        "MOS-LQO": "pesq",
        "ratio": "duration_ratio speech_ratio time_ratio",
        "s": "prompt_seconds audio_seconds",
        "MB": "peak_rss_mb size_mb",
        "h": "training_hours",
        "count": "params",
    }.items()
    for metric in metrics.split()
}

Study = Literal[
    "quality", "listening", "hard-texts", "noisy-prompts", "prompt-lengths", "adaptation", "exports", "bench", "stream",
    "model", "corpus", "codec", "training", "ablations", "decoding", "attention", "cost", "detection",
]  # fmt: skip
NAMED = {  # what sets a system apart -> its form in names
    "condition": "{}", "snr_db": "{:g}db", "prompt_seconds": "prompt-{:g}s", "runtime": "{}", "precision": "{}",
    "layers": "layers{}", "steps": "steps{}", "temperature": "temperature{:g}",
}  # fmt: skip
KEY = (
    "study", "split", "kind", "seconds", "words", "system", *NAMED, "pair_with", "metric", "layer", "seed", "processes",
    "threads", "device", "preset",
)  # fmt: skip


class RecordError(ValueError):
    """A record or a file of records that cannot be used; the message says which and why."""


class Provenance(BaseModel):
    """What a run must say about itself so that its numbers can be made again."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    preset: str
    seed: int | None = None
    config_hash: str | None = Field(None, pattern=r"^[0-9a-f]{8,64}$")  # DecodingConfig.digest(); None: nothing decoded
    steps: int | None = Field(None, ge=1)  # passes in codec layer 1, where not the model's own
    checkpoint_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")  # of the model's weights.safetensors
    codec_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")  # of the codec's
    git_commit: str | None = Field(None, pattern=r"^[0-9a-f]{40}(-dirty)?$")
    device: str
    threads: int | None = Field(None, ge=1)
    date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")

    @classmethod
    def of(
        cls,
        preset: str,
        folder: Path | None = None,
        seed: int | None = None,
        config_hash: str | None = None,
        threads: int | None = None,
        device: str = "cpu",
        date: str | None = None,
        steps: int | None = None,
    ) -> "Provenance":
        """Provenance of a run here and now. folder: holds the checkpoint's `model/` and `codec/`, either may be absent.

        date: YYYY-MM-DD, today (UTC) where None.
        """
        digests = {}
        for key, part in (("checkpoint_sha256", "model"), ("codec_sha256", "codec")):
            weights = Path(folder, part, "weights.safetensors") if folder else None
            digests[key] = sha256(weights) if weights and weights.is_file() else None
        made = {"git_commit": git_commit(), "device": device_name(device), **digests}
        made["date"] = date or datetime.now(UTC).date().isoformat()
        return cls(preset=preset, seed=seed, config_hash=config_hash, steps=steps, threads=threads, **made)

    def record(self, value: "float | Interval", **fields: object) -> "Record":
        """A record of this run: a number or an interval, and the record's other fields; see `Record`."""
        interval = value if isinstance(value, Interval) else Interval(value, None, None)
        return Record(**{**self.model_dump(), **interval.fields(), **fields})


class Subject(Provenance):
    """What a number is of: a system, and what sets it apart from the system as it is."""

    system: str = Field(pattern=r"^(ground-truth(-codec)?|(mobilespeech-|authors/|peer/)[\w.-]+)$")
    condition: str | None = None  # clean, white, babble; the name of a variant that was trained
    snr_db: float | None = None  # of the noise on the prompt
    prompt_seconds: float | None = Field(None, gt=0)  # about, where the study varies it
    temperature: float | None = None  # of the decoding, likewise as `steps`
    layers: int | None = Field(None, ge=1)  # the codec's lowest so many alone
    runtime: Literal["pytorch", "onnx", "executorch"] | None = None  # where several are compared
    precision: Literal["fp32", "int8", "bf16"] | None = None  # of what is not PyTorch in fp32

    @property
    def name(self) -> str:
        """As tables, files and `pair_with` call it."""
        named = {key: getattr(self, key) for key in NAMED}
        return "-".join([self.system, *(NAMED[key].format(x) for key, x in named.items() if x is not None)])


class Record(Subject):
    """One number. Rates are fractions (0.07, not 7 %); `ci_low`, `ci_high` bound the 95 % interval."""

    study: Study
    split: str | None = Field(None, min_length=1)  # of the corpus, or `paper-demo`, `hard-texts`
    kind: str | None = None  # of texts
    seconds: float | None = Field(None, gt=0)  # of speech, about, where the study varies it
    words: int | None = Field(None, ge=1)  # of the text, likewise
    layer: int | None = Field(None, ge=0)  # of the codec, counted from 1
    processes: int | None = Field(None, ge=1)  # that train together
    metric: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    value: float
    unit: str = Field(min_length=1)  # may be left out where `unit_of` knows it
    n: int = Field(ge=1)  # utterances, or repeats of a timing
    ci_low: float | None = None
    ci_high: float | None = None
    evaluators: dict[str, str] = {}  # name -> version
    protocol: str = ""  # how it was measured, in a sentence or two
    pair_with: str | None = None  # the value is this one's minus that of the one of that `name`, on the same utterances

    @model_validator(mode="before")
    @classmethod
    def _known_unit(cls, values):
        known = isinstance(values, dict) and "unit" not in values and _known_unit(str(values.get("metric")))
        return {**values, "unit": known} if known else values

    @field_validator("value", "ci_low", "ci_high")
    @classmethod
    def _finite(cls, value: float | None) -> float | None:
        if value is None:
            return None
        if not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number")
        return round(float(value), DIGITS) + 0.0  # + 0.0 turns -0.0 into 0.0

    @model_validator(mode="after")
    def _consistent(self):
        if (self.ci_low is None) != (self.ci_high is None):
            raise ValueError("give both ci_low and ci_high, or neither")
        if self.ci_low is not None and self.ci_low > self.ci_high:
            raise ValueError(f"ci_low {self.ci_low} is above ci_high {self.ci_high}")
        if self.unit != (expected := _known_unit(self.metric) or self.unit):
            raise ValueError(f"unit {self.unit!r} of metric {self.metric!r}: expected {expected!r}")
        return self

    @property
    def place(self) -> str:
        """As headings and files call the study and what it was made on."""
        if self.study in ("quality", "listening", "hard-texts"):
            return "-".join(filter(None, (self.split, self.kind)))
        length = f"{self.seconds:g}s" if self.seconds else f"{self.words}w" if self.words else None
        return "-".join(filter(None, (self.split, self.study, length)))

    @property
    def key(self) -> tuple:
        """What may stand only once in a file, by which records are sorted."""
        return self.key_without()

    def key_without(self, *ignored: str) -> tuple:
        """The key but for some of `KEY`."""
        values = (getattr(self, name) for name in KEY if name not in ignored)
        return tuple((value is not None, "" if value is None else value) for value in values)


class Interval(NamedTuple):
    """A point estimate and its bootstrap interval; the bounds are None below two utterances."""

    value: float
    low: float | None
    high: float | None

    def fields(self) -> dict[str, float | None]:
        """As the fields of a `Record`."""
        return {"value": self.value, "ci_low": self.low, "ci_high": self.high}


def _known_unit(metric: str) -> str | None:
    return UNITS.get(metric, "s/s" if metric.startswith("rtf_") else None)


def unit_of(metric: str) -> str:
    """The unit of a known metric. Raises RecordError for another."""
    if unit := _known_unit(metric):
        return unit
    raise RecordError(f"metric {metric!r} has no fixed unit: give it, or use {', '.join(UNITS)} or rtf_<part>")


def bootstrap(
    values: Sequence[float],
    weights: Sequence[float] | None = None,
    minus: tuple[Sequence[float], Sequence[float] | None] | None = None,
    speakers: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Estimate and percentile interval, resampling speakers and then each one's utterances.

    speakers: (U,) who each number is of; where None or all the same, utterances alone are resampled.
    values: (U,) one number an utterance; the estimate is their mean or, with `weights` (U,), their sum over that of the
    weights: edits and reference words give the WER of a corpus. minus: (values, weights) of another system on the same
    utterances in the same order; the estimate is then the difference, resampled in pairs. Raises ValueError for unequal
    lengths, numbers that are not finite or weights that sum to nothing.
    """
    sides = []
    for numerators, denominators in [(values, weights)] + [minus] * (minus is not None):
        top = np.asarray(numerators, dtype=np.float64)
        bottom = np.ones_like(top) if denominators is None else np.asarray(denominators, dtype=np.float64)
        if top.ndim != 1 or not len(top) or not np.isfinite(top).all():
            raise ValueError(f"values: shape {top.shape}; expected one finite number an utterance, at least one")
        if bottom.shape != top.shape or not np.isfinite(bottom).all() or bottom.min() < 0 or bottom.sum() <= 0:
            raise ValueError(f"weights {bottom.shape} of values {top.shape}: expected as many, >= 0, not all 0")
        sides.append((top, bottom))
    count = len(sides[0][0])
    if len(sides[-1][0]) != count or speakers is not None and len(speakers) != count:
        given = f"{len(sides[-1][0])} paired utterances and {len(speakers or ())} speakers for {count} utterances"
        raise ValueError(f"{given}: expected one each")

    def estimate(times: np.ndarray) -> np.ndarray:
        """Of samples that hold each utterance so often, (..., U)."""
        with np.errstate(invalid="ignore"):
            ratios = [(times @ top) / (times @ bottom) for top, bottom in sides]
        return ratios[0] - ratios[1] if minus is not None else ratios[0]

    value = float(estimate(np.ones(count)))
    if count < 2:
        return Interval(value, None, None)
    times = _sample(np.asarray(speakers or [""] * count), resamples, np.random.default_rng(seed))
    low, high = np.nanquantile(estimate(times), [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def _sample(speakers: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each utterance is in each of two-stage samples (resamples, U): speakers, then utterances of each."""
    names, who = np.unique(speakers, return_inverse=True)
    times = np.zeros((resamples, len(speakers)))
    if len(names) == 1:
        drawn = rng.integers(0, len(speakers), size=(resamples, len(speakers)))
        np.add.at(times, (np.arange(resamples)[:, None], drawn), 1)
        return times
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)  # (resamples, speakers)
    for index in range(len(names)):
        own = np.flatnonzero(who == index)
        times[:, own] = rng.multinomial(drawn[:, index] * len(own), np.full(len(own), 1 / len(own)))
    return times


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write a list of records, sorted by `KEY` and without what is None: equal records give equal files.

    The file appears whole or not at all. Raises RecordError for two records of one key.
    """
    ordered = sorted(records, key=lambda record: record.key)
    for one, two in zip(ordered, ordered[1:], strict=False):
        if one.key == two.key:
            subject = f"{one.metric} of {one.name} on {one.place}"
            raise RecordError(f"{path}: two records for {subject}: keep one, or tell them apart by a field")
    write_json(Path(path), [record.model_dump(mode="json", exclude_none=True) for record in ordered])


def read_file(path: Path) -> list[Record]:
    """The records of one JSON file (a list, or one record). Raises RecordError that names file, entry and key."""
    try:
        values = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: not a readable JSON file ({error})") from None
    records = []
    for index, value in enumerate(values if isinstance(values, list) else [values]):
        if isinstance(value, dict) and "study" not in value:
            raise RecordError(f"{path}, record {index}: of an older form, whose names hold its fields: measure anew")
        try:
            records.append(Record.model_validate(value))
        except ValidationError as error:
            lines = "; ".join(f"{'.'.join(map(str, e['loc'])) or '(record)'}: {e['msg']}" for e in error.errors())
            raise RecordError(f"{path}, record {index}: {lines}") from None
    return records


def read_sourced(folder: Path) -> list[tuple[str, Record]]:
    """(file name, record) of a folder's `*.json` but `MILESTONES`, in file order, or of one file.

    An absent folder holds no record.
    """
    folder = Path(folder)
    files = [folder] if folder.is_file() else [p for p in sorted(folder.glob("*.json")) if p.name != MILESTONES]
    return [(path.name, record) for path in files for record in read_file(path)]


def read_records(folder: Path) -> list[Record]:
    """The records of `read_sourced`."""
    return [record for _, record in read_sourced(folder)]


def git_commit(root: Path = paths.ROOT) -> str | None:
    """The commit that the package runs from, with `-dirty` when a tracked file of it has changed.

    None outside git, and where `root` merely lies in somebody else's repository, as an installed package may.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != Path(root).resolve():
            return None
        commit = git("rev-parse", "--verify", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "ms_core")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty" if changed else commit


def device_name(device: str = "cpu") -> str:
    """A device in words: for "cpu" the processor's model and the number of cores that this process may use."""
    if device != "cpu":
        import torch

        return torch.cuda.get_device_name(device)
    model = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file() and (match := re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)):
        model = match[1].strip()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"cpu: {model}, {cores} cores"
