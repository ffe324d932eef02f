"""Milestones of a preset: a row for every model that was worth measuring, kept in `results/<preset>/runs.json`.

Records (`records.py`) tell of the shipped model alone and are replaced with it; milestones stay, so that one can see
what training time and changes of method brought. They are measured on a dev split: test speakers choose nothing.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError

from ms_core.checkpoint import total_training_hours
from ms_core.config import Config
from ms_core.evaluation.records import Record, git_commit
from ms_core.files import write_json

METRICS = ("wer", "sim_campp", "distillmos")


class MilestoneError(ValueError):
    """A file of milestones that cannot be read, or records that make none; the message says why."""


class Milestone(Config):
    """One measured model. Each metric is (value, lower, upper end of the 95 % bootstrap interval over utterances)."""

    date: str
    commit: str | None
    note: str  # what is new
    checkpoint_sha256: str
    hours: float = Field(ge=0)  # of training, with those of the model that it started from
    speech_hours: float = Field(gt=0)
    split: str
    n: int = Field(gt=0)  # utterances
    wer: tuple[float, float, float]
    sim_campp: tuple[float, float, float]
    distillmos: tuple[float, float, float]


ROWS = TypeAdapter(list[Milestone])


def read(path: Path) -> list[Milestone]:
    """The rows of a file, none where it is missing. Raises MilestoneError for another form."""
    if not Path(path).is_file():
        return []
    try:
        return ROWS.validate_json(Path(path).read_bytes(), strict=False)
    except ValidationError as error:
        raise MilestoneError(f"{path}: not a list of milestones ({error})") from None


def add(path: Path, records: Sequence[Record], system: str, trained: Mapping[str, object], note: str) -> Milestone:
    """Append a row of what an evaluation gave for `system`; a row of the same checkpoint and split is replaced.

    trained: the provenance in the checkpoint's config. Raises MilestoneError where a metric was not evaluated.
    """
    scores = {r.metric: r for r in records if r.name == system and r.pair_with is None}
    if lacking := [metric for metric in METRICS if metric not in scores]:
        raise MilestoneError(f"a milestone needs {', '.join(METRICS)}; not evaluated: {', '.join(lacking)}")
    one, made = scores[METRICS[0]], {"date": datetime.now(UTC).date().isoformat(), "commit": git_commit()}
    made |= {"checkpoint_sha256": one.checkpoint_sha256, "split": one.split, "n": one.n, "note": note}
    made |= {"hours": total_training_hours(trained), "speech_hours": float(trained["speech_hours"])}
    made |= {m: tuple(round(x, 4) for x in (r.value, r.ci_low, r.ci_high)) for m, r in scores.items() if m in METRICS}
    row = Milestone(**made)
    same = (row.checkpoint_sha256, row.split)
    rows = [r for r in read(path) if (r.checkpoint_sha256, r.split) != same]
    write_json(path, json.loads(ROWS.dump_json([*rows, row])))
    return row
